"""The U-Nets of pix2pix (Isola et al., CVPR 2017, arXiv:1611.07004), with their nested state-dict names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.networks.blocks import has_bias, norm_layer
from models.networks.generator_base import Generator, Tap


class UnetGenerator(Generator):
    """`n_downs` halvings and as many doublings, each doubling fed with what its halving got.

    Layer ids count levels of the encoder: 0 is the input image, i the output of the i-th 4x4 convolution
    (before its norm). State-dict names nest as published: `model.model.0.weight`,
    `model.model.1.model.1.weight`, and so on.

    Args:
        input_nc, output_nc: channels of the images.
        n_downs: halvings, at least 5 (7: unet_128, 8: unet_256); sizes are multiples of 2**n_downs.
        ngf: channels after the first convolution; they double per level up to 8 * ngf.
        norm: `instance` | `batch` | `none`.
        dropout: 0.5 after the doublings of the inner levels of 8 * ngf channels (the innermost excepted).

    Raises:
        ValueError: fewer than 5 halvings.
    """

    default_layers: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        n_downs: int = 8,
        ngf: int = 64,
        norm: str = "instance",
        dropout: bool = False,
    ) -> None:
        if n_downs < 5:
            raise ValueError(f"n_downs is {n_downs}, but the U-Net needs at least 5 halvings")
        widths = [input_nc, *(ngf * min(2**level, 8) for level in range(n_downs))]
        super().__init__([Tap(width, 2**level) for level, width in enumerate(widths)])
        self.size_multiple = 2**n_downs
        block: UnetLevel | None = None
        # From the innermost level outwards; levels 5 to n_downs - 1 go from 8 ngf to 8 ngf channels.
        for level, (outer, inner) in reversed(list(enumerate(pairwise(widths), start=1))):
            drop = dropout and 5 <= level < n_downs
            block = UnetLevel(outer, inner, output_nc if level == 1 else outer, norm, block, level == 1, drop)
        assert block is not None
        self.model = block

    def _run(self, x: Tensor, layers: Sequence[int], decode: bool) -> tuple[Tensor, list[Tensor]]:
        features = [x]
        inputs: list[Tensor] = []
        levels = self.model.levels()
        for level in levels if decode else levels[: max(layers)]:
            # The norm that ends the level before is run here, so that an encoder pass stops at a convolution.
            inputs.append(levels[len(inputs) - 1].normalised(features[-1]) if inputs else x)
            features.append(level.down(inputs[-1]))
        out = features[-1]
        if decode:
            for level, skip in zip(reversed(levels), reversed(inputs), strict=True):
                out = level.up(out)
                if not level.outermost:
                    out = torch.cat([skip, out], 1)
        return out, [features[layer] for layer in layers]


class UnetLevel(nn.Module):
    """One level: (LeakyReLU) convolution (norm), the level within, ReLU, transposed convolution, norm or
    tanh.

    The outermost level has no LeakyReLU and no norms, the innermost no norm after its convolution.
    Activations do not work in place: what enters a level is also its skip connection.
    """

    def __init__(
        self,
        outer: int,
        inner: int,
        out: int,
        norm: str,
        within: UnetLevel | None,
        outermost: bool,
        dropout: bool,
    ) -> None:
        super().__init__()
        bias = has_bias(norm)
        self.outermost = outermost
        down: list[nn.Module] = [nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if not outermost:
            down.insert(0, nn.LeakyReLU(0.2))
        self._convolved = len(down)
        if within is not None and not outermost:
            down.append(norm_layer(norm, inner))
        self._normed = len(down)
        middle = [] if within is None else [within]
        self._inner_end = self._normed + len(middle)
        up_in = inner if within is None else 2 * inner
        up: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(up_in, out, 4, 2, 1, bias=outermost or bias)]
        up.append(nn.Tanh() if outermost else norm_layer(norm, out))
        if dropout:
            up.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*down, *middle, *up)

    def levels(self) -> list[UnetLevel]:
        """This level and those within it, from the outside in."""
        within = [module for module in self.model if isinstance(module, UnetLevel)]
        return [self, *(level for inner in within for level in inner.levels())]

    def down(self, x: Tensor) -> Tensor:
        """(N, outer, H, W) -> the convolution's output (N, inner, H/2, W/2), before its norm."""
        return self._part(0, self._convolved, x)

    def normalised(self, x: Tensor) -> Tensor:
        """The norm after the convolution, where the level has one: what the level within receives."""
        return self._part(self._convolved, self._normed, x)

    def up(self, x: Tensor) -> Tensor:
        """(N, inner or 2 inner, H/2, W/2) -> (N, out, H, W)."""
        return self._part(self._inner_end, len(self.model), x)

    def _part(self, start: int, stop: int, x: Tensor) -> Tensor:
        for index in range(start, stop):
            x = self.model[index](x)
        return x
