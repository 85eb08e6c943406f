"""Evaluations as scripts/evaluate.py writes them, for the tests of comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.comparing.runs import Method, read_methods

IMAGES, REALS, DIMENSIONS = 24, 20, 6
Content = dict[str, Any]


def number(value: float | None, better: str = "lower", kind: str = "", note: str = "") -> Content:
    return {"value": value, "spread": None, "kind": kind, "note": note, "better": better}


def content(run: str, seed: int = 1, epoch: str = "10", **changes: Any) -> Content:
    """One evaluation as scripts/evaluate.py writes it."""
    options = {"name": run, "seed": seed, "lr": 0.0002, "dataroot": "data/scenes", "print_freq": seed}
    return {
        "run": run,
        "model": "cut",
        "seed": seed,
        "epoch": epoch,
        "step": 100 * int(epoch) if epoch.isdecimal() else 1000,
        "phase": "test",
        "direction": "AtoB",
        "data": {
            "dataroot": "data/scenes",
            "source": {"count": IMAGES, "digest": "aa"},
            "target": {"count": REALS, "digest": "bb"},
        },
        "versions": {},
        "features": "inception",
        "metrics": {"fid": number(50.0)},
        "per_image": {},
        "tables": {},
        "seconds": {},
    } | {"options": options | changes.pop("options", {}), **changes}


def write(folder: Path, written: Content) -> Path:
    path: Path = folder / written["run"] / "evaluations" / f"{written['phase']}_{written['epoch']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written))
    return path


def per_image(metric: str, values: Sequence[float | None]) -> Content:
    files = [f"{i:02d}.png" for i in range(len(values))]
    return {"file": files, "label": [0] * len(values), metric: list(values)}


def methods(folder: Path, *names: str, groups: Sequence[str] = ()) -> list[Method]:
    return read_methods(folder, names, groups, "test")


def shapes(found: Sequence[Method]) -> list[tuple[str, list[str]]]:
    return [(method.name, [run.name for run in method.runs]) for method in found]


def features_file(folder: Path, run: str, fake: NDArray[Any], real: NDArray[Any], kind: str = "inception") -> None:
    np.savez(folder / run / "evaluations" / "test_10_features.npz", fake=fake, real=real, kind=kind)


def cloud(seed: int, count: int, shift: float = 0.0) -> NDArray[np.float32]:
    points = np.random.default_rng(seed).normal(shift, 1, (count, DIMENSIONS))
    return points.astype(np.float32)


def seeds(folder: Path, name: str, model: str, values: Sequence[NDArray[np.float64]], metric: str = "ssim") -> None:
    for seed, images in enumerate(values, 1):
        known = [None if math.isnan(v) else float(v) for v in images]
        metrics = {metric: number(float(np.nanmean(images)), "higher")}
        write(
            folder, content(f"{name}_s{seed}", seed, model=model, metrics=metrics, per_image=per_image(metric, known))
        )


def scores(seed: int, runs: int, mean: float) -> list[NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).normal(0, 0.2, IMAGES)
    return [mean + difficulty + random.normal(0, 0.02) + random.normal(0, 0.05, IMAGES) for _ in range(runs)]


def curve(folder: Path, run: str, values: Mapping[str, float | None], seed: int = 1) -> None:
    for epoch, value in values.items():
        write(folder, content(run, seed, epoch, metrics={"acc": number(value, "higher")}))
