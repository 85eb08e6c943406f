"""The house: who may import whom, how long files and functions are, what has a docstring, what loads fast."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("options", "models", "data", "util")
ENTRY = ("train", "test", "cam_infer")
MAX_FILE, MAX_ENTRY, MAX_FUNCTION = 500, 80, 80

# Floor of every module; the first pattern that fits counts. A module imports from lower floors only, ...
FLOORS: tuple[tuple[str, int], ...] = (
    # 0: third party only
    ("util.registry", 0),
    ("util.ranks", 0),
    ("util.seeding", 0),
    ("util.transfer", 0),
    ("util.files", 0),
    ("util.forks", 0),
    ("util.background", 0),
    ("util.errors", 0),
    ("util.provenance", 0),
    ("util.sharing", 0),
    ("data.decoders", 0),
    ("data.images", 0),
    ("options.schema", 0),
    ("util.statistics", 0),
    ("util.strict_json", 0),
    # 1: tools that know no run
    ("models.networks*", 1),
    ("models.losses*", 1),
    ("models.cam*", 1),
    ("models.clustering", 1),
    ("models.augmenting", 1),
    ("models.guards", 1),
    ("models.head_watch", 1),
    ("models.seeding", 1),
    ("models.queries", 1),
    ("models.ramps", 1),
    ("models.map_bank", 1),
    ("models.pseudo_labels", 1),
    ("data.bad_images", 1),
    ("data.transforms", 1),
    ("data.cache", 1),
    ("data.on_device", 1),
    ("data.sampler", 1),
    ("util.metrics*", 1),
    ("util.visual*", 1),
    ("util.checkpoint", 1),
    ("util.safe_weights", 1),
    # 2: what a model, a data set and a training loop are
    ("models.base", 2),
    ("models.builders", 2),
    ("data.base", 2),
    ("data.checkup", 2),
    ("data.domain", 2),
    ("data.shapes", 2),
    ("data.annotations", 2),
    ("data.labels", 2),
    ("data.wsol_splits", 2),
    ("data.wsol_truth", 2),
    ("models.localisation", 2),
    ("models.speed", 3),
    ("data.pairing", 2),
    ("data.imagenette", 2),
    ("models.published_classifier", 2),
    ("models.teacher", 2),
    ("models.trained_classifier", 2),
    ("models.class_teacher", 2),
    ("models.torchvision_weights", 2),
    ("util.evaluations", 2),
    ("util.engine*", 2),
    ("options.groups", 2),
    # 3: what can be added by one file
    ("models.terms*", 3),
    ("models.*_model", 3),
    ("models.*_options", 3),
    ("models.pictures", 3),
    ("data.*_dataset", 3),
    # 4: registries, and what trains a model without a folder
    ("models", 4),
    ("data", 4),
    # 5: the command line
    ("options.flags", 5),
    ("options.parse", 5),
    ("options.published_yaml", 5),
    ("options.published_wsol", 5),
    ("options.yaml_config", 5),
    ("options.presets", 5),
    ("options.owners", 5),
    ("options.help_page", 5),
    ("options.tiles", 5),
    ("options.suffix", 5),
    # 6: scripts
    ("train", 6),
    ("test", 6),
    ("cam_infer", 6),
    ("models.judge", 6),  # trains and loads whole runs, as scripts do
    ("models.subjects", 6),
    ("scripts.*", 6),
    # Packages without a line of code.
    ("options", 0),
    ("util", 0),
)
# ... and from its own floor only these: (who, whom).
SAME_FLOOR: tuple[tuple[str, str], ...] = (
    ("*", "util.errors"),
    ("*", "util.files"),
    ("data.images", "data.decoders"),
    ("data.on_device", "data.transforms"),
    ("models.networks*", "models.networks*"),
    ("models.losses*", "models.losses*"),
    ("models.cam*", "models.cam*"),
    ("models.losses*", "models.cam.functional"),
    ("models.augmenting", "models.losses.diff_augment"),
    ("models.guards", "models.cam.functional"),
    ("models.queries", "models.cam.functional"),
    ("models.head_watch", "models.guards"),
    ("models.pseudo_labels", "models.clustering"),
    ("models.map_bank", "models.losses.cam"),
    ("models.map_bank", "models.cam.functional"),
    ("util.visual*", "util.visual*"),
    ("util.safe_weights", "util.checkpoint"),
    ("util.metrics*", "util.metrics*"),
    ("util.metrics*", "models.cam.functional"),
    ("util.metrics*", "util.visual.progress"),
    ("data.annotations", "data.base"),
    ("data.labels", "data.base"),
    ("data.domain", "data.labels"),
    ("data.wsol_splits", "data.base"),
    ("data.wsol_truth", "data.base"),
    ("models.localisation", "data.wsol_truth"),
    ("models.base", "models.builders"),
    ("models.trained_classifier", "models.base"),
    ("models.class_teacher", "models.trained_classifier"),
    ("data.pairing", "data.base"),
    ("data.pairing", "data.annotations"),
    ("data.domain", "data.pairing"),
    ("data.imagenette", "data.base"),
    ("util.visual.cam_table", "models.cam.functional"),
    ("data.checkup", "data.base"),
    ("data.domain", "data.base"),
    ("data.domain", "data.checkup"),
    ("data.shapes", "data.base"),
    ("data.shapes", "data.checkup"),
    ("data.shapes", "data.domain"),
    ("util.engine*", "util.engine*"),
    ("data.*_dataset", "data.*_dataset"),
    ("models.*_model", "models.*_model"),  # one other; see below
    ("models.*_model", "models.*_options"),
    ("models.*_model", "models.terms"),
    ("models.terms*", "models.terms*"),
    ("models.*_options", "models.*_model"),  # options extend the other model's
    ("models.*_options", "models.*_options"),
    ("options.parse", "options.flags"),
    ("options.parse", "options.yaml_config"),
    ("options.parse", "options.presets"),
    ("options.parse", "options.owners"),
    ("options.parse", "options.help_page"),
    ("options.parse", "options.tiles"),
    ("options.parse", "options.suffix"),
    ("options.help_page", "options.presets"),
    ("options.published_yaml", "options.flags"),
    ("options.published_wsol", "options.flags"),
    ("options.yaml_config", "options.published_yaml"),
    ("*", "options"),  # packages that hold nothing
    ("*", "util"),
    ("scripts.*", "*"),
)
# Whatever the floors say: (who, whom).
NEVER: tuple[tuple[str, str], ...] = (
    ("util.engine*", "models*"),
    ("util.engine*", "options*"),
    ("models.networks*", "options*"),
    ("models.losses*", "options*"),
    ("models.cam*", "options*"),
)
# The one import from above: models.load_run reads the options when it is called.
LATE = ("models", "options.parse", "load_run")


@dataclass(frozen=True)
class Import:
    """One imported module of ours, and where: `function` is empty at module level."""

    importer: str
    imported: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """Module name -> file, for rooms and entry scripts."""
    files = [ROOT / f"{name}.py" for name in ENTRY]
    files += [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    return {module_name(file): file for file in files}


@cache
def scripts() -> dict[str, Path]:
    return {module_name(file): file for file in sorted((ROOT / "scripts").rglob("*.py"))}


@cache
def the_rest() -> dict[str, Path]:
    """Test files and what they share, and the example's own modules."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "datasets").rglob("*.py")]
    return {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, function: str = "") -> Iterator[tuple[ast.stmt, str]]:
    """Every statement with the function it stands in; blocks for type checkers are left out."""
    for child in ast.iter_child_nodes(node):
        if is_for_types(child):
            continue
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.stmt):
            yield child, function
        yield from statements(child, inner)


