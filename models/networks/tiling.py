"""Inference in tiles that gives what the whole pass gives, for images whose whole pass would not fit into memory.

A tile is computed from its own pixels and the halo around it that the convolutions, blurs and paddings in
between read; where the halo leaves the image, it is what the whole pass pads there. So every value of every
map is the whole pass's up to rounding, and no tile can be told from its neighbour.

The norms alone see the whole image. Their statistics are those of the whole image too: all tiles are run up
to a norm, their moments are taken in float64 and merged by

    M2 = M2_a + M2_b + (m_b - m_a)^2 n_a n_b / (n_a + n_b)        (Chan, Golub & LeVeque 1979, eq. 2.1)

then the norm is a fixed scale and shift, and the tiles go on to the next norm. What lies before it is computed
anew, except where a map was kept whole: those of reduced resolution are, unless they are larger than twice the
bottleneck. At full resolution only the input, the output and features that were asked for exist as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import BlurDownsample, BlurUpsample, ResnetBlock
from models.networks.fast_conv import Conv2d
from models.networks.generator_base import Generator, Tap
from models.networks.resnet_generator import ResnetGenerator
from util.errors import UserError

# Below it the halo, up to 20 pixels on every side, costs more than the tile.
SMALLEST_TILE = 64
# Channels whose moments are taken at once: float64 copies of a whole tile would be its largest tensors.
CHANNELS_AT_ONCE = 8

Span = tuple[int, int]  # positions start <= i < stop of one axis
Box = tuple[Span, Span]  # rows and columns


class TilingError(UserError, ValueError):
    """A network or a size that tiles cannot serve; the message names --tile and the remedy."""


class TiledGenerator(Generator):
    """Takes the place of a trained ResNet generator: the same layers, image and features, from tiles.

    Without gradients only; while they are enabled, and for images of at most one tile, the wrapped generator
    runs as it is. Batch norm in training mode normalises by the batch as it does there, but leaves its running
    statistics alone.

    Agrees with the whole pass to 1e-4 in the image (float32; 2e-5 is usual), whatever the size of the tiles. Not
    so for nearly constant images: instance norms magnify rounding there, and either pass is as far from the exact
    image as the other.

    Memory, in float32 for an input of H x W: 3 ngf H W bytes for the maps of reduced resolution, beside input,
    output, features asked for and some tiles of 2 ngf channels. The whole pass takes about 25 ngf H W bytes.

    Args:
        generator: the network with its weights; kept as `generator`.
        tile: side of a tile in pixels of the input, halo not counted.

    Raises:
        TilingError: a generator other than ResnetGenerator; `tile` is below 64 or no multiple of `size_multiple`.
    """

    default_layers: ClassVar[tuple[int, ...]] = ResnetGenerator.default_layers
    size_multiple: int = ResnetGenerator.size_multiple

    def __init__(self, generator: Generator, tile: int) -> None:
        if not isinstance(generator, ResnetGenerator):
            raise TilingError(
                f"--tile {tile}: the innermost level of a {type(generator).__name__} sees the whole image, so it has "
                "no tiles; leave --tile out, or use --netG resnet_9blocks, resnet_6blocks or resnet_4blocks"
            )
        if tile < SMALLEST_TILE or tile % self.size_multiple:
            raise TilingError(
                f"--tile {tile}: must be at least {SMALLEST_TILE} pixels and a multiple of {self.size_multiple}"
            )
        super().__init__(generator._taps)
        self.generator = generator
        self.tile = tile
        self.train(generator.training)

    @property
    def smallest_side(self) -> int:
        return self.generator.smallest_side

    def _run(self, x: Tensor, layers: Sequence[int], decode: bool) -> tuple[Tensor, list[Tensor]]:
        """As the wrapped generator's.

        Raises:
            TilingError: dropout is in training mode.
        """
        if torch.is_grad_enabled() or max(x.shape[-2:]) <= self.tile:
            return self.generator._run(x, layers, decode)
        if any(isinstance(module, nn.Dropout) and module.training for module in self.generator.modules()):
            raise TilingError(f"--tile {self.tile}: dropout would draw anew for every tile; turn it off with --eval")
        last = len(self.generator.model) - 1 if decode else max(layers)
        kept: dict[int, Tensor] = {}
        stream = _Stream(x, self.tile)
        for layer, module in enumerate(self.generator.model[: last + 1]):
            stream.go_through(module)
            if layer in layers or layer == last:
                kept[layer] = stream.keep()
            elif self._is_small(self._taps[layer]) and stream.costs:
                stream.keep()
        return kept[last], [kept[layer] for layer in layers]

    def _is_small(self, tap: Tap) -> bool:
        """Whether a map is of reduced resolution and has at most twice the values of the bottleneck's maps."""
        inner = max(self._taps, key=lambda tap: tap.stride)
        return tap.stride > 1 and tap.channels * inner.stride**2 <= 2 * inner.channels * tap.stride**2


