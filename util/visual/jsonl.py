"""`log.jsonl`: one JSON object a line, the record of a run from which every curve can be drawn again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from util.files import write_atomic
from util.visual.base import Moment
from util.visual.files import set_aside

MOMENT_KEYS = tuple(field.name for field in fields(Moment))


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
        ValueError: a line that is not the last one is no JSON object.
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
            raise ValueError(f"{path}, line {number}: not a JSON object; delete the line or the file.")
    return [line for _, line in lines]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class JsonlSink:
    """Append every moment's values to `<run>/log.jsonl`, whole lines only.

    Args:
        run_dir: the run's folder; made if absent.
        resume_step: the step that a resumed run continues from: lines of later steps (logged after the
            checkpoint, about to be repeated) and a torn last line are removed first. None: a new run; an
            older log is renamed by its date, not lost.
    """

    def __init__(self, run_dir: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(run_dir) / "log.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is None:
            set_aside(self.path)
        elif self.path.exists():
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= resume_step]
            write_atomic(self.path, b"".join(line + b"\n" for line in kept))
        # Unbuffered: each line is handed to the system in one write, so a kill leaves no half of a buffer.
        self._file = self.path.open("ab", buffering=0)

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Append one line."""
        record = log_record(moment, values)
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """The log holds numbers only."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
