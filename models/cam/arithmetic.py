"""What the methods have in common: full precision whatever autocast says, and the weighted sum of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from models.cam.functional import full_precision


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Products inside are computed in the precision of their arguments."""
    with torch.autocast(device.type, enabled=False):
        yield


def in_full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator for functions of tensors: float32 (float64 stays), also under autocast.

    The first argument is a tensor; tensors among the positional arguments are converted.
    """

    @wraps(function)
    def wrapped(*args: Any, **settings: Any) -> Tensor:
        with no_autocast(args[0].device):
            return function(*(full_precision(a) if isinstance(a, Tensor) else a for a in args), **settings)

    return wrapped


@in_full_precision
def weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k A_k: (..., C, h, w) and (..., C) -> (..., h, w); the leading axes broadcast."""
    return torch.einsum("...chw,...c->...hw", activations, weights)
