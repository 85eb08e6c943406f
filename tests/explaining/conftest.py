"""A folder with tiny trained runs: a classifier `clf`, and a translation run `gen` with a class head."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Outcome, run
from tests.conftest import TINY, TINY_CUT, make_data

Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` (40 x 44 px, four classes, testA) and the runs."""
    home = tmp_path_factory.mktemp("explaining")
    data = make_data(home / "data", count=(10, 4))
    shutil.copytree(data / "trainA", data / "testA")
    rows = (data / "labels.csv").read_text().splitlines()
    more = [row.replace("trainA", "testA") for row in rows if row.startswith("trainA")]
    (data / "labels.csv").write_text("\n".join([*rows, *more]) + "\n")
    short = ["--dataroot", "data", *TINY, "--n_epochs", 1, "--n_epochs_decay", 0]
    for flags in (
        ["--model", "classifier", "--name", "clf", "--val_share", 0.2],
        ["--model", "cutcam", "--name", "gen", "--num_classes", 4, "--max_iters", 2, *TINY_CUT],
    ):
        outcome = run("train", [*short, *flags], home)
        assert outcome.status == 0, outcome.err
    return home


@pytest.fixture
def explain(home: Path, tmp_path: Path) -> Command:
    """`explain(name, *flags)`: cam_infer.py with its results in the test's own folder."""

    def go(name: str, *flags: object) -> Outcome:
        return run("cam_infer", ["--name", name, "--results_dir", tmp_path, "--gpu_ids", "-1", *flags], home)

    return go
