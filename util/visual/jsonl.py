"""`log.jsonl`: one JSON object a line, the record of a run from which every curve can be drawn again."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import UserError
from util.files import write_all, write_atomic
from util.visual.base import Moment
from util.visual.files import set_aside

MOMENT_KEYS = tuple(field.name for field in fields(Moment))
MOST_WAITING = 10_000  # lines kept while the disk is full, some 10 MB; the oldest are dropped


class LogError(UserError, ValueError):
    """A log that cannot be read; the message names the file and the line."""


def log_record(moment: Moment, values: Mapping[str, float]) -> dict[str, Any]:
    """One flat record: the moment's fields, then the values by name; NaN and infinity (not JSON) are None.

    Raises:
        ValueError: a value is named like a field of the moment.
    """
    clash = sorted(set(values) & set(MOMENT_KEYS))
    if clash:
        raise ValueError(f"A logged value may not be named {clash[0]!r}: log.jsonl keeps the moment under that key.")
    finite = {name: float(value) if math.isfinite(value) else None for name, value in sorted(values.items())}
    return {**asdict(moment), **finite}


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The losses and monitors of a record of `log.jsonl`; None reads as NaN."""
    return {
        name: math.nan if value is None else float(value) for name, value in record.items() if name not in MOMENT_KEYS
    }


def names_in(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of all losses and monitors that occur in the records, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record if name not in MOMENT_KEYS))


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read `log.jsonl`; a missing file is an empty log, and a last line torn by a kill is left out.

    Raises:
        LogError: a line that is not the last one is no JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[bytes]:
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    if lines and not _is_object(lines[-1][1]):
        lines.pop()
    for number, line in lines:
        if not _is_object(line):
            raise LogError(f"{path}, line {number}: not a JSON object; delete the line or the file")
    return [line for _, line in lines]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class JsonlSink:
    """Append every moment's values to `<run>/log.jsonl`, whole lines only.

    Args:
        run_dir: the run's folder; made if absent.
        resume_step: the step that a resumed run continues from: lines of later steps (logged after the
            checkpoint, about to be repeated) and a torn last line are removed first. None: a new run; an
            older log is renamed by its date, not lost.

    Raises:
        OSError: the log cannot be written.
        LogError: that of the run to continue has a line that is no JSON object.
    """

    def __init__(self, run_dir: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(run_dir) / "log.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._take_up(resume_step)
        # Unbuffered: each line is handed to the system in one write, so a kill leaves no half of a buffer.
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._cut_to: int | None = None  # size of the file before a line that did not become whole

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Append one line.

        Raises:
            OSError: the disk is full, say. The line is not lost: it is kept and written before the next one.
        """
        self._waiting.append(json.dumps(log_record(moment, values), allow_nan=False).encode() + b"\n")
        self._write_waiting()

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """The log holds numbers only."""

    def close(self) -> None:
        """Write what had to wait, and close the file."""
        try:
            self._write_waiting()
        finally:
            os.close(self._file)

    def _take_up(self, resume_step: int | None) -> None:
        if resume_step is None:
            if self.path.stat().st_size:  # a run that was killed before its first line leaves nothing to keep
                set_aside(self.path)
            return
        kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= resume_step]
        content = b"".join(line + b"\n" for line in kept)
        if content != self.path.read_bytes():
            write_atomic(self.path, content)

    def _write_waiting(self) -> None:
        """Write the waiting lines in order; one that fails half-way is cut off again."""
        self._cut()
        while self._waiting:
            self._cut_to = os.fstat(self._file).st_size
            try:
                write_all(self._file, self._waiting[0])
            except OSError as error:
                self._cut()
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self._waiting.popleft()
            self._cut_to = None

    def _cut(self) -> None:
        if self._cut_to is not None:
            os.ftruncate(self._file, min(self._cut_to, os.fstat(self._file).st_size))
            self._cut_to = None
