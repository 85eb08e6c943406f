"""The ResNet generator of CUT (Park et al., ECCV 2020, arXiv:2007.15651), after Johnson et al., ECCV 2016."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.networks.blocks import BlurDownsample, BlurUpsample, ResnetBlock, has_bias, norm_layer
from models.networks.fast_conv import Conv2d
from models.networks.generator_base import Generator, Tap, run_in_order, run_in_parts


class ResnetGenerator(Generator):
    """7x7 convolution, two halvings, `n_blocks` residual blocks, two doublings, 7x7 convolution, tanh.

    Layer ids count the modules of `model`, whose names and shapes are CUT's. Anti-aliased: 0 is the padded
    image, 4 and 8 are convolutions before their norm, 12 to 11 + n_blocks the residual blocks. Without
    `antialias` the two blur modules are missing and the same ids name other layers (the blocks begin at 10).

    ReLUs do not work in place: with norm `none` they would overwrite the features of layers 4 and 8. It costs
    nothing in saved memory, since a ReLU keeps its output and a norm its input for the backward pass.

    Args:
        input_nc, output_nc: channels of the images.
        ngf: channels after the first convolution.
        norm: `instance` | `batch` | `none`.
        dropout: 0.5 in the residual blocks.
        n_blocks: residual blocks.
        antialias: blur before taking every second sample; else convolutions of stride 2.
        antialias_up: blurred doubling; else transposed convolutions of stride 2.

    Attributes:
        forgetful: for the backward pass keep the features that are read, the blocks' inputs and those of the doublings,
            and compute what lies between again.
    """

    forgetful: bool = False

    default_layers: ClassVar[tuple[int, ...]] = (0, 4, 8, 12, 16)
    size_multiple: int = 4

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        norm: str = "instance",
        dropout: bool = False,
        n_blocks: int = 9,
        antialias: bool = True,
        antialias_up: bool = True,
    ) -> None:
        build = _Builder(norm)
        build.add(nn.ReflectionPad2d(3), Tap(input_nc, 1, 3))
        build.activated(Conv2d(input_nc, ngf, 7, bias=has_bias(norm)), Tap(ngf, 1))
        for level in (1, 2):
            build.halving(ngf * 2 ** (level - 1), ngf * 2**level, 2 ** (level - 1), antialias)
        for _ in range(n_blocks):
            build.add(ResnetBlock(4 * ngf, norm, dropout), Tap(4 * ngf, 4))
        for level in (2, 1):
            build.doubling(ngf * 2**level, ngf * 2 ** (level - 1), 2 ** (level - 1), antialias_up)
        build.add(nn.ReflectionPad2d(3), Tap(ngf, 1, 3))
        build.add(Conv2d(ngf, output_nc, 7), Tap(output_nc, 1))
        build.add(nn.Tanh(), Tap(output_nc, 1))
        super().__init__(build.taps)
        self.model = nn.Sequential(*build.modules)

    @property
    def smallest_side(self) -> int:
        return 2 * self.size_multiple  # the blocks reflect a border of one position, which takes two

    def _run(self, x: Tensor, layers: Sequence[int], decode: bool) -> tuple[Tensor, list[Tensor]]:
        if self.forgetful and torch.is_grad_enabled():
            return run_in_parts(self.model, x, layers, decode, begins=_begins_part)
        return run_in_order(self.model, x, layers, decode)

    def decode(self, feature: Tensor, layer: int) -> Tensor:
        self._check_layers((layer,))
        for module in self.model[layer + 1 :]:
            feature = module(feature)
        return feature


def _begins_part(module: nn.Module) -> bool:
    return isinstance(module, (ResnetBlock, BlurUpsample, nn.ConvTranspose2d))


class _Builder:
    """Collects modules and, beside each, the shape of its output."""

    def __init__(self, norm: str) -> None:
        self.norm = norm
        self.modules: list[nn.Module] = []
        self.taps: list[Tap] = []

    def add(self, module: nn.Module, tap: Tap) -> None:
        self.modules.append(module)
        self.taps.append(tap)

    def activated(self, conv: nn.Module, tap: Tap) -> None:
        for module in (conv, norm_layer(self.norm, tap.channels), nn.ReLU()):
            self.add(module, tap)

    def halving(self, inner: int, outer: int, stride: int, antialias: bool) -> None:
        """`inner` channels at `stride` to `outer` channels at twice the stride."""
        step, after = (1, stride) if antialias else (2, 2 * stride)
        conv = Conv2d(inner, outer, 3, stride=step, padding=1, bias=has_bias(self.norm))
        self.activated(conv, Tap(outer, after))
        if antialias:
            self.add(BlurDownsample(outer), Tap(outer, 2 * stride))

    def doubling(self, inner: int, outer: int, stride: int, antialias: bool) -> None:
        """`inner` channels at twice `stride` to `outer` channels at `stride`."""
        bias = has_bias(self.norm)
        conv: nn.Module
        if antialias:
            self.add(BlurUpsample(inner), Tap(inner, stride))
            conv = Conv2d(inner, outer, 3, padding=1, bias=bias)
        else:
            conv = nn.ConvTranspose2d(inner, outer, 3, stride=2, padding=1, output_padding=1, bias=bias)
        self.activated(conv, Tap(outer, stride))
