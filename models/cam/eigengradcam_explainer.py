"""Eigen-CAM of gradient times activation, which knows the class."""

from __future__ import annotations

from torch import Tensor

from models.cam.arithmetic import in_full_precision
from models.cam.base import EXPLAINERS, Explainer
from models.cam.eigencam_explainer import eigencam
from models.cam.subject import Subject


@in_full_precision
def eigengradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of G A over positions, growing with HiResCAM's map (a method of pytorch-grad-cam).

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), G = dy/dA; leading axes broadcast.

    Returns:
        (..., h, w), see `eigencam`.
    """
    return eigencam(gradients * activations)


@EXPLAINERS.register("eigengradcam")
class EigenGradCam(Explainer):
    """See `eigengradcam`."""

    def maps(self, subject: Subject) -> Tensor:
        return eigengradcam(subject.activations[:, None], subject.gradients)
