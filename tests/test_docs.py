"""The pages of docs/ and README.md say what is true: commands are read and run, links lead somewhere, examples work."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.options_table import BEGIN, PAGE, renewed
from tests.conftest import make_data, picture
from tests.doc_commands import PAGES, ROOT, Command, check_other, commands, commands_in, keep, read, run_small

# Pages whose main flow is run; each has at least one marked block.
FLOWS = (
    *("getting_started", "train_on_your_data", "infrared_16bit", "choose_losses"),
    *("models", "classifiers", "evaluate"),
)
ALL = commands()


def make_folders(home: Path) -> None:
    """The data sets that the pages speak of, with a few small images."""
    (home / "datasets").mkdir()
    for file in (ROOT / "datasets").iterdir():
        (home / "datasets" / file.name).symlink_to(file)
    for name in ("your_data", "mwir"):
        root = make_data(home / "datasets" / name, channels=1 if name == "mwir" else 3)
        for side in "AB":
            shutil.copytree(root / f"train{side}", root / f"test{side}")
        rows = (root / "labels.csv").read_text()
        (root / "labels.csv").write_text(rows + rows.partition("\n")[2].replace("train", "test"))
    (home / "zoo/horse2zebra").mkdir(parents=True)
    (home / "zoo/horse2zebra/latest_net_G.pth").touch()  # weights without a run
    pairs = "".join(f"testA/{n:02d}.png,testB/{n:02d}.png\n" for n in range(4))
    (home / "datasets/your_data/pairs_test.csv").write_text("A,B\n" + pairs)
    for file in (home / "datasets/mwir").rglob("*.png"):
        counts = 7000 + 20 * picture(len(file.stem), int(file.stem), (40, 44), 1).astype(np.uint16)
        cv2.imwrite(str(file.with_suffix(".tif")), counts)
        file.unlink()
    table = home / "datasets/mwir/labels.csv"
    table.write_text(table.read_text().replace(".png", ".tif"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the pages' commands can be run; signal handlers are put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = tmp_path_factory.mktemp("docs")
    make_folders(made)
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)


def examples(page: Path) -> dict[str, str]:
    """The files that a page gives: a line `**path**` and the python block after it."""
    return dict(re.findall(r"^\*\*`([\w/]+\.py)`\*\*\n\n```python\n(.*?)```", page.read_text("utf-8"), re.S | re.M))


@pytest.fixture
def added_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files of add_a_model.md, found in the packages that they would be put in; gone afterwards."""
    files, folder = examples(ROOT / "docs/add_a_model.md"), tmp_path_factory.mktemp("added")
    assert len(files) == 5
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
        package = importlib.import_module(".".join(Path(name).parent.parts))
        assert package.__spec__ is not None
        places = [*package.__path__, str((folder / name).parent)]
        monkeypatch.setattr(package, "__path__", places)
        monkeypatch.setattr(package.__spec__, "submodule_search_locations", places)
    yield list(files)
    for name in files:
        sys.modules.pop(name.removesuffix(".py").replace("/", "."), None)


# --- commands


def test_the_scripts_take_every_command(added_files: list[str], tmp_path: Path) -> None:
    """Every flag is known and every value allowed; a run that is used is one that some page trains."""
    make_folders(tmp_path)
    printed: list[tuple[str, str]] = []
    for command in ALL:
        if command.file == "train.py" and "--help" not in command.words:
            printed.append((command.page, read(command, tmp_path)))
            keep(printed[-1][1], tmp_path)
    for page in dict.fromkeys(command.page for command in ALL):
        own = [options for where, options in printed if where == page]
        for options in [options for where, options in reversed(printed) if where != page] + own:
            keep(options, tmp_path)
        for command in ALL:
            if command.page != page or command.file == "train.py":
                continue
            if command.file:
                read(command, tmp_path)
            else:
                check_other(command)
    assert len(printed) > 20
    assert len(ALL) > 60


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --dataroot x --lambda_CAMM 3",
        "python train.py --dataroot x --model cut --lr fast",
        "python train.py --dataroot x --model no_such_model",
        "python scripts/compare.py --no_such_flag",
        "python cam_infer.py --name never_trained",
        "python scripts/no_such_script.py",
        "no_such_program --flag",
    ],
)
def test_a_wrong_command_is_noticed(line: str, tmp_path: Path) -> None:
    (command,) = commands_in("page", f"```bash\n{line}\n```")
    with pytest.raises((AssertionError, ModuleNotFoundError, FileNotFoundError, SystemExit)):
        read(command, tmp_path) if command.file else check_other(command)


def flow(page: str) -> list[Command]:
    return [command for command in ALL if command.page == page and command.run]


