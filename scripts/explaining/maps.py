"""The maps of one image: by every method asked for, of every class asked for, at the image's own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from data.transforms import crop_to, resize_to
from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.explain import CamResult, display, explain
from models.cam.fusion import fuse
from models.cam.guided import guided_display
from models.cam.layers import find_layer
from models.cam.targets import ClassTarget, LogProbability, Margin, Target
from options.groups import Explanation
from options.schema import OptionError
from scripts.explaining.settings import explainers

ALL = "all"
DEFAULT = "gradcam"
RANKED = 5
SCORES: Mapping[str, type[ClassTarget]] = {"logit": ClassTarget, "log_probability": LogProbability, "margin": Margin}
OLDER_SCORES = {"probability": "log_probability"}  # a name that did not say what it was
# What the figures of some methods show beside their own map.
COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "counterfactual": ("gradcam",),
    "guided_gradcam": ("gradcam", "guided_backprop"),
    "guided_gradcam++": ("gradcam++", "guided_backprop"),
}


@dataclass(frozen=True)
class View:
    """An image as a network takes it.

    Attributes:
        batch: (1, C, h', w') in [-1, 1], padded.
        taken: its height and width before padding.
        size: of the file; maps are put back on it.
    """

    batch: Tensor
    taken: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class Map:
    """One map.

    Attributes:
        target: the class; None where no class is explained.
        probability: of the class; None as well.
        score: what was explained.
        raw: as the method gives it, over the unpadded image: (h, w), or (C, h', w') of methods in pixels.
        heat: (H, W) in [0, 1] at the file's size; of a flat map 0.
        flat: the map says nothing.
        pixels: (H, W, 3) uint8, what a method in pixels looks like; else None.
    """

    method: str
    layer: str
    target: int | None
    probability: float | None
    score: float
    raw: np.ndarray
    heat: np.ndarray
    flat: bool
    pixels: np.ndarray | None


class MapMaker:
    """The maps of one network, with layers looked up once.

    Args:
        net: the network.
        layer: of --layer auto.

    Raises:
        UserError: a method that there is not, or a setting that it has not.
    """

    def __init__(self, net: nn.Module, look: Explanation, layer: str) -> None:
        self._net, self.look = net, look
        self._layer_spec = layer if look.layer == "auto" else _spec(look.layer)
        asked = list(dict.fromkeys(look.explain_with)) or [DEFAULT]
        self._every = ALL in asked
        self.methods = EXPLAINERS.names() if self._every else asked
        given = explainers(self.methods, look.method_settings)
        # Settings are of the methods asked for; what their figures show beside them is as it always is.
        self._explainers = {**explainers(_with_companions(self.methods), ()), **given}
        self.left_out: dict[str, str] = {}  # methods of `all` that do not apply, with the reason
        self.left_out_at: dict[str, list[str]] = {}  # methods and the layers compared that they do not apply to
        self._layer: nn.Module | None = None
        self._layers: list[tuple[str, nn.Module]] = []

    def maps(self, view: View, target: Target) -> dict[str, list[Map]]:
        """By method, what is asked for and what its figures need: a map for each class of the target.

        Raises:
            ExplainError: a method or layer does not apply to the network.
        """
        names = _with_companions(self.methods)
        self._find_layers(view, names)
        found = self._tried(view, names, target) if self._every else self._wanted(view, names, target)
        return {name: self._on_image(view, result) for name, result in found.items()}

    def by_layer(self, view: View, target: Target) -> dict[str, list[Map]]:
        """By method, its map of the first class at each layer of --layers, in the order of the network.

        Where several methods are asked for, one may not apply to a layer (CAM to all but the last): it is left out.

        Raises:
            ExplainError: the only method does not apply to a layer.
        """
        names = [name for name in self.methods if self._explainers[name].needs_layer]
        grids: dict[str, list[Map]] = {name: [] for name in names}
        for where, module in self._layers:
            for name in names:
                try:
                    result = self._explained(view, [name], target, module)[name]
                except ExplainError:
                    if len(names) == 1:
                        raise
                    places = self.left_out_at.setdefault(name, [])
                    places += [where] if where not in places else []
                else:
                    grids[name].append(self._on_image(view, result)[0])
        return {name: maps for name, maps in grids.items() if maps}

    # --- how

    def _find_layers(self, view: View, names: Sequence[str]) -> None:
        """Find the layers with the first image, where one is named or needed."""
        if self._layer is not None:
            return
        asked = bool(self.look.layers) or self.look.layer != "auto"
        if not asked and not any(EXPLAINERS.get(name).needs_layer for name in names):
            return
        try:
            found = find_layer(self._net, self._layer_spec, view.batch)
        except ExplainError:
            if asked or not self._every:
                raise
            return  # the methods that need none are left
        if len(found) != 1:
            names = ", ".join(name for name, _ in found)
            raise OptionError(f"--layer {self._layer_spec}: means {len(found)} layers ({names}): see --layers")
        self._layer = found[0][1]
        specs = [_spec(text) for text in self.look.layers]
        together = {name: module for spec in specs for name, module in find_layer(self._net, spec, view.batch)}
        self._layers = list(together.items())

    def _tried(self, view: View, names: Sequence[str], target: Target) -> dict[str, CamResult]:
        """Of all methods those that apply, one by one; from then on these are the methods."""
        found: dict[str, CamResult] = {}
        for name in names:
            try:
                found |= self._wanted(view, [name], target)
            except ExplainError as error:
                self.left_out[name] = str(error)
        self.methods, self._every = list(found), False
        return found

    def _wanted(self, view: View, names: Sequence[str], target: Target) -> dict[str, CamResult]:
        """The maps at the one layer, or with --fuse of all layers together where the method has one."""
        if self.look.fuse is None:
            return self._explained(view, names, target, self._layer)
        found: dict[str, CamResult] = {}
        for name in names:
            kind = EXPLAINERS.get(name)
            if not kind.needs_layer or kind.in_pixels:
                found |= self._explained(view, [name], target, self._layer)
                continue
            parts = [self._explained(view, [name], target, module)[name] for _, module in self._layers]
            height, width = view.batch.shape[-2:]
            one = fuse([part.maps for part in parts], (height, width), self.look.fuse)
            found[name] = replace(parts[-1], layer="+".join(part.layer for part in parts), raw=one, maps=one)
        return found

    def _explained(
        self, view: View, names: Sequence[str], target: Target, layer: nn.Module | None
    ) -> dict[str, CamResult]:
        where = self._layer_spec if layer is None else layer
        methods = {name: self._explainers[name] for name in names}
        return explain(self._net, view.batch, methods, targets=target, layer=where, normalize="none")

    def _on_image(self, view: View, result: CamResult) -> list[Map]:
        """One result of a batch of one, without padding, at the file's size."""
        shown = crop_to(result.maps, view.taken)  # not yet normalised
        heats, flat = display(shown, view.size, self.look.normalize)
        in_pixels = EXPLAINERS.get(result.method).in_pixels
        raws = _unpadded(result.raw, view, in_pixels)[0].cpu().numpy()
        pixels = _pictures(raws, view.size) if in_pixels else [None] * len(raws)
        return [
            Map(
                method=result.method,
                layer=result.layer,
                target=None if result.classes is None else int(result.classes[0, rank]),
                probability=None if result.probabilities is None else float(result.probabilities[0, rank]),
                score=float(result.scores[0, rank]),
                raw=raws[rank],
                heat=heats[0, rank].cpu().numpy(),
                flat=bool(flat[0, rank]),
                pixels=pixels[rank],
            )
            for rank in range(len(raws))
        ]


