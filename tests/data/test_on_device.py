"""--augment_on_device: the batch that the device makes is the batch that loading processes make."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from data import DATASETS
from data.base import Batch, DataError, Dataset
from data.images import Counts, Window
from data.on_device import Waiting, WaitingBatch
from data.sampler import GlobalBatchSampler
from data.transforms import Preprocess, draws_of
from options.parse import train_options
from options.schema import OptionError
from util.seeding import generator

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A in 8 bits of two sizes, B in 16; `train` holds pairs side by side."""
    made = tmp_path_factory.mktemp("data")
    for name, top, kind in (("trainA", 256, np.uint8), ("trainB", 60000, np.uint16), ("pairs/train", 256, np.uint8)):
        (made / name).mkdir(parents=True)
        for n in range(5):
            wide = 72 if name.startswith("pairs") else 36 + 4 * (n == 2)
            cv2.imwrite(str(made / name / f"{n}.png"), RANDOM.integers(0, top, (34, wide, 3)).astype(kind))
    rows = [f"trainA/{n}.png,{n % 2}" for n in range(5)]
    (made / "labels.csv").write_text("\n".join(["file,label_id", *rows]))
    return made


def batches(root: Path, *flags: str) -> list[Batch]:
    """Two batches, as they leave a loading process, on their device."""
    sizes = ["--load_size", "30", "--crop_size", "24", "--batch_size", "3", "--name", "none", "--quiet"]
    run = train_options(["--dataroot", str(root), *sizes, *flags])
    dataset: Dataset = DATASETS.get(run.data.dataset_mode).from_options(run)
    sampler = GlobalBatchSampler(len(dataset), run.data.batch_size, run.experiment.seed)
    sampler.set_epoch(1)
    made = [dataset.collate([dataset[key] for key in keys]) for keys in sampler]
    return [pickle.loads(pickle.dumps(batch)).to(CPU) for batch in made]


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--input_nc", "1", "--output_nc", "1", "--window_B", "image"),
        ("--preprocess", "zoom_and_crop"),
        ("--preprocess", "scale_shortside_and_patch", "--direction", "BtoA"),
        ("--dataset_mode", "aligned", "pairs"),
        ("--model", "classifier", "--dataset_mode", "classes", "--val_share", "0"),
    ],
)
def test_batches_are_those_of_the_cpu(root: Path, flags: tuple[str, ...]) -> None:
    where = root / "pairs" if "pairs" in flags else root
    flags = tuple(flag for flag in flags if flag != "pairs")
    plain, made = batches(where, *flags), batches(where, *flags, "--augment_on_device")
    assert len(plain) == len(made) >= 1
    for one, other in zip(plain, made, strict=True):
        torch.testing.assert_close(other.A, one.A, rtol=0, atol=2e-6)
        if one.B is not None:
            torch.testing.assert_close(other.target, one.target, rtol=0, atol=2e-6)
        assert (one.path_A, one.path_B, other.waiting) == (other.path_A, other.path_B, ())
        assert torch.equal(one.index, other.index)


def waiting(values: np.ndarray, preprocess: Preprocess, key: int, channels: int = 3) -> Waiting:
    draws = draws_of(generator(0, "test", key))
    return Waiting(Counts(values, Window(100.0, 40000.0)), channels, preprocess, draws, 0)


def by_torchvision(one: Waiting) -> Tensor:
    """resize_and_crop, by torchvision's transforms version 2 with the same draws."""
    height, width = one.preprocess.load_size
    unit = torch.from_numpy(one.counts.values.astype(np.float64)).permute(2, 0, 1).sub(100).div(39900).clamp(0, 1)
    image = tv.resize(unit.float(), [height, width], v2.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    crop = one.preprocess.crop_size
    top, left = (
        int(one.draws[n] * (side - cut + 1)) for n, side, cut in zip((2, 3), (height, width), crop, strict=True)
    )
    image = tv.crop(image, top, left, *crop)
    made: Tensor = (tv.horizontal_flip(image) if one.draws[8] < 0.5 else image) * 2 - 1
    return made


def test_resize_crop_and_flip_are_torchvisions() -> None:
    preprocess = Preprocess.parse("resize_and_crop", (31, 30), (24, 20), flip=True)
    images = [RANDOM.integers(0, 65536, (40, 50 - 10 * (n % 2), 3)).astype(np.uint16) for n in range(6)]
    asked = [waiting(values, preprocess, key) for key, values in enumerate(images)]
    assert len({one.draws[8] < 0.5 for one in asked}) == 2  # some are mirrored, some not
    made = WaitingBatch.of(asked)
    assert len(made.groups) == 2  # of a size
    assert all(group.counts.dtype == torch.int16 for group in made.groups)  # as the file holds them
    for one, image in zip(asked, made.images(CPU), strict=True):
        torch.testing.assert_close(image, by_torchvision(one), rtol=0, atol=1e-5)


def test_sixteen_bits_keep_every_count() -> None:
    counts = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    one = Waiting(
        Counts(counts, Window(0.0, 65535.0)), 1, Preprocess.parse("none", (8, 8), (8, 8), False), (0.9,) * 9, 0
    )
    image = WaitingBatch.of([one]).images(CPU)[0]
    assert torch.equal(image, Counts(counts, Window(0.0, 65535.0)).image(1) * 2 - 1)
    assert len(np.unique(image.numpy())) == 65536


def test_sizes_that_differ_are_named(root: Path) -> None:
    with pytest.raises(DataError, match="differ in size"):
        batches(root, "--preprocess", "zoom", "--augment_on_device", "--batch_size", "5")


@pytest.mark.parametrize("call", [("--dataset_mode", "singleimage", "--model", "sincut", "--netD", "basic")])
def test_where_it_does_not_apply_it_is_refused(root: Path, call: Sequence[str]) -> None:
    with pytest.raises(OptionError, match="--augment_on_device"):
        batches(root, *call, "--augment_on_device")
