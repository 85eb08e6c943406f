"""Whether a class activation map names the pixels the class head goes by: deletion and insertion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from util.metrics.base import METRICS, Maps, Material, Metric, Scores, Value
from util.metrics.maps import at_size

MOST_IMAGES, STEPS, BATCH = 40, 16, 8
BLUR = 10.0  # standard deviation in pixels at 224 pixels a side, as in the paper; scaled with the image


@METRICS.register("deletion_insertion")
class DeletionInsertion(Metric):
    """Area under the class head's confidence while pixels are deleted, or inserted, by the map's order.

    Petsiuk et al., RISE, BMVC 2018: `deletion` replaces pixels by 0 (lower is better), `insertion` starts from the
    blurred image (higher is better). `_random` goes in random order: what a map that says nothing reaches. On inputs,
    at most 40 of them at equal distances, in 16 steps.
    """

    needs = ("maps",)

    def compute(self, material: Material) -> Scores:
        assert material.maps is not None
        count = len(material.source)
        chosen = sorted({round(i * (count - 1) / max(1, MOST_IMAGES - 1)) for i in range(min(MOST_IMAGES, count))})
        areas: dict[str, list[float]] = {}
        for number in chosen:
            for name, value in _areas(material.source.read(number), material.maps, number, material.seed).items():
                areas.setdefault(name, []).append(value)
        note = f"mean and standard deviation over {len(chosen)} inputs, {STEPS} steps"
        better = {"deletion": "lower", "insertion": "higher"}
        return Scores(
            {
                name: Value(
                    float(np.mean(found)),
                    float(np.std(found)),
                    "confidence of the class head",
                    note,
                    better.get(name, ""),
                )
                for name, found in areas.items()
            }
        )


def _areas(image: Tensor, maps: Maps, number: int, seed: int) -> dict[str, float]:
    size = (image.shape[-2], image.shape[-1])
    by_map = torch.argsort(at_size(maps.source[number], size).flatten(), descending=True, stable=True)
    draw = np.random.default_rng([seed, number])
    at_random = torch.from_numpy(draw.permutation(size[0] * size[1]))
    blurred = _blurred(image)

    def confidence(images: Tensor) -> Tensor:
        return maps.confidence(images, maps.classes[number])

    found = {}
    for suffix, order in (("", by_map), ("_random", at_random)):
        found[f"deletion{suffix}"] = _area(image, torch.zeros_like(image), order, confidence)
        found[f"insertion{suffix}"] = _area(blurred, image, order, confidence)
    return found


def _blurred(image: Tensor) -> Tensor:
    sigma = BLUR * min(image.shape[-2:]) / 224
    side = min(2 * int(3 * sigma) + 1, 2 * ((min(image.shape[-2:]) - 1) // 2) + 1)
    result: Tensor = gaussian_blur(image, [max(3, side), max(3, side)], [sigma, sigma])
    return result


def _area(before: Tensor, after: Tensor, order: Tensor, confidence: Callable[[Tensor], Tensor]) -> float:
    """Trapezoidal area under the confidence while pixels turn from `before` to `after`, over the share turned."""
    pixels = order.numel()
    images = []
    for step in range(STEPS + 1):
        turned = torch.zeros(pixels, dtype=torch.bool)
        turned[order[: round(pixels * step / STEPS)]] = True
        images.append(torch.where(turned.view(1, *before.shape[-2:]), after, before))
    curve = torch.cat([confidence(torch.stack(images[i : i + BATCH])) for i in range(0, len(images), BATCH)])
    return float(torch.trapezoid(curve.double(), dx=1 / STEPS))
