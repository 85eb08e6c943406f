"""Pixels that turn out to be bad, runs that go on without some of their files, and the scripts from end to end."""

from __future__ import annotations

import itertools
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.bad_images import BAD_IMAGES_FILE
from data.base import DataError
from data.images import ImageError
from data.sampler import GlobalBatchSampler, SampleKey
from models.pseudo_labels import survey_of
from tests.data.image_files import pillow
from tests.data.kinds_of_files import (
    FLOAT,
    GOOD,
    NAN,
    RGB8,
    SKIP,
    big_endian_tiff,
    open_set,
    put,
    read_all,
    short_png,
    with_holes,
)
from util.errors import UserError, exit_code

ROOT = Path(__file__).resolve().parents[2]


def test_pixels_are_replaced_by_the_next_file_that_can_be_read(tmp_path: Path) -> None:
    dataset = open_set(with_holes(tmp_path), *SKIP)
    samples = read_all(dataset)
    assert [s.path_A for s in samples] == [f"trainA/{n}.png" for n in (0, 1, 4, 4, 4, 0)]
    assert [s.path_B for s in samples] == [f"trainB/{n}.png" for n in (1, 1, 2, 3, 1, 1)]
    assert [s.label_A for s in samples] == [0, 1, 4, 4, 4, 0]
    assert [s.file_A for s in samples] == [0, 1, 2, 3, 4, 5]
    assert torch.equal(samples[2].A, samples[4].A)
    passed = [[line.split(": ")[0] for line in s.skipped] for s in samples]
    assert passed == [
        *(["trainB/0.png"], [], ["trainA/2.png", "trainA/3.png"]),
        *(["trainA/3.png"], ["trainB/0.png"], ["trainA/5.png"]),
    ]
    batch = dataset.collate(samples)
    assert batch.skipped == tuple(line for sample in samples for line in sample.skipped)
    assert len(set(batch.skipped)) == 4  # a file's line is always the same: it can be said once
    assert batch.to(torch.device("meta")).skipped == batch.skipped
    assert all("the decoder gave no image" in line for line in batch.skipped)


