"""Structural similarity (Wang et al., IEEE TIP 13(4), 2004), by torchmetrics."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from util.metrics.base import METRICS, Material, Metric, Scores
from util.metrics.paired import likeness

KIND = "11x11 Gaussian window, mirrored borders, range 1"


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """One number for two (1, C, H, W) in [0, 1]."""
    value = structural_similarity_index_measure(a, b, data_range=1.0)
    assert isinstance(value, Tensor)
    return value


@METRICS.register("ssim")
class Ssim(Metric):
    """`ssim`: translation against the true target, where pairs are known; `ssim_input`: against its own input.

    The second measures how much was changed, not how good it is: neither high nor low is better.
    """

    def compute(self, material: Material) -> Scores:
        return likeness(material, "ssim", KIND, ssim)
