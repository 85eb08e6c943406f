"""Guided Grad-CAM: the edges of guided backpropagation where Grad-CAM sees the class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from models.cam.arithmetic import in_full_precision
from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.gradcam_explainer import gradcam
from models.cam.guided import guided_gradients
from models.cam.subject import Subject

INTERPOLATIONS = ("bilinear", "nearest")


@in_full_precision
def guided_cam(guided: Tensor, cam: Tensor, interpolation: str = "bilinear") -> Tensor:
    """Guided backpropagation times the rectified, enlarged map (Selvaraju et al., ICCV 2017, section 3.2).

    Args:
        guided: (N, T, C, H, W), with sign.
        cam: (N, T, h, w), not rectified, with its own scale.
        interpolation: "bilinear", as in the paper, or "nearest", captum's default.

    Returns:
        (N, T, C, H, W), with sign.
    """
    size = (guided.shape[-2], guided.shape[-1])
    corners = False if interpolation == "bilinear" else None
    return guided * F.interpolate(cam.relu(), size, mode=interpolation, align_corners=corners)[:, :, None]


@EXPLAINERS.register("guided_gradcam")
class GuidedGradCam(Explainer):
    """See `guided_cam`, with Grad-CAM; only the guided factor goes back by the guided rule.

    Args:
        interpolation: of the map, "bilinear" or "nearest".
        allow_other_activations: see `models.cam.guided_backprop_explainer.GuidedBackprop`.

    Raises:
        ExplainError: an unknown interpolation.
    """

    rectified = False
    in_pixels = True

    def __init__(self, interpolation: str = "bilinear", allow_other_activations: bool = False) -> None:
        if interpolation not in INTERPOLATIONS:
            raise ExplainError(f"unknown interpolation '{interpolation}': choose one of {', '.join(INTERPOLATIONS)}")
        self.interpolation, self.allow_other_activations = interpolation, allow_other_activations

    def maps(self, subject: Subject) -> Tensor:
        """See `Explainer.maps`; (N, T, C, H, W) at the images' resolution.

        Raises:
            ExplainError: there are activations other than ReLU and ReLU6, unless they are allowed.
        """
        guided = guided_gradients(subject, allow_other_activations=self.allow_other_activations)
        return guided_cam(guided, self.cam(subject), self.interpolation)

    def cam(self, subject: Subject) -> Tensor:
        """The map that says where, (N, T, h, w), not rectified."""
        return gradcam(subject.activations[:, None], subject.gradients)
