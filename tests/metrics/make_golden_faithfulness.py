"""ROAD, drop and increase by grad-cam on a tiny network: `python -m tests.metrics.make_golden_faithfulness`.

Made with grad-cam 1.5.7, whose noise is turned off. The tests compare with the file and do not need it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.cam.tiny_networks import TinyNet, filled, pictures

FILE = Path(__file__).parents[1] / "golden" / "faithfulness.npz"
CLASSES = (0, 3, 1)
PERCENTILES = (10, 40, 90)


def smooth_maps(count: int, side: int) -> Tensor:
    """(count, side, side) in [0, 1] without equal values."""
    cells = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(5))
    maps = torch.nn.functional.interpolate(cells, (side, side), mode="bicubic")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def main() -> None:
    """Write the file."""
    library: Any = importlib.import_module("pytorch_grad_cam.metrics.road")
    simple: Any = importlib.import_module("pytorch_grad_cam.metrics.cam_mult_image")
    target: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputSoftmaxTarget
    net, images = filled(TinyNet(), seed=7), pictures(len(CLASSES))
    maps, targets = smooth_maps(len(images), images.shape[2]), [target(number) for number in CLASSES]
    imputer = library.NoisyLinearImputer(noise=0)
    kept: dict[str, Any] = {"images": images.numpy(), "maps": maps.numpy()}
    kept |= {f"weights/{key}": value.numpy().copy() for key, value in net.state_dict().items()}
    for name, remove in (("morf", library.RemoveMostRelevantFirst), ("lerf", library.RemoveLeastRelevantFirst)):
        for percentile in PERCENTILES:
            metric = library.PerturbationConfidenceMetric(remove(percentile, imputer))
            scores, changed = metric(images, maps.numpy(), targets, net, return_visualization=True, return_diff=False)
            kept[f"{name}/{percentile}"], kept[f"{name}/{percentile}/images"] = scores, changed.numpy()
    for name, metric in (("drop", simple.DropInConfidence()), ("increase", simple.IncreaseInConfidence())):
        kept[name] = metric(images, maps[:, None].numpy(), targets, net)
    arrays: dict[str, Any] = {key: np.asarray(value, np.float32) for key, value in kept.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.name}: {len(kept)} arrays, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
