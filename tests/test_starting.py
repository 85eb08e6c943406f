"""Starting up: any module can be imported first, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import make_data, tiny_flags
from tests.test_house import ENTRY, ROOT, sources

ALONE = """
import json, sys
names, bad = json.loads(sys.argv[1]), []
ours = {name.split(".")[0] for name in names}
for name in names:
    # Ours are forgotten and third-party packages kept, so that a module costs milliseconds.
    for loaded in [other for other in sys.modules if other.split(".")[0] in ours]:
        del sys.modules[loaded]
    try:
        __import__(name)
    except BaseException as error:
        sys.stderr.write(f"{name}: {type(error).__name__}: {error}\\n")
        bad.append(name)
print(json.dumps(sorted(bad)))
"""


def test_every_module_can_be_imported_first() -> None:
    """An import that works only after another one hides a circle."""
    names = [name for name in sources() if name not in ENTRY]
    command = [sys.executable, "-c", ALONE, json.dumps(names)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [], result.stderr


HEAVY = {
    *("matplotlib", "visdom", "tensorboard", "torchvision", "scipy", "sklearn", "pandas", "torchmetrics"),
    *("torch_fidelity", "jinja2", "sympy", "torch._dynamo", "torch.utils.tensorboard"),
}


def test_starting_loads_no_library_before_it_is_needed(tmp_path: Path) -> None:
    """Counted, not timed: --help of every script and a first step, in one process that has loaded nothing before."""
    make_data(tmp_path / "data")
    code = (
        "import json, runpy, sys\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = words\n"
        "    try: runpy.run_path(words[0], run_name='__main__')\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "    print('MODULES', *sorted(sys.modules))"
    )
    step = ["train.py", *tiny_flags(tmp_path, tmp_path / "data", "--model", "cutcam", "--max_iters", "1")]
    starts = [*([f"{name}.py", "--help"] for name in ENTRY), step]
    command = [sys.executable, "-c", code, json.dumps(starts)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    loaded = [set(line.split()[1:]) for line in result.stdout.splitlines() if line.startswith("MODULES")]
    assert len(loaded) == len(starts)
    assert "torch" in loaded[0]
    for words, modules in zip(starts, loaded, strict=True):
        assert modules & HEAVY == set(), words[0]
    assert {"models.cutcam_model", "util.engine.trainer"} <= loaded[-1]
