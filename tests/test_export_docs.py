"""The commands of docs/inference.md, docs/library.md and docs/export.md parse, and their Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from options.groups import Explanation, Given, Inference
from options.parse import inference_options
from scripts import import_weights
from scripts.exporting.options import Exporting
from scripts.showing.options import Showing
from tests.conftest import picture
from tests.runs import COUNTS, CUTCAM, make_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("inference", "library", "export")
EXTRAS: dict[str, tuple[type[Any], ...]] = {
    "test.py": (Inference, Given),
    "cam_infer.py": (Inference, Explanation, Given),
    "scripts/app.py": (Showing,),
    "scripts/export.py": (Exporting,),
}
GREY = ("--input_nc", "1", "--output_nc", "1")


def blocks(language: str, page: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


COMMANDS = [
    line for page in PAGES for block in blocks("bash", page) for line in block.splitlines() if line.startswith("python")
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and pictures that the pages speak of."""
    here = tmp_path_factory.mktemp("docs")
    for name in ("RUN", "horse2zebra"):
        make_run(here / "checkpoints" / name, *CUTCAM, *GREY, formats=COUNTS)
    counts = picture(0, 0, (32, 40), 1)[:, :, 0].astype(np.uint16) * 8 + 1000
    cv2.imwrite(str(here / "photo.tif"), counts)
    return here


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    script, *words = shlex.split(line, comments=True)[1:]
    assert (ROOT / script).is_file()
    if script == "scripts/import_weights.py":
        monkeypatch.setattr(import_weights, "import_weights", _shown)
        with pytest.raises(StopIteration) as parsed:
            import_weights.main(words)
        _, _, name, flags = parsed.value.args
        assert name in words
        assert flags[0] == "--model"
        return
    given = [word for word in words if word not in ("--direction", "BtoA")]
    run = inference_options(EXTRAS[script], given)
    assert run.folder.parent.name == "checkpoints"


def _shown(*given: object) -> None:
    raise StopIteration(*given)


def test_the_python_of_the_library_page_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    import matplotlib

    matplotlib.use("Agg")
    place: dict[str, Any] = {}
    for block in blocks("python", "library"):
        exec(block.replace('device="cuda"', 'device="cpu"'), place)
    assert place["fake"].dtype == np.uint16
    assert place["before"].shape == (32, 40, 3)
    assert isinstance(place["cam"].class_name, str)
