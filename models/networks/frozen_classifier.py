"""A trained classifier that is only looked at: logits, and what it sees on the way at several resolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.networks.class_head import ClassHead
from models.networks.generator_base import Generator


@runtime_checkable
class Staged(Protocol):
    """A classifier that declares its stages.

    Attributes:
        stage_channels: finest first; the first one is at the image's resolution.
        decoder_center: whether a decoder has two more convolutions on the deepest.
    """

    stage_channels: tuple[int, ...]
    decoder_center: bool

    def with_stages(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (N, K) and features (N, C, h, w) by `stage_channels`, from one pass."""


class FrozenClassifier(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> logits (N, K), by weights that nothing can change.

    The weights become buffers: no optimiser, weight decay or gradient reaches them, and it stays in evaluation mode.
    Its state dict is the classifier's own.

    Args:
        net: any network from images to logits. Where it is not `Staged`, its stages are the image itself and one module
            for each halving of it.
        image_shape: (C, H, W) of an image to try it with.

    Attributes:
        stage_channels, decoder_center: see `Staged`.
        weights: how many it has.

    Raises:
        ValueError: it has no stages with more than one position.
    """

    def __init__(self, net: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.net = net
        self.weights = sum(parameter.numel() for parameter in net.parameters())  # before they are buffers
        _freeze(net)
        self.eval()
        self._names: list[str] = []
        self._noted: list[Tensor] | None = None
        if isinstance(net, Staged):
            self.stage_channels, self.decoder_center = tuple(net.stage_channels), bool(net.decoder_center)
        else:
            found = _stages_of(net, image_shape)
            if not found:
                raise ValueError(f"{type(net).__name__} has no feature map with more than one position")
            self._names = list(found)
            self.stage_channels, self.decoder_center = (image_shape[0], *found.values()), False

    def train(self, mode: bool = True) -> FrozenClassifier:
        """Nothing: it stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        if self._noted is None:
            logits: Tensor = self.net(images)
            return logits
        logits, stages = self.with_stages(images)
        if not self._noted:
            self._noted += [stage.detach() for stage in stages]
        return logits

    def with_stages(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and stages from one pass; see `Staged`."""
        if isinstance(self.net, Staged):
            return self.net.with_stages(images)
        seen: dict[str, Tensor] = {}
        modules = dict(self.net.named_modules())
        handles = [modules[name].register_forward_hook(partial(_keep, seen, name)) for name in self._names]
        try:
            logits: Tensor = self.net(images)
        finally:
            for handle in handles:
                handle.remove()
        return logits, [images, *(seen[name] for name in self._names)]

    @contextmanager
    def noting(self) -> Iterator[list[Tensor]]:
        """A list that receives the stages of the first pass inside this context, detached."""
        noted: list[Tensor] = []
        self._noted = noted
        try:
            yield noted
        finally:
            self._noted = None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The classifier's own, without a prefix."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The inverse of `state_dict`."""
        return self.net.load_state_dict(state_dict, strict, assign)


class GeneratorClassifier(nn.Module):
    """The class head of a CUTCAM generator with the encoder it stands on, as one classifier of images.

    A chain of modules, as explainers want it: `features` is what the encoder gives, `hidden` is h, the layer that
    CUTCAM's own maps are of. What the head does behind h is folded into one linear layer where it averages over
    positions, so that CAM applies. Its stages are the generator's, down to the head's layer.

    Args:
        generator: whose encoder is used; nothing comes of its later layers.
        head: on the features of `layer`.
        layer: id of a layer of the generator.
    """

    decoder_center = False

    def __init__(self, generator: Generator, head: ClassHead, layer: int) -> None:
        super().__init__()
        self.generator, self.head, self._layer = generator, head, layer
        self.num_classes = head.num_classes
        self.features, self.hidden = nn.Identity(), nn.ReLU()  # names for what explainers may stand at
        like = head.classify.weight
        self.classify = nn.Linear(like.shape[1], like.shape[0], device=like.device, dtype=like.dtype)
        self.fold()
        by_stride = {generator.feature_stride(tap): tap for tap in range(layer)}  # the last layer of each
        deepest = generator.feature_stride(layer)
        self._taps = [tap for stride, tap in sorted(by_stride.items()) if 1 < stride < deepest]
        self.stage_channels = tuple(generator.feature_channels([0, *self._taps, layer]))

    @torch.no_grad()
    def fold(self) -> None:
        """Take the head's weights and statistics into the last layer, after they have changed."""
        weight = self.head.effective_weight(frozen=True)
        shift = weight @ self.head.pooled_mean if self.head.standardise else weight.new_zeros(len(weight))
        self.classify.weight.copy_(weight)
        self.classify.bias.copy_(self.head.classify.bias - shift)

    def forward(self, images: Tensor) -> Tensor:
        return self.with_stages(images)[0]

    def with_stages(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Staged`."""
        *stages, feature = self.generator.encode(images, [*self._taps, self._layer])
        inner = self.head.inside(self.features(feature))
        hidden = self.hidden(self.head.project(inner))
        if self.head.pool == "gap":
            logits: Tensor = self.classify(hidden.mean((2, 3)))
        else:
            logits = self.head.logits_from_hidden(hidden, frozen=True)
        return logits, [images, *stages, inner]


def _freeze(net: nn.Module) -> None:
    """Parameters to buffers of the same names."""
    for module in net.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach())


def _keep(seen: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    seen[name] = output


@torch.no_grad()
def _stages_of(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Name and channels of one module for each halving of the image that the network comes to, finest first: that with
    the most channels, the last of several."""
    height, width = image_shape[1:]
    seen: dict[str, list[tuple[int, int]]] = {}

    def see(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        halvings = 0
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            down, across = height / output.shape[2], width / output.shape[3]
            # Maps with channels last, as in ConvNeXt, look like maps of another shape than the image's.
            halvings = round(math.log2(down)) if 0.75 < down / across < 1.34 else 0
        seen.setdefault(name, []).append((halvings, output.shape[1] if halvings else 0))

    handles = [m.register_forward_hook(partial(see, name)) for name, m in net.named_modules() if name]
    try:
        net(torch.zeros(1, *image_shape))
    finally:
        for handle in handles:
            handle.remove()
    best: dict[int, tuple[str, int]] = {}
    for name, calls in seen.items():
        halvings, channels = calls[0]
        if len(calls) == 1 and halvings > 0 and channels >= best.get(halvings, ("", 0))[1]:
            best[halvings] = (name, channels)
    return dict(best[halvings] for halvings in sorted(best))


def weights_of(net: nn.Module) -> str:
    """How many it has, and whether they learn: `2.84 M`, `23.51 M frozen`."""
    if isinstance(net, FrozenClassifier):
        return f"{net.weights / 1e6:.2f} M frozen"
    return f"{sum(parameter.numel() for parameter in net.parameters()) / 1e6:.2f} M"
