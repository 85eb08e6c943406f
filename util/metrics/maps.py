"""Arithmetic that measures of class activation maps share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.cam.functional import resize_map
from util.metrics.base import Boxes

SIDE = 32  # maps of images of different sizes are compared at this resolution

Array = NDArray[np.float32]


def stacked(maps: Sequence[Array], side: int = SIDE) -> Tensor:
    """(N, side, side) of maps (h, w), which may differ in size."""
    return torch.stack([at_size(one, (side, side)) for one in maps])


def at_size(one: Array, size: tuple[int, int]) -> Tensor:
    """A map (h, w) as (H, W) of an image's size."""
    return resize_map(torch.from_numpy(np.ascontiguousarray(one))[None], size)[0]


def target_of(boxes: Boxes, number: int, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """(H, W) share of each pixel that is target: the mask where there is one, else the union of the rectangles.

    None where the target is not known, or fills none of the image.
    """
    mask = boxes.masks[number]
    if mask is not None:
        target = mask.astype(np.float64) if mask.shape == size else None
    else:
        target = _union(boxes.rectangles[number], size)
    return target if target is not None and target.sum() > 0 else None


def _union(rectangles: Sequence[tuple[float, float, float, float]], size: tuple[int, int]) -> NDArray[np.float64]:
    """Pixels cut by an edge count by their share inside the rectangle."""
    outside = np.ones(size)
    for x0, y0, x1, y1 in rectangles:
        rows, columns = (
            np.clip(np.minimum(np.arange(length) + 1, high) - np.maximum(np.arange(length), low), 0, 1)
            for length, low, high in ((size[0], y0, y1), (size[1], x0, x1))
        )
        outside *= 1 - np.outer(rows, columns)
    return 1 - outside
