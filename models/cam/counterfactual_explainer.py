"""Counterfactual map: where the evidence against the class lies."""

from __future__ import annotations

from torch import Tensor

from models.cam.base import EXPLAINERS, Explainer
from models.cam.gradcam_explainer import gradcam
from models.cam.subject import Subject


def counterfactual(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM of -y: what would raise the score if it were taken away (Selvaraju et al., ICCV 2017, section 3.3).

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), dy/dA; leading axes broadcast.

    Returns:
        (..., h, w), not rectified: the negative of Grad-CAM before its ReLU.
    """
    return -gradcam(activations, gradients)


@EXPLAINERS.register("counterfactual")
class Counterfactual(Explainer):
    """See `counterfactual`."""

    def maps(self, subject: Subject) -> Tensor:
        return counterfactual(subject.activations[:, None], subject.gradients)
