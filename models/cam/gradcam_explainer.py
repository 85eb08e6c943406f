"""Grad-CAM: channels weighted by the mean gradient of the score."""

from __future__ import annotations

from torch import Tensor

from models.cam.arithmetic import in_full_precision, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.subject import Subject


@in_full_precision
def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k alpha_k A_k with alpha_k = mean_ij dy/dA_kij (Selvaraju et al., ICCV 2017, eq. 1 and 2, before the ReLU).

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), dy/dA; leading axes broadcast.

    Returns:
        (..., h, w), not rectified.
    """
    return weighted_sum(activations, gradients.mean((-2, -1)))


@EXPLAINERS.register("gradcam")
class GradCam(Explainer):
    """See `gradcam`. On a linear head over a mean, the class activation map divided by the number of positions."""

    def maps(self, subject: Subject) -> Tensor:
        return gradcam(subject.activations[:, None], subject.gradients)
