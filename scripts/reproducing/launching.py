"""Programs of this project as subprocesses, and a training with its evaluation that can be interrupted anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from options.schema import OptionError
from scripts.evaluating.record import record_path
from util.errors import UserError, printable
from util.strict_json import read_json

ROOT = Path(__file__).resolve().parents[2]
PHASE = "test"
STOPPED = "{}: the training was stopped; the same command goes on from there"

Launch = Callable[..., None]  # script, then its arguments


def same_settings(file: Path, asked: Mapping[str, object]) -> bool:
    """Whether a folder was begun before, with these settings; its file of settings is there then.

    Raises:
        OptionError: it was begun with others.
    """
    if not file.exists():
        return False
    known = read_json(file)
    for name, value in asked.items():
        if known.get(name) != value:
            raise OptionError(
                f"--out {printable(file.parent)}: was begun with --{name} {known.get(name)}, not {value}; "
                "give the same, or another folder"
            )
    return True


def launch(script: str, *arguments: object) -> None:
    """Run a program of this project to its end, on this console; an interrupt ends it too, in good order.

    Raises:
        UserError: it failed; it has said why.
        KeyboardInterrupt: it was interrupted, and has ended.
    """
    print("==", script, *map(str, arguments), flush=True)
    status = _status_of(subprocess.Popen(_command(script, arguments)))
    if status:
        raise UserError(f"{script} ended with status {status}; once mended, the same command goes on from there")


class Quiet:
    """Launches programs with their consoles in files, and can end them all.

    Args:
        threads: of each program.
    """

    def __init__(self, threads: int) -> None:
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def into(self, console: Path) -> Launch:
        """A `launch` that writes into a file."""

        def start(script: str, *arguments: object) -> None:
            console.parent.mkdir(parents=True, exist_ok=True)
            with console.open("ab") as stream:
                stream.write(f"== {script} {' '.join(map(str, arguments))}\n".encode())
                stream.flush()
                status = self._run(_command(script, arguments), stream.fileno())
            if status:
                raise UserError(
                    f"{script} ended with status {status}: {_last_line(console)} (see {printable(console)})"
                )

        return start

    def _run(self, command: Sequence[str], console: int) -> int:
        with self._lock:
            if self._ended:
                raise UserError("interrupted")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=self._environment
            )
            self._running.add(process)
        try:
            return _status_of(process)
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Ask every program to stop, as Ctrl-C does: a training saves first. None is started any more."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()


@dataclass(frozen=True)
class Run:
    """A training and its evaluation.

    Args:
        name: of the run, below `runs`.
        train, measure: flags of train.py and of scripts/evaluate.py beside name and folder.
        last: its last epoch, which is measured.
        nets: whose weights of that epoch say that the training has ended.
    """

    runs: Path
    name: str
    train: Sequence[object]
    measure: Sequence[object]
    last: int
    nets: Sequence[str] = ("G",)

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.runs / self.name

    @property
    def record(self) -> Path:
        """The file of its numbers; while it is missing the run is not finished."""
        return record_path(self.folder, PHASE, str(self.last))

    @property
    def trained(self) -> bool:
        """Whether the last epoch's weights are there."""
        return all((self.folder / f"{self.last}_net_{net}.pth").is_file() for net in self.nets)

    def finish(self, start: Launch) -> None:
        """Train and measure, as far as that has not been done.

        Raises:
            UserError: a program failed, or the training was stopped before its end.
        """
        if self.record.is_file():
            return
        place = ("--name", self.name, "--checkpoints_dir", self.runs)
        if not self.trained:
            again = ["--continue_train"] if (self.folder / "latest_state.pt").exists() else []
            start("train.py", *place, *self.train, *again)
        if not self.trained:
            raise UserError(STOPPED.format(self.folder))
        start("scripts/evaluate.py", *place, "--epochs", self.last, "--phase", PHASE, *self.measure)


def _status_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program's end. A SIGTERM to this process alone is handed on, so that a training saves and none is
    left behind; subprocess.run would kill it after a quarter of a second."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _command(script: str, arguments: Sequence[object]) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def _last_line(console: Path) -> str:
    lines = console.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
