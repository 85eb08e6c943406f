"""Multi-scale structural similarity (Wang, Simoncelli & Bovik, Asilomar 2003), by torchmetrics."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from util.metrics.base import METRICS, Material, Metric, MetricError, Scores
from util.metrics.paired import compare_pairs, scores_of

SMALLEST = 176  # what torchmetrics takes for five scales of an 11x11 window: more than ten windows of 16 pixels


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """One number for two (1, C, H, W) in [0, 1]."""
    value: Tensor = multiscale_structural_similarity_index_measure(a, b, data_range=1.0)
    return value


@METRICS.register("ms_ssim")
class MsSsim(Metric):
    """`ms_ssim`: translation against the true target."""

    needs = ("real", "pairs")

    def compute(self, material: Material) -> Scores:
        assert material.real is not None
        assert material.pairs is not None
        side = min(min(material.fake.read(number).shape[-2:]) for number, _ in material.pairs)
        if side < SMALLEST:
            raise MetricError(f"needs images of at least {SMALLEST} pixels a side (five scales), and one has {side}")
        found = compare_pairs(material.fake, material.real, material.pairs, ms_ssim)
        return scores_of("ms_ssim", found, material.pairs, len(material.fake), "five scales, range 1", "higher")
