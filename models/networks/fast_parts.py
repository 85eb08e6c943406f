"""Instance norm and blurring on a CPU: the same values to rounding as PyTorch's own layers, in less time.

On other devices PyTorch's operators are called. All of it can be differentiated twice, as penalties on gradients need.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


class InstanceNorm(nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` without parameters or running statistics: each channel of each image to mean 0, variance 1.

    PyTorch views (N, C, H, W) as one image of N * C channels and calls its batch norm, whose CPU kernel for planes does
    not use vector instructions. Its group norm with as many groups as channels does; where the memory lies in
    channels_last, its batch norm does, image by image. Statistics of 16-bit features are kept in float32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dim() != 4 or x.shape[2] * x.shape[3] < 2:
            return super().forward(x)
        scale = shift = None
        if x.dtype in SIXTEEN_BITS:  # kernels keep statistics in the type of these
            scale, shift = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
        with torch.autocast("cpu", enabled=False):
            if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
                return F.group_norm(x, x.shape[1], scale, shift, self.eps)
            alone = [F.batch_norm(image, None, None, scale, shift, True, 0.0, self.eps) for image in torch.split(x, 1)]
            return alone[0] if len(alone) == 1 else torch.cat(alone)


def filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel, and keep every second sample: `F.conv2d(x, kernel, stride=2, groups=C)`.

    A convolution of PyTorch keeps its input for the gradient of the kernel; this one keeps nothing.

    Args:
        x: (N, C, H, W).
        kernel: (C, 1, k, k), carries no gradient.
    """
    out: Tensor = _Filter.apply(_as_autocast(x), kernel, 0)
    return out


def spread(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """The transpose of `filtered`: `F.conv_transpose2d(x, kernel, stride=2, padding=padding, groups=C)`.

    Args:
        x: (N, C, H, W).
        kernel: (C, 1, k, k), carries no gradient.
    """
    size = [2 * (side - 1) + kernel.shape[-1] - 2 * padding for side in x.shape[-2:]]
    out: Tensor = _Spread.apply(_as_autocast(x), kernel, padding, size)
    return out


def _as_autocast(x: Tensor) -> Tensor:
    """In the format in which a convolution would take it."""
    kind = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


# The two functions below are each other's gradient.


class _Filter(torch.autograd.Function):
    no_activation = True  # for those who go through a recorded graph in search of activations; so below

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        ctx.kernel, ctx.padding, ctx.size = kernel, padding, list(x.shape[-2:])
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, kernel.to(x.dtype), stride=2, padding=padding, groups=len(kernel))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Spread.apply(gradients[0], ctx.kernel, ctx.padding, ctx.size), None, None


class _Spread(torch.autograd.Function):
    no_activation = True

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int, size: list[int]) -> Tensor:
        ctx.kernel, ctx.padding = kernel, padding
        left = [
            whole - (2 * (side - 1) + kernel.shape[-1] - 2 * padding)
            for whole, side in zip(size, x.shape[-2:], strict=True)
        ]
        # A CPU's 16-bit kernel for this takes six times as long as the one for 32 bits.
        wide = x.float() if x.device.type == "cpu" and x.dtype in SIXTEEN_BITS else x
        with torch.autocast(x.device.type, enabled=False):
            made = F.conv_transpose2d(
                wide,
                kernel.to(wide.dtype),
                stride=2,
                padding=padding,
                output_padding=left,
                groups=len(kernel),
            )
        return made.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Filter.apply(gradients[0], ctx.kernel, ctx.padding), None, None, None
