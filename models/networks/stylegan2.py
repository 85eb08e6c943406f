"""Networks with the layers of StyleGAN2 (Karras et al., CVPR 2020, arXiv:1912.04958), as CUT uses them.

Generator and discriminator of single-image translation (Park et al., ECCV 2020, arXiv:2007.15651, section 4.3). Nothing
is normalised: weights are scaled (`EqualConv2d`), residual sums divided by sqrt(2). Halving and doubling go through the
binomial filter 1 3 3 1, with zeros outside the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import binomial_kernel
from models.networks.fast_conv import SavesProducts, large_enough
from models.networks.generator_base import Generator, Tap, run_in_order
from models.networks.init import OwnWeights
from util.errors import UserError

SMALLEST = 8  # pixels of a side that the discriminator can halve to 4
_SLOPE, _GAIN = 0.2, math.sqrt(2)


class JudgedSizeError(UserError, ValueError):
    """Images of a size that the discriminator was not built for."""


def _activated(x: Tensor) -> Tensor:
    """Leaky ReLU times sqrt(2), which keeps the mean square of a symmetric input about 1."""
    return F.leaky_relu(x, _SLOPE) * _GAIN


class EqualConv2d(SavesProducts, OwnWeights):
    """Convolution whose weights begin as N(0, 1) and are divided by sqrt(fan in) in every pass.

    Adam's steps then have the same relative size in every layer (equalised learning rate: Karras et al., ICLR 2018,
    arXiv:1710.10196, section 4.1).

    Args:
        inner, outer: channels.
        size: of the square filter.
        stride: 1 keeps the image's size by zeros around it; 2 expects them to be there.
        activated: leaky ReLU (0.2) times sqrt(2) after the bias.
    """

    def __init__(
        self, inner: int, outer: int, size: int, stride: int = 1, bias: bool = True, activated: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outer, inner, size, size))
        self.bias = nn.Parameter(torch.zeros(outer)) if bias else None
        self.stride, self.padding, self.activated = stride, size // 2 if stride == 1 else 0, activated
        self.draw(None)

    def draw(self, generator: torch.Generator | None) -> None:
        self.draw_normal(self.weight, generator)

    @property
    def can_save_products(self) -> bool:
        return self.stride == 1 and large_enough(self.weight, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inner, H, W) -> (N, outer, H / stride, W / stride)."""
        weight = self.weight / math.sqrt(self.weight[0].numel())
        x = self.convolved(x, weight, self.bias, self.stride, self.padding)
        return _activated(x) if self.activated else x


class EqualLinear(OwnWeights):
    """Linear layer with an equalised learning rate, as `EqualConv2d`. (N, inner) -> (N, outer)."""

    def __init__(self, inner: int, outer: int, activated: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outer, inner))
        self.bias = nn.Parameter(torch.zeros(outer))
        self.activated = activated
        self.draw(None)

    def draw(self, generator: torch.Generator | None) -> None:
        self.draw_normal(self.weight, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)
        return _activated(x) if self.activated else x


