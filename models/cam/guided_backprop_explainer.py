"""Guided backpropagation: what in the image speaks for the score, with colours and sign."""

from __future__ import annotations

from torch import Tensor

from models.cam.base import EXPLAINERS, Explainer
from models.cam.guided import guided_gradients
from models.cam.subject import Subject


@EXPLAINERS.register("guided_backprop")
class GuidedBackprop(Explainer):
    """d score / d image where every ReLU hands back positive gradients only (Springenberg et al., ICLR workshop 2015).

    Shown by `models.cam.guided.guided_display`. It draws the image's edges, and hardly depends on the class (Adebayo et
    al., NeurIPS 2018).

    Args:
        allow_other_activations: explain networks with other activations too; those keep their own derivative.
    """

    rectified = False
    needs_layer = False
    in_pixels = True

    def __init__(self, allow_other_activations: bool = False) -> None:
        self.allow_other_activations = allow_other_activations

    def maps(self, subject: Subject) -> Tensor:
        """See `Explainer.maps`; (N, T, C, H, W) at the images' resolution.

        Raises:
            ExplainError: there are activations other than ReLU and ReLU6, unless they are allowed.
        """
        return guided_gradients(subject, allow_other_activations=self.allow_other_activations)
