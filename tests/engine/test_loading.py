"""Processes that load images: whatever happens to them or to the main process, nothing hangs and nothing stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import make_data, tiny_flags
from tests.runs import CUTCAM, make_run
from util.checkpoint import load_state
from util.errors import line_of

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 60  # seconds; half of it are imports on a busy machine
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

# As test.py from the console, with Ctrl-C in the moment that a loading process comes into being.
INTERRUPTED = """
import multiprocessing.util, os, runpy, signal, sys
class Here: pass
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were begun with it ignored
here = Here()
multiprocessing.util.register_after_fork(here, lambda _: os.killpg(0, signal.SIGINT))
sys.path.insert(0, os.getcwd())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Started:
    """A command in a group of its own, with what it prints in files."""

    def __init__(self, home: Path, words: Sequence[object]) -> None:
        self._out, self._err = home / "out.txt", home / "err.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            command = [sys.executable, *map(str, words)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True)
        self.pid = self._process.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def loading(self) -> list[int]:
        """Its processes that load images."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def until(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + LONGEST
        while not done():
            assert time.monotonic() < end, self.err
            assert self._process.poll() is None, self.err
            time.sleep(0.05)

    def end(self, within: float = 40) -> int:
        return self._process.wait(within)

    def clear(self) -> None:
        """Nothing of it is left, also where a test fails."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


Starter = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    started: list[Started] = []

    def go(*words: object) -> Started:
        started.append(Started(tmp_path, words))
        return started[-1]

    yield go
    for one in started:
        one.clear()


def training(tmp_path: Path, data: Path, *flags: object) -> list[object]:
    own = (*CUTCAM[:4], "--num_threads", 2, "--save_latest_freq", 1, "--n_epochs", 1000, *flags)
    return ["train.py", *tiny_flags(tmp_path, data, *own)]


def test_an_error_of_the_data_ends_the_command(start: Starter, tmp_path: Path) -> None:
    """Pixels that only a loading process finds damaged: what is in the headers is known before the start."""
    data = make_data(tmp_path / "data")
    for file in (data / "trainB").iterdir():
        content = bytearray(file.read_bytes())
        content[content.index(b"IDAT") + 6] ^= 1
        file.write_bytes(content)
    train = start(*training(tmp_path, data))
    assert train.end() == 2
    assert train.err.splitlines()[-1].startswith("error: ")
    assert "trainB/" in train.err
    assert "cannot be read as an image" in train.err
    assert "Traceback" not in train.err


def test_a_loading_process_that_is_killed_costs_one_line(start: Starter, tmp_path: Path) -> None:
    train, state = start(*training(tmp_path, make_data(tmp_path / "data"))), tmp_path / "run/latest_state.pt"
    train.until(lambda: "(epoch: 2," in train.out)
    os.kill(train.loading()[0], signal.SIGKILL)
    assert train.end() == 2
    (line,) = [line for line in train.err.splitlines() if line]
    lost = "error: a process that loads images was lost "  # torch learns of it by a signal or from an empty queue
    assert line.startswith((f"{lost}(killed by signal: Killed)", f"{lost}(exited unexpectedly)"))
    assert "lower --num_threads" in line
    assert load_state(state)["position"]["step"] > 0


@pytest.mark.parametrize("script", ["test.py", "cam_infer.py", "scripts/evaluate.py"])
def test_an_interrupt_while_loading_processes_start(start: Starter, tmp_path: Path, script: str) -> None:
    command = start("-c", INTERRUPTED, *inference(tmp_path, script))
    assert command.end() == 130
    assert "Traceback" not in command.err


def inference(tmp_path: Path, script: str) -> list[object]:
    data, run = make_data(tmp_path / "data", count=(40, 40)), make_run(tmp_path / "run", *CUTCAM)
    for side in "AB":
        (data / f"train{side}").rename(data / f"test{side}")
    flags = ["--dataroot", data, "--name", run.name, "--checkpoints_dir", tmp_path, "--results_dir", tmp_path / "out"]
    return [script, *flags, "--gpu_ids", -1, "--num_threads", 1]  # one process: one Ctrl-C


def test_sigterm_leaves_no_orphans(start: Starter, tmp_path: Path) -> None:
    command = start(*inference(tmp_path, "test.py"), "--num_test", 40)
    command.until(command.loading)
    children = command.loading()
    os.kill(command.pid, signal.SIGTERM)
    assert command.end() == -signal.SIGTERM
    end = time.monotonic() + 2  # PyTorch's own look after their parent comes every five seconds
    while any(alive(pid) for pid in children):
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "(killed by signal: Killed)"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "(exited unexpectedly)"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "(killed by signal: Bus error)",
        ),
    ],
)
def test_a_lost_process_is_told_in_one_line(message: str, told: str) -> None:
    assert line_of(RuntimeError(message)) == (
        f"a process that loads images was lost {told}, as where memory runs out: lower --num_threads (0: none) or "
        "--batch_size, or free memory"
    )
    assert line_of(RuntimeError("DataLoader is fine")) is None
