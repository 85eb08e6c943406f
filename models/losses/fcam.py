"""The terms of F-CAM but for the CRF (Belharbi et al., WACV 2022, arXiv:2109.07069).

Maps are logits (N, 2, H, W), background first; S is their softmax over the two. Every term is one value an image, (N,),
in float32 at least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Epochs in which a term counts, from 1; `last` -1: to the end."""

    first: int = 1
    last: int = -1

    def holds(self, epoch: int) -> bool:
        return self.first <= epoch and (self.last < 0 or epoch <= self.last)


@dataclass(frozen=True)
class Barrier:
    """How steep the barrier is: t, multiplied after every epoch up to a limit.

    Attributes:
        first: t of epoch 1.
        most: the limit.
        factor: of an epoch.
    """

    first: float = 1.0
    most: float = 10.0
    factor: float = 1.01

    def at(self, epoch: int) -> float:
        """t in an epoch, counted from 1."""
        grown = math.log(self.first) + (epoch - 1) * math.log(self.factor)
        return self.most if grown >= math.log(self.most) else math.exp(grown)


def foreground(logits: Tensor) -> Tensor:
    """The probability of the foreground, (N, 2, H, W) -> (N, H, W)."""
    full = _full(logits)
    return (full[:, 1] - full[:, 0]).sigmoid()


def seed_cross_entropy(logits: Tensor, seeds: Tensor) -> Tensor:
    """Mean cross-entropy over the seeds of each image; 0 for one without seeds.

    Args:
        logits: (N, 2, H, W).
        seeds: (N, H, W) int64: 1 foreground, 0 background, -1 none.

    Returns:
        (N,). F-CAM takes the mean over the seeds of the batch, which with equally many in each is the mean of these;
        here an image counts the same whatever else is in its batch.
    """
    loss = F.cross_entropy(_full(logits), seeds, ignore_index=-1, reduction="none").flatten(1).sum(1)
    return loss / (seeds >= 0).flatten(1).sum(1).clamp_min(1)


def extended_log_barrier(z: Tensor, t: float) -> Tensor:
    """ELB_t(z) = -log(-z) / t where z <= -1 / t^2, else its tangent t z - log(1 / t^2) / t + 1 / t (Kervadec et al.,
    arXiv:1904.04205, eq. 6): a barrier against z > 0 that is finite everywhere."""
    inside = z <= -1 / t**2
    # The branch not taken must not put NaN into the gradient.
    log = -torch.log(torch.where(inside, -z, 1.0)) / t
    return torch.where(inside, log, t * z + (2 * math.log(t) + 1) / t)


def size_barrier(logits: Tensor, t: float) -> Tensor:
    """Both sides are to have an area: mean over them of ELB_t(-area), with areas in pixels.

    Areas are far above 1 / t^2, where this is -(log |fg| + log |bg|) / 2t: it draws to equal areas, and its gradient
    does not depend on the image's size. Fractions of the image would reach the tangent, so areas stay sums.

    Args:
        logits: (N, 2, H, W).
    """
    areas = _full(logits).softmax(1).sum((2, 3))
    return extended_log_barrier(-areas, t).mean(1)


def entropy(logits: Tensor) -> Tensor:
    """Mean over pixels of the entropy of S in bits; finite for logits of any size.

    Args:
        logits: (N, 2, H, W).
    """
    logs = _full(logits).log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean((1, 2)) / math.log(2)


def _full(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
