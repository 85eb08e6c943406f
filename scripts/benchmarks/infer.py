"""`benchmark.py infer`: test.py and cam_infer.py with everything they write, against translating alone.

Both are run on few images and on many: the difference is what an image costs once they have started.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import cam_infer
import test
from data.single_dataset import SingleDataset
from models import load_trained
from models.base import Model
from options.groups import Inference
from options.parse import inference_options
from scripts.benchmarks.material import NAME, about, add_common, medians, save, untrained_run, where, write_images
from util.engine import build
from util.engine.inference import explain_images, translate_images

HELP = "test.py and cam_infer.py with all that they write, against translation alone"
COMMANDS: dict[str, Callable[[], int]] = {"test.py": test.main, "cam_infer.py": cam_infer.main}
LIMIT = 1.25


class Alone:
    """Translating (and explaining) images that are in memory, nothing read and nothing written."""

    def __init__(self, flags: list[str], count: int, batch: int) -> None:
        run = inference_options((Inference,), flags)
        self.model: Model[Any] = load_trained(run, build.choose_device(run.runtime.gpu_ids), evaluate=False)
        whole = list(SingleDataset.for_phase(run, "test", count, self.model.size_multiple).images())
        self._groups = [whole[n : n + batch] for n in range(0, len(whole), batch)]
        self._amp = run.optim.amp

    def translate(self) -> None:
        for group in self._groups:
            translate_images(self.model, [one.sample.A for one in group], [one.size for one in group], self._amp)

    def explain(self) -> None:
        for group in self._groups:
            chosen = [-1] * len(group)
            explain_images(self.model, [one.sample.A for one in group], [one.size for one in group], chosen, self._amp)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    add_common(parser)
    parser.add_argument("--count", type=int, default=24, help="images")
    parser.add_argument("--few", type=int, default=4, help="images of the runs whose time is taken off")
    parser.add_argument("--ngf", type=int, default=64, help="channels of G's first convolution")
    parser.add_argument("--batch", type=int, default=1, help="--batch_size")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    parser.add_argument("--num_threads", type=int, default=4, help="loading processes")
    parser.add_argument("--gpu_ids", default="auto")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measured(Path(folder), wanted)
    more, result = wanted.count - wanted.few, about("infer", vars(wanted))
    alone = {"test.py": seconds["translate"], "cam_infer.py": seconds["explain"]}
    result["images_per_second"] = {
        name: wanted.count / value for name, value in zip(alone, alone.values(), strict=True)
    }
    result["device"] = str(build.choose_device(wanted.gpu_ids))
    result["commands"] = {}
    for name, networks in alone.items():
        for way in ("one after another", "ahead and beside"):
            each = (seconds[f"{name} {way}, many"] - seconds[f"{name} {way}, few"]) / more
            result["commands"][f"{name}, {way}"] = {
                "images_per_second": 1 / each if each > 0 else None,
                "ratio_to_networks": each * wanted.count / networks,
            }
    print("\n".join(table(result)))
    save(result, wanted.json)
    return 0


def _measured(root: Path, wanted: argparse.Namespace) -> dict[str, float]:
    data = write_images(root / "data", wanted.kind, wanted.size, {"trainA": 2, "trainB": 2, "testA": wanted.count})
    shape = ["--ngf", wanted.ngf, "--crop_size", wanted.size, "--load_size", wanted.size, "--preprocess", "none"]
    untrained_run(root, data, ["--model", "cutcam", "--num_classes", "7", *map(str, shape)])
    place = ["--name", NAME, "--checkpoints_dir", root, "--dataroot", data, "--results_dir", root / "results"]
    flags = [*place, "--gpu_ids", wanted.gpu_ids, "--batch_size", wanted.batch, "--amp", wanted.amp, "--quiet"]
    words = [str(word) for word in flags]
    alone = Alone(words, wanted.count, wanted.batch)
    subjects: dict[str, Callable[[], object]] = {"translate": alone.translate, "explain": alone.explain}
    for name in COMMANDS:
        for many, count in (("few", wanted.few), ("many", wanted.count)):
            for way, threads in (("one after another", 0), ("ahead and beside", wanted.num_threads)):
                more = ["--num_test", str(count), "--num_threads", str(threads)]
                subjects[f"{name} {way}, {many}"] = partial(command, name, [*words, *more], threads > 0)
    return medians(subjects, wanted.rounds)


def command(name: str, flags: list[str], beside: bool) -> None:
    """Run an entry script in this process, silently.

    Args:
        beside: write in threads, as the scripts do.
    """
    arguments, writers = sys.argv, build.MOST_WRITERS
    sys.argv = [name, *flags]
    build.MOST_WRITERS = writers if beside else 0
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            COMMANDS[name]()
    finally:
        sys.argv, build.MOST_WRITERS = arguments, writers
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(result: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    settings = result["settings"]
    sizes = f"{settings['size']} px, ngf {settings['ngf']}, batch {settings['batch']}, amp {settings['amp']}"
    yield f"inference of {settings['count']} {settings['kind']}, {sizes}, {result['device']}; {where(result)}"
    yield ""
    yield "| | images/s | time to networks alone |"
    yield "|---|---:|---:|"
    for name, speed in result["images_per_second"].items():
        yield f"| networks alone, of {name} | {speed:.2f} | 1.00 |"
    for name, entry in result["commands"].items():
        speed = entry["images_per_second"]
        shown = "-" if speed is None else f"{speed:.2f}"
        yield f"| {name} | {shown} | {entry['ratio_to_networks']:.2f} |"
    yield ""
    yield f"aim: at most {LIMIT:.2f} ahead and beside"