def _with_companions(methods: Sequence[str]) -> list[str]:
    """The methods, and those that their figures show too."""
    more = [other for method in methods for other in COMPANIONS.get(method, ())]
    return list(dict.fromkeys([*methods, *more]))


def class_target(look: Explanation, classes: Sequence[int]) -> ClassTarget:
    """The target of --score for these classes of one image."""
    return SCORES[score_of(look)]([list(classes)])


def score_of(look: Explanation) -> str:
    """The name of what is explained of a class, whatever it was called."""
    return OLDER_SCORES.get(look.score, look.score)


def choose_classes(look: Explanation, probabilities: Tensor, label: int = -1, usual: str = "label") -> list[int]:
    """The classes explained of an image: --class_idx, else the --top_k likeliest, of one alone what --explained says.

    Args:
        probabilities: (K,).
        label: -1 where it is not known; then the likeliest class counts.
        usual: what --explained auto is.

    Raises:
        OptionError: there is no such class, or there are not so many.
    """
    count = len(probabilities)
    if look.class_idx >= count:
        raise OptionError(f"--class_idx {look.class_idx}: the network has the classes 0 to {count - 1}")
    if look.top_k > count:
        raise OptionError(f"--top_k {look.top_k}: the network has {count} classes")
    if look.class_idx >= 0 and look.top_k > 1:
        raise OptionError(f"--class_idx {look.class_idx} --top_k {look.top_k}: use one of them")
    if look.explained != "auto" and (look.class_idx >= 0 or look.top_k > 1):
        raise OptionError(f"--explained {look.explained}: leave it out, or --class_idx and --top_k")
    explained = usual if look.explained == "auto" else look.explained
    if look.class_idx >= 0:
        return [look.class_idx]
    likeliest = [int(c) for c in probabilities.topk(look.top_k).indices]
    if look.top_k > 1 or explained == "predicted" or not 0 <= label < count:
        return likeliest
    return [label] if explained == "label" else list(dict.fromkeys([label, *likeliest]))


def ranking_of(probabilities: Tensor) -> tuple[int, ...]:
    """The likeliest classes of (K,), as many as top-5 scores ask for."""
    return tuple(int(c) for c in probabilities.topk(min(RANKED, len(probabilities))).indices)


def _spec(text: str) -> str | int:
    """A layer as `find_layer` takes it: what looks like a number is one."""
    return int(text) if text.lstrip("-").isdecimal() else text


def _unpadded(raw: Tensor, view: View, in_pixels: bool) -> Tensor:
    """(1, T, ..., h, w) without what lies over padding alone."""
    if in_pixels:
        return raw[..., : view.taken[0], : view.taken[1]].float()
    padded = view.batch.shape[-2:]
    rows, columns = (
        -(-side * cells // whole) for side, cells, whole in zip(view.taken, raw.shape[-2:], padded, strict=True)
    )
    return raw[..., :rows, :columns].float()


def _pictures(raws: np.ndarray, size: tuple[int, int]) -> list[np.ndarray | None]:
    """(T, C, h, w) with sign as (H, W, 3) uint8, standardised around grey."""
    shown = guided_display(torch.from_numpy(raws)[None])[0]
    own = resize_to(shown, size, 0.0, 1.0).expand(-1, 3, -1, -1)
    return [picture.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy() for picture in own]
