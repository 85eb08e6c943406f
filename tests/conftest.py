"""Tiny data sets made on the fly, and the way a user goes from flags to a model and to a finished run."""

from __future__ import annotations

import csv
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.optim import Optimizer

import train
from data import DATASETS
from data.base import Batch, Dataset
from data.sampler import GlobalBatchSampler
from models import MODELS
from models.base import Model
from options.parse import RunOptions, train_options
from options.schema import fields_of
from util.engine.build import optimizers_from
from util.engine.step import Precision, StepResult, train_step
from util.seeding import StepInfo

torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`pytest -n auto` takes the cores that this process may use, four at most: more only need memory."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, 4)


CLASSES = ("disc", "frame", "bars", "cross")
TINY = (
    *("--ngf", "8", "--ndf", "8", "--netG", "resnet_6blocks"),
    *("--load_size", "36", "--crop_size", "32", "--num_threads", "0", "--gpu_ids", "-1"),
    *("--display_id", "0", "--no_html", "--panel_freq", "0", "--monitor_freq", "0", "--print_freq", "1"),
)
TINY_CUT = ("--netF_nc", "16", "--num_patches", "16")  # of models that contrast patches


def picture(kind: int, number: int, size: tuple[int, int], channels: int) -> np.ndarray:
    """A shape of class `kind` on a noisy ground, (H, W, channels) uint8; another `number` moves it."""
    height, width = size
    random = np.random.default_rng(1000 * kind + number)
    image = random.uniform(30, 80, (height, width, channels)).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    dy = y - height * random.uniform(0.35, 0.65)
    dx = x - width * random.uniform(0.35, 0.65)
    reach = np.maximum(abs(dy), abs(dx)) / (min(size) * 0.25)
    drawn = [
        np.hypot(dy, dx) < min(size) * 0.25,
        (reach < 1) & (reach > 0.6),
        (reach < 1) & (y % 8 < 4),
        (reach < 1) & (np.minimum(abs(dy), abs(dx)) < 2),
    ][kind % 4]
    image[drawn] += 120
    return image.clip(0, 255).astype(np.uint8)


def make_data(
    root: Path,
    *,
    count: tuple[int, int] = (5, 4),
    channels: int = 3,
    size: tuple[int, int] = (40, 44),
    labelled: Sequence[int] | None = None,
    rows_of_b: int = 0,
) -> Path:
    """Folders trainA (class i mod 4) and trainB (inverted, other places), and labels.csv.

    Args:
        labelled: numbers of the images of A that get a label; None: all.
        rows_of_b: what is added to the true class of the images of B in their rows, modulo 4.
    """
    rows = []
    for side, images in zip("AB", count, strict=True):
        (root / f"train{side}").mkdir(parents=True)
        for i in range(images):
            kind, file = i % 4, f"train{side}/{i:02d}.png"
            image = picture(kind, i + (500 if side == "B" else 0), size, channels)
            cv2.imwrite(str(root / file), image if side == "A" else 255 - image)
            if side == "B":
                kind = (kind + rows_of_b) % 4
            if side == "B" or labelled is None or i in labelled:
                rows.append((file, CLASSES[kind], kind))
    with (root / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "label_id"), *rows])
    return root


def make_splits(root: Path, *, count: tuple[int, int]) -> Path:
    """`make_data` twice: trainA and trainB, and the same as testA and testB, all with labels."""
    make_data(root, count=count)
    rows = (root / "labels.csv").read_text()
    for side in "AB":
        (root / f"train{side}").rename(root / f"test{side}")
    tests = rows.replace("train", "test").splitlines()[1:]
    (root / "labels.csv").unlink()
    make_data(root, count=count)
    with (root / "labels.csv").open("a") as stream:
        stream.write("\n".join(tests) + "\n")
    return root


DataMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataMaker:
    """`data(**arguments of make_data)` -> its root; made once for the same arguments."""
    made: dict[str, Path] = {}

    def get(**arguments: Any) -> Path:
        name = repr(sorted(arguments.items()))
        if name not in made:
            made[name] = make_data(tmp_path_factory.mktemp("data"), **arguments)
        return made[name]

    return get


@dataclass
class Bench:
    """A model with its data and optimisers, built from flags as train.py does, stepped by hand."""

    run: RunOptions
    model: Model[Any]
    dataset: Dataset
    optimizers: dict[str, Optimizer]
    precision: Precision = field(init=False)

    def __post_init__(self) -> None:
        self.precision = Precision(self.run.optim.amp, self.model.device)
        self.model.train()

    def batch(self, number: int = 0) -> Batch:
        """Batch `number` of the first epoch."""
        data = self.run.data
        sampler = GlobalBatchSampler(len(self.dataset), data.batch_size, self.run.experiment.seed)
        sampler.set_epoch(1)
        keys = list(sampler)[number % len(sampler)]
        return self.dataset.collate([self.dataset[key] for key in keys])

    def info(self, step: int = 0, fraction: float = 0.5) -> StepInfo:
        """A step in the middle of a run, past every automatic warm-up."""
        return StepInfo(self.run.experiment.seed, step, 10 * fraction, fraction)

    def step(self, step: int = 0, batch: Batch | None = None, fraction: float = 0.5) -> StepResult:
        batch = self.batch(step) if batch is None else batch
        info = self.info(step, fraction)
        return train_step(self.model, batch, info, self.optimizers, self.precision)


BenchMaker = Callable[..., Bench]


@pytest.fixture
def bench(data: DataMaker, tmp_path: Path) -> BenchMaker:
    """`bench(*flags, data=root)` -> Bench; flags override the tiny sizes."""

    made = data

    def get(*flags: object, data: Path | None = None) -> Bench:
        run = train_options(tiny_flags(tmp_path, data or made(), *flags))
        model = MODELS.get(run.experiment.model).from_options(run)
        dataset = DATASETS.get(run.data.dataset_mode).from_options(run, model.size_multiple)
        model.check_data(dataset.labels)
        return Bench(run, model, dataset, optimizers_from(run, model))

    return get


def tiny_flags(folder: Path, data: Path, *flags: object) -> list[str]:
    """Command-line arguments of a tiny run named `run` in `folder`."""
    places = ("--dataroot", data, "--checkpoints_dir", folder, "--name", "run")
    model = str(flags[flags.index("--model") + 1]) if "--model" in flags else "cut"
    own = TINY_CUT if "netF_nc" in fields_of(MODELS.get(model).Options) else ()
    return [str(flag) for flag in (*TINY, *own, *places, *flags)]


Trained = Callable[..., Path]


@pytest.fixture
def train_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    """`train_run(folder, data, *flags)` runs train.py's main in this process; returns the run folder."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def go(folder: str, data: Path, *flags: object) -> Path:
        monkeypatch.setattr(sys, "argv", ["train.py", *tiny_flags(tmp_path / folder, data, *flags)])
        assert train.main() == 0
        return tmp_path / folder / "run"

    yield go
    for number, handler in handlers.items():
        signal.signal(number, handler)
