"""Tensors to pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def to_uint8(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 for display of an image (1 or 3, H, W) in [-1, 1], rounded; grey is repeated."""
    values = image.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte().cpu()
    return values.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
