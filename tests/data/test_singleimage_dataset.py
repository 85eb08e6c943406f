from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from data import DATASETS
from data.base import Dataset, Sample
from data.images import Counts, read_counts
from data.sampler import SampleKey
from options.parse import train_options

SIZE = (96, 130)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shows where each of its pixels is: rows in red, columns in green; B is grey noise of another size."""
    folder = tmp_path_factory.mktemp("one")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([np.zeros_like(x), x, y], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for side, pixels in (("A", image), ("B", noise)):
        (folder / f"train{side}").mkdir()
        cv2.imwrite(str(folder / f"train{side}" / "image.png"), pixels)
    return folder


def dataset(root: Path, *flags: object) -> Dataset:
    words = ["--model", "sincut", "--dataroot", root, "--batch_size", 4, "--crop_size", 32, "--no_flip", *flags]
    run = train_options([str(word) for word in words])
    return DATASETS.get(run.data.dataset_mode).from_options(run, 2)


def corner(sample: Sample) -> tuple[float, float, float, float]:
    """Row and column of the first pixel, and how many of the file's pixels a pixel of the crop spans."""
    rows, columns = (sample.A[:2] + 1) * 127.5  # of the file, in red and green
    down, right = float(rows[16, 16] - rows[8, 16]) / 8, float(columns[16, 16] - columns[16, 8]) / 8
    return float(rows[8, 8]) - 8 * down, float(columns[8, 8]) - 8 * right, down, right


def crops(data: Dataset, count: int, epoch: int = 1) -> list[tuple[float, float, float, float]]:
    return [corner(data[SampleKey(epoch, position, 0)]) for position in range(count)]


def test_length_and_what_a_sample_is(root: Path) -> None:
    data = dataset(root)
    assert len(data) == 100_000
    sample = data[SampleKey(1, 5, 77)]
    assert sample.A.shape == (3, 32, 32)
    assert sample.B is not None
    assert sample.B.shape == (3, 32, 32)
    assert (sample.path_A, sample.path_B) == ("trainA/image.png", "trainB/image.png")
    assert (sample.file_A, sample.index, sample.label_A) == (0, 5, -1)
    assert len(dataset(root, "--crops_per_epoch", 3)) == 3


def test_a_batch_has_one_scale_and_every_batch_its_own(root: Path) -> None:
    found = crops(dataset(root), 40)
    scales = [(down, right) for _, _, down, right in found]
    for batch in range(10):
        for scale in scales[4 * batch : 4 * batch + 4]:
            assert scale == pytest.approx(scales[4 * batch], abs=0.05)
    starts = torch.tensor(scales[::4])
    assert float(starts.min()) >= 0.97
    assert float(starts.max()) <= 3.03
    assert float(starts.std(dim=0).min()) > 0.2
    assert float((starts[:, 0] - starts[:, 1]).abs().max()) > 0.3  # each side has a factor of its own


def test_scale_stays_within_its_bounds_and_above_the_crop(root: Path) -> None:
    for *_, down, right in crops(dataset(root, "--random_scale_max", 1), 8):
        assert (down, right) == pytest.approx((1, 1), abs=0.02)
    wide = crops(dataset(root, "--random_scale_max", 1000), 32)
    assert min(min(down, right) for *_, down, right in wide) >= 0.97  # never enlarged
    assert max(down for _, _, down, _ in wide) <= SIZE[0] / 32 + 0.03
    assert max(right for *_, right in wide) <= SIZE[1] / 32 + 0.03


def test_no_tile_comes_twice_before_all_have_come_once(root: Path) -> None:
    data = dataset(root, "--random_scale_max", 1, "--batch_size", 12)  # 3 x 4 tiles
    places = crops(data, 24)
    for batch in (places[:12], places[12:]):
        tiles = {(round(row / 32), round(column / 32)) for row, column, *_ in batch}
        assert len(tiles) == 12
    assert places[:12] != places[12:]


def test_draws_follow_from_seed_epoch_and_position(root: Path) -> None:
    data, again = dataset(root), dataset(root)
    keys = [SampleKey(epoch, position, 3) for epoch in (1, 2) for position in (9, 0, 3)]
    first = [data[key].A for key in keys]
    backwards = [again[key].A for key in reversed(keys)][::-1]  # nothing depends on what came before
    assert all(torch.equal(a, b) for a, b in zip(first, backwards, strict=True))
    other = [dataset(root, "--seed", 1)[key].A for key in keys]
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    data[SampleKey(1, 0, 0)]
    assert torch.equal(data[SampleKey(2, 1, 0)].A, again[SampleKey(2, 1, 0)].A)
    scales = [corner(data[SampleKey(epoch, 0, 0)])[2:] for epoch in (1, 2)]
    assert scales[0] != pytest.approx(scales[1], abs=0.02)  # the same position of another epoch


def test_both_domains_have_draws_of_their_own(tmp_path: Path, root: Path) -> None:
    pixels = cv2.imread(str(root / "trainA" / "image.png"))
    assert pixels is not None
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        cv2.imwrite(str(tmp_path / f"train{side}" / "image.png"), pixels)
    sample = dataset(tmp_path)[SampleKey(1, 0, 0)]
    assert isinstance(sample.B, Tensor)
    places = corner(sample), corner(replace(sample, A=sample.B))
    assert places[0][:2] != pytest.approx(places[1][:2], abs=1)
    assert places[0][2:] != pytest.approx(places[1][2:], abs=0.02)


def test_two_processes_see_what_one_does(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = dataset(root, "--batch_size", 8)
    monkeypatch.setattr("util.ranks.world_size", lambda: 2)
    shared = dataset(root, "--batch_size", 2, "--accumulate", 2)
    for position in range(0, 16, 3):
        key = SampleKey(1, position, 0)
        assert torch.equal(alone[key].A, shared[key].A)


def test_crops_anywhere_and_whole_images(root: Path) -> None:
    places = crops(dataset(root, "--preprocess", "crop"), 30)
    assert len({(round(row), round(column)) for row, column, *_ in places}) > 20
    assert all(scale == pytest.approx(1, abs=0.02) for *_, scale in places)
    whole = dataset(root).whole_source(0)
    assert whole.A.shape == (3, *SIZE)
    assert whole.B is None


def test_an_image_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = dataset(root), []

    def counting(file: Path, *rest: Any) -> Counts:
        read.append(file)
        return read_counts(file, *rest)

    monkeypatch.setattr("data.domain.read_counts", counting)
    crops(data, 8)
    assert sorted(file.parent.name for file in read) == ["trainA", "trainB"]
