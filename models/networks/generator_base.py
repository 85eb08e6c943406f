"""What every generator offers: an image, its encoder's features, and their shapes declared beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Tap(NamedTuple):
    """What is known of a layer's output without running it."""

    channels: int
    stride: int  # input pixels per feature position
    border: int = 0  # positions on every side that lie outside the image (padding)


def run_in_order(
    modules: Iterable[nn.Module], x: Tensor, layers: Sequence[int], decode: bool
) -> tuple[Tensor, list[Tensor]]:
    """`Generator._run` of a network whose layer ids count its modules."""
    last = None if decode else max(layers)
    kept: dict[int, Tensor] = {}
    for layer, module in enumerate(modules):
        x = module(x)
        if layer in layers:
            kept[layer] = x
        if layer == last:
            break
    return x, [kept[layer] for layer in layers]


def run_in_parts(
    modules: Iterable[nn.Module], x: Tensor, layers: Sequence[int], decode: bool, begins: Callable[[nn.Module], bool]
) -> tuple[Tensor, list[Tensor]]:
    """`run_in_order`, but a part of the modules keeps its input alone and is computed again for its backward pass.

    A part ends where one of `layers` is read.

    Args:
        begins: whether a part begins with a module.
    """
    parts: list[list[nn.Module]] = [[]]
    ends: dict[int, int] = {}  # of the layers that are read: after which part
    for layer, module in enumerate(modules):
        if parts[-1] and (begins(module) or layer - 1 in layers):
            parts.append([])
        parts[-1].append(module)
        if layer in layers:
            ends[len(parts) - 1] = layer
        if not decode and layer == max(layers):
            break
    kept: dict[int, Tensor] = {}
    for number, part in enumerate(parts):
        # One module keeps hardly more than its input, or it forgets by itself.
        x = part[0](x) if len(part) == 1 else checkpoint(nn.Sequential(*part), x, use_reentrant=False)
        if number in ends:
            kept[ends[number]] = x
    return x, [kept[layer] for layer in layers]


class Generator(nn.Module, ABC):
    """An image-to-image network whose layers can be read by id.

    A feature is the output of its layer and stays so: no later operation writes into it. Subclasses set
    `default_layers` (the ids contrastive losses use by default), `size_multiple` (height and width of an
    input are multiples of it, in pixels) and implement `_run`.
    """

    default_layers: ClassVar[tuple[int, ...]]
    size_multiple: int

    def __init__(self, taps: Sequence[Tap]) -> None:
        """Args: taps: one per layer id, from 0."""
        super().__init__()
        self._taps = tuple(taps)

    @abstractmethod
    def _run(self, x: Tensor, layers: Sequence[int], decode: bool) -> tuple[Tensor, list[Tensor]]:
        """Run to the image (`decode`) or to the last of `layers`; the last output, and the features."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) in [-1, 1] -> (N, output_nc, H, W) in [-1, 1].

        Raises:
            ValueError: H or W is not a multiple of `size_multiple`.
        """
        return self.with_features(x, ())[0]

    def with_features(self, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The image and the features of `layers`, from one pass.

        Bit for bit what `forward` and `encode` give. Features come in the order of `layers`.

        Raises:
            ValueError: an id outside `valid_layers`; H or W not a multiple of `size_multiple`.
        """
        self._check_layers(layers)
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"the generator got an image of {height}x{width} pixels, but both must be multiples of "
                f"{self.size_multiple}: pad or resize it first"
            )
        return self._run(x, layers, decode=True)

    def decode(self, feature: Tensor, layer: int) -> Tensor:
        """The image of a feature of `layer`: what follows that layer, so that decode(encode(x, (l,))[0], l) = G(x).

        Raises:
            ValueError: an id outside `valid_layers`, or a generator whose decoder reads more than one layer.
        """
        raise ValueError(f"{type(self).__name__} cannot be entered at a layer: use one of the resnet generators")

    def encode(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features of `layers`, in that order; nothing after the last layer asked for is computed.

        Raises:
            ValueError: an id outside `valid_layers`.
        """
        self._check_layers(layers)
        return self._run(x, layers, decode=False)[1] if layers else []

    @property
    def smallest_side(self) -> int:
        """Pixels of a side of the smallest image that goes through."""
        return self.size_multiple

    @property
    def valid_layers(self) -> tuple[int, ...]:
        """The layer ids that can be asked for."""
        return tuple(range(len(self._taps)))

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """Channels of the features of `layers`, declared: nothing is run.

        Raises:
            ValueError: an id outside `valid_layers`.
        """
        self._check_layers(layers)
        return [self._taps[layer].channels for layer in layers]

    def feature_stride(self, layer: int) -> int:
        """Input pixels between neighbouring positions of a layer's output."""
        self._check_layers((layer,))
        return self._taps[layer].stride

    def feature_border(self, layer: int) -> int:
        """Positions on every side of a layer's output that lie in padding: crop them off a map."""
        self._check_layers((layer,))
        return self._taps[layer].border

    def _check_layers(self, layers: Sequence[int]) -> None:
        unknown = [layer for layer in layers if not 0 <= layer < len(self._taps)]
        if unknown:
            raise ValueError(
                f"no layer {unknown[0]} in {type(self).__name__}: valid ids are "
                f"{', '.join(map(str, self.valid_layers))}"
            )
