"""Images and a run to measure with, made in a folder of its own; medians of interleaved rounds."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data import DATASETS
from data.domain import save_formats
from models import MODELS
from options.parse import OPTIONS_FILE, RunOptions, train_options
from options.yaml_config import dump_yaml
from scripts.benchmarks.machine import machine, versions
from util.checkpoint import export_weights

KINDS = ("png", "jpg", "png16")
NAME = "benchmark"


def write_images(root: Path, kind: str, size: int, counts: Mapping[str, int]) -> Path:
    """Smooth colour images with grain, which compress about as photographs do; png16 in 16 bits.

    Args:
        counts: images of each folder below the root.
    """
    for place, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            random = np.random.default_rng([place, number])
            coarse = random.uniform(0, 1, (9, 9, 3)).astype(np.float32)
            image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)
            image = (image + random.normal(0, 0.02, image.shape)).clip(0, 1)
            pixels = (image * (65535 if kind == "png16" else 255)).astype(np.uint16 if kind == "png16" else np.uint8)
            cv2.imwrite(str(root / folder / f"{number:05d}.{kind.removesuffix('16')}"), pixels)
    return root


def untrained_run(root: Path, data: Path, flags: Sequence[str]) -> RunOptions:
    """A run of first weights, as train.py leaves one, that test.py, cam_infer.py and evaluate.py can use."""
    words = ["--dataroot", str(data), "--checkpoints_dir", str(root), "--name", NAME, "--quiet", *flags]
    run = train_options(words)
    model = MODELS.get(run.experiment.model).from_options(run)
    dataset = DATASETS.get(run.data.dataset_mode).from_options(run, model.size_multiple)
    run.folder.mkdir(parents=True)
    (run.folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()))
    save_formats(run.folder, dataset.source, dataset.target, dataset.class_names)
    for name in model.inference_nets:
        export_weights(run.folder / f"latest_net_{name}.pth", model.nets[name].state_dict())
    return run


def medians(subjects: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each; rounds interleave, each beginning with another one."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    for turn in range(warm_up + rounds):
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            started = time.perf_counter()
            subjects[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def about(benchmark: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every result begins with."""
    shown = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
    return {"benchmark": benchmark, "settings": shown, "versions": versions(), "machine": machine()}


def where(result: Mapping[str, Any]) -> str:
    made = result["machine"]
    return f"torch {result['versions']['torch']}, {made['cpu']}, {made['threads']} thread(s)"


def save(result: Mapping[str, Any], file: Path | None) -> None:
    """Write a result as JSON, where asked."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Flags of all benchmarks that make their images."""
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--kind", choices=KINDS, default="png", help="kind of their files")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--json", type=Path, help="write the results here as well")
