"""Where positions and channels are in what a layer puts out: channels first, channels last, or tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)

FIRST, LAST, TOKENS = "channels first", "channels last", "tokens"
# Tokens that are no positions: a class token; none; one more to distil; one and four registers (DINOv2).
EXTRA = (1, 0, 2, 5)
_FIRST_TYPES = (
    *(_ConvNd, _NormBase, nn.GroupNorm, nn.Dropout2d, nn.PixelShuffle, nn.Upsample),
    *(_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd),
)


@dataclass(frozen=True)
class Layout:
    """How a layer's output is read as maps (N, C, h, w), and how maps are written back into it.

    Attributes:
        kind: FIRST: (N, C, h, w); LAST: (N, h, w, C); TOKENS: (N, extra + h*w, C).
        grid: (h, w).
        extra: tokens that stand before the positions.
    """

    kind: str
    grid: tuple[int, int]
    extra: int = 0

    def maps_of(self, output: Tensor) -> Tensor:
        """(N, C, h, w)."""
        if self.kind == FIRST:
            return output
        if self.kind == LAST:
            return output.movedim(-1, 1)
        positions = output[:, self.extra :].transpose(1, 2)
        return positions.reshape(len(output), -1, *self.grid)

    def with_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """The output with these maps (N', C, h, w) in its positions; row r has the other tokens of row r mod N."""
        if self.kind == FIRST:
            return maps
        if self.kind == LAST:
            return maps.movedim(1, -1).contiguous()  # as the layer gave it, for those who view it
        others = output[:, : self.extra].repeat(len(maps) // len(output), 1, 1)
        return torch.cat([others, maps.movedim(1, -1).flatten(1, 2).to(others.dtype)], 1)


def layout_of(module: nn.Module, output: object, images: tuple[int, ...]) -> Layout | None:
    """How the output of a module is to be read, or None where it holds no maps.

    Of four axes, the module's type decides where it is known; else the two that have the images' aspect ratio are the
    positions; else what the module is made of. Of three axes, the second one holds positions if, without the tokens
    that are none, it is as many as a grid of the images' aspect ratio has.

    Args:
        images: (N, C, H, W), shape of what the network was given.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim == 3 and len(output) == images[0]:
        return _tokens(output.shape[1], images[2:])
    if output.ndim != 4:
        return None
    _, a, b, c = output.shape
    if _kind(module, output, images[2:]) == LAST:
        return Layout(LAST, (a, b))
    return Layout(FIRST, (b, c))


def _tokens(count: int, size: tuple[int, ...]) -> Layout | None:
    for extra in EXTRA:
        positions = count - extra
        height = round((max(0, positions) * size[0] / size[1]) ** 0.5)
        if height and positions % height == 0 and _fits(height, positions // height, size):
            return Layout(TOKENS, (height, positions // height), extra)
    return None


def _fits(height: int, width: int, size: tuple[int, ...]) -> bool:
    """Whether a grid has the images' aspect ratio, give or take what strides round off."""
    return abs(height * size[1] - width * size[0]) <= max(size)


def _kind(module: nn.Module, output: Tensor, size: tuple[int, ...]) -> str:
    known = _by_type(module)
    if known is not None:
        return known
    _, a, b, c = output.shape
    first, last = _fits(b, c, size), _fits(a, b, size)
    if first != last:
        return FIRST if first else LAST
    return _by_parts(module) or FIRST


def _by_type(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:  # subclasses for maps turn the axes round
        return LAST
    if isinstance(module, _FIRST_TYPES):
        return FIRST
    turned = getattr(module, "dims", None)  # torchvision.ops.Permute
    if isinstance(turned, list | tuple):
        return {(0, 3, 1, 2): FIRST, (0, 2, 3, 1): LAST}.get(tuple(turned))
    return None


def _by_parts(module: nn.Module) -> str | None:
    """What the last part of known type says."""
    for child in reversed(list(module.children())):
        found = _by_type(child) or _by_parts(child)
        if found is not None:
            return found
    return None
