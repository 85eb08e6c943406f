"""XGrad-CAM: channels weighted so that the map comes nearest to sensitivity and conservation."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cam.arithmetic import in_full_precision, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.subject import Subject


@in_full_precision
def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = sum_ij G_kij A_kij / sum_ab A_kab (Fu et al., BMVC 2020, eq. 9, before the ReLU).

    A channel whose activations sum to 0 within rounding has no defined weight and counts nothing.

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), G = dy/dA; leading axes broadcast.

    Returns:
        (..., h, w), not rectified.
    """
    total = activations.sum((-2, -1))
    noise = 4 * torch.finfo(total.dtype).eps * activations.detach().abs().sum((-2, -1))
    nothing = total.detach().abs() <= noise
    weights = (gradients * activations).sum((-2, -1)) / torch.where(nothing, 1.0, total)
    return weighted_sum(activations, torch.where(nothing, 0.0, weights))


@EXPLAINERS.register("xgradcam")
class XGradCam(Explainer):
    """See `xgradcam`."""

    def maps(self, subject: Subject) -> Tensor:
        return xgradcam(subject.activations[:, None], subject.gradients)
