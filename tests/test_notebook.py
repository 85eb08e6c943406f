"""The notebook runs from top to bottom, and carries no outputs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "scripts" / "explain.ipynb"
FIGURES = 7  # cells that end in a picture, at least

# Runs the cells as a kernel does: one namespace, the value of a last expression is shown.
RUNNER = """
import ast, json, os, sys

os.environ["OMP_NUM_THREADS"] = "1"
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
space, shown = {"__name__": "__main__"}, []
for number, cell in enumerate(cells):
    if cell["cell_type"] != "code":
        continue
    tree = ast.parse("".join(cell["source"]), f"cell {number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space)
        if type(value).__module__.startswith("PIL"):
            low, high = value.convert("L").getextrema()
            shown.append([number, *value.size, high - low])
print(json.dumps({"figures": shown, "accuracy": space["judge"].accuracy, "left": space["PLACE"].exists()}))
"""


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def test_it_is_a_clean_notebook(content: dict[str, Any]) -> None:
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))
        else:
            assert cell["cell_type"] == "markdown"


@pytest.mark.slow
def test_every_cell_runs(content: dict[str, Any]) -> None:
    """In the folder of the notebook, as a kernel is started, in a process of its own."""
    command = [sys.executable, "-c", RUNNER, NOTEBOOK.name]
    result = subprocess.run(command, cwd=NOTEBOOK.parent, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found["figures"]) >= FIGURES
    assert all(wide > 100 and high > 50 and contrast > 100 for _, wide, high, contrast in found["figures"])
    assert found["accuracy"] > 0.4  # of three classes
    assert not found["left"]
