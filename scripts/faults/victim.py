"""Training processes that die on demand, a tenth of a second after they are asked for.

Run as a program, this file is a fork server: it imports everything once and then, for each order on its standard
input (a line of JSON, see `Order`), forks a process that runs train.py's main, ends it as ordered, and answers with
its exit status. It never computes anything itself, so that it has a single thread when it forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds after which a process counts as hanging


@dataclass(frozen=True)
class Order:
    """One training process, and its end.

    Attributes:
        argv: flags of train.py.
        out: file that receives what it prints.
        marks: file that receives the number of steps begun, as text.
        moment: name in `moments()` of the call at which it kills itself; empty: at none.
        count: the how many-eth such call.
        seconds: after which it is sent `number`; infinite: never.
        raised: begun steps after which it sends `number` to itself and its loading processes; 0: never.
        number: a signal.
        full: numbers of the steps (from 0) before which the disk becomes full, and has space again.
    """

    argv: Sequence[str]
    out: str
    marks: str
    moment: str = ""
    count: int = 1
    seconds: float = math.inf
    raised: int = 0
    number: int = signal.SIGKILL
    full: tuple[int, int] | None = None


class Server:
    """The fork server, seen from outside; a context manager."""

    def __init__(self, **environment: str) -> None:
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from scripts.faults.victim import serve; serve()"]
        # In a session of its own, so that a Ctrl-C meant for the harness does not reach the victims.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **single, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, order: Order) -> int:
        """Start a process, wait for its end and return its exit status; minus a signal's number if that killed it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fork server has ended with status {self._process.wait(PATIENCE)}")
        return int(answer)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)


def serve() -> None:
    """Be the fork server until the standard input ends."""
    import train  # noqa: F401
    from data import DATASETS
    from models import MODELS

    MODELS.get("cutcam")
    DATASETS.get("unaligned")
    for line in sys.stdin:
        order = Order(**json.loads(line))
        # A pipe, since what is printed must not meet the limit of a full disk; it is emptied into order.out.
        inlet, outlet = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(_live(order, outlet))
        os.setpgid(pid, pid)
        os.close(outlet)
        os.set_blocking(inlet, False)
        print(_end(pid, order, inlet), flush=True)
        os.close(inlet)
    os._exit(0)  # what was imported has nothing to tidy up


def _end(pid: int, order: Order, inlet: int) -> int:
    """Keep what is printed, send the signal when its time has come, and wait for the end."""
    due, limit = time.monotonic() + order.seconds, time.monotonic() + PATIENCE
    with Path(order.out).open("ab") as kept:
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            with contextlib.suppress(BlockingIOError):
                while printed := os.read(inlet, 1 << 16):
                    kept.write(printed)
            if done:
                return os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if now > min(due, limit):  # not waited for yet, so the number is still this process's
                _send(pid, order.number if now < limit else signal.SIGKILL)
                due = math.inf
            time.sleep(0.001)


def _send(pid: int, number: int) -> None:
    """A kill strikes one process; Ctrl-C and a batch system's SIGTERM reach its loading processes too."""
    if number == signal.SIGKILL:
        os.kill(pid, number)
    else:
        os.killpg(pid, number)


# -- in the forked process ------------------------------------------------------------------------------------------


def _live(order: Order, outlet: int) -> int:
    """Train as train.py does; returns the exit status."""
    import torch

    import train
    from util.errors import exit_code

    for source, number in ((os.open(os.devnull, os.O_RDONLY), 0), (outlet, 1), (outlet, 2)):
        os.dup2(source, number)
    sys.argv = ["train.py", *order.argv]
    torch.set_num_threads(1)
    _mark_steps(order)
    if order.moment:
        arm(moments()[order.moment], order.count)
    try:
        return exit_code(train.main)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _mark_steps(order: Order) -> None:
    """Keep the number of steps begun where a kill cannot reach it; make the disk full while it shall be."""
    trainer: Any = importlib.import_module("util.engine.trainer")
    step, marks = trainer.train_step, os.open(order.marks, os.O_RDWR | os.O_CREAT, 0o666)
    first, after = order.full or (-1, -1)

    def marking(model: Any, batch: Any, info: Any, *rest: Any) -> Any:
        os.pwrite(marks, b"%9d" % (info.step + 1), 0)
        if info.step in (first, after):
            _limit_files(_size_within_the_next_line(order) if info.step == first else None)
        if info.step + 1 == order.raised:
            _signal_all(order.number)
        return step(model, batch, info, *rest)

    trainer.train_step = marking


