"""Loss curves and pictures as TensorBoard's event files, in a folder that may be read-only, full, slow or away.

The training thread only notes what is new; a worker thread writes. What could not be written waits, bounded, and
follows when the folder takes it again. The package is optional and is imported when a sink is made.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from util.visual.base import Moment, group_of, say
from util.visual.files import as_rgb, set_aside

MOST_WAITING = 10_000  # moments whose numbers wait; the oldest are dropped. Of pictures only the newest wait
Values = Mapping[str, Any]


class Writer(Protocol):
    """The part of SummaryWriter that is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> None:
        """Note one point of a curve."""

    def add_image(self, tag: str, img_tensor: np.ndarray, global_step: int, walltime: float, dataformats: str) -> None:
        """Note a picture."""

    def flush(self) -> None:
        """Hand everything noted to the system."""

    def close(self) -> None:
        """Write what is left and close the file."""


class Note(NamedTuple):
    """Losses, or pictures (H, W, 3), of one moment; `step` counts images, `at` is the time in seconds."""

    step: int
    at: float
    values: Values


def summary_writer() -> Callable[[Path, int | None], Writer]:
    """Import TensorBoard; returns what opens a new event file in (folder, purge step)."""
    made: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    _silence_its_threads()
    return lambda folder, purge_step: made(str(folder), purge_step=purge_step)


@cache
def _silence_its_threads() -> None:
    """SummaryWriter's thread dies of a failed write with a traceback, and the next call raises: that one is enough."""
    before = threading.excepthook

    def hook(fault: threading.ExceptHookArgs) -> None:
        if not type(fault.thread).__module__.startswith("tensorboard."):
            before(fault)

    threading.excepthook = hook


class TensorBoardSink:
    """Curves over the number of images seen, tagged `group/name`, and the pictures of a run.

    No call waits for the disk, except `close`, for `close_seconds` at most. A missing package or a folder that cannot
    be written costs one warning, and one line when it can be written again.

    Args:
        folder: of the event files, the run's own.
        resume_iters: images seen where a resumed run continues: later points of earlier files are hidden, since they
            are about to be repeated. None: a new run; an older folder is renamed by its date, not lost.
        retry_seconds: how long to leave a folder alone that could not be written.
        interval_seconds: the shortest time between two writes.
        close_seconds: how long `close` lets the last values be written.
        load: imports the package (for tests).
        report: receives the few messages.
    """

    def __init__(
        self,
        folder: str | Path,
        resume_iters: int | None = None,
        retry_seconds: float = 60.0,
        interval_seconds: float = 2.0,
        close_seconds: float = 5.0,
        load: Callable[[], Callable[[Path, int | None], Writer]] = summary_writer,
        report: Callable[[str], None] = say,
    ) -> None:
        self.folder, self._report = Path(folder), report
        self._retry, self._interval, self._patience = retry_seconds, interval_seconds, close_seconds
        # Shared with the worker, under the condition's lock.
        self._news = threading.Condition()
        self._numbers: deque[Note] = deque(maxlen=MOST_WAITING)
        self._pictures: Note | None = None
        self._ending = False
        # The worker's own.
        self._is_new = resume_iters is None
        self._purge = None if resume_iters is None else resume_iters + 1
        self._away = self._greeted = False
        self._not_before = 0.0
        self._worker: threading.Thread | None = None
        try:
            self._open = load()
        except Exception as error:  # an import can fail in any way, and an optional one must not cost a run
            missing = isinstance(error, ImportError) and importlib.util.find_spec("tensorboard") is None
            why = "it is not installed: pip install tensorboard" if missing else f"{type(error).__name__}: {error}"
            report(f"WARNING: no TensorBoard ({why}); training goes on without it, the curves are in log.jsonl too")
            return
        # A daemon: a disk that hangs must not keep a finished run from ending.
        self._worker = threading.Thread(target=self._work, name="tensorboard", daemon=True)
        self._worker.start()

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Note the values; returns at once."""
        if self._worker is not None:
            with self._news:
                self._numbers.append(Note(moment.total_iters, time.time(), dict(values)))
                self._news.notify()

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """Note the pictures, in place of any that still wait; returns at once."""
        if self._worker is not None:
            # Copied: the caller may reuse its arrays before the worker has written them.
            copies = {name: as_rgb(picture).copy() for name, picture in pictures.items()}
            with self._news:
                self._pictures = Note(moment.total_iters, time.time(), copies)
                self._news.notify()

    def close(self) -> None:
        """Let a folder that can be written take what is new, then stop."""
        if self._worker is None:
            return
        with self._news:
            self._ending = True
            self._news.notify()
        self._worker.join(self._patience)
        self._worker = None

    # What follows runs in the worker thread.

    def _work(self) -> None:
        writer: Writer | None = None
        while self._wait():
            with self._news:
                numbers, self._numbers = self._numbers, deque(maxlen=MOST_WAITING)
                pictures, self._pictures = self._pictures, None
            try:
                writer = writer or self._opened()
                self._write(writer, numbers, pictures)
                self._there()
            except OSError as error:
                self._close(writer)
                writer = None
                self._gone(error, numbers, pictures)
                if self._ending:
                    break
            except Exception as error:  # whatever TensorBoard does, training goes on
                self._report(
                    f"WARNING: TensorBoard failed, training goes on without it ({type(error).__name__}: {error})"
                )
                break
        self._close(writer)

    def _wait(self) -> bool:
        """Sleep until there is something to write and the folder may be tried; False: nothing more to do."""
        with self._news:
            while not self._ending:
                rest = self._not_before - time.monotonic()
                new = bool(self._numbers or self._pictures)
                if new and rest <= 0:
                    return True
                self._news.wait(rest if new else None)
            return bool(self._numbers or self._pictures)

    def _opened(self) -> Writer:
        if self._is_new:
            set_aside(self.folder)
            self._is_new = False
        return self._open(self.folder, self._purge)

    def _write(self, writer: Writer, numbers: deque[Note], pictures: Note | None) -> None:
        for note in numbers:
            for name, value in note.values.items():
                writer.add_scalar(f"{group_of(name)}/{name}", value, note.step, note.at)
        if pictures:
            for name, picture in pictures.values.items():
                writer.add_image(f"pictures/{name}", picture, pictures.step, pictures.at, "HWC")
        writer.flush()

    def _close(self, writer: Writer | None) -> None:
        with contextlib.suppress(Exception):
            if writer is not None:
                writer.close()

    def _there(self) -> None:
        if self._away or not self._greeted:
            self._report(f"TensorBoard: {'back, ' if self._away else ''}writing to {self.folder}")
        self._away, self._greeted = False, True
        self._not_before = time.monotonic() + self._interval

    def _gone(self, error: OSError, numbers: deque[Note], pictures: Note | None) -> None:
        """Keep what was not written; a new file will hide those parts of it that the last one holds."""
        steps = [note.step for note in (*numbers, *([pictures] if pictures else []))]
        if self._greeted or self._purge is None:
            self._purge = min(steps)
        with self._news:
            self._numbers = deque([*numbers, *self._numbers], maxlen=MOST_WAITING)
            self._pictures = self._pictures or pictures
        if not self._away:
            why = f"{error.filename or self.folder}: {error.strerror or error}"
            self._report(
                f"WARNING: TensorBoard's folder cannot be written ({why}); training goes on, and it is tried again"
            )
        self._away = True
        self._not_before = time.monotonic() + self._retry
