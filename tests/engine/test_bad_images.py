"""Bad images in a run: said once, counted, listed, and of no consequence for continuing."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import train
from data.bad_images import BAD_IMAGES_FILE
from data.base import Batch, DataError
from tests.processes import as_ranks, meet_at, meeting_places
from util.checkpoint import load_state
from util.engine import trainer
from util.engine.signals import StopRequest
from util.engine.step import train_step

RUN = ("--batch_size", 2, "--n_epochs", 2, "--n_epochs_decay", 0, "--netG", "resnet_4blocks", "--nce_layers", "0,4,8")
CUTCAM = ("--model", "cutcam", "--num_classes", 3, "--pseudo_every", 1, "--cls_start_epoch", 0, "--cam_start_epoch", 0)
SKIP = ("--on_bad_image", "skip")
Trained = Callable[..., Path]


def damage(path: Path) -> None:
    """Leave two thirds of the rows: the header stays good, and so do the checksums."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head, rows = struct.pack(">IIBBBBB", 44, 40, 8, 2, 0, 0, 0), zlib.compress(bytes(1 + 3 * 44) * 27)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def images(root: Path, count: int = 7) -> Path:
    """Seven images a domain; A/1 and B/2 have bad pixels, A/x and B/x a bad header."""
    for side in "AB":
        (root / f"train{side}").mkdir(parents=True)
        for number in range(count):
            random = np.random.default_rng(number + 100 * (side == "B"))
            cv2.imwrite(str(root / f"train{side}/{number}.png"), random.integers(0, 255, (40, 44, 3), np.uint8))
        (root / f"train{side}/x.png").write_text("<html>")
    damage(root / "trainA/1.png")
    damage(root / "trainB/2.png")
    return root


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "data_seconds")} for line in lines]


