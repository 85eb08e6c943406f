"""What a mistake must cost: one line that names flag or file, value and remedy, status 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

from tests.commands import SHORT, run, tree
from tests.conftest import TINY

TRAIN = f"--dataroot data --name new {' '.join(TINY)} {SHORT}"
USE = "--dataroot data --name run --gpu_ids -1"
LEAVE_OUT = "leave the flag out"
LEADS = "leads into another folder; give a plain name"
EQUAL = "both must be equal"


def costs_one_line(script: str, flags: str, home: Path, *words: str) -> None:
    before = tree(home)
    outcome = run(script, flags, home)
    assert outcome.status == 2, outcome.err
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert len(outcome.err) < 600, outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert tree(home) == before