def tiled(generator: Generator, tile: int) -> Generator:
    """A generator, which may be in tiles already, in tiles of that size; 0: as it is, in one piece.

    Raises:
        TilingError: as `TiledGenerator`.
    """
    whole = generator.generator if isinstance(generator, TiledGenerator) else generator
    return TiledGenerator(whole, tile) if tile else whole


@dataclass(frozen=True)
class _Window:
    """What a module reads of either axis, to write one position.

    Output o reads inputs o * stride - padding + (0 ... kernel - 1); transposed, input i writes outputs
    i * stride - padding + (0 ... kernel - 1). `edge` says what stands beyond the image: zeros, reflect (the
    border not repeated) or replicate.
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    edge: str = "zeros"
    transposed: bool = False
    output_padding: int = 0

    def length(self, length: int) -> int:
        """Positions written for an axis of `length`."""
        if self.transposed:
            return (length - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding
        return (length + 2 * self.padding - self.kernel) // self.stride + 1

    def reads(self, span: Span) -> Span:
        """Positions read to write `span`; some may lie beyond the image."""
        start, stop = span
        if self.transposed:
            first = -((self.kernel - 1 - self.padding - start) // self.stride)
            return first, (stop - 1 + self.padding) // self.stride + 1
        return start * self.stride - self.padding, (stop - 1) * self.stride - self.padding + self.kernel

    def needs(self, span: Span, length: int) -> Span:
        """Positions of the image from which those of `reads(span)` can be had."""
        start, stop = self.reads(span)
        if self.edge == "zeros":
            return max(start, 0), min(stop, length)
        inside = [self._inside(i, length) for i in range(start, stop)]
        return min(inside), max(inside) + 1

    def padded(self, x: Tensor, axis: int, span: Span, length: int) -> Tensor:
        """`x`, which holds `needs(span)` of an axis, as `reads(span)`."""
        start, stop = self.reads(span)
        if start >= 0 and stop <= length:
            return x
        if self.edge == "zeros":
            margins = (max(-start, 0), max(stop - length, 0))
            return F.pad(x, margins if axis == 3 else (0, 0, *margins))
        held = self.needs(span, length)[0]
        index = [self._inside(i, length) - held for i in range(start, stop)]
        return x.index_select(axis, torch.tensor(index, device=x.device))

    def cropped(self, x: Tensor, axis: int, span: Span) -> Tensor:
        """The part `span` of what was written from `reads(span)`: a transposed window writes more."""
        if not self.transposed:
            return x
        start, stop = span
        return x.narrow(axis, start + self.padding - self.reads(span)[0] * self.stride, stop - start)

    def _inside(self, i: int, length: int) -> int:
        if self.edge == "replicate":
            return min(max(i, 0), length - 1)
        return length - 1 - abs(length - 1 - abs(i))


@dataclass(frozen=True)
class _Step:
    """A module that reads near positions only: its window, and what it computes without any padding."""

    compute: Callable[[Tensor], Tensor]
    window: _Window = _Window()

    def needs(self, box: Box, size: Span) -> Box:
        """The part of the input, of `size` rows and columns, from which `box` of the output can be had."""
        rows, columns = box
        return self.window.needs(rows, size[0]), self.window.needs(columns, size[1])

    def run(self, x: Tensor, box: Box, size: Span) -> Tensor:
        """`x`, which is `needs(box)`, to `box` of the output."""
        for axis, span, length in zip((2, 3), box, size, strict=True):
            x = self.window.padded(x, axis, span, length)
        x = self.compute(x)
        for axis, span in zip((2, 3), box, strict=True):
            x = self.window.cropped(x, axis, span)
        return x


def _step_of(module: nn.Module) -> _Step:
    if isinstance(module, nn.ReflectionPad2d):
        return _Step(nn.Identity(), _Window(padding=module.padding[0], edge="reflect"))
    if isinstance(module, BlurDownsample):
        blur = partial(F.conv2d, weight=module.filt, stride=2, groups=module.channels)
        return _Step(blur, _Window(module.filt.shape[-1], 2, 1, "reflect"))
    if isinstance(module, BlurUpsample):
        blur = partial(F.conv_transpose2d, weight=module.filt, stride=2, groups=module.channels)
        # Its own padding of 3 counts from the first replicated position, this one from the image's.
        return _Step(blur, _Window(module.filt.shape[-1], 2, 1, "replicate", transposed=True))
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        up = isinstance(module, nn.ConvTranspose2d)
        kernel, stride, padding = module.kernel_size[0], module.stride[0], int(module.padding[0])
        convolve = F.conv_transpose2d if up else F.conv2d
        plain = partial(convolve, weight=module.weight, bias=module.bias, stride=stride)
        compute = module.unpadded if isinstance(module, Conv2d) else plain
        return _Step(compute, _Window(kernel, stride, padding, "zeros", up, module.output_padding[0]))
    return _Step(module)


class _Stream:
    """A map that is kept whole, and the steps after it, which are run tile by tile.

    Args:
        whole: (N, C, H, W).
        tile: side of a tile in positions of the map after the last step.
    """

    def __init__(self, whole: Tensor, tile: int) -> None:
        self.whole = whole
        self.tile = tile
        self.steps: list[_Step] = []
        self.sizes: list[Span] = [(whole.shape[2], whole.shape[3])]  # before each step, and after the last

    @property
    def costs(self) -> bool:
        """Whether the steps do more than look at single positions."""
        return any(step.window.kernel > 1 for step in self.steps)

    def go_through(self, module: nn.Module) -> None:
        """Take a module of the generator as the next step, or as several; a norm's statistics are taken here."""
        if isinstance(module, ResnetBlock):
            self._go_through_block(module)
        elif isinstance(module, nn.InstanceNorm2d) or (isinstance(module, nn.BatchNorm2d) and module.training):
            norm = _FixedNorm(module)
            for _, tile in self.tiles():
                norm.add(tile)
            self._append(_Step(norm))
        else:
            self._append(_step_of(module))

    def _go_through_block(self, block: ResnetBlock) -> None:
        before = self.keep()
        for module in block.conv_block:
            self.go_through(module)
            if isinstance(module, nn.Conv2d):
                self.keep()
        self.keep(plus=before)

    def _append(self, step: _Step) -> None:
        height, width = self.sizes[-1]
        self.steps.append(step)
        self.sizes.append((step.window.length(height), step.window.length(width)))
        stride = step.window.stride
        self.tile = self.tile * stride if step.window.transposed else self.tile // stride

    def keep(self, plus: Tensor | None = None) -> Tensor:
        """The map after the last step, whole, from which later steps then go on; `plus` is added to it."""
        if self.steps:
            whole: Tensor | None = None
            for (rows, columns), tile in self.tiles():
                if whole is None:
                    whole = tile.new_empty((*tile.shape[:2], *self.sizes[-1]))
                part = (..., slice(*rows), slice(*columns))
                whole[part] = tile if plus is None else tile + plus[part]
            assert whole is not None
            self.whole, self.steps, self.sizes = whole, [], self.sizes[-1:]
        return self.whole

    def tiles(self) -> Iterator[tuple[Box, Tensor]]:
        """The map after the last step, part by part; every position once."""
        height, width = self.sizes[-1]
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                box = (top, min(top + self.tile, height)), (left, min(left + self.tile, width))
                yield box, self._part(box, len(self.steps))

    def _part(self, box: Box, steps: int) -> Tensor:
        """`box` of the map after the first `steps` steps."""
        if steps == 0:
            rows, columns = box
            return self.whole[..., slice(*rows), slice(*columns)]
        step, size = self.steps[steps - 1], self.sizes[steps - 1]
        return step.run(self._part(step.needs(box, size), steps - 1), box, size)


