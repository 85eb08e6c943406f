"""The quickstart in miniature: from the script to the page."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = "--ngf 8 --ndf 8 --netF_nc 16 --num_patches 16 --load_size 36 --crop_size 32 --num_threads 0 --print_freq 1"


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".venv/installed-dev").exists(), reason="scripts/setup.sh has not made .venv: it would install now"
)
def test_the_page_shows_everything_and_a_second_call_goes_on(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    python = str(ROOT / ".venv/bin/python")
    make = [python, "datasets/make_infrared.py", "--out", str(data), "--size", "40", "--train", "7", "--test", "3"]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)

    def quickstart(steps: int) -> str:
        setting = {"OUT": str(out), "DATA": str(data), "STEPS": str(steps), "FLAGS": SMALL, "OMP_NUM_THREADS": "1"}
        command = ["bash", "scripts/quickstart.sh"]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **setting}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(out / "index.html") in quickstart(3)
    page = (out / "index.html").read_text()
    pictures = re.findall(r'<img[^>]+src="([^"]+)"', page)
    assert len(pictures) == 3 * 5  # input, its map, translation, its map, the truth
    assert all((out / picture).is_file() for picture in pictures)
    assert "NCE" in page
    assert "<svg" in page
    assert not re.findall(r'(?:src|href)="https?://', page)

    quickstart(5)  # goes on with the same run
    steps = re.findall(r'"step": ?(\d+)', (out / "checkpoints/quickstart/log.jsonl").read_text())
    assert steps == ["1", "2", "3", "4", "5"]
