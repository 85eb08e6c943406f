"""What an evaluation leaves behind: one JSON file with its protocol, and the features of set metrics."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import MODELS
from options.parse import RunOptions
from util.checkpoint import STATE_FILE, load_state
from util.evaluations import FOLDER
from util.files import write_atomic
from util.metrics.base import ImageSet, Scores
from util.provenance import provenance
from util.safe_weights import SAFE_FILE

PACKAGES = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "numpy", "scipy", "scikit-learn")


def record(
    run: RunOptions,
    *,
    phase: str,
    epoch: str,
    step: int,
    sets: Mapping[str, ImageSet | None],
    names: Sequence[str],
    feature_kind: str,
    scores: Scores,
    seconds: Mapping[str, float],
    basis: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """The content of an evaluation's file.

    Args:
        sets: "source" and "target".
        names: of the translated images.
        basis: what the numbers come from beside images and options.
    """
    return {
        "run": run.experiment.name,
        "model": run.experiment.model,
        "seed": run.experiment.seed,
        "epoch": epoch,
        "step": step,
        "phase": phase,
        "direction": run.data.direction,
        "data": {"dataroot": run.data.dataroot, **{name: described(images) for name, images in sets.items()}},
        "versions": versions(),
        "made": provenance(device),
        "options": {item.name: plain(getattr(group, item.name)) for group in run.groups() for item in fields(group)},
        "features": feature_kind,
        "basis": dict(basis),
        "metrics": {name: asdict(value) for name, value in scores.values.items()},
        "per_image": {
            "file": list(names),
            "label": list(sets["source"].labels if sets["source"] else []),
            **{name: list(column) for name, column in scores.per_image.items()},
        },
        "per_image_better": scores.directions,
        "tables": dict(scores.tables),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def write_record(folder: Path, content: Mapping[str, Any], features: tuple[Tensor, Tensor] | None) -> Path:
    """Write `<phase>_<epoch>.json` below a run's folder, and `..._features.npz` (fake, real, kind) beside it.

    Returns:
        The path of the JSON file.
    """
    path = record_path(folder, content["phase"], content["epoch"])
    if features is not None:
        buffer = io.BytesIO()
        fake, real = (one.float().cpu().numpy() for one in features)
        np.savez_compressed(buffer, fake=fake, real=real, kind=np.array(content["features"]))
        write_atomic(path.with_name(f"{path.stem}_features.npz"), buffer.getvalue())
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False).encode())
    return path


def record_path(folder: Path, phase: str, epoch: str) -> Path:
    """Where a run's folder holds the numbers of an epoch; pictures and report lie in a folder of the same stem."""
    return folder / FOLDER / f"{phase}_{epoch}.json"


def described(images: ImageSet | None) -> dict[str, Any] | None:
    """How many images, and a digest of their files' content in order: what makes two evaluations comparable."""
    if images is None:
        return None
    digest = hashlib.sha256()
    for file in images.files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return {"count": len(images), "digest": digest.hexdigest()}


def digest_of_weights(run: RunOptions) -> str:
    """Of the files that the networks of inference are read from: by it an evaluation tells what it has measured."""
    epoch, nets = run.experiment.epoch, MODELS.get(run.experiment.model).inference_nets
    files = [run.folder / SAFE_FILE, *(run.folder / f"{epoch}_net_{name}.pth" for name in nets)]
    return digest_of([hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()])


def digest_of(plain_value: Any) -> str:
    """Of what JSON can hold."""
    return hashlib.sha256(json.dumps(plain_value).encode()).hexdigest()


def step_of(run: RunOptions) -> int:
    """How many steps the evaluated weights had seen, by the run's state; 0 where there is none."""
    file, epoch = run.folder / STATE_FILE, run.experiment.epoch
    if not file.is_file():
        return 0
    state = load_state(file)
    position = state["position"]
    if epoch.isdigit():
        return (int(epoch) - int(state["first_epoch"]) + 1) * int(state["steps_per_epoch"])
    if epoch.startswith("iter_") and position["total_iters"]:
        return int(epoch.removeprefix("iter_")) * int(position["step"]) // int(position["total_iters"])
    return int(position["step"])


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def plain(value: Any) -> Any:
    """An option's value as JSON holds it."""
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
