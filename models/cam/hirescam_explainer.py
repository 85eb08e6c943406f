"""HiResCAM: gradient times activation, summed over channels; shows only what the score used."""

from __future__ import annotations

from torch import Tensor

from models.cam.arithmetic import in_full_precision
from models.cam.base import EXPLAINERS, Explainer
from models.cam.subject import Subject


@in_full_precision
def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k G_k A_k, position by position (Draelos and Carin 2020, arXiv:2011.08891, before the ReLU).

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), G = dy/dA; leading axes broadcast.

    Returns:
        (..., h, w), not rectified.
    """
    return (gradients * activations).sum(-3)


@EXPLAINERS.register("hirescam")
class HiResCam(Explainer):
    """See `hirescam`."""

    def maps(self, subject: Subject) -> Tensor:
        return hirescam(subject.activations[:, None], subject.gradients)
