"""`benchmark.py data`: how fast images come, by cache, place of augmentation and loading processes."""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from data import DATASETS
from data.base import Batch, Dataset
from data.decoders import read_raw
from data.sampler import GlobalBatchSampler
from options.parse import train_options
from scripts.benchmarks.material import about, add_common, medians, save, where, write_images
from util.engine.loading import Loader
from util.errors import UserError

HELP = "images a second of decoding and loading, with each cache, against what a step needs"
WAYS = {
    "no cache": (),
    "cache ram": ("--cache", "ram"),
    "cache disk": ("--cache", "disk"),
    "no cache, device": ("--augment_on_device",),
    "cache ram, device": ("--cache", "ram", "--augment_on_device"),
}
SIDES = 2  # images of a sample: source and target


class Feed:
    """A loader of one way.

    Args:
        workers: loading processes.
    """

    def __init__(self, root: Path, way: str, workers: int, wanted: argparse.Namespace) -> None:
        load, crop = wanted.size * 286 // 256, wanted.size
        words = ["--dataroot", str(root), "--quiet", "--cache_dir", str(root / "cache"), "--batch_size", wanted.batch]
        words += ["--load_size", load, "--crop_size", crop, *WAYS[way]]
        run = train_options([str(word) for word in words])
        self._dataset: Dataset = DATASETS.get("unaligned").from_options(run)
        self._sampler = GlobalBatchSampler(len(self._dataset), wanted.batch, 0)
        self._loader: Loader[Batch] = Loader(
            self._dataset,
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=self._dataset.collate,
            persistent_workers=workers > 0,
        )
        self._epoch = 0

    def __call__(self) -> None:
        """An epoch."""
        self._epoch += 1
        self._sampler.set_epoch(self._epoch)
        deque(self._loader, maxlen=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    add_common(parser)
    parser.add_argument("--count", type=int, default=64, help="images of each domain")
    parser.add_argument("--batch", type=int, default=4, help="images of each domain in a batch")
    parser.add_argument("--workers", default="0,1,2", help="numbers of loading processes, by comma")
    parser.add_argument("--need", type=float, default=200, help="images a second that a step takes, of both domains")
    parser.add_argument("--cores", type=int, default=8, help="cores that may load")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print and write."""
    workers = _numbers(wanted.workers)
    torch.set_num_threads(1)  # as in a loading process
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder), wanted.kind, wanted.size, {"trainA": wanted.count, "trainB": wanted.count})
        files = sorted(root.glob("train?/*"))
        subjects: dict[str, Callable[[], object]] = {"decoding alone": lambda: [read_raw(file) for file in files]}
        subjects |= {f"{way}, {n} worker(s)": Feed(root, way, n, wanted) for way in WAYS for n in workers}
        seconds = medians(subjects, wanted.rounds)
    images = SIDES * wanted.count
    result = about("data", vars(wanted))
    result["images_per_second"] = {name: images / value for name, value in seconds.items()}
    per_core = {way: images / seconds[f"{way}, 0 worker(s)"] for way in WAYS} if 0 in workers else {}
    result["cores_needed"] = {way: wanted.need / speed for way, speed in per_core.items()}
    print("\n".join(table(result)))
    save(result, wanted.json)
    return 0


def _numbers(text: str) -> list[int]:
    if not all(part.isdigit() for part in text.split(",")):
        raise UserError(f"--workers {text}: is no comma list of whole numbers, such as 0,1,2")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def table(result: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    settings = result["settings"]
    yield f"loading {settings['kind']} of {settings['size']} px, batches of {settings['batch']}; {where(result)}"
    yield ""
    yield "| | images/s |"
    yield "|---|---:|"
    for name, speed in result["images_per_second"].items():
        yield f"| {name} | {speed:.0f} |"
    yield ""
    need, cores = settings["need"], settings["cores"]
    for way, needed in result["cores_needed"].items():
        share = "enough" if needed <= cores else "too few"
        yield f"{need:.0f} images/s take {needed:.2f} cores with {way}: {cores} cores are {share}"
