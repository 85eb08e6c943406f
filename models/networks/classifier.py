"""Image classifiers: a small residual network of our own, torchvision's by their names, and a user's own module.

All take images in [-1, 1] and hide what they make of them: how many channels and which normalisation a published
network expects is settled inside.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.fast_conv import Conv2d
from models.networks.init import init_weights
from models.networks.own_network import build_own, is_own
from util.registry import did_you_mean

JUDGE = "judge"
WIDTHS = (24, 32, 64, 128)
GROUP = 8  # channels that share a normalisation
# These have a second head beside the last layer, which would need a loss of its own. Their published weights are for
# images in [-1, 1]: transform_input undoes ImageNet's normalisation, as torchvision does where it loads them itself.
_INCEPTION: Mapping[str, Any] = {"aux_logits": False, "init_weights": True, "transform_input": True}
_MORE_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}


class Classifier(nn.Module, ABC):
    """A network from images (N, C, H, W) in [-1, 1] to logits (N, K).

    Attributes:
        num_classes: K.
    """

    num_classes: int

    @abstractmethod
    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d), the input of the last linear layer, and logits (N, K), from one pass."""

    @abstractmethod
    def last_layer(self) -> nn.Module:
        """The layer that makes the logits: it alone depends on the number of classes."""

    def features(self, images: Tensor) -> Tensor:
        """The input (N, d) of the last linear layer."""
        return self.with_features(images)[0]

    def head_keys(self) -> set[str]:
        """Keys of the last layer in the state dict."""
        own = {id(value) for value in self.last_layer().state_dict(keep_vars=True).values()}
        return {key for key, value in self.state_dict(keep_vars=True).items() if id(value) in own}

    def adapted(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
        """A state dict of this architecture for this number of classes: a last layer of another is replaced by ours.

        Returns:
            The state dict, and whether the last layer is ours.
        """
        own, head = self.state_dict(), self.head_keys()
        if all(weights[key].shape == own[key].shape for key in head if key in weights):
            return dict(weights), False
        return {key: own[key] if key in head else value for key, value in weights.items()}, True


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016), normalised by groups.

    Args:
        stride: of the first convolution; the shortcut is averaged over as many pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.first_norm = _norm(out_channels)
        self.second = Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.second_norm = _norm(out_channels)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride, ceil_mode=True),  # of an odd side, the convolution keeps the last pixel too
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            _norm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)), not negative."""
        residual = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(residual + self.shortcut(x))


class JudgeNet(Classifier):
    """A stem, a residual block a width, the mean over positions, and a linear layer: 0.3 M weights.

    Images may have any size. A sixteenth of each side is left at the end, so that the class activation map of a 128 px
    image has 8 x 8 cells, and mean_u W_c . A(u) + b_c is the logit exactly. Normalised by groups of channels within
    one image (Wu & He, ECCV 2018): a batch of one, a half-filled batch and several processes give what one large batch
    gives.

    Args:
        num_classes: K, at least 2.
        input_nc: channels of the images.
        widths: channels of the stem and of each block; multiples of 8.

    Raises:
        ValueError: fewer than 2 classes.
    """

    def __init__(self, num_classes: int, input_nc: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}, but a classifier needs at least 2")
        self.num_classes = num_classes
        blocks = [ResidualBlock(before, after, 2) for before, after in pairwise(widths)]
        # Each channel of the stem by itself: the answer to the mean level of an image would drown all others' in a
        # shared normalisation, and images with a dark, even ground would not be learned.
        norm = nn.GroupNorm(widths[0], widths[0])
        self.trunk = nn.Sequential(
            nn.Conv2d(input_nc, widths[0], 5, 2, 2, bias=False), norm, nn.ReLU(inplace=True), *blocks
        )
        self.classify = nn.Linear(widths[-1], num_classes)

    def feature_map(self, images: Tensor) -> Tensor:
        """A, (N, d, ceil(H / 16), ceil(W / 16)), not negative: its mean over positions is the features."""
        maps: Tensor = self.trunk(images)
        return maps

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.feature_map(images).mean((2, 3))
        return features, self.classify(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.with_features(images)[1]

    def last_layer(self) -> nn.Module:
        return self.classify


class WrappedNet(Classifier):
    """A network that was not written for this project. Its state dict is its own, without a prefix: files go to and
    fro between this class and the network alone.

    Args:
        net: images (N, C, H, W) in [-1, 1] -> logits (N, K). Its last linear layer, or without any its last
            convolution, makes the logits.
        num_classes: K.

    Raises:
        ValueError: there is no such layer, or it is for another number of classes.
    """

    def __init__(self, net: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.net = net
        last = self.last_layer()
        found = last.out_features if isinstance(last, nn.Linear) else last.out_channels
        if found != num_classes:
            raise ValueError(f"the last layer of the network gives {found} values instead of {num_classes} logits")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with self._watched() as seen:
            logits = self(images)
        features = seen[0]
        return features.mean((2, 3)) if features.ndim == 4 else features, logits

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """A list that receives what goes into the last layer."""
        seen: list[Tensor] = []
        handle = self.last_layer().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            handle.remove()

    def last_layer(self) -> nn.Linear | nn.Conv2d:
        layers = list(self.net.modules())
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        found = linear or convolutions  # SqueezeNet ends in a convolution and a mean
        if not found:
            raise ValueError("the network has no linear layer and no convolution that could make the logits")
        return found[-1]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own, without a prefix."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The inverse of `state_dict`."""
        return self.net.load_state_dict(state_dict, strict, assign)


