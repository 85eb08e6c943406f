"""Parts the networks share: the norm factory, anti-aliased resampling and the residual block.

Resampling with a binomial blur follows Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML
2019), with the paddings CUT uses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.networks.fast_conv import Conv2d
from models.networks.fast_parts import InstanceNorm, filtered, spread

NORMS = ("instance", "batch", "none")


def norm_layer(norm: str, channels: int) -> nn.Module:
    """The normalisation after a convolution.

    `instance`: no affine parameters, no running statistics, eps 1e-5; `batch`: affine with running
    statistics; `none`: the identity, which keeps its place in a Sequential so that later names do not move.

    Raises:
        ValueError: unknown name.
    """
    if norm == "instance":
        return InstanceNorm(channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"unknown norm '{norm}': choose one of {', '.join(NORMS)}")


def has_bias(norm: str) -> bool:
    """Whether a convolution followed by `norm` has a bias: with `instance` only, as in the published weights.

    For `none` too the published networks have no bias there; theirs and ours load into each other.
    """
    return norm == "instance"


def binomial_kernel(size: int) -> Tensor:
    """(size, size) outer product of a row of Pascal's triangle with itself, sum 1."""
    row = torch.ones(1, dtype=torch.float64)
    for _ in range(size - 1):
        row = F.pad(row, (1, 0)) + F.pad(row, (0, 1))
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).float()


class BlurDownsample(nn.Module):
    """Blur each channel with the 3x3 binomial filter, then take every second sample (reflection pad 1).

    (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)). Buffer `filt`: (C, 1, 3, 3).
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filt", binomial_kernel(3).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return filtered(padded, self.filt)


class BlurUpsample(nn.Module):
    """Double the size with the 4x4 binomial filter (gain 4, so that a constant stays what it is).

    (N, C, H, W) -> (N, C, 2H, 2W). Buffer `filt`: (C, 1, 4, 4), the gain included.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filt", 4 * binomial_kernel(4).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        # CUT pads the transposed convolution by 2 and cuts one more row and column on every side: padding 3.
        return spread(padded, self.filt, padding=3)


class ResnetBlock(nn.Module):
    """x + conv_block(x): twice reflection pad, 3x3 convolution and norm, with a ReLU (and dropout) between.

    (N, C, H, W) -> the same shape. With instance norm the residual has zero mean per image and channel, hence
    a block does not change the spatial mean of its input: see `class_head`.

    Attributes:
        forgetful: keep nothing but x for the backward pass, which computes the rest again, with the same dropout.
    """

    forgetful: bool = False

    def __init__(self, channels: int, norm: str = "instance", dropout: bool = False) -> None:
        super().__init__()
        bias = has_bias(norm)
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.forgetful and torch.is_grad_enabled():
            kept: Tensor = checkpoint(self._computed, x, use_reentrant=False)
            return kept
        return self._computed(x)

    def _computed(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv_block(x)
        return x + residual
