"""Pearson correlation of intensities (CC)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from util.metrics.base import METRICS, Material, Metric, Scores
from util.metrics.paired import likeness

KIND = "over all pixels and channels"


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation coefficient of two (1, C, H, W); 0 where one of them is constant."""
    flat = [(x - x.mean()).flatten().double() for x in (a.double(), b.double())]
    return cosine_similarity(flat[0], flat[1], dim=0, eps=1e-12)


@METRICS.register("cc")
class Correlation(Metric):
    """`cc`: translation against the true target, where pairs are known; `cc_input`: against its own input."""

    def compute(self, material: Material) -> Scores:
        return likeness(material, "cc", KIND, pearson)
