"""A disk that takes no more: the checkpoint before stands, the message says so, and training catches up."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import train
from scripts.faults.kills import compare
from util import files
from util.checkpoint import CheckpointError, load_state
from util.engine import trainer
from util.engine.disk import Disk
from util.engine.signals import StopRequest
from util.engine.step import train_step
from util.visual.base import say

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

# Three epochs of three steps and six images; saved at the start, by steps 2, 4, 6 and 8, and at the end.
RUN = ("--model", "cut", "--batch_size", 2, "--n_epochs", 2, "--n_epochs_decay", 1, "--save_latest_freq", 4)
FULL = os.strerror(errno.ENOSPC)


class Full:
    """Writes of files whose name fits fail half-way while `now` is true."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
        self._write, self._open, self._fits = files.write_all, tempfile.mkstemp, re.compile(pattern)
        self.now, self.failed = False, list[str]()
        self._handle, self._name = -1, ""
        monkeypatch.setattr("util.files.write_all", self._write_all)
        monkeypatch.setattr("tempfile.mkstemp", self._mkstemp)

    def _mkstemp(self, *args: Any, **named: Any) -> tuple[int, str]:
        handle, name = self._open(*args, **named)
        self._handle, self._name = handle if self.now and self._fits.search(name) else -1, name
        return handle, name

    def _write_all(self, handle: int, content: bytes) -> None:
        if handle == self._handle:
            self.failed.append(self._name)
            self._write(handle, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, FULL)
        self._write(handle, content)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Full]:
    """`full(pattern)` -> a switch for files whose (temporary) name fits the pattern."""
    return lambda pattern: Full(monkeypatch, pattern)


def before_steps(monkeypatch: pytest.MonkeyPatch, acts: Mapping[int, Callable[[], object]]) -> None:
    """Do something before the steps of these numbers, counted from 0."""
    step = train_step

    def acting(model: Any, batch: Any, info: Any, *rest: Any) -> Any:
        acts.get(info.step, lambda: None)()
        return step(model, batch, info, *rest)

    monkeypatch.setattr(trainer, "train_step", acting)


