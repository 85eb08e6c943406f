"""log.jsonl: whole lines, no NaN, nothing doubled after a kill and a resume."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
from collections.abc import Iterator
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


def test_an_empty_log_of_a_killed_start_is_not_kept(tmp_path: Path) -> None:
    for _ in range(3):
        JsonlSink(tmp_path).close()
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_log_that_needs_no_cutting_is_not_rewritten(tmp_path: Path) -> None:
    """On a full disk it could not be."""
    path = write(tmp_path, range(1, 4))
    before = path.stat().st_ino
    write(tmp_path, range(4, 5), resume_step=3)
    assert path.stat().st_ino == before
    write(tmp_path, range(4, 5), resume_step=3)
    assert path.stat().st_ino != before
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4]


# --- a full disk


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system cuts a write short there and refuses the next one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def scalars_fail(sink: JsonlSink, steps: range) -> None:
    for step in steps:
        with pytest.raises(OSError, match=r"File too large") as caught:
            sink.scalars(at(step), {"NCE": step / 2})
        assert caught.value.filename == str(sink.path)


def test_lines_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    sink.scalars(at(1), {"NCE": 0.5})
    whole = sink.path.read_bytes()
    with no_file_beyond(len(whole) + 10):
        scalars_fail(sink, range(2, 5))
        assert sink.path.read_bytes() == whole, "the ten bytes that fitted are cut off"
    sink.scalars(at(5), {"NCE": 2.5})
    assert [record["step"] for record in read_log(sink.path)] == [1, 2, 3, 4, 5]
    sink.close()
    assert len(sink.path.read_bytes().splitlines()) == 5


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path)
    with no_file_beyond(10):
        scalars_fail(sink, range(1, 3))
    sink.close()
    assert [record["step"] for record in read_log(sink.path)] == [1, 2]


def test_the_oldest_are_dropped_when_too_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("util.visual.jsonl.MOST_WAITING", 3)
    sink = JsonlSink(tmp_path)
    with no_file_beyond(10):
        scalars_fail(sink, range(1, 8))
    sink.close()
    assert [record["step"] for record in read_log(sink.path)] == [5, 6, 7]


def test_a_half_line_that_cannot_be_cut_off_at_once_is_cut_off_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    sink = JsonlSink(tmp_path)
    sink.scalars(at(1), {"NCE": 0.5})
    with monkeypatch.context() as patch, no_file_beyond(sink.path.stat().st_size + 10):
        patch.setattr(os, "ftruncate", broken)
        for step in (2, 3):
            with pytest.raises(OSError, match="Input/output error"):
                sink.scalars(at(step), {"NCE": step / 2})
    sink.scalars(at(4), {"NCE": 2.0})
    sink.close()
    assert [json.loads(line)["step"] for line in sink.path.read_bytes().splitlines()] == [1, 2, 3, 4]


def test_a_last_line_of_zeros_is_torn(tmp_path: Path) -> None:
    """Some file systems leave zeros where a crash of the machine hit a write."""
    path = write(tmp_path, range(1, 3))
    path.write_bytes(path.read_bytes() + b"\0" * 20 + b"\n")
    assert [record["step"] for record in read_log(path)] == [1, 2]
