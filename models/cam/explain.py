"""Maps of several methods from one forward pass, and what is shown of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.functional import full_precision, resize_map
from models.cam.layers import AUTO, find_layer
from models.cam.subject import Subject, layer_name
from models.cam.targets import Targets, TopK

NORMALS = ("minmax", "max", "percentile", "none")
PERCENTILE = 98.0
# A map whose range is this share of its greatest value, times the precision of its numbers, is rounding noise.
NOISE = 16


@dataclass(frozen=True)
class CamResult:
    """The maps of one method.

    Attributes:
        method: its name.
        layer: name of the layer; empty for a method that has none.
        raw: (N, T, h, w) at the layer's resolution with the method's own scale and sign, before its ReLU; of guided
            methods (N, T, C, H, W) at the images' resolution, with colours.
        maps: (N, T, H, W) at the images' resolution, normalised to [0, 1].
        flat: (N, T) bool: the map says nothing, as it is the same everywhere (or not finite), and is 0.
        classes: (N, T) int64, or None if the target is no class. Map i belongs to class i.
        probabilities: (N, T) softmax of those classes, or None.
        scores: (N, T), what was explained.
    """

    method: str
    layer: str
    raw: Tensor
    maps: Tensor
    flat: Tensor
    classes: Tensor | None
    probabilities: Tensor | None
    scores: Tensor


def explain(
    net: nn.Module,
    images: Tensor,
    methods: str | Sequence[str] | Mapping[str, Explainer],
    *,
    targets: Targets | None = None,
    layer: str | int | nn.Module = AUTO,
    output: Callable[[Any], Tensor] | None = None,
    normalize: str = "minmax",
    percentile: float = PERCENTILE,
    chunk: int = 64,
) -> dict[str, CamResult]:
    """Explain a batch by several methods at one layer; they share a forward pass and its gradients.

    Args:
        net: any network; it is run in evaluation mode and left as it was. May be compiled, frozen, under autocast.
        images: (N, C, H, W), as the network takes them.
        methods: names (see `EXPLAINERS.names()`), one or several; or explainers with settings of their own, by name.
        targets: None for the class predicted; see `models.cam.targets`.
        layer: see `models.cam.layers.find_layer`; it must mean one. Several are compared by one call each.
        output, chunk: see `Subject`.
        normalize, percentile: see `display`.

    Returns:
        Results by the names given, detached.

    Raises:
        ExplainError: a layer, target or normalisation that does not fit.
        UnknownNameError: no such method.
    """
    _check_normal(normalize, percentile)
    explainers = _explainers(methods)
    where = _one_layer(net, layer, images) if any(each.needs_layer for each in explainers.values()) else None
    target = TopK(1) if targets is None else targets
    subject = Subject(net, images, where, target, output=output, chunk=chunk)
    results = {}
    for name, explainer in explainers.items():
        raw = explainer.maps(subject).detach()
        size = (images.shape[2], images.shape[3])
        maps, flat = display(_shown(raw, explainer), size, normalize, percentile)
        results[name] = CamResult(
            method=name,
            layer=subject.layer_name if explainer.needs_layer else "",
            raw=raw,
            maps=maps,
            flat=flat,
            classes=subject.classes,
            probabilities=_probabilities(subject),
            scores=subject.scores,
        )
    return results


def display(
    maps: Tensor, size: tuple[int, int], normalize: str = "minmax", percentile: float = PERCENTILE
) -> tuple[Tensor, Tensor]:
    """Maps to look at.

    Args:
        maps: (N, T, h, w), rectified where the method is.
        size: (H, W), to which they are resized, bilinearly where they grow.
        normalize: "minmax": from the least to the greatest value; "max": from 0 to the greatest value; "percentile":
            from 0 to that percentile, what is above becomes 1; "none": as it is, flat maps too. Values below 0 become
            0 in "max" and "percentile". Scales are relative: a map times any positive number looks the same.
        percentile: in (0, 100].

    Returns:
        (N, T, H, W) in [0, 1], and (N, T) bool: flat maps, which are 0.

    Raises:
        ExplainError: an unknown normalisation or percentile.
    """
    _check_normal(normalize, percentile)
    grown = resize_map(maps.flatten(0, 1), size).flatten(1)
    if normalize in ("max", "percentile"):
        grown = grown.relu()
    low, high = grown.amin(1, keepdim=True), grown.amax(1, keepdim=True)
    noise = NOISE * torch.finfo(grown.dtype).eps * grown.abs().amax(1, keepdim=True)
    flat = ~((high - low) > noise)  # also what is not a number
    if normalize != "none":
        grown = torch.where(flat, 0.0, _scaled(grown, low, high, normalize, percentile))
    shape = maps.shape[:2]
    return grown.view(*shape, *size), flat.view(shape)


def _scaled(maps: Tensor, low: Tensor, high: Tensor, normalize: str, percentile: float) -> Tensor:
    """(M, P) to [0, 1]; rows without a range give anything."""
    if normalize == "minmax":
        return (maps - low) / (high - low)
    if normalize == "percentile":
        at = maps.kthvalue(math.ceil(percentile / 100 * maps.shape[1]), dim=1, keepdim=True).values
        high = torch.where(at > 0, at, high)  # of a map with a few peaks the percentile is 0
    return (maps / high).clamp(max=1)


def _check_normal(normalize: str, percentile: float) -> None:
    if normalize not in NORMALS:
        raise ExplainError(f"unknown normalisation '{normalize}': choose one of {', '.join(NORMALS)}")
    if not 0 < percentile <= 100:
        raise ExplainError(f"percentile is {percentile}: it must be in (0, 100]")


def _explainers(methods: str | Sequence[str] | Mapping[str, Explainer]) -> dict[str, Explainer]:
    if isinstance(methods, Mapping):
        return dict(methods)
    names = [methods] if isinstance(methods, str) else methods
    if not names:
        raise ExplainError(f"no method is given: choose from {', '.join(EXPLAINERS.names())}")
    return {name: EXPLAINERS.get(name)() for name in names}


def _one_layer(net: nn.Module, layer: str | int | nn.Module, images: Tensor) -> nn.Module:
    if isinstance(layer, nn.Module):
        layer_name(net, layer)
        return layer
    found = find_layer(net, layer, images)
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise ExplainError(f"layer '{layer}' means {len(found)} layers: {names}; explain one at a time")
    return found[0][1]


def _shown(raw: Tensor, explainer: Explainer) -> Tensor:
    """(N, T, h, w) from what the method gave: of colours the strongest, of signs what the method counts."""
    raw = full_precision(raw)
    if explainer.in_pixels:
        return raw.abs().amax(2)
    return raw.relu() if explainer.rectified else raw


def _probabilities(subject: Subject) -> Tensor | None:
    if subject.classes is None or subject.output.ndim != 2:
        return None
    return subject.output.softmax(1).gather(1, subject.classes)
