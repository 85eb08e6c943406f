"""TensorBoard: training is never held up, a folder that cannot be written costs one warning, nothing is doubled."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from util.visual.base import Moment
from util.visual.tensorboard_sink import TensorBoardSink, summary_writer

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)


def at(step: int) -> Moment:
    """Two images a step."""
    return Moment(2, step, step, 2 * step, 0.1, 0.1)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    """Wait for a condition; False when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class FakeDisk:
    """What SummaryWriters have flushed, and a switch that makes their flush fail, or wait."""

    def __init__(self) -> None:
        self.full, self.error = False, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/events")
        self.opened: list[tuple[Path, int | None]] = []
        self.scalars: list[tuple[str, float, int]] = []
        self.pictures: list[tuple[str, np.ndarray, int]] = []
        self.flushes, self.closed, self.hold = 0, 0, threading.Event()
        self.hold.set()

    def load(self) -> Callable[[Path, int | None], Any]:
        def open_writer(folder: Path, purge_step: int | None) -> FakeWriter:
            if self.full:
                raise self.error
            self.opened.append((folder, purge_step))
            return FakeWriter(self)

        return open_writer


class FakeWriter:
    def __init__(self, disk: FakeDisk) -> None:
        self._disk = disk
        self._scalars: list[tuple[str, float, int]] = []
        self._pictures: list[tuple[str, np.ndarray, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> None:
        assert abs(time.time() - walltime) < 60
        self._scalars.append((tag, scalar_value, global_step))

    def add_image(self, tag: str, img_tensor: np.ndarray, global_step: int, walltime: float, dataformats: str) -> None:
        assert dataformats == "HWC"
        self._pictures.append((tag, img_tensor, global_step))

    def flush(self) -> None:
        self._disk.hold.wait(20)
        self._disk.flushes += 1
        if self._disk.full:
            raise self._disk.error
        self._disk.scalars += self._scalars
        self._disk.pictures += self._pictures
        self._scalars, self._pictures = [], []

    def close(self) -> None:
        self._disk.closed += 1


def quick(folder: Path, disk: FakeDisk, said: list[str], **options: Any) -> TensorBoardSink:
    timing = {"retry_seconds": 0.05, "interval_seconds": 0.01, **options}
    return TensorBoardSink(folder, load=disk.load, report=said.append, **timing)


def test_tags_steps_and_pictures(tmp_path: Path) -> None:
    disk, said = FakeDisk(), list[str]()
    sink = quick(tmp_path / "tb", disk, said)
    picture = PICTURE.copy()
    sink.scalars(at(10), {"G_GAN": 1.0, "NCE_Y": 2.0, "CAM": 3.0, "lr": 4.0})
    sink.images(at(10), {"real_A": picture, "cam": picture[..., 0]})
    picture[:] = 0  # the caller's array again
    sink.close()
    assert disk.scalars == [
        ("adversarial/G_GAN", 1.0, 20),
        ("contrastive/NCE_Y", 2.0, 20),
        ("cam/CAM", 3.0, 20),
        ("learning rate/lr", 4.0, 20),
    ]
    (real, cam) = disk.pictures
    assert (real[0], cam[0], real[2]) == ("pictures/real_A", "pictures/cam", 20)
    np.testing.assert_array_equal(real[1], PICTURE)
    assert cam[1].shape == (16, 24, 3)
    assert disk.opened == [(tmp_path / "tb", None)]
    assert disk.closed == 1
    assert said == [f"TensorBoard: writing to {tmp_path / 'tb'}"]
    sink.scalars(at(11), {"NCE": 1.0})  # after the end: nothing happens
    sink.close()
    assert len(disk.scalars) == 4


def test_a_resumed_run_hides_what_it_repeats_and_a_new_one_sets_the_old_folder_aside(tmp_path: Path) -> None:
    folder = tmp_path / "tb"
    for resume_iters, purge in ((None, None), (400, 401)):
        folder.mkdir(exist_ok=True)
        (folder / "events").write_text(f"{resume_iters}")
        disk = FakeDisk()
        sink = quick(folder, disk, [], resume_iters=resume_iters)
        sink.scalars(at(201), {"NCE": 1.0})
        sink.close()
        assert disk.opened == [(folder, purge)]
        assert (folder / "events").exists() == (resume_iters is not None)
    assert len(list(tmp_path.glob("tb_*/events"))) == 1


def test_what_could_not_be_written_follows_and_is_said_once(tmp_path: Path) -> None:
    disk, said = FakeDisk(), list[str]()
    sink = quick(tmp_path, disk, said, resume_iters=0)
    sink.scalars(at(1), {"NCE": 1.0})
    assert until(lambda: disk.scalars)
    disk.full = True
    for step in range(2, 6):
        sink.scalars(at(step), {"NCE": float(step)})
        sink.images(at(step), {"a": PICTURE})
        time.sleep(0.03)
    assert until(lambda: len(said) == 2)
    disk.full = False
    assert until(lambda: len(said) == 3)
    sink.close()
    assert [step for _, _, step in disk.scalars] == [2, 4, 6, 8, 10]
    assert [step for _, _, step in disk.pictures] == [10]  # the newest only
    assert [purge for _, purge in disk.opened] == [1, 4]  # a half-written batch of the first file is hidden
    why = f"runs/events: {os.strerror(errno.ENOSPC)}"
    assert (
        said[1] == f"WARNING: TensorBoard's folder cannot be written ({why}); training goes on, and it is tried again"
    )
    assert said[2] == f"TensorBoard: back, writing to {tmp_path}"


def test_a_folder_that_stays_read_only_costs_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    disk, said = FakeDisk(), list[str]()
    disk.full, disk.error = True, PermissionError(errno.EACCES, "Permission denied", "runs")
    sink = quick(tmp_path / "tb", disk, said)
    for step in range(20):
        sink.scalars(at(step), {"NCE": 1.0})
        time.sleep(0.01)
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 2
    assert len(said) == 1
    assert "runs: Permission denied" in said[0]


def test_a_folder_that_hangs_costs_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("util.visual.tensorboard_sink.MOST_WAITING", 50)
    disk = FakeDisk()
    disk.hold.clear()
    sink = quick(tmp_path, disk, [], close_seconds=0.1)
    worst = 0.0
    for step in range(300):
        started = time.monotonic()
        sink.scalars(at(step), {"NCE": 1.0})
        sink.images(at(step), {"a": PICTURE})
        worst = max(worst, time.monotonic() - started)
    assert worst < 0.5
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 2
    disk.hold.set()
    assert until(lambda: disk.closed)
    assert len(disk.scalars) <= 101  # what was under way, and what was kept


def test_any_other_error_ends_it_with_one_line(tmp_path: Path) -> None:
    disk, said = FakeDisk(), list[str]()
    disk.full, disk.error = True, RuntimeError("protobuf")  # type: ignore[assignment]  # what a library may raise
    sink = quick(tmp_path, disk, said)
    for step in range(5):
        sink.scalars(at(step), {"NCE": 1.0})
        time.sleep(0.02)
    sink.close()
    assert said == ["WARNING: TensorBoard failed, training goes on without it (RuntimeError: protobuf)"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'tensorboard'"), "it is not installed: pip install tensorboard"),
        (TypeError("Descriptors cannot be created"), "TypeError: Descriptors cannot be created"),
    ],
)
def test_a_package_that_cannot_be_imported_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def load() -> Any:
        raise error

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    threads, said = threading.active_count(), list[str]()
    sink = TensorBoardSink(tmp_path / "tb", load=load, report=said.append)
    sink.scalars(at(1), {"NCE": 1.0})
    sink.images(at(1), {"a": PICTURE})
    sink.close()
    wanted = f"WARNING: no TensorBoard ({words}); training goes on without it, the curves are in log.jsonl too"
    assert said == [wanted]
    assert threading.active_count() == threads
    assert not (tmp_path / "tb").exists()


def test_the_module_does_not_import_the_package() -> None:
    code = "import sys, util.visual.tensorboard_sink; print('tensorboard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_the_writer_is_that_of_torch_and_its_threads_die_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[Any, ...]] = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda *args, **named: made.append((args, named))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    heard: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: heard.append(type(fault.thread).__module__))
    from util.visual import tensorboard_sink

    tensorboard_sink._silence_its_threads.cache_clear()
    summary_writer()(Path("runs"), 7)
    assert made == [(("runs",), {"purge_step": 7})]
    theirs = type("Theirs", (threading.Thread,), {"__module__": "tensorboard.summary.writer"})
    for kind in (theirs, threading.Thread):
        thread = kind(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert heard == ["threading"]
    tensorboard_sink._silence_its_threads.cache_clear()


# ---- with the package itself ----


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a full disk: the system cuts a write short there and refuses the next one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_back(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard itself shows them."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder)).Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | {tag: [(e.step, float(e.width)) for e in events.Images(tag)] for tag in events.Tags()["images"]}


def test_event_files_of_a_killed_and_resumed_run_show_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for resume_iters, steps in ((None, range(1, 7)), (8, range(5, 9))):
        said: list[str] = []
        sink = TensorBoardSink(tmp_path / "tb", resume_iters, report=said.append)
        for step in steps:
            sink.scalars(at(step), {"G_GAN": step / 4})
        sink.images(at(steps[-1]), {"real_A": PICTURE})
        sink.close()
        assert said == [f"TensorBoard: writing to {tmp_path / 'tb'}"]
        time.sleep(1.1)  # event files are told apart, and read, by the second they were made in
    shown = read_back(tmp_path / "tb")
    assert shown["adversarial/G_GAN"] == [(2 * step, step / 4) for step in range(1, 9)]
    assert shown["pictures/real_A"] == [(16, 24.0)]


def test_a_disk_that_is_really_full_for_a_while(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    said: list[str] = []
    sink = TensorBoardSink(tmp_path / "tb", retry_seconds=0.2, interval_seconds=0.01, report=said.append)
    sink.scalars(at(1), {"NCE": 0.25})
    assert until(lambda: said)
    with no_file_beyond(next((tmp_path / "tb").iterdir()).stat().st_size + 10):
        for step in range(2, 5):
            sink.scalars(at(step), {"NCE": step / 4})
        assert until(lambda: len(said) == 2)
        time.sleep(1.1)
    assert until(lambda: len(said) == 3)
    sink.close()
    assert "File too large" in said[1]
    assert read_back(tmp_path / "tb")["contrastive/NCE"] == [(2 * step, step / 4) for step in range(1, 5)]
    assert "Traceback" not in capfd.readouterr().err
