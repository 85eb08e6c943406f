"""The class activation maps that F-CAM learns from and the features it decodes, from one pass of its classifier."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.functional import full_precision
from models.cam.layers import AUTO, find_layer
from models.cam.scaling import minmax
from models.cam.subject import Memory, Subject
from models.cam.targets import ClassTarget, Target
from models.networks.frozen_classifier import FrozenClassifier

BUILTIN = "builtin"


class Seen(NamedTuple):
    """What the classifier sees in N images.

    Attributes:
        cam: (N, H, W) in [0, 1] at the images' size; 0 for a map that is the same everywhere.
        stages: features by the classifier's `stage_channels`.
        logits: (N, K).
        classes: (N,), of which the maps are.
    """

    cam: Tensor
    stages: list[Tensor]
    logits: Tensor
    classes: Tensor


class Teacher:
    """Asks a frozen classifier where it sees a class.

    Args:
        net: the classifier.
        method: one of `EXPLAINERS`; `builtin`: the classifier's own `class_maps`, where it makes its logits of maps.
        layer: of the maps, see `models.cam.layers.find_layer`.

    Raises:
        UnknownNameError: no such method.
        ExplainError: `builtin`, and the classifier has no maps of its own; when called, a method or layer that does not
            fit the classifier.
    """

    def __init__(self, net: FrozenClassifier, method: str = "cam", layer: str = AUTO) -> None:
        self.net, self.method = net, method
        self._layer_name = layer
        self._layer: nn.Module | None = None
        self._memory = Memory()
        self._explainer: Explainer | None = None if method == BUILTIN else EXPLAINERS.get(method)()
        if method == BUILTIN and not hasattr(net.net, "class_maps"):
            raise ExplainError(
                f"{type(net.net).__name__} has no maps of its own; take one of {', '.join(EXPLAINERS.names())}"
            )

    def look(self, images: Tensor, labels: Tensor, *, checked: bool = False) -> Seen:
        """Maps, stages and logits of images (N, C, H, W); of label -1 the class predicted is explained.

        Nothing carries a gradient. Methods that need further passes make them; CAM and its kin need none.

        Args:
            checked: the labels are known to be classes of the network; a GPU is then not waited for.

        Raises:
            ExplainError: a method, layer or class that does not fit; it calls layers as --teacher_layer does.
        """
        try:
            return self._look(images, KnownOrPredicted(labels, checked))
        except ExplainError as error:
            text = str(error).replace(type(self.net).__name__, type(self.net.net).__name__)
            raise ExplainError(re.sub(r"(?<![\w.])net\.", "", text)) from error

    def _look(self, images: Tensor, target: Target) -> Seen:
        layer = self._layer_of(images)
        with self.net.noting() as stages:
            subject = Subject(self.net, images, layer, target, memory=self._memory)
            logits, classes = (
                subject.output.detach(),
                subject.classes,
            )  # the first pass, whatever the method begins with
            assert classes is not None
            raw = self._raw(subject, stages, classes)
        low = minmax(raw.detach().nan_to_num(0.0, 0.0, 0.0))
        cam = F.interpolate(low[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return Seen(cam.clamp(0, 1), list(stages), logits, classes[:, 0])

    def _raw(self, subject: Subject, stages: list[Tensor], classes: Tensor) -> Tensor:
        """(N, h, w), rectified where the method is."""
        if self._explainer is None:
            maps: Tensor = self.net.net.class_maps(stages[-1])  # type: ignore[operator]
            return full_precision(maps).gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))[:, 0]
        found = full_precision(self._explainer.maps(subject))[:, 0]
        if self._explainer.in_pixels:
            return found.abs().amax(1)
        return found.relu() if self._explainer.rectified else found

    def _layer_of(self, images: Tensor) -> nn.Module | None:
        if self._explainer is None or not self._explainer.needs_layer:
            return None
        if self._layer is None:
            with self.net.noting():  # the pass that will be looked at calls the same modules
                found = find_layer(self.net, self._spec(), images)
            if len(found) != 1:
                names = ", ".join(name for name, _ in found)
                raise ExplainError(f"layer '{self._layer_name}' means {len(found)} layers: {names}; name one")
            self._layer = found[0][1]
        return self._layer

    def _spec(self) -> str | int:
        """The layer as `find_layer` takes it, from a text in which names are the classifier's own."""
        text = self._layer_name
        if text == AUTO:
            return text
        return int(text) if text.lstrip("-").isdecimal() else f"net.{text}"


class KnownOrPredicted(Target):
    """The logit of each image's label, or where that is -1 of the class predicted.

    Args:
        labels: (N,) int64.
        checked: they are known to be classes of the network.
    """

    def __init__(self, labels: Tensor, checked: bool = False) -> None:
        self._labels, self._checked = labels, checked

    def fixed(self, output: Tensor) -> ClassTarget:
        classes = torch.where(self._labels >= 0, self._labels, output.argmax(1))
        target = ClassTarget(classes[:, None])
        return target.granted(output) if self._checked else target.fixed(output)

    def __call__(self, output: Tensor) -> Tensor:
        return self.fixed(output)(output)