def _signal_all(number: int) -> None:
    """From a process of its own: what their parent sends, loading processes take for an orderly end."""
    pid = os.fork()
    if pid == 0:
        os.killpg(0, number)
        os._exit(0)
    os.waitpid(pid, 0)


def _limit_files(size: int | None) -> None:
    """No file may grow beyond so many bytes, as on a full disk: a write is cut short there, the next one fails."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


def _size_within_the_next_line(order: Order) -> int:
    folder = Path(order.argv[order.argv.index("--checkpoints_dir") + 1])
    return max((file.stat().st_size for file in folder.glob("*/log.jsonl")), default=0) + 100


@dataclass(frozen=True)
class Moment:
    """A call in which a process dies.

    Attributes:
        owner, name: the module or class and its function.
        when: before, after, or half-way (of what is written).
        fits: whether a call with these arguments counts.
        most: the highest sensible `Order.count`.
        only: start, continue, or empty: where it occurs.
        unlabelled: it occurs without labels only.
    """

    owner: Any
    name: str
    when: str
    fits: Callable[..., bool] = lambda *_, **__: True
    most: int = 1
    only: str = ""
    unlabelled: bool = False


def moments() -> dict[str, Moment]:
    """Every targeted moment by name."""
    from models import pseudo_labels
    from util.checkpoint import MAGIC
    from util.engine import trainer
    from util.engine.optimizers import OPTIMIZERS

    def to(pattern: str) -> Callable[..., bool]:
        return lambda source, target: re.search(pattern, str(target)) is not None

    def is_state(handle: int, content: Any = None) -> bool:
        try:
            return (os.pread(handle, len(MAGIC), 0) if content is None else bytes(content[: len(MAGIC)])) == MAGIC
        except OSError:  # a folder
            return False

    def is_line(handle: int, content: Any) -> bool:
        return bytes(content[:9]) == b'{"epoch":'

    state, export = to(r"latest_state\.pt$"), to(r"latest_net_\w+\.pth$")
    return {
        "state: before the first byte": Moment(os, "write", "before", is_state, 3),
        "state: half written": Moment(os, "write", "half", is_state, 3),
        "state: before the disk has it": Moment(os, "fsync", "before", is_state, 3),
        "state: before the renaming": Moment(os, "replace", "before", state, 3),
        "state: before the weights": Moment(os, "replace", "after", state, 3),
        "weights: between two networks": Moment(os, "replace", "after", export, 8),
        "weights: of an epoch": Moment(os, "replace", "before", to(r"/\d+_net_\w+\.pth$"), 5),
        "log: half a line": Moment(os, "write", "half", is_line, 6),
        "log: before it is rewritten": Moment(os, "replace", "before", to(r"log\.jsonl$"), only="continue"),
        "log: after it is rewritten": Moment(os, "replace", "after", to(r"log\.jsonl$"), only="continue"),
        "panel: before the renaming": Moment(os, "replace", "before", to(r"panels/.*png$"), 2),
        "page: before the renaming": Moment(os, "replace", "before", to(r"index\.html$"), 2, unlabelled=True),
        "start: before the options": Moment(os, "replace", "before", to(r"options\.yaml$")),
        "start: after the options": Moment(os, "replace", "after", to(r"options\.yaml$")),
        "start: before the state is loaded": Moment(trainer.Trainer, "load", "before", only="continue"),
        "start: after the state is loaded": Moment(trainer.Trainer, "load", "after", only="continue"),
        "first step": Moment(OPTIMIZERS["adam"], "step", "after", only="start"),
        "inside a step": Moment(OPTIMIZERS["adam"], "step", "after", most=20),
        "end of an epoch": Moment(trainer, "end_epoch", "after", most=6),
        "k-means": Moment(pseudo_labels, "balanced_kmeans", "before", most=2, unlabelled=True),
    }


def arm(moment: Moment, count: int) -> None:
    """Make this process kill itself at the `count`-th call that fits."""
    real, left = getattr(moment.owner, moment.name), count

    def deadly(*args: Any, **named: Any) -> Any:
        nonlocal left
        hit = moment.fits(*args, **named)
        left -= hit
        now = hit and left == 0
        if now and moment.when == "half":
            handle, content = args
            real(handle, content[: len(content) // 2])
        if now and moment.when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **named)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(moment.owner, moment.name, deadly)
