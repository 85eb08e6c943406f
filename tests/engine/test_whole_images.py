"""Whole images through a trained model: by size, in order, read ahead, and written beside the networks."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.base import Sample
from data.domain import Domain
from data.images import DomainFormat, ImageError, Window, decode
from data.single_dataset import SingleDataset
from data.transforms import Preprocess
from models import MODELS
from models.base import Model
from options.parse import RunOptions, train_options
from util.background import Background
from util.engine.build import Pace, loading_processes, pace, progress
from util.engine.inference import (
    by_size,
    drawing,
    explain_image,
    explain_images,
    together,
    translate_image,
    translate_images,
)
from util.errors import UserError
from util.visual.results import Results

BYTES = DomainFormat(Window(0.0, 255.0), "uint8")
RANDOM = np.random.default_rng(2)
TINY = ("--ngf", "8", "--ndf", "8", "--netG", "resnet_4blocks", "--num_classes", "3", "--gpu_ids", "-1")


@dataclass(frozen=True)
class Stub:
    sample: Sample
    number: int


def stub(number: int, side: int) -> Stub:
    return Stub(Sample(torch.zeros(1, side, side), None, "", "", -1, number, number), number)


# --- together


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_images_of_one_size_go_together_and_come_in_order(most: int) -> None:
    sides = [4, 4, 5, 4, 6, 4, 4, 5, 4, 4, 4, 5, 4, 7, 4, 4, 4, 4]
    asked: list[list[int]] = []

    def work(group: list[Stub]) -> Sequence[int]:
        assert len({one.sample.A.shape for one in group}) == 1
        asked.append([one.number for one in group])
        return [10 * one.number for one in group]

    given = [(one.number, result) for one, result in by_size(map(stub, range(len(sides)), sides), work, most)]
    assert given == [(n, 10 * n) for n in range(len(sides))]
    assert max(map(len, asked)) == min(most, sides.count(4))
    assert sorted(n for group in asked for n in group) == list(range(len(sides)))


def test_few_images_are_held_back() -> None:
    """One of a rare size waits for no more than four batches of others."""
    read = 0

    def reading() -> Any:
        nonlocal read
        for number in range(40):
            read += 1
            yield stub(number, 5 if number == 0 else 4)

    first = next(iter(by_size(reading(), lambda group: [None] * len(group), 2)))
    assert first[0].number == 0
    assert read == 9


@pytest.fixture(scope="module")
def run() -> RunOptions:
    return train_options(["--model", "cutcam", "--dataroot", "none", *TINY])


@pytest.fixture(scope="module")
def model(run: RunOptions) -> Model[Any]:
    made: Model[Any] = MODELS.get("cutcam").from_options(run)
    made.train(False)
    return made


def test_a_batch_is_its_images_one_by_one(model: Model[Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    samples = [torch.rand(3, 37, 42, generator=draw) * 2 - 1 for _ in range(3)]
    sizes, classes = [(37, 42), (30, 33), (37, 42)], [2, -1, 0]
    fakes = translate_images(model, samples, sizes)
    both = explain_images(model, samples, sizes, classes)
    for n, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        alone, seen = explain_image(model, sample, size, classes[n])
        assert alone.shape == (3, *size)
        for found in (fakes[n], both[n][0], translate_image(model, sample, size)):
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
        assert torch.equal(both[n][1].classes, seen.classes)
        torch.testing.assert_close(both[n][1].cam, seen.cam, rtol=0, atol=1e-3 * float(seen.cam.max()))
        torch.testing.assert_close(both[n][1].probabilities_fake, seen.probabilities_fake, rtol=1e-4, atol=1e-6)
        assert both[n][1].cam.shape[0] == 1


def test_amp_is_near_and_not_equal(model: Model[Any]) -> None:
    sample = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain, rough = (translate_images(model, [sample], [(32, 32)], amp)[0] for amp in ("off", "bf16"))
    assert plain.dtype == rough.dtype == torch.float32
    assert 0 < (plain - rough).abs().max() < 0.05
    assert explain_images(model, [sample], [(32, 32)], [0], "bf16")[0][1].cam.dtype == torch.float32


def test_what_would_mix_images_goes_one_by_one(model: Model[Any], run: RunOptions, capsys: Any) -> None:
    assert together(model, 8) == 8
    assert together(model, 8, tile=64) == 1
    model.nets["extra"] = nn.BatchNorm2d(1)  # no image goes through it
    try:
        assert together(model, 8) == 8
    finally:
        del model.nets["extra"]
    for extra in (nn.BatchNorm2d(1), nn.Dropout(0.5)):
        model.nets["C"].add_module("extra", extra)
        try:
            assert together(model, 8) == 1
            extra.eval()
            assert together(model, 8) == 8
        finally:
            del model.nets["C"].extra
    model.train()  # without --eval, as test.py goes: the head's dropout is there and of rate 0
    try:
        assert together(model, 8) == 8
        before = torch.get_rng_state()
        with drawing(model, [1]):
            torch.rand(1)
        assert not torch.equal(torch.get_rng_state(), before), "nothing was put aside, which a GPU would wait for"
    finally:
        model.train(False)
    trained = replace(run, data=replace(run.data, batch_size=8), optim=replace(run.optim, amp="bf16"))
    assert pace(replace(trained, given=frozenset()), model, 0) == Pace(1, loading_processes(4), "off")
    asked = replace(trained, given=frozenset({"batch_size", "amp"}))
    assert pace(asked, model, 0) == Pace(8, loading_processes(4), "bf16")
    assert pace(asked, model, 32).together == 1
    assert "--batch_size 8: images go one by one, with --tile" in capsys.readouterr().out


def test_processes_fit_the_cores_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [loading_processes(wanted) for wanted in (0, 4, 16)] == [0, 4, 8]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loading_processes(16) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loading_processes(16) == 1


# --- read ahead


@pytest.fixture
def images(tmp_path: Path) -> SingleDataset:
    for n in range(6):
        cv2.imwrite(str(tmp_path / f"{n}.png"), RANDOM.integers(0, 256, (8 + n % 2, 9, 3)).astype(np.uint8))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:-30])
    files = sorted(tmp_path.iterdir())
    domain = Domain(tmp_path, files, BYTES, 3, labels=[-1] * 6, numbers=list(range(6)), skip_bad=True)
    return SingleDataset(domain, tmp_path, Preprocess.parse("none", (8, 8), (8, 8), False), BYTES)


def beside(number: int) -> Tensor | None:
    if number == 1:
        raise ImageError("no target")
    return torch.full((1,), float(number)) if number else None


@pytest.mark.parametrize("processes", [0, 2])
def test_reading_ahead_gives_the_same(
    processes: int, images: SingleDataset, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_can_hand_over", lambda _: True)
    found = list(images.images(processes, beside))
    assert [whole.number for whole in found] == [0, 1, 2, 4, 5]
    for whole in found:
        assert torch.equal(whole.image, decode(images.source_files[whole.number], 3, BYTES))
    assert found[0].beside is None
    assert isinstance(found[1].beside, ImageError)
    assert float(found[2].beside) == 2  # type: ignore[arg-type]
    assert len(images.bad_images) == 1
    assert "3.png" in images.bad_images[0]
    assert images.outcome("read").startswith("5 images read, 1 skipped: 3.png")


def test_large_images_are_not_handed_over(images: SingleDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2 * (9 * 9 * 3 * 4) * 3 * 5})
    monkeypatch.setattr("data.single_dataset._SHARED", Path("/"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("data.single_dataset.image_size", lambda _: (9, 9))
    assert not images._can_hand_over(2)
    assert images._can_hand_over(1)


# --- written beside the caller


def test_jobs_run_beside_the_caller_and_are_done_at_the_end() -> None:
    done: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        go_on.wait(10)
        done.append(0)

    with Background(1) as background:
        background.do("slow", slow)
        assert started.wait(10)
        assert done == []  # the caller did not wait
        go_on.set()
        for n in range(1, 20):  # more than may wait
            background.do("fast", lambda n=n: done.append(n))  # type: ignore[misc]
    assert done == list(range(20))


def test_few_jobs_wait() -> None:
    gate, given = threading.Event(), []

    def give() -> None:
        with Background(1) as background:
            for n in range(10):
                background.do("job", lambda: gate.wait(10))
                given.append(n)

    thread = threading.Thread(target=give)
    thread.start()
    time.sleep(0.1)
    assert len(given) == 4
    gate.set()
    thread.join()
    assert len(given) == 10


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_names_its_file(threads: int, tmp_path: Path) -> None:
    (tmp_path / "fake").touch()  # a file where a folder is needed

    def write() -> None:
        with Results(tmp_path, "{kind}/{stem}", threads=threads) as results:
            results.add(Path("a.png"), {"fake": (torch.zeros(3, 4, 4), BYTES)})
            results.write_page("page")

    with pytest.raises((OSError, UserError), match="fake"):
        write()
    assert not (tmp_path / "index.html").exists()


def test_an_error_without_a_name_gets_one() -> None:
    def fails() -> None:
        raise KeyError("odd")

    with pytest.raises(RuntimeError, match=r"picture\.png: KeyError: 'odd'"), Background(2) as background:
        background.do("picture.png", fails)


@pytest.mark.parametrize(("error", "kept"), [(UserError("next.png: damaged"), 4), (KeyboardInterrupt(), 1)])
def test_what_was_given_before_an_error_is_finished(error: BaseException, kept: int) -> None:
    started, go_on, done = threading.Event(), threading.Event(), []

    def job(number: int) -> None:
        started.set()
        go_on.wait(10)
        done.append(number)

    def give() -> None:
        with Background(1) as background:
            for number in range(4):
                background.do("job", partial(job, number))
            assert started.wait(10)
            threading.Timer(0.1, go_on.set).start()  # after the block has been left
            raise error

    with pytest.raises(type(error)):
        give()
    assert done == list(range(kept))


def test_an_interruption_drops_what_waits_and_leaves_whole_files(tmp_path: Path) -> None:
    pixels = torch.rand(3, 64, 64)

    def interrupted() -> None:
        with Results(tmp_path, "{kind}/{stem}", threads=1) as results:
            for n in range(6):
                results.add(Path(f"{n}.png"), {"fake": (pixels, BYTES)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    left = list(tmp_path.rglob("*"))
    assert not [file for file in left if file.suffix == ".part"]
    for file in left:
        if file.is_file():
            assert decode(file, 3, BYTES).shape == (3, 64, 64)


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_threads_write_what_one_writes(depth: str, tmp_path: Path) -> None:
    fmt = DomainFormat(Window(10.0, 250.0), depth)
    drawn = RANDOM.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    pictures = {f"{n}.png": torch.rand(3, 5, 6) for n in range(9)}
    for folder, threads in ((tmp_path / "one", 0), (tmp_path / "many", 3)):
        with Results(folder, "{kind}/{stem}", threads=threads) as results:
            for name, pixels in pictures.items():
                results.add(Path(name), {"fake": (pixels, fmt), "map": lambda: drawn})
                results.add_array(Path(name), "raw", pixels.numpy())
            results.write_page("page")
    one, many = (sorted(file for file in (tmp_path / name).rglob("*") if file.is_file()) for name in ("one", "many"))
    assert len(one) >= 1 + 3 * 9
    assert [file.relative_to(tmp_path / "one") for file in one] == [
        file.relative_to(tmp_path / "many") for file in many
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, many, strict=True))


def test_no_bar_without_a_terminal(capsys: Any) -> None:
    assert list(progress(iter("abc"), 3, quiet=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
