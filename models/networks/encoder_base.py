"""What an encoder is: a network that says which stages it has, and gives the features of each from one pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Norm = tuple[Sequence[float], Sequence[float]]  # mean and deviation of three channels of images in [0, 1]
IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AS_THEY_ARE: Norm = ((0.5,) * 3, (0.5,) * 3)  # for networks that expect images in [-1, 1]


@dataclass(frozen=True)
class Stage:
    """One entry of what an encoder gives.

    Attributes:
        stride: sides of the image are about so many times the stage's.
    """

    name: str
    channels: int
    stride: int


class Encoder(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> features by stage.

    Attributes:
        declared: the stages, finest first; the first is of the image's own resolution, and where no layer is, the
            image itself as the network sees it.
        decoder_center: a decoder over these stages begins with two more convolutions, as F-CAM's over VGG.
    """

    declared: tuple[Stage, ...]
    decoder_center: bool = False

    def stages(self, images: Tensor) -> list[Tensor]:
        """Features (N, channels, about H / stride, about W / stride) by `declared`, from one pass."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The coarsest features."""
        return self.stages(images)[-1]

    def late_parameters(self) -> list[nn.Parameter]:
        """Those that learn with the classifier's rate rather than the trunk's: what no published file holds."""
        return []

    def own_key(self, key: str) -> str:
        """The name here of a tensor in the state dict of the whole network that the trunk was taken from."""
        return f"net.{key}"


class TrunkEncoder(Encoder):
    """The trunk of a network, cut into stages.

    Args:
        net: holds the layers; its other children are given up.
        paths: of the layers, by stage.
        declared: without the image.
        extra: layers after the last one, at its resolution.
        norm: mean and deviation of the three channels that the network expects of images in [0, 1]; None: it takes
            images in [-1, 1] of any number of channels.
        late: path of the part of the trunk that learns with the classifier's rate.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        paths: Sequence[Sequence[str]],
        declared: Sequence[Stage],
        *,
        extra: nn.Module | None = None,
        norm: Norm | None = IMAGENET,
        input_nc: int = 3,
        late: str = "",
    ) -> None:
        super().__init__()
        kept = {path.split(".")[0] for stage in paths for path in stage}
        for name in [name for name, _ in net.named_children() if name not in kept]:
            delattr(net, name)
        self.net, self._paths, self._late = net, tuple(map(tuple, paths)), late
        self.extra = extra or nn.Sequential()
        image = () if declared[0].stride == 1 else (Stage("image", input_nc if norm is None else 3, 1),)
        self.declared = (*image, *declared)
        for name, values in zip(("mean", "std"), norm or (), strict=False):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self._normalised = norm is not None

    def stages(self, images: Tensor) -> list[Tensor]:
        x = images
        if self._normalised:
            x = (images.add(1).div(2).expand(-1, 3, -1, -1) - self.mean) / self.std
        found = [x] if len(self.declared) > len(self._paths) else []
        for number, stage in enumerate(self._paths):
            for path in stage:
                x = self.net.get_submodule(path)(x)
            if number == len(self._paths) - 1:
                x = self.extra(x)
            found.append(x)
        return found

    def late_parameters(self) -> list[nn.Parameter]:
        late = list(self.net.get_submodule(self._late).parameters()) if self._late else []
        return [*late, *self.extra.parameters()]

    def own_key(self, key: str) -> str:
        # Of torchvision's files, DenseNet's have names of an older version.
        return "net." + re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key.removeprefix("trunk."))


class ListEncoder(Encoder):
    """A network that gives a list of features and says how many channels they have, as timm's `features_only` do.

    Args:
        net: images (N, C, H, W) -> list of features, finest first; `net.feature_info` has `channels()` and
            `reduction()`, lists of whole numbers.
        norm: as for `TrunkEncoder`.

    Raises:
        ValueError: it declares no stages.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, norm: Norm = AS_THEY_ARE) -> None:
        super().__init__()
        info: Any = getattr(net, "feature_info", None)
        try:
            channels, reduction = list(info.channels()), list(info.reduction())
            declared = [Stage(f"{n}", int(c), int(r)) for n, (c, r) in enumerate(zip(channels, reduction, strict=True))]
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                "the network declares no stages: give it feature_info with channels() and reduction(), as timm's "
                "features_only networks have it, and let it return the list of features"
            ) from error
        if not declared:
            raise ValueError("the network declares stages, but none at all")
        self.net = net
        self.declared = (*(() if declared[0].stride == 1 else (Stage("image", 3, 1),)), *declared)
        for name, values in zip(("mean", "std"), norm, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def stages(self, images: Tensor) -> list[Tensor]:
        x = (images.add(1).div(2).expand(-1, 3, -1, -1) - self.mean) / self.std
        found = list(self.net(x))
        wanted = [stage.channels for stage in self.declared]
        together = [x, *found] if len(found) < len(wanted) else found
        if [one.shape[1] for one in together] != wanted:
            raise ValueError(f"features have {[one.shape[1] for one in together]} channels, and {wanted} are declared")
        return together
