"""LayerCAM: every position weighted by its own positive gradient; for early layers."""

from __future__ import annotations

from torch import Tensor

from models.cam.arithmetic import in_full_precision
from models.cam.base import EXPLAINERS, Explainer
from models.cam.subject import Subject


@in_full_precision
def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k max(0, G_k) A_k (Jiang et al., TIP 2021, eq. 6 and 7, before the ReLU).

    Args:
        activations: (..., C, h, w), A.
        gradients: (..., C, h, w), G = dy/dA; leading axes broadcast.

    Returns:
        (..., h, w), not rectified.
    """
    return (gradients.relu() * activations).sum(-3)


@EXPLAINERS.register("layercam")
class LayerCam(Explainer):
    """See `layercam`."""

    def maps(self, subject: Subject) -> Tensor:
        return layercam(subject.activations[:, None], subject.gradients)