def test_replacing_does_not_depend_on_workers_or_ranks(tmp_path: Path) -> None:
    dataset = open_set(with_holes(tmp_path), *SKIP)
    dataset._serial = False

    def batches(rank: int = 0, world: int = 1, workers: int = 0, first: int = 0) -> list[Any]:
        sampler = GlobalBatchSampler(len(dataset), 2 // world, seed=3, rank=rank, world_size=world)
        sampler.set_epoch(2, first)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=dataset.collate)
        return [(b.path_A, b.path_B, b.label_A.tolist(), b.skipped, b.A, b.target) for b in loader]

    def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
        pairs = zip(one, other, strict=True)
        return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)

    whole = batches()
    assert any(batch[3] for batch in whole)
    assert all(same(a, b) for a, b in zip(whole, batches(workers=2), strict=True))
    assert all(same(a, b) for a, b in zip(whole[1:], batches(first=1), strict=True))  # a continued run
    halves = [batches(rank, 2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch[:4] == tuple(a + b for a, b in zip(first[:4], second[:4], strict=True))
        assert torch.equal(batch[4], torch.cat([first[4], second[4]]))


def test_whole_sources_are_those_of_the_replacement(tmp_path: Path) -> None:
    """Every number is there once, which pseudo-labels of several ranks are gathered by; path and label are true."""
    dataset = open_set(with_holes(tmp_path), *SKIP)
    batches = [dataset.collate([dataset.whole_source(n)]) for n in range(6)]
    survey, numbers = survey_of(batches, lambda images: (images, images.mean((2, 3))))
    assert numbers.tolist() == list(range(6))
    assert survey.files == [f"trainA/{n}.png" for n in (0, 1, 4, 4, 4, 0)]
    assert survey.known.tolist() == [0, 1, 4, 4, 4, 0]
    assert torch.equal(survey.logits[2], survey.logits[4])
    assert [len(batch.skipped) for batch in batches] == [0, 0, 2, 1, 0, 1]


def test_without_skipping_bad_pixels_stop_with_the_files_name_and_the_flag(tmp_path: Path) -> None:
    dataset = open_set(with_holes(tmp_path))
    assert dataset[SampleKey(1, 1, 1)].skipped == ()
    message = r"trainA/2.png' cannot be read .*\(--on_bad_image skip goes on without it\)$"
    with pytest.raises(ImageError, match=message):
        dataset[SampleKey(1, 2, 2)]
    with pytest.raises(ImageError, match=message):
        dataset.whole_source(2)


def test_where_no_pixels_are_left_the_first_reason_is_given(tmp_path: Path) -> None:
    dataset = open_set(with_holes(tmp_path, " ".join(f"trainA/{n}.png" for n in range(6))), *SKIP)
    with pytest.raises(DataError, match=r"trainA: none of its files can be read, the first because trainA/4.png: the"):
        dataset[SampleKey(1, 4, 4)]


def test_a_window_is_chosen_without_bad_pixels(tmp_path: Path) -> None:
    for side, number in itertools.product("AB", range(3)):
        put(tmp_path, f"train{side}/{number}.tif", big_endian_tiff(FLOAT + number))
    put(tmp_path, "trainA/0.tif", big_endian_tiff(NAN))
    flags = ("--window_A", "0%,100%", "--window_B", "auto")
    with pytest.raises(
        UserError, match=r"trainA/0.tif' .* 1 of its 672 values are NaN.*\(--on_bad_image skip goes on without it\)$"
    ):
        open_set(tmp_path, *flags)
    window = open_set(tmp_path, *flags, *SKIP).source.window
    assert window is not None
    assert (window.low, window.high) == pytest.approx((float(FLOAT.min()) + 1, float(FLOAT.max()) + 2))
    for number in (1, 2):
        put(tmp_path, f"trainA/{number}.tif", big_endian_tiff(NAN))
    with pytest.raises(UserError, match=r"trainA/2.tif' .* values are NaN"):
        open_set(tmp_path, *flags, *SKIP)


# --- a run that goes on


def test_inside_an_epoch_files_keep_their_numbers_whatever_becomes_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file lost, one damaged and one that is new: the samples of all other files stay what they were."""
    root = with_holes(tmp_path, "trainA/5.png")
    first = open_set(root, *SKIP)
    before, kept = read_all(first), first.file_names
    (root / "trainA/1.png").unlink()
    put(root, "trainA/3.png trainB/2.png")
    put(root, "trainA/0new.png", GOOD["uint8"])
    put(root, "trainA/9new.png")
    with pytest.raises(DataError) as caught:
        open_set(root, kept=kept)
    text = str(caught.value)
    assert re.match(r"2 of 6 files of .*trainA and 1 of 4 files of .*trainB cannot be used; a run that goes on", text)
    assert "put them back or repair them, or go on without them by --on_bad_image skip:" in text
    assert [line.split(":")[0] for line in text.split("\n")[1:]] == [
        "  trainA/1.png",
        "  trainA/3.png",
        "  trainB/2.png",
    ]

    capsys.readouterr()
    again = open_set(root, *SKIP, kept=kept)
    assert again.file_names == kept
    assert again.changes_since(kept) == ""
    captured = capsys.readouterr()
    assert captured.out == f"{root / 'trainA'}: 1 new files wait for a start at the end of an epoch\n"
    assert "4 bad images are left out" in captured.err
    for number, (a, b) in enumerate(zip(read_all(again), before, strict=True)):
        assert torch.equal(a.A, b.A) == (number not in (1, 3))
    assert [s.path_A for s in read_all(again)] == [f"trainA/{n}.png" for n in (0, 2, 2, 4, 4, 0)]
    assert len(first.bad_images) == 0
    assert [line.split(":")[0] for line in again.bad_images] == [
        *("trainA/1.png", "trainA/3.png", "trainA/9new.png", "trainB/2.png")
    ]

    fresh = open_set(root, *SKIP)  # at the end of an epoch: what is there now
    assert fresh.changes_since(kept) == "source: 1 new, 2 gone; target: 0 new, 1 gone"
    put(root, " ".join(f"trainA/{n}.png" for n in range(6)))
    with pytest.raises(DataError, match=r"none is left"):
        open_set(root, *SKIP, kept=kept)


# --- the scripts


@pytest.fixture
def run_of(tmp_path: Path, train_run: Callable[..., Path]) -> Callable[..., tuple[Path, Path]]:
    """`run_of(*flags)` -> data root, with holes in every split, and the folder of a run that was trained on it."""

    def get(*flags: object) -> tuple[Path, Path]:
        root = with_holes(tmp_path / "data", "trainA/2.png trainB/3.png")
        put(root, "trainB/bad2.png")
        (root / "trainA/bad\n1.png").touch()
        for number in range(6):
            put(root, f"testA/{number}.png testB/{number}.png", pillow(Image.fromarray(RGB8 // (number + 1)), "png"))
        put(root, "testA/1.png")
        put(root, "testA/4.png testB/3.png", short_png())
        return root, train_run("runs", root, *flags, "--n_epochs", 1, "--n_epochs_decay", 0)

    return get


def infer(script: str, root: Path, run: Path, *flags: str) -> int:
    words = ["--dataroot", root, "--name", run.name, "--checkpoints_dir", run.parent, "--results_dir", root / "results"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, words), "--gpu_ids", "-1", *flags])
        return exit_code(runpy.run_path(str(ROOT / script))["main"])


def test_training_names_all_bad_files_before_anything_is_written(
    run_of: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        run_of()
    text = str(caught.value)
    assert [line.split(":")[0] for line in text.split("\n")[1:]] == ["  trainA/bad\\n1.png", "  trainB/bad2.png"]
    assert not (tmp_path / "runs/run").exists()
    (tmp_path / "data/trainA/bad\n1.png").unlink()


@pytest.mark.parametrize("script", ["test.py", "cam_infer.py"])
def test_bad_images_of_a_split_are_left_out_and_counted(
    run_of: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str], script: str
) -> None:
    root, run = run_of("--model", "cutcam", "--num_classes", 6, *SKIP)
    capsys.readouterr()
    assert infer(script, root, run) == 2  # what the training has passed over is not passed over in results
    assert "testA/1.png: it is empty (0 bytes)" in capsys.readouterr().err
    assert infer(script, root, run, *SKIP) == 0
    captured = capsys.readouterr()
    folder = root / "results/run" / ("test_latest" if script == "test.py" else "latest")
    assert "4 images translated" in captured.out
    assert ", 2 skipped: 1.png, 4.png; " in captured.out
    assert "WARNING: 1 bad image is left out" in captured.err
    assert "WARNING: testA/4.png: the decoder gave no image" in captured.err
    assert f"the bad images are named in {folder / BAD_IMAGES_FILE}\n" in captured.err
    listed = (folder / BAD_IMAGES_FILE).read_text().splitlines()
    assert [line.split(": ")[0] for line in listed] == ["testA/1.png", "testA/4.png"]
    if script == "test.py":
        fakes, reals = (sorted(file.stem for file in (folder / f"images/{k}").iterdir()) for k in ("fake_B", "real_B"))
        assert (fakes, reals) == (["0", "2", "3", "5"], ["0", "2", "5"])
        for stem in reals:  # pairs stay pairs
            stored = np.asarray(Image.open(folder / f"images/real_B/{stem}.png"))
            assert np.array_equal(stored, RGB8 // (int(stem) + 1))
    else:
        assert len(list(folder.glob("*_overlay_output.png"))) == 4
        assert len((folder / "cams.csv").read_text().splitlines()) == 5

    (root / "testA/1.png").write_bytes(GOOD["uint8"])
    assert infer(script, root, run, "--on_bad_image", "error", "--results_dir", str(root / "other")) == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert error.startswith(f"error: '{root / 'testA/4.png'}' cannot be read as an image: ")
    kept = (root / "other").rglob("fake_B/*.png" if script == "test.py" else "*_fake.png")
    assert {file.stem.removesuffix("_fake") for file in kept} == {"0", "1", "2", "3"}

    put(root, "testA/0.png testA/2.png")
    assert infer(script, root, run, "--on_bad_image", "error") == 2
    err = capsys.readouterr().err
    assert f"error: 2 of 6 files of {root / 'testA'} cannot be used; " in err
    assert err.splitlines()[-2:] == [f"  testA/{n}.png: it is empty (0 bytes)" for n in (0, 2)]


def test_strange_names_reach_files_and_page(
    run_of: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = run_of(*SKIP)
    names = [" a  b .png", "zażółć 目标 é.PNG", "two\nlines\r\x1b[31m.png", 'it\'s "so" \\ <b>&.png']
    for name in names:
        (root / "odd").mkdir(exist_ok=True)
        (root / "odd" / name).write_bytes(GOOD["uint8"])
    assert infer("test.py", root / "odd", run, "--dataset_mode", "single") == 0
    folder = root / "odd/results/run/test_latest"
    written = {file.stem for file in (folder / "images/fake_B").iterdir()}
    assert written == {Path(name).stem for name in names}
    page = (folder / "index.html").read_text()
    assert "two\\nlines\\r\\x1b[31m.png" in page
    assert "<b>" not in page
    sources = [unquote(unescape(source)) for source in re.findall(r'src="(images/fake_B/[^"]*)"', page)]
    assert len(sources) == len(names)
    assert all((folder / source).is_file() for source in sources)