def listed(folder: Path) -> list[str]:
    return [line.split(": ")[0] for line in (folder / BAD_IMAGES_FILE).read_text().splitlines()]


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), [b[key] for key in a]
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_list_is_named_only_where_it_is_written(
    train_run: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images(tmp_path / "data")
    (data / "labels.csv").write_text("no,such,columns\n")
    with pytest.raises(DataError, match=r"labels\.csv"):
        train_run("a", data, *RUN, *SKIP)
    err = capsys.readouterr().err
    assert "WARNING: 2 bad images are left out (--on_bad_image skip):\n" in err
    assert BAD_IMAGES_FILE not in err
    assert not (tmp_path / "a/run" / BAD_IMAGES_FILE).exists()


class StopAfter(StopRequest):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def agreed(self) -> bool:
        self._left -= 1
        return self._left == 0


def stopped(patch: pytest.MonkeyPatch, steps: int) -> None:
    patch.setattr(train, "StopRequest", lambda: StopAfter(steps))
    patch.setattr(StopAfter, "listen", lambda self: self)


def test_bad_images_are_said_once_counted_and_listed(
    train_run: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = images(tmp_path / "data"), list[Batch]()

    def watching(model: Any, batch: Batch, *rest: Any) -> Any:
        seen.append(batch)
        return train_step(model, batch, *rest)

    monkeypatch.setattr(trainer, "train_step", watching)
    run = train_run("a", data, *RUN, *SKIP, "--quiet", "--n_epochs", 4)
    said = capsys.readouterr().err
    assert said.count(f"the bad images are named in {run / BAD_IMAGES_FILE}\n") == 1
    err = [line for line in said.splitlines() if line.startswith(("WARNING", " "))]
    assert err[0].startswith("WARNING: 2 bad images are left out")
    assert [line.split(": ")[0] for line in err[1:3]] == ["  trainA/x.png", "  trainB/x.png"]
    assert sorted(line.split(": ")[1] for line in err[3:]) == ["trainA/1.png", "trainB/2.png"]  # once in four epochs
    assert all(line.endswith("; the next image takes its place") for line in err[3:])
    assert sorted(listed(run)) == ["trainA/1.png", "trainA/x.png", "trainB/2.png", "trainB/x.png"]
    assert logged(run)[-1]["bad_images"] == 2
    read = {path for batch in seen for path in batch.path_A + batch.path_B}
    assert read == {f"train{side}/{n}.png" for side in "AB" for n in range(7)} - {"trainA/1.png", "trainB/2.png"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_stopped_and_continued_equals_unbroken(
    train_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, workers: int
) -> None:
    data, flags = images(tmp_path / "data"), (*RUN, *CUTCAM, *SKIP)
    whole = train_run("whole", data, *flags)
    with monkeypatch.context() as patch:
        stopped(patch, stop)
        broken = train_run("broken", data, *flags, "--num_threads", workers)
    train_run("broken", data, *flags, "--continue_train")
    states = [load_state(run / "latest_state.pt") for run in (whole, broken)]
    assert_equal(states[0], states[1])
    assert logged(whole) == logged(broken)
    assert listed(whole) == listed(broken)
    assert states[0]["files"]["source"] == [f"trainA/{n}.png" for n in range(7)]


def test_a_file_lost_inside_an_epoch_costs_no_run(
    train_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy that an error names, removing the file, must leave a run that can go on."""
    data = images(tmp_path / "data")
    for name in ("trainA/x.png", "trainB/x.png", "trainB/2.png"):
        (data / name).unlink()
    with pytest.raises(Exception, match=r"trainA/1.png' cannot be read as an image") as caught:
        train_run("run", data, *RUN, "--save_latest_freq", 2, "--serial_batches", "--batch_size", 1)
    assert "--on_bad_image skip" in str(caught.value)
    with monkeypatch.context() as patch:
        stopped(patch, 1)
        train_run("other", data, *RUN, "--serial_batches", "--batch_size", 1)
    (data / "trainA/1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 7 files of .*trainA cannot be used; a run that goes on inside an epoch"):
        train_run("other", data, *RUN, "--serial_batches", "--batch_size", 1, "--continue_train")
    seen: list[tuple[str, ...]] = []

    def watching(model: Any, batch: Batch, *rest: Any) -> Any:
        seen.append(batch.path_A)
        return train_step(model, batch, *rest)

    monkeypatch.setattr(trainer, "train_step", watching)
    run = train_run("other", data, *RUN, "--serial_batches", "--batch_size", 1, "--continue_train", *SKIP)
    assert [path for (path,) in seen[:6]] == [f"trainA/{n}.png" for n in (2, 2, 3, 4, 5, 6)]
    assert listed(run) == ["trainA/1.png"] * 2  # known at the start, and met


def test_between_epochs_a_changed_folder_is_said(
    train_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", dying_at(4))
        with pytest.raises(ZeroDivisionError):
            train_run("run", data, *RUN, *SKIP, "--save_epoch_freq", 1)
    (data / "trainA/6.png").unlink()
    capsys.readouterr()
    train_run("run", data, *RUN, *SKIP, "--continue_train")
    assert "the files have changed since the run was left: source: 0 new, 1 gone" in capsys.readouterr().out


def dying_at(step: int) -> Callable[..., Any]:
    def dying(model: Any, batch: Batch, info: Any, *rest: Any) -> Any:
        if info.step == step:
            raise ZeroDivisionError
        return train_step(model, batch, info, *rest)

    return dying


def as_rank(rank: int, argv: Sequence[str], port: int) -> None:
    meet_at(port)
    sys.argv = ["train.py", *argv]
    assert train.main() == 0


@pytest.mark.slow
def test_two_processes_say_and_count_together(
    train_run: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = images(tmp_path / "data")
    one = train_run("one", data, *RUN, *CUTCAM, *SKIP, "--batch_size", 4, "--quiet")
    argv = [str(tmp_path / "two") if word == str(tmp_path / "one") else word for word in sys.argv[1:]]
    capfd.readouterr()
    with meeting_places(1) as ports:
        as_ranks(2, as_rank, [*argv, "--batch_size", "2"], *ports)
    two = tmp_path / "two/run"
    assert sorted(listed(two)) == sorted(listed(one))
    assert logged(two)[-1]["bad_images"] == logged(one)[-1]["bad_images"] == 2
    err = capfd.readouterr().err
    assert all(err.count(f"WARNING: {name}: ") == 1 for name in ("trainA/1.png", "trainB/2.png"))
    assert err.count("bad images are left out") == 1
    pseudo = [load_state(run / "latest_state.pt")["model"]["pseudo"] for run in (one, two)]
    assert pseudo[0]["files"] == pseudo[1]["files"]