class _FixedNorm:
    """An instance norm, or a batch norm in training mode: first sees all tiles, then normalises each."""

    def __init__(self, module: nn.InstanceNorm2d | nn.BatchNorm2d) -> None:
        self.module = module
        self.per_image = isinstance(module, nn.InstanceNorm2d)
        self.count = 0
        self.mean = self.squares = torch.zeros(())  # the latter: sum of squared distances from the mean

    def add(self, tile: Tensor) -> None:
        """Take a part of the map into the statistics."""
        x = self._grouped(tile)
        count = x.numel() // x.shape[1]
        parts = [_moments(part) for part in torch.split(x, CHANNELS_AT_ONCE, dim=1)]
        mean, squares = (torch.cat(moments) for moments in zip(*parts, strict=True))
        if self.count:
            total, step = self.count + count, mean - self.mean
            mean = self.mean + step * (count / total)
            squares = self.squares + squares + step.square() * (self.count * count / total)
        self.count, self.mean, self.squares = self.count + count, mean, squares

    def __call__(self, tile: Tensor) -> Tensor:
        kind = torch.promote_types(tile.dtype, torch.float32)
        mean, var = self.mean.to(kind), (self.squares / self.count).to(kind)
        module = self.module
        normalised = F.batch_norm(self._grouped(tile), mean, var, module.weight, module.bias, False, 0.0, module.eps)
        return normalised.reshape(tile.shape)

    def _grouped(self, tile: Tensor) -> Tensor:
        """Values that share their statistics in one channel."""
        return tile.reshape(1, -1, *tile.shape[2:]) if self.per_image else tile


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared distances from it, per channel, in two passes over a copy in float64 (MPS has none)."""
    copy = x.to(torch.float32 if x.device.type == "mps" else torch.float64, copy=True)
    mean = copy.mean((0, 2, 3), keepdim=True)
    return mean.flatten(), copy.sub_(mean).square_().sum((0, 2, 3))