class Blur(nn.Module):
    """The 4x4 binomial filter on each channel, zeros outside: `pad` on every side, every `stride`-th sample."""

    filt: Tensor

    def __init__(self, pad: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.pad, self.stride = pad, stride
        self.register_buffer("filt", gain * binomial_kernel(4)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        filters = self.filt.expand(channels, -1, -1, -1)
        return F.conv2d(x, filters, stride=self.stride, padding=self.pad, groups=channels)


class DoublingConv2d(OwnWeights):
    """3x3 transposed convolution of stride 2 and blur; every output channel's filter has length 1 (demodulation).

    StyleGAN2's modulated convolution (section 2.2, eq. 3) for a style that is always 1. Noise is left out: CUT's layer
    adds it with a weight that begins at 0, and without it one image has one translation.

    (N, inner, H, W) -> (N, outer, 2H, 2W).
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outer, inner, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outer, 1, 1))
        self.blur = Blur(pad=1, gain=4.0)
        self.draw(None)

    def draw(self, generator: torch.Generator | None) -> None:
        self.draw_normal(self.weight, generator)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        weight = weight * (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return _activated(x + self.bias)


class ResidualBlock(nn.Module):
    """(x' + two 3x3 convolutions of x) / sqrt(2), where x' is x or, halved, a 1x1 convolution of it.

    (N, inner, H, W) -> (N, outer, H, W), or half the size with `halve`. Without it both channel counts are one.
    """

    def __init__(self, inner: int, outer: int, halve: bool) -> None:
        super().__init__()
        self.conv1 = EqualConv2d(inner, inner, 3)
        if halve:
            self.conv2: nn.Module = nn.Sequential(Blur(pad=2), EqualConv2d(inner, outer, 3, stride=2))
            # Every second sample of a 1x1 convolution needs every second sample of its input only.
            blurred = Blur(pad=1, stride=2)
            self.skip: nn.Module = nn.Sequential(blurred, EqualConv2d(inner, outer, 1, bias=False, activated=False))
        else:
            self.conv2, self.skip = EqualConv2d(inner, outer, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return total / _GAIN


class StyleGAN2Generator(Generator):
    """Halvings, residual blocks, doublings; the style is constant, so one image has one translation.

    Layer ids count the modules of `model`: 0 the image, 1 a 1x1 convolution, then the halving blocks, n_blocks
    residual blocks, the doublings, a 1x1 convolution and tanh (CUT ends with a leaky ReLU, outside [-1, 1]).

    Args:
        input_nc, output_nc: channels of the images.
        ngf: channels at a side of 512 pixels; twice as many at every half of it, 512 at most from 32 pixels on.
        size: pixels of a side of training images; the network takes any multiple of 2**halvings.
        halvings: and doublings.
        n_blocks: residual blocks between them.
    """

    default_layers: ClassVar[tuple[int, ...]] = (0, 2, 4)

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        size: int = 256,
        halvings: int = 1,
        n_blocks: int = 6,
    ) -> None:
        full = power_of_two(size)
        widths = [_width(full / 2**level, ngf * 512, 512) for level in range(halvings + 1)]
        layers: list[tuple[nn.Module, Tap]] = [(nn.Identity(), Tap(input_nc, 1))]
        layers.append((EqualConv2d(input_nc, widths[0], 1), Tap(widths[0], 1)))
        for level in range(1, halvings + 1):
            block = ResidualBlock(widths[level - 1], widths[level], halve=True)
            layers.append((block, Tap(widths[level], 2**level)))
        for _ in range(n_blocks):
            layers.append((ResidualBlock(widths[-1], widths[-1], halve=False), Tap(widths[-1], 2**halvings)))
        for level in reversed(range(halvings)):
            layers.append((DoublingConv2d(widths[level + 1], widths[level]), Tap(widths[level], 2**level)))
        layers.append((EqualConv2d(widths[0], output_nc, 1, activated=False), Tap(output_nc, 1)))
        layers.append((nn.Tanh(), Tap(output_nc, 1)))
        super().__init__([tap for _, tap in layers])
        self.size_multiple = 2**halvings
        self.model = nn.Sequential(*(module for module, _ in layers))

    def _run(self, x: Tensor, layers: Sequence[int], decode: bool) -> tuple[Tensor, list[Tensor]]:
        return run_in_order(self.model, x, layers, decode)

    def decode(self, feature: Tensor, layer: int) -> Tensor:
        self._check_layers((layer,))
        for module in self.model[layer + 1 :]:
            feature = module(feature)
        return feature


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """How much the images of a group differ: a discriminator that sees it notices a generator without variety.

    The standard deviation over the group's images of every channel and position, averaged over both (Karras et al.,
    ICLR 2018, section 3). Groups are neighbours in the batch, as many as divide it, so that processes whose batches
    hold whole groups compute what one process would.

    Args:
        x: (N, C, H, W).
        group: images of a group, at most.

    Returns:
        (N, 1, H, W), one value per group, in at least single precision.
    """
    images = len(x)
    size = next(size for size in range(min(group, images), 0, -1) if images % size == 0)
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(images // size, size, *x.shape[1:])
    deviation = (groups.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    each: Tensor = deviation.repeat_interleave(size)
    return each[:, None, None, None].expand(-1, 1, *x.shape[-2:])


class StyleGAN2Discriminator(nn.Module):
    """A 1x1 convolution, residual blocks that halve the image to 4x4, a 3x3 convolution, two linear layers.

    Args:
        input_nc: channels of the images.
        ndf: channels at a side of 256 pixels; twice as many at every half of it, 384 at most from 32 pixels on.
        size: pixels of a side; taken to the nearest power of two.
        group: images whose deviation is shown to the last layers (`minibatch_deviation`); 0: none, as in CUT.
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, size: int = 256, group: int = 0) -> None:
        super().__init__()
        self.size, self.group = max(power_of_two(size), SMALLEST), group
        levels = self.size.bit_length() - 3  # halvings to 4
        widths = [_width(self.size / 2**level, ndf * 256, 384) for level in range(levels + 1)]
        blocks = [ResidualBlock(widths[level], widths[level + 1], halve=True) for level in range(levels)]
        self.blocks = nn.Sequential(EqualConv2d(input_nc, widths[0], 1), *blocks)
        last = widths[-1]
        self.last = EqualConv2d(last + (group > 0), last, 3)
        self.head = nn.Sequential(nn.Flatten(), EqualLinear(16 * last, last, activated=True), EqualLinear(last, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, size, size) in [-1, 1] -> (N, 1, 1, 1), unbounded values.

        Raises:
            JudgedSizeError: images of another size.
        """
        if x.shape[-2:] != (self.size, self.size):
            raise JudgedSizeError(
                f"--netD stylegan2 judges images of {self.size} x {self.size} pixels, but got {x.shape[-1]} x "
                f"{x.shape[-2]}; crop them by a --preprocess that ends with crop or patch, or use --netD tilestylegan2"
            )
        x = self.blocks(x)
        if self.group:
            x = torch.cat([x, minibatch_deviation(x, self.group).to(x.dtype)], dim=1)
        values: Tensor = self.head(self.last(x))
        return values[:, :, None, None]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """One value for each image."""
        return 1, 1


class TileStyleGAN2Discriminator(nn.Module):
    """One `StyleGAN2Discriminator` that judges tiles of an image, each by itself, for images of any larger size.

    What does not fill a tile below and on the right is not judged.

    Args:
        input_nc, ndf: as there.
        tile: pixels of a side of a tile; taken to the nearest power of two.
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, tile: int = 64) -> None:
        super().__init__()
        self.critic = StyleGAN2Discriminator(input_nc, ndf, tile)
        self.tile = self.critic.size

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) in [-1, 1] -> (N, 1, H // tile, W // tile), unbounded values.

        Raises:
            JudgedSizeError: images smaller than a tile.
        """
        images, channels, height, width = x.shape
        rows, columns = self.output_size(height, width)
        if not rows or not columns:
            raise JudgedSizeError(
                f"--netD tilestylegan2 judges tiles of {self.tile} x {self.tile} pixels, but got an image of {width} x "
                f"{height}; lower --D_patch_size, or crop to at least that size"
            )
        whole = x[..., : rows * self.tile, : columns * self.tile]
        tiles = whole.reshape(images, channels, rows, self.tile, columns, self.tile).permute(0, 2, 4, 1, 3, 5)
        return self.critic(tiles.flatten(0, 2)).view(images, 1, rows, columns)  # type: ignore[no-any-return]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return height // self.tile, width // self.tile


def power_of_two(size: int) -> int:
    """The power of two nearest to a number, on a scale of octaves."""
    return 1 << max(round(math.log2(size)), 0)


def _width(side: float, area: int, most: int) -> int:
    """Channels of images of `side` pixels."""
    channels = max(int(area / side + 0.5), 1)
    return min(channels, most) if side <= 32 else channels
