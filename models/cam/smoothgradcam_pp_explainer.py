"""Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cam.arithmetic import in_full_precision, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.gradcam_pp_explainer import EPS
from models.cam.subject import Subject
from util.seeding import generator


@in_full_precision
def smoothgradcam_pp(activations: Tensor, first: Tensor, second: Tensor, third: Tensor, eps: float = EPS) -> Tensor:
    """sum_k w_k A_k, w_k = sum_ij alpha_kij max(0, D1_kij) (Omeiza et al. 2019, arXiv:1908.01224, eq. 9 and 10).

    alpha = D2 / (2 D2 + D3 sum_ab A_kab + eps), 0 where D2 = 0. Dp is the mean over noisy images of the gradient to the
    power p, as in Grad-CAM++. The paper prints D1 above the fraction; Grad-CAM++, which it averages, has D2.

    Args:
        activations: (..., C, h, w), A, of the image without noise.
        first, second, third: (..., C, h, w), D1, D2, D3; leading axes broadcast.
        eps: guards the division, as in `gradcam_pp`.

    Returns:
        (..., h, w), not rectified; with a single D (D1, D1^2, D1^3), Grad-CAM++.
    """
    below = 2 * second + third * activations.sum((-2, -1), keepdim=True) + eps
    alpha = torch.where(below == 0, 0.0, second / torch.where(below == 0, 1.0, below))
    return weighted_sum(activations, (alpha * first.relu()).sum((-2, -1)))


@EXPLAINERS.register("smoothgradcam++")
class SmoothGradCamPlusPlus(Explainer):
    """See `smoothgradcam_pp`.

    The noise of a sample is the same for every image but for its scale, so that a map does not depend on its batch.

    Args:
        samples: noisy copies, at least 1.
        std: standard deviation of the noise as a share of each image's range (greatest minus least value), >= 0.
        seed: of the noise.
        eps: see `smoothgradcam_pp`, >= 0.

    Raises:
        ExplainError: samples below 1, std or eps below 0.
    """

    def __init__(self, samples: int = 8, std: float = 0.15, seed: int = 0, eps: float = EPS) -> None:
        if samples < 1 or std < 0 or eps < 0:
            raise ExplainError(
                f"smoothgradcam++ has {samples} samples, std {std} and eps {eps}: give at least 1, 0 and 0"
            )
        self.samples, self.std, self.seed, self.eps = samples, std, seed, eps

    def maps(self, subject: Subject) -> Tensor:
        powers: list[Tensor] = []
        at_once = max(1, subject.chunk // len(subject.images))
        for begin in range(0, self.samples, at_once):
            gradients = self._gradients(subject, range(begin, min(begin + at_once, self.samples)))
            found = [(gradients**power).sum(0) for power in (1, 2, 3)]
            powers = [a + b for a, b in zip(powers, found, strict=True)] if powers else found
        first, second, third = (each / self.samples for each in powers)
        return smoothgradcam_pp(subject.activations[:, None], first, second, third, eps=self.eps)

    def _gradients(self, subject: Subject, samples: range) -> Tensor:
        """(s, N, T, C, h, w), at some noisy copies."""
        images = subject.images
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        noisy = torch.stack([images + self.noise(images, sample) * (high - low) for sample in samples])
        gradients = subject.with_images(noisy.flatten(0, 1)).gradients
        return gradients.view(*noisy.shape[:2], *gradients.shape[1:])

    def noise(self, images: Tensor, sample: int) -> Tensor:
        """(C, H, W), to be multiplied with an image's range."""
        source = generator(self.seed, "smoothgradcam++", sample)
        return self.std * torch.randn(images.shape[1:], generator=source, dtype=torch.float64).to(images)
