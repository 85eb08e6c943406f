"""Density and coverage (Naeem et al. 2020, section 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from util.metrics.base import METRICS, Material, Metric, Scores, Value
from util.metrics.features import features_of

_K = 5  # neighbours, of the paper
_BLOCK = 1024  # real images at a time: distances to 10,000 others take 80 MB


@METRICS.register("density_coverage")
class DensityCoverage(Metric):
    """`density`: how often translations lie in real images' neighbourhoods, about 1 where both are alike (may be
    more); `coverage`: share of the real images with a translation in their neighbourhood.
    """

    needs: ClassVar[tuple[str, ...]] = ("real", "features")

    def compute(self, material: Material) -> Scores:
        fake, real = features_of(material, material.fake, 1), features_of(material, material.real, _K + 1)
        density, coverage = density_and_coverage(fake, real)
        note = f"k = {_K}, {len(fake)} translations, {len(real)} real images"
        return Scores(
            {
                "density": Value(density, kind=material.feature_kind, note=note, better="higher"),
                "coverage": Value(coverage, kind=material.feature_kind, note=note, better="higher"),
            }
        )


def density_and_coverage(fake: Tensor, real: Tensor, k: int = _K, block: int = _BLOCK) -> tuple[float, float]:
    """Density and coverage of M fakes Y among N reals X, with r_i the distance of X_i to its k-th nearest other X.

        density = 1/(k M) * sum_j sum_i [|Y_j - X_i| < r_i]
        coverage = 1/N * sum_i [some j: |Y_j - X_i| < r_i]

    Strictly less, as in the authors' code: a set against itself then has density 1.

    Args:
        fake, real: (M, d) and (N, d), N > k.
        block: real images whose distances are held at a time.
    """
    fake, real = fake.double(), real.double()  # in single precision cdist is off by a percent of small distances
    inside = covered = 0
    for some in torch.split(real, block):
        # The nearest of all is the image itself.
        radius = torch.cdist(some, real).kthvalue(k + 1, dim=1, keepdim=True).values
        hit = torch.cdist(some, fake) < radius
        inside += int(hit.sum())
        covered += int(hit.any(dim=1).sum())
    return inside / (k * len(fake)), covered / len(real)
