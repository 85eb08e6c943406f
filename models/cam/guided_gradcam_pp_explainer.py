"""Guided Grad-CAM++: the edges of guided backpropagation where Grad-CAM++ sees the class."""

from __future__ import annotations

from torch import Tensor

from models.cam.base import EXPLAINERS
from models.cam.gradcam_pp_explainer import gradcam_pp
from models.cam.guided_gradcam_explainer import GuidedGradCam
from models.cam.subject import Subject


@EXPLAINERS.register("guided_gradcam++")
class GuidedGradCamPlusPlus(GuidedGradCam):
    """As `GuidedGradCam`, with Grad-CAM++ (Chattopadhay et al., WACV 2018, section 4)."""

    def cam(self, subject: Subject) -> Tensor:
        return gradcam_pp(subject.activations[:, None], subject.gradients)
