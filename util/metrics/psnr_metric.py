"""Peak signal-to-noise ratio, by torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from util.metrics.base import METRICS, Material, Metric, Scores
from util.metrics.paired import compare_pairs, scores_of

MOST = 100.0  # dB given to equal images, whose ratio is infinite


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB of two (1, C, H, W) in [0, 1], at most MOST."""
    value: Tensor = peak_signal_noise_ratio(a, b, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
    return torch.clamp(value, max=MOST)


@METRICS.register("psnr")
class Psnr(Metric):
    """`psnr`: translation against the true target, the mean over images of each image's ratio."""

    needs = ("real", "pairs")

    def compute(self, material: Material) -> Scores:
        assert material.real is not None
        assert material.pairs is not None
        found = compare_pairs(material.fake, material.real, material.pairs, psnr)
        kind = f"dB, per image, at most {MOST:g}"
        return scores_of("psnr", found, material.pairs, len(material.fake), kind, "higher")
