"""The three entry scripts run in this process, from another folder, as their last lines run them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import cam_infer
import train
from tests.conftest import TINY, make_data
from util.errors import exit_code

ROOT = Path(__file__).resolve().parents[1]
SHORT = "--n_epochs 1 --n_epochs_decay 0 --max_iters 2"


def _test_script() -> ModuleType:
    """test.py; by its path, since Python has a package of that name."""
    spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAINS = {"train": train.main, "test": _test_script().main, "cam_infer": cam_infer.main}


@dataclass(frozen=True)
class Outcome:
    """What a command left on the console."""

    status: int
    out: str
    err: str


def run(script: str, flags: str | Sequence[object], home: Path) -> Outcome:
    """Run `script` (its name without suffix) in the folder `home`; signal handlers are put back."""
    words = shlex.split(flags) if isinstance(flags, str) else [str(flag) for flag in flags]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [f"{script}.py", *words])
        patch.chdir(home)
        try:
            status = exit_code(MAINS[script])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Outcome(status, out.getvalue(), err.getvalue())


def make_home(home: Path) -> Path:
    """A folder with `data` (trainA, trainB, testA, labels.csv) and the runs `run` (cutcam) and `plain` (cut)."""
    data = make_data(home / "data")
    for file in (data / "trainA").iterdir():
        (data / "testA").mkdir(exist_ok=True)
        (data / "testA" / file.name).write_bytes(file.read_bytes())
    for name, model in (("run", "cutcam --num_classes 4"), ("plain", "cut")):
        flags = f"--dataroot data --name {name} --model {model} {SHORT} {' '.join(TINY)}"
        outcome = run("train", flags, home)
        assert outcome.status == 0, outcome.err
    return home


Tree = dict[str, tuple[int, int]]


def tree(*folders: Path) -> Tree:
    """Everything below some folders, with its size and time of change: what a command must leave as it is."""
    return {str(path): _stamp(path) for folder in folders for path in sorted(_all(folder))}


def _stamp(path: Path) -> tuple[int, int]:
    state = path.lstat()
    return (0, 0) if path.is_dir() and not path.is_symlink() else (state.st_size, state.st_mtime_ns)


def _all(folder: Path) -> Iterator[Path]:
    yield from folder.rglob("*")
