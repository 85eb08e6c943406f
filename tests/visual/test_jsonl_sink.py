"""log.jsonl: whole lines, no NaN, nothing doubled after a kill and a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from util.visual.base import Moment
from util.visual.jsonl import MOMENT_KEYS, JsonlSink, names_in, read_log, values_of


def at(step: int) -> Moment:
    return Moment(epoch=1, epoch_iters=step, step=step, total_iters=step, seconds=0.5, data_seconds=0.25)


def write(folder: Path, steps: range, resume_step: int | None = None) -> Path:
    sink = JsonlSink(folder, resume_step)
    for step in steps:
        sink.scalars(at(step), {"NCE": step / 2})
    sink.close()
    return sink.path


def test_a_line_by_hand(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    sink.scalars(at(7), {"b": 1.5, "a": math.nan, "c": -math.inf})
    assert (tmp_path / "log.jsonl").read_bytes() == (  # there before close: a kill loses nothing
        b'{"epoch": 1, "epoch_iters": 7, "step": 7, "total_iters": 7, "seconds": 0.5, "data_seconds": 0.25, '
        b'"a": null, "b": 1.5, "c": null}\n'
    )
    sink.close()
    (record,) = read_log(tmp_path / "log.jsonl")
    values = values_of(record)
    assert values["b"] == 1.5
    assert math.isnan(values["a"])
    assert names_in([record]) == ["a", "b", "c"]


def test_a_name_of_the_moment_is_refused(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    for name in MOMENT_KEYS:
        with pytest.raises(ValueError, match=name):
            sink.scalars(at(1), {name: 1.0})
    sink.close()


def test_resume_removes_later_lines_and_a_torn_one(tmp_path: Path) -> None:
    path = write(tmp_path, range(10, 60, 10))
    with path.open("ab") as file:
        file.write(b'{"epoch": 1, "step": 6')  # killed in the middle of a write
    assert [record["step"] for record in read_log(path)] == [10, 20, 30, 40, 50]
    write(tmp_path, range(40, 70, 10), resume_step=30)
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"], "no temporary file stays"


def test_a_line_without_its_newline_is_whole_and_the_next_stands_alone(tmp_path: Path) -> None:
    path = write(tmp_path, range(1, 3))
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read_log(path)) == 2
    write(tmp_path, range(3, 5), resume_step=2)
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4]


def test_resume_without_a_log_and_at_zero(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3), resume_step=0)
    path = write(tmp_path, range(1, 3), resume_step=0)
    assert [record["step"] for record in read_log(path)] == [1, 2]


def test_a_new_run_sets_the_old_log_aside(tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, range(1, 3))
    logs = sorted(tmp_path.glob("log*.jsonl"))
    assert len(logs) == 3
    assert all(len(read_log(log)) == 2 for log in logs)


def test_a_missing_log_is_empty_and_a_broken_one_named(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []
    path = write(tmp_path, range(1, 3))
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1"):
        read_log(path)


def test_a_last_line_of_zeros_is_torn(tmp_path: Path) -> None:
    """Some file systems leave zeros where a crash of the machine hit a write."""
    path = write(tmp_path, range(1, 3))
    path.write_bytes(path.read_bytes() + b"\0" * 20 + b"\n")
    assert [record["step"] for record in read_log(path)] == [1, 2]