class TorchvisionNet(WrappedNet):
    """A classification network of torchvision with random first weights.

    Images of one channel are repeated, and all are normalised as the published weights expect it, nearly always by
    ImageNet's mean and deviation: both are constants, which training from random weights does not mind.

    Args:
        arch: a name that `torchvision.models.get_model` knows, of a classifier.
        num_classes: K.

    Raises:
        ValueError: no such classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str, num_classes: int) -> None:
        from torchvision import models  # takes a second: not for those who use the judge

        known = models.list_models(module=models)
        if arch not in known:
            raise ValueError(
                f"no such network{did_you_mean(arch, [JUDGE, *known])}; "
                f"known: {JUDGE}, torchvision's {', '.join(known)}, and your own as MODULE:FUNCTION"
            )
        more = _MORE_ARGUMENTS.get(arch, {})
        super().__init__(models.get_model(arch, weights=None, num_classes=num_classes, **more), num_classes)
        expected = models.get_model_weights(arch).DEFAULT.transforms()
        for name, values in (("mean", expected.mean), ("std", expected.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net((images.add(1).div(2).expand(-1, 3, -1, -1) - self.mean) / self.std)
        return logits

    def adapted(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
        # Of the published files, some hold a second head, and DenseNet's have names of an older version.
        names = {key: re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key) for key in weights}
        return super().adapted(
            {names[key]: value for key, value in weights.items() if not key.lower().startswith("aux")}
        )


def build_classifier(arch: str, num_classes: int, input_nc: int, generator: torch.Generator) -> Classifier:
    """A classifier with random first weights.

    Args:
        arch: `judge`, a classifier of torchvision, or MODULE:FUNCTION of the user's own.
        input_nc: channels of the images, 1 or 3.
        generator: of the weights, on the CPU.

    Raises:
        ValueError: an unknown name, a module of the user's own that cannot be used, or fewer than 2 classes.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when they are made
        if arch == JUDGE:
            judge = JudgeNet(num_classes, input_nc)
            init_weights(judge, "kaiming", generator=generator)
            return judge
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}, but a classifier needs at least 2")
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        if is_own(arch):
            return WrappedNet(build_own(arch, num_classes), num_classes)
        return TorchvisionNet(arch, num_classes)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP, channels)
