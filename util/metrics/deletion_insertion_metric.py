"""Whether a class activation map names the pixels the class head goes by: deletion and insertion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from util.metrics.base import METRICS, Maps, Material, Metric, Scores, Value
from util.metrics.faithfulness import STEPS, deletion, insertion, random_ranks, ranks
from util.metrics.maps import at_size

MOST_IMAGES, BATCH = 40, 8


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
        wanted = min(MOST_IMAGES, count)
        chosen = sorted({round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)})
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
    heat = at_size(maps.source[number], (image.shape[-2], image.shape[-1]))[None]

    def confidence(images: Tensor) -> Tensor:
        return torch.cat([maps.confidence(part, maps.classes[number]) for part in torch.split(images, BATCH)])

    found = {}
    for suffix, places in (("", ranks(heat, seed)), ("_random", random_ranks(heat, seed, number))):
        found[f"deletion{suffix}"] = float(deletion(image[None], places, confidence))
        found[f"insertion{suffix}"] = float(insertion(image[None], places, confidence))
    return found