def imports_in(source: ast.Module, importer: str, file: str, known: set[str]) -> Iterator[Import]:
    """Imports of known modules; `from data import base` is one of data.base, `from data import X` of data."""
    for node, function in statements(source):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            module = node.module or ""
            names = [n if (n := f"{module}.{alias.name}") in known else module for alias in node.names]
        for name in dict.fromkeys(names):
            if name in known:
                yield Import(importer, name, file, node.lineno, function)


@cache
def all_imports() -> tuple[Import, ...]:
    known = set(sources())
    return tuple(
        found
        for name, file in (sources() | scripts()).items()
        for found in imports_in(tree(file), name, file.relative_to(ROOT).as_posix(), known)
    )


def floor(module: str) -> int:
    for pattern, number in FLOORS:
        if fnmatchcase(module, pattern):
            return number
    raise AssertionError(f"{module} is in no room of FLOORS: add it to the table, or move it")


def fits(found: Import, table: tuple[tuple[str, str], ...]) -> bool:
    return any(fnmatchcase(found.importer, who) and fnmatchcase(found.imported, whom) for who, whom in table)


def is_allowed(found: Import) -> bool:
    if (found.importer, found.imported, found.function) == LATE:
        return True
    if fits(found, NEVER):
        return False
    above, below = floor(found.importer), floor(found.imported)
    return below < above or (below == above and fits(found, SAME_FLOOR))


# --- imports


def test_every_import_goes_down_the_stairs() -> None:
    assert [str(found) for found in all_imports() if not is_allowed(found)] == []


