"""Whether a class activation map follows the image through the translation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.cam.functional import correlation
from util.metrics.base import METRICS, Material, Metric, Scores, Value
from util.metrics.maps import SIDE, stacked

MOST_PAIRS = 2000


@METRICS.register("cam_consistency")
class CamConsistency(Metric):
    """`CAM_corr`: mean Pearson correlation of CAM(x) with CAM(G(x)), for the same class, at 32 x 32.

    It means something beside `CAM_cross_corr` only, the same between maps of different images: a map that is always
    alike correlates perfectly with itself. `CAM_corr_gain` is their difference.
    """

    needs = ("maps",)

    def compute(self, material: Material) -> Scores:
        assert material.maps is not None
        seen, made = stacked(material.maps.source), stacked(material.maps.fake)
        own = correlation(seen, made)
        cross = correlation(*_strangers(seen, made, material.seed)) if len(seen) > 1 else torch.tensor([torch.nan])
        mean, other = float(own.mean()), float(cross.mean())
        note, kind = f"over {len(own)} images", f"Pearson at {SIDE} x {SIDE}"
        between = Value(None, note="needs two images")
        gain = between
        if len(seen) > 1:
            between = Value(other, float(cross.std()), kind, f"over {len(cross)} pairs of different images", "")
            gain = Value(mean - other, None, kind, "CAM_corr - CAM_cross_corr", "higher")
        return Scores(
            {
                "CAM_corr": Value(mean, float(own.std(unbiased=False)), kind, note, "higher"),
                "CAM_cross_corr": between,
                "CAM_corr_gain": gain,
            },
            {"CAM_corr": own.tolist()},
        )


def _strangers(seen: Tensor, made: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Maps of an input and of another image's translation; all such pairs, or MOST_PAIRS drawn at random."""
    count = len(seen)
    first, second = np.nonzero(~np.eye(count, dtype=bool))
    if len(first) > MOST_PAIRS:
        chosen = np.random.default_rng(seed).choice(len(first), MOST_PAIRS, replace=False)
        first, second = first[chosen], second[chosen]
    return seen[torch.from_numpy(first)], made[torch.from_numpy(second)]
