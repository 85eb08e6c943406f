"""Min-max scaling that neither depends on a map's scale nor turns rounding noise into a pattern."""

from __future__ import annotations

import torch
from torch import Tensor

# A range of this share of the greatest value, times the precision of its numbers, is rounding noise.
NOISE = 16


def minmax(maps: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """To [0, 1] over some axes, differentiable; what is the same everywhere becomes 0.

    Args:
        maps: any shape.
        dims: the axes that are scaled together.
    """
    low, high = maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True)
    noise = NOISE * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    flat = high - low <= noise
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, high - low))
