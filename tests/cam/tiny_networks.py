"""Networks of a few channels, and images, for the tests of explainers."""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5
Net = TypeVar("Net", bound=nn.Module)


class TinyNet(nn.Module):
    """Two convolutions, then a mean and a linear layer, or another convolution between them.

    `features.3` is the last convolution of the trunk, `features.4` its ReLU.

    Args:
        deep: whether the head has a convolution and flattens.
        inplace: of every ReLU.
    """

    def __init__(self, *, deep: bool = False, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace), nn.Conv2d(8, 12, 3), nn.ReLU(inplace)
        )
        self.more = nn.Sequential(nn.Conv2d(12, 10, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(3)) if deep else None
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(90 if deep else 12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        pooled = maps.mean((2, 3)) if self.more is None else self.more(maps).flatten(1)
        logits: Tensor = self.classify(self.dropout(pooled))
        return logits


class DenseLike(nn.Module):
    """As DenseNet ends: a normalisation, a functional ReLU in place, a mean, a linear layer."""

    def __init__(self, *, inplace: bool = True) -> None:
        super().__init__()
        self.inplace = inplace
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(inplace), nn.Conv2d(8, 12, 3))
        self.classify = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.features(images), inplace=self.inplace)
        logits: Tensor = self.classify(maps.mean((2, 3)))
        return logits


class WithBypass(nn.Module):
    """A U-Net in small: what lies before the layer is joined to what lies behind it; 4 class maps."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, 1, 1)
        self.bottom = nn.Conv2d(6, 6, 3, 1, 1)
        self.up = nn.Conv2d(12, 4, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.down(images).relu()
        maps: Tensor = self.up(torch.cat([first, self.bottom(first).relu()], 1))
        return maps


def filled(net: Net, seed: int = 0) -> Net:
    """The network with weights and running statistics drawn from a seed, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in chain(net.named_parameters(), net.named_buffers()):
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                fan = max(1, value[0].numel()) if value.ndim > 1 else 4
                scale = 0.1 if "bias" in name else 1.5 / fan**0.5
                value.copy_(noise.abs() + 0.5 if "running_var" in name else scale * noise)
    return net.eval()


def compiled(net: nn.Module, backend: Any = "eager") -> nn.Module:
    """The network under `torch.compile`, which is a module, whatever its type says."""
    made = torch.compile(net, backend=backend)
    assert isinstance(made, nn.Module)
    return made


def pictures(count: int = 3, size: int = 24, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """(count, 3, size, size): a blob of another colour at another place in each, on noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    colour = 2 * torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64)
    centre = torch.rand(2, count, 1, 1, generator=generator, dtype=torch.float64)
    at = torch.linspace(0, 1, size, dtype=torch.float64)
    far = (at[:, None] - centre[0]).square() + (at - centre[1]).square()
    return (0.3 * noise + colour * torch.exp(-10 * far)[:, None]).to(dtype)
