"""What an explainer is. `models/cam/<name>_explainer.py` registers one; `++` in a name is `_pp` in the file's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from models.cam.subject import Subject
from util.registry import Registry


class Explainer(ABC):
    """One method. Its parameters are keyword arguments of the constructor, with defaults.

    The arithmetic stands beside the class as a function of tensors, differentiable where the method is and batched
    over leading axes, so that a loss can call it.

    Attributes:
        rectified: the map to look at is max(0, raw).
        needs_layer: the network is cut at a layer; otherwise `Subject` may have none.
        in_pixels: raw maps have colours and sign at the image's resolution, (N, T, C, H, W).
    """

    rectified: ClassVar[bool] = True
    needs_layer: ClassVar[bool] = True
    in_pixels: ClassVar[bool] = False

    @abstractmethod
    def maps(self, subject: Subject) -> Tensor:
        """Raw maps (N, T, h, w) at the layer's resolution, float32 (float64 stays), attached if the subject is.

        Raises:
            ExplainError: the method does not apply to this network, layer or target.
        """


def for_every_target(maps: Tensor, subject: Subject) -> Tensor:
    """A map (N, h, w) that knows no target, as the map (N, T, h, w) of each."""
    return maps[:, None].expand(-1, subject.scores.shape[1], -1, -1)


EXPLAINERS: Registry[Explainer] = Registry("cam_method", "models.cam", "_explainer")
