"""The quickstart in miniature: from the script to the page; and the page alone, of data of every depth."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import cv2
import make_infrared
import numpy as np
import pytest
import torch

from data.domain import save_formats
from data.images import DomainFormat, Window, encode
from models.base import Explanation
from scripts.quickstart_page import main
from util.files import write_atomic
from util.visual.cam_table import CamTable
from util.visual.results import Results

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "--ngf 8 --ndf 8 --netF_nc 16 --num_patches 16 --load_size 36 --crop_size 32 --batch_size 1 --num_threads 0 "
    "--print_freq 1"
)


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("-h", 0), ("--steps", 2)])
def test_a_question_installs_nothing(argument: str, status: int) -> None:
    asked = subprocess.run(["bash", "scripts/quickstart.sh", argument], cwd=ROOT, capture_output=True, text=True)
    assert (asked.returncode, asked.stdout) == (status, "")
    assert "usage: [OUT=folder]" in asked.stderr
    assert ("takes no arguments" in asked.stderr) == (status == 2)


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".venv/installed-dev").exists(), reason="scripts/setup.sh has not made .venv: it would install now"
)
def test_the_page_shows_everything_and_a_second_call_goes_on(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    size = ["--size", "40", "--train", "8", "--test", "3", "--classes", "car,bus,tank"]
    assert make_infrared.main(["--out", str(data), *size]) == 0

    def quickstart(steps: int) -> subprocess.Popen[str]:
        setting = {"OUT": str(out), "DATA": str(data), "STEPS": str(steps), "FLAGS": SMALL, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            ["bash", "scripts/quickstart.sh"],
            cwd=ROOT,
            env={**os.environ, **setting},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    first = quickstart(3)
    said, complaint = first.communicate()
    assert first.returncode == 0, complaint
    assert str(out / "index.html") in said
    assert re.search(r"^all that took \d+ minutes$", said, re.M)
    page = (out / "index.html").read_text()
    pictures = re.findall(r'<img[^>]+src="([^"]+)"', page)
    assert len(pictures) == 3 * 5  # input, its map, translation, its map, the truth
    assert all((out / picture).is_file() for picture in pictures)
    assert "NCE" in page
    assert "<svg" in page
    assert not re.findall(r'(?:src|href)="https?://', page)

    again = quickstart(5)  # goes on with the same run; what follows the training has been seen
    assert again.stdout is not None
    assert any(line.startswith("== 3/5") for line in again.stdout)
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate()
    steps = re.findall(r'"step": ?(\d+)', (out / "checkpoints/quickstart/log.jsonl").read_text())
    assert steps == ["1", "2", "3", "4", "5"]


FORMATS = {
    "uint8": (DomainFormat(Window(0, 255), "uint8"), DomainFormat(Window(0, 255), "uint8")),
    "uint16": (DomainFormat(Window(7000, 9000), "uint16"), DomainFormat(Window(1000, 1800), "uint16")),
    "float32": (DomainFormat(Window(250, 320), "float32"), DomainFormat(Window(-10, 40), "float32")),
}


@pytest.mark.parametrize("depth", FORMATS)
def test_pictures_of_every_depth_are_shown_bright(tmp_path: Path, depth: str) -> None:
    """A browser shows 16-bit counts over the whole range of the type: what is linked must have 8 bits."""
    source, target = FORMATS[depth]
    run, explained, targets = tmp_path / "run", tmp_path / "maps", tmp_path / "real_B"
    save_formats(run, source, target)
    write_atomic(run / "options.yaml", b"dataroot: nowhere\ndirection: AtoB\ninput_nc: 1\noutput_nc: 1\n")
    results, table = Results(explained, "{stem}_{kind}"), CamTable({})
    cam, even, drawing = torch.rand(1, 2, 2), torch.full((1, 2), 0.5), np.full((8, 9, 3), 120, np.uint8)
    drawing[:4] = 40
    suffix = ".tif" if depth == "float32" else ".png"
    files = [Path("a").with_suffix(suffix), Path("day/b").with_suffix(suffix)]
    for number, file in enumerate(files):
        ramp = torch.linspace(number * 0.1, 1, 72).reshape(1, 8, 9)
        encode(tmp_path / "inputs" / file, ramp, source)
        encode(targets / file, 1 - ramp, target)
        results.add(file, {"fake": (ramp, target), "overlay_input": drawing, "overlay_output": drawing})
        table.add(file, -1, Explanation(torch.tensor([0]), even, even, cam, cam))
    table.write(explained / "cams.csv")

    flags = ["--run", run, "--explained", explained, "--inputs", tmp_path / "inputs", "--targets", targets]
    assert main([*map(str, flags), "--out", str(tmp_path / "page.html")]) == 0
    pictures = re.findall(r'<img[^>]+src="([^"]+)"', (tmp_path / "page.html").read_text())
    assert len(pictures) == len(files) * 5
    for linked in pictures:
        shown = cv2.imread(str(tmp_path / linked), cv2.IMREAD_UNCHANGED)
        assert shown is not None, linked
        assert shown.dtype == np.uint8, linked
        assert 60 < shown.mean() < 200, linked
        assert shown.std() > 30, linked
