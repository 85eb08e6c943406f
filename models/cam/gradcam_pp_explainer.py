"""Grad-CAM++: positive gradients weighted so that several instances of a class count alike."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cam.arithmetic import in_full_precision, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.subject import Subject

EPS = 1e-6


@in_full_precision
def gradcam_pp(activations: Tensor, gradients: Tensor, eps: float = EPS) -> Tensor:
    """sum_k w_k A_k, w_k = sum_ij alpha_kij max(0, G_kij) (Chattopadhay et al., WACV 2018, eq. 5, 19, before the ReLU).

    alpha = G^2 / (2 G^2 + G^3 sum_ab A_kab + eps), 0 where G = 0. The paper explains exp(y), whose derivatives are
    exp(y) G, exp(y) G^2 and exp(y) G^3: they cancel in alpha, and the factor exp(y) of w is the same for all channels.

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), G = dy/dA; leading axes broadcast.
        eps: guards the division as pytorch-grad-cam does. It is not relative: gradients below its root count less.

    Returns:
        (..., h, w), not rectified.
    """
    squared = gradients.square()
    below = 2 * squared + squared * gradients * activations.sum((-2, -1), keepdim=True) + eps
    alpha = torch.where(below == 0, 0.0, squared / torch.where(below == 0, 1.0, below))
    return weighted_sum(activations, (alpha * gradients.relu()).sum((-2, -1)))


@EXPLAINERS.register("gradcam++")
class GradCamPlusPlus(Explainer):
    """See `gradcam_pp`.

    Args:
        eps: guards the division, >= 0.

    Raises:
        ExplainError: eps below 0.
    """

    def __init__(self, eps: float = EPS) -> None:
        if eps < 0:
            raise ExplainError(f"eps of gradcam++ is {eps}: it must be at least 0")
        self.eps = eps

    def maps(self, subject: Subject) -> Tensor:
        return gradcam_pp(subject.activations[:, None], subject.gradients, eps=self.eps)