def sixteen_bits(home: Path) -> None:
    """Translations of 16-bit TIFFs are 16-bit files of one channel, in counts of the target's window."""
    files = sorted((home / "results/mwir/test_latest/images/fake_B").iterdir())
    assert files
    for file in files:
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert image.dtype == np.uint16
        assert image.ndim == 2
        assert image.min() > 3000  # the whole range of the type would begin at 0


AFTER = {"infrared_16bit": sixteen_bits}


@pytest.mark.parametrize("name", FLOWS)
def test_the_main_flow_of_a_page_runs(name: str, home: Path) -> None:
    marked = flow(f"docs/{name}.md")
    assert marked, f"docs/{name}.md has no block marked to be run"
    for command in marked:
        run_small(command, home)
    if name in AFTER:
        AFTER[name](home)


# --- links, pictures, tables


def slug(heading: str) -> str:
    """The anchor that a heading has on a page."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(text: str) -> set[str]:
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", outside, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target.read_text("utf-8")), f"{page.name}: {link}: no such heading"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    listed = set(re.findall(r"\]\((\w+\.md)", index))
    there = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert there == listed
    assert {f"docs/{name}.md" for name in FLOWS} <= {f"docs/{name}" for name in listed}


def test_the_tables_of_options_are_the_options() -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    assert renewed(text) == text, "run: python scripts/options_table.py --write"
    assert text.count("| `--lambda_CAM` | `25.0` |") == 1


def test_an_edited_table_is_noticed() -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    edited = text.replace("| `--lambda_CAM` | `25.0` |", "| `--lambda_CAM` | `24.0` |")
    assert renewed(edited) == text
    assert edited.split(BEGIN)[0] == text.split(BEGIN)[0]


def test_options_that_pages_name_exist() -> None:
    """`--flag` in running text is an option of some script, so that renaming one is noticed here."""
    sources = [*(ROOT / "scripts").rglob("*.*"), *ROOT.glob("*.py"), ROOT / "datasets/make_infrared.py"]
    sources += [file for room in ("options", "models", "data") for file in (ROOT / room).rglob("*.py")]
    code = "\n".join(file.read_text("utf-8") for file in sources if file.suffix in (".py", ".sh"))
    known = set(re.findall(r"--([a-zA-Z]\w*)", (ROOT / PAGE).read_text("utf-8")))
    for pattern in (r"--([a-zA-Z]\w*)", r"\b([a-zA-Z]\w*): [^=\n]*= option\(", r'"([a-zA-Z]\w*)"'):
        known |= set(re.findall(pattern, code))
    unknown = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        flags = re.findall(r"`(?:[^`]*?\s)?--([a-zA-Z]\w*)", text)
        unknown += [f"{page.name}: --{flag}" for flag in flags if flag not in known | OTHERS_FLAGS]
    assert unknown == []


OTHERS_FLAGS = {"nproc_per_node", "dev", "nnodes"}


def test_tests_that_pages_name_exist() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8"))
    }
    assert len(named) > 40
    for file, function in named:
        text = (ROOT / file).read_text("utf-8")
        assert not function or f"\ndef {function}(" in text, f"{file} has no {function}"


# --- what to install


def lines_of(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text("utf-8").splitlines() if line and not line.startswith("#")]


def test_the_tested_versions_are_names_and_numbers() -> None:
    tested = {}
    for line in lines_of("constraints-tested.txt"):
        name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()  # type: ignore[union-attr]
        tested[name.lower().replace("_", "-")] = version
    wanted = [*lines_of("requirements.txt"), *lines_of("requirements-dev.txt")]
    for line in wanted:
        found = re.match(r"([\w.-]+)(?:>=([\d.]+))?", line)
        assert found is not None
        name, lowest = found[1], found[2] or "0"
        numbers = [[int(n) for n in re.findall(r"\d+", text)] for text in (tested[name.lower()], lowest)]
        assert numbers[0] >= numbers[1], f"{name} {tested[name.lower()]} was tested, {line} is asked for"


def test_the_container_file_and_the_floor_name_files_that_exist() -> None:
    text = (ROOT / "Containerfile").read_text("utf-8")
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    floor = (ROOT / "scripts/floor.sh").read_text("utf-8")
    assert [name for name in re.findall(r"tests/[\w/.]+", floor) if not (ROOT / name).exists()] == []


# --- add_a_model.md, library.md


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_are_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
        ast.parse(block)


def test_the_added_files_work(added_files: list[str], home: Path) -> None:
    """The page's own commands use each of its files."""
    said = "".join(run_small(command, home) for command in flow("docs/add_a_model.md"))
    assert "contrast" in said
    for name in added_files:
        assert name.removesuffix(".py").replace("/", ".") in sys.modules, f"{name} was not used"
