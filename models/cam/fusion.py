"""The maps of several layers as one: fine as early layers' are, at the place that late ones know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from models.cam.errors import ExplainError
from models.cam.functional import rectify, resize_map

GAMMA = 2.0
FUSIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "max": lambda maps: maps.amax(0),
    "mean": lambda maps: maps.mean(0),
}


def lifted(maps: Tensor) -> Tensor:
    """tanh(GAMMA M / max M) of M = max(0, maps): early layers' maps, weak but for a few points, come up to late ones'.

    LayerCAM's scaling (Jiang et al., IEEE TIP 2021).

    Args:
        maps: (..., h, w).

    Returns:
        The same shape in [0, 1), differentiable; 0 for a map without a positive value, or that is not finite.
    """
    evidence = rectify(maps)
    most = evidence.amax((-2, -1), keepdim=True)
    usable = (most > 0) & most.isfinite()
    return torch.where(usable, torch.tanh(GAMMA * evidence / torch.where(usable, most, 1.0)), 0.0)


def fuse(maps: Sequence[Tensor], size: tuple[int, int], how: str = "max") -> Tensor:
    """One map of those of several layers, each `lifted` and resized.

    Args:
        maps: of a layer each, (N, T, h, w) with an h and w of its own.
        size: (H, W) of the map wanted.
        how: one of FUSIONS; the greatest value of a position, as in LayerCAM, or their mean.

    Returns:
        (N, T, H, W) in [0, 1).

    Raises:
        ExplainError: no map, or an unknown way.
    """
    if not maps or how not in FUSIONS:
        raise ExplainError(
            f"{len(maps)} maps to be fused by '{how}': give one at least, and one of {', '.join(FUSIONS)}"
        )
    grown = [resize_map(lifted(one).flatten(0, 1), size).view(*one.shape[:2], *size) for one in maps]
    return FUSIONS[how](torch.stack(grown))