def test_the_walk_finds_what_it_should() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "import torch\n"
        "from models import cut_model\n"
        "if TYPE_CHECKING:\n    from options.parse import RunOptions\n"
        "def late():\n    import options.parse\n"
        "class A:\n    def b(self):\n        from data.base import Batch\n"
    )
    known = {"models", "models.cut_model", "options.parse", "data.base"}
    found = [
        (item.imported, item.line, item.function)
        for item in imports_in(ast.parse(source), "util.engine.x", "x.py", known)
    ]
    assert found == [("models.cut_model", 3, ""), ("options.parse", 7, "late"), ("data.base", 10, "b")]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("models.networks.blocks", "models.networks.init", True),
        ("models.networks.blocks", "options.schema", False),
        ("models.networks.blocks", "models.base", False),
        ("models.losses.cam", "models.cam.functional", True),
        ("util.engine.step", "models.base", False),
        ("util.engine.step", "data.sampler", True),
        ("data.transforms", "data.sampler", False),
        ("data.images", "data.transforms", False),
        ("models.cut_model", "models", False),
        ("models.cut_model", "options.parse", False),
        ("models", "options.parse", False),
        ("options.schema", "util.errors", True),
        ("train", "options.parse", True),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert is_allowed(Import(importer, imported, "x.py", 1, "")) is allowed


def test_load_run_alone_imports_from_above() -> None:
    late = [found for found in all_imports() if (found.importer, found.imported, found.function) == LATE]
    assert len(late) == 1


def test_a_model_extends_at_most_one_other() -> None:
    for name in sources():
        if fnmatchcase(name, "models.*_model"):
            others = {
                item.imported
                for item in all_imports()
                if item.importer == name and fnmatchcase(item.imported, "models.*_model")
            }
            assert len(others) <= 1, f"{name} imports {sorted(others)}"


def test_no_module_level_import_goes_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in all_imports():
        if not found.function and found.importer != found.imported:
            graph.setdefault(found.importer, set()).add(found.imported)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


# --- sizes and docstrings


def functions(source: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(source) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_files_and_functions_stay_short() -> None:
    too_long = []
    for name, file in (sources() | scripts() | the_rest()).items():
        lines = len(file.read_text(encoding="utf-8").splitlines())
        most = MAX_ENTRY if name in ENTRY else MAX_FILE
        if lines > most:
            too_long.append(f"{file.relative_to(ROOT)}: {lines} lines, at most {most}")
        for function in functions(tree(file)):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > MAX_FUNCTION:
                too_long.append(f"{file.relative_to(ROOT)}:{function.lineno}: {function.name} has {length} lines")
    assert too_long == []


Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(node: ast.Module | ast.ClassDef, inside: str = "") -> Iterator[tuple[str, Documented]]:
    """Public classes, functions and methods; those inside functions are nobody's business."""
    for child in node.body:
        if not isinstance(child, Documented) or child.name.startswith("_"):
            continue
        name = f"{inside}{child.name}"
        yield name, child
        if isinstance(child, ast.ClassDef):
            yield from public(child, f"{name}.")


@cache
def inherited() -> frozenset[str]:
    """Methods that a base of ours, or of a library, has documented: an override need not repeat it."""
    ours = {
        child.name
        for file in sources().values()
        for _, owner in public(tree(file))
        if isinstance(owner, ast.ClassDef)
        for child in owner.body
        if isinstance(child, ast.FunctionDef) and ast.get_docstring(child)
    }
    return frozenset(ours | {"forward"})


# So short that its name and its types say all.
SHORT = 3
# Named by their files' owners in place of a docstring.
EXPLAINED_ELSEWHERE = {"frequencies_from", "CutModel.g_losses", "CutCamModel.g_losses"}


def needs_docstring(name: str, node: Documented) -> bool:
    """Whether it has none and is neither very short nor an override of something documented."""
    if ast.get_docstring(node) or name in EXPLAINED_ELSEWHERE:
        return False
    if isinstance(node, ast.ClassDef):
        return True
    overrides = "." in name and name.rsplit(".", 1)[-1] in inherited()
    short = (node.end_lineno or 0) - node.body[0].lineno < SHORT
    return not (overrides or short or name == "main")


def test_everything_public_has_a_docstring() -> None:
    bare = []
    for file in (sources() | scripts()).values():
        where = file.relative_to(ROOT)
        if tree(file).body and not ast.get_docstring(tree(file)):
            bare.append(f"{where}: module")
        bare += [f"{where}:{node.lineno}: {name}" for name, node in public(tree(file)) if needs_docstring(name, node)]
    assert bare == []


def test_tests_are_named_uniquely() -> None:
    """pytest imports test files by their bare name."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


# --- what does not belong into a repository


def test_no_path_of_a_machine_is_written_down() -> None:
    pattern = re.compile(r"""["'\s(=](/home/|/root/|/work/|/Users/|/tmp/|[A-Z]:\\)""")
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in (sources() | scripts()).values()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