def steps_logged(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


# --- the state


def test_a_save_that_fails_leaves_the_old_state_and_is_tried_again(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    full: Callable[[str], Full],
) -> None:
    """Full from step 4 to step 7: the saves after steps 4 and 6 fail, the one after step 8 does not."""
    whole = train_run("whole", data(), *RUN)
    disk, file = full("latest_state"), tmp_path / "run" / "run" / "latest_state.pt"
    seen: list[int] = []

    def look(now: bool) -> None:
        disk.now = now
        seen.append(load_state(file)["position"]["step"])

    with monkeypatch.context() as patch:
        before_steps(
            patch, {3: lambda: look(True), 6: lambda: look(True), 7: lambda: look(False), 8: lambda: look(False)}
        )
        capsys.readouterr()
        run = train_run("run", data(), *RUN)
    assert seen == [2, 2, 2, 8]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    stands = (
        "the checkpoint of step 2 stands; training goes on and tries again at the next save; free space on its disk"
    )
    assert lines == [f"WARNING: {file}: cannot be written: {FULL}; {stands}"] * 2
    assert len(disk.failed) == 2
    compare(whole, run)


@pytest.mark.parametrize("asked_to_stop", [False, True])
def test_the_last_save_must_succeed(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    full: Callable[[str], Full],
    asked_to_stop: bool,
) -> None:
    disk, file = full("latest_state"), tmp_path / "run" / "run" / "latest_state.pt"
    if asked_to_stop:
        stop = StopRequest()
        monkeypatch.setattr(train, "StopRequest", lambda: stop)
        monkeypatch.setattr(stop, "listen", lambda: stop)
        monkeypatch.setattr(stop, "agreed", lambda: disk.now)
    before_steps(monkeypatch, {4: lambda: setattr(disk, "now", True)})
    words = (
        f"{re.escape(str(file))}: cannot be written: {FULL}; the checkpoint of step 4 stands; free space on its disk, "
    )
    with pytest.raises(CheckpointError, match=words + "then continue with --continue_train"):
        train_run("run", data(), *RUN)
    assert load_state(file)["position"]["step"] == 4
    assert len(disk.failed) == (1 if asked_to_stop else 3)  # after step 5; after steps 6 and 8, and at the end


def test_a_run_does_not_begin_without_a_checkpoint(
    train_run: Trained, data: DataMaker, full: Callable[[str], Full], tmp_path: Path
) -> None:
    full("latest_state").now = True
    with pytest.raises(
        CheckpointError, match=r"there is no checkpoint yet; free space on its disk and give the command"
    ):
        train_run("run", data(), *RUN)
    assert not (tmp_path / "run" / "run" / "latest_state.pt").exists()
    assert not list((tmp_path / "run" / "run").glob(".*.part"))


# --- everything else


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("iter_8_net_F", r"iter_8_net_F\.pth: cannot be written: .* stands; training goes on without it; free space"),
        (r"\.1_net_G", r"1_net_G\.pth: cannot be written: .* stands; training goes on without it; free space"),
        ("epoch_001", r"panels/epoch_001\.png: cannot be written: .* stands; training goes on without it; free space"),
        ("step000003_fake_B", r"HtmlSink failed and will be tried again, training goes on \(.*fake_B\.png: No space"),
        ("index", r"HtmlSink failed and will be tried again, training goes on \(.*index\.html: No space"),
    ],
)
def test_what_is_not_the_state_is_warned_about_once(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    full: Callable[[str], Full],
    pattern: str,
    said: str,
) -> None:
    disk = full(pattern)
    before_steps(monkeypatch, {2: lambda: setattr(disk, "now", True), 4: lambda: setattr(disk, "now", False)})
    flags = ("--save_epoch_freq", 1, "--save_by_iter", "--panel_freq", 1, "--no_html", False, "--update_html_freq", 2)
    run = train_run("run", data(), *RUN, *flags)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, warnings
    assert re.search(said, warnings[0])
    assert disk.failed
    assert load_state(run / "latest_state.pt")["position"]["step"] == 9
    assert steps_logged(run) == list(range(1, 10))
    assert "ended" in (run / "web" / "index.html").read_text()


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a full disk, and really so: the system cuts a write short there and refuses the next one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_on_a_disk_that_is_really_full_for_a_while(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From step 3 to step 7 no file may grow: log lines wait, saves fail; then all is as if nothing had happened."""
    whole = train_run("whole", data(), *RUN)
    limit = no_file_beyond((whole / "log.jsonl").stat().st_size // 4)  # inside a line of the log
    with monkeypatch.context() as patch:
        # Between these steps only, so that pytest's own files are not concerned.
        before_steps(patch, {2: limit.__enter__, 7: lambda: limit.__exit__(None, None, None)})
        capsys.readouterr()
        run = train_run("run", data(), *RUN)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert [line.split(" failed")[0] for line in warnings if "failed" in line] == [
        "WARNING: JsonlSink",
        "WARNING: ConsoleSink",
    ]
    stands = "latest_state.pt: cannot be written: File too large; the checkpoint of step 2 stands"
    assert sum(stands in line for line in warnings) == 2
    compare(whole, run)
    assert steps_logged(run) == list(range(1, 10))


def test_an_atomic_write_that_does_not_fit_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    files.write_atomic(file, b"old")
    with no_file_beyond(1000), pytest.raises(OSError, match="File too large") as caught:
        files.write_atomic(file, b"x" * 2000)
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_console_on_a_full_disk_does_not_end_a_run(tmp_path: Path) -> None:
    with (tmp_path / "console").open("w", buffering=1) as stream:
        with no_file_beyond(10):
            say("a line that is too long for this disk", stream)
        assert (tmp_path / "console").stat().st_size == 10


def test_words_and_other_errors() -> None:
    said: list[str] = []
    disk = Disk(said.append)
    with disk.sparing():
        raise OSError(errno.EIO, "Input/output error", "run/a.png")
    with pytest.raises(ZeroDivisionError), disk.sparing():
        raise ZeroDivisionError
    disk.saved = 0
    with disk.sparing(again=True):
        raise OSError("odd")
    assert said == [
        "WARNING: run/a.png: cannot be written: Input/output error; there is no checkpoint yet; free space on its disk "
        "and give the command again",
        "WARNING: the run folder: cannot be written: odd; the checkpoint of step 0 stands; training goes on and tries "
        "again at the next save; free space on its disk",
    ]


def test_a_failed_save_passes_the_same_barriers(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ranks do not know that the first one's disk is full, and must not be left waiting."""
    counts, failed = list[int](), list[str]()
    for name, pattern in (("good", "no file"), ("bad", r"latest_state|iter_\d_net_G")):
        calls: list[int] = []
        with monkeypatch.context() as patch:
            disk = Full(patch, pattern)
            acts = {1: lambda: setattr(disk, "now", True), 8: lambda: setattr(disk, "now", False)}  # noqa: B023
            before_steps(patch, acts)
            patch.setattr("util.ranks.barrier", lambda: calls.append(1))  # noqa: B023
            train_run(name, data(), *RUN, "--save_by_iter")
            failed += disk.failed
        counts.append(len(calls))
    assert len(failed) == 6  # the state after steps 2, 4, 6 and 8, the weights after steps 2 and 4
    assert counts[0] == counts[1]
