"""From feature maps to logits, with the class maps that every such pooling holds in closed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Pooling(nn.Module, ABC):
    """Features (N, C, h, w) -> logits (N, K).

    Attributes:
        layer: the only one with weights.
    """

    layer: nn.Module

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(N, K)."""

    @abstractmethod
    def maps(self, features: Tensor) -> Tensor:
        """(N, K, h, w): evidence for each class at each position; neither rectified nor scaled, and without a bias
        that is the same everywhere."""

    def map_of(self, features: Tensor, classes: Tensor) -> Tensor:
        """(N, h, w): the map of one class an image, classes (N,)."""
        maps = self.maps(features)
        return maps[torch.arange(len(maps), device=maps.device), classes]


class WGAP(Pooling):
    """The mean over positions and a linear layer; the map is sum_k w_k^c A_k (CAM: Zhou et al., CVPR 2016, eq. 2)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer(features.mean((2, 3)))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        return torch.einsum("kc,nchw->nkhw", self.layer.weight, features)

    def map_of(self, features: Tensor, classes: Tensor) -> Tensor:
        # Not all classes' maps: of a thousand classes they would be larger than the features.
        assert isinstance(self.layer, nn.Linear)
        return torch.einsum("nc,nchw->nhw", self.layer.weight[classes], features)


class MapPooling(Pooling):
    """A 1x1 convolution makes a map a class, and `pool` a logit of each map.

    Args:
        pool: (N, K, h, w) -> (N, K).
        modalities: maps a class, whose mean is the class's.
    """

    def __init__(self, channels: int, num_classes: int, pool: Callable[[Tensor], Tensor], modalities: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, num_classes * modalities, 1)
        self.pool, self._modalities = pool, modalities

    def forward(self, features: Tensor) -> Tensor:
        return self.pool(self.maps(features))

    def maps(self, features: Tensor) -> Tensor:
        found: Tensor = self.layer(features)
        return found.reshape(len(found), -1, self._modalities, *found.shape[2:]).mean(2)


class Mean:
    """The mean over positions."""

    def __call__(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class Max:
    """The largest value of all positions (Oquab et al., CVPR 2015)."""

    def __call__(self, maps: Tensor) -> Tensor:
        return maps.amax((2, 3))


class LogMeanExp:
    """(1 / r) log mean exp(r x): from the mean (small r) to the largest (Pinheiro & Collobert, CVPR 2015, eq. 2).

    Args:
        r: sharpness, above 0.
    """

    def __init__(self, r: float = 10.0) -> None:
        self._r = r

    def __call__(self, maps: Tensor) -> Tensor:
        values = self._r * maps.flatten(2)
        return (values.logsumexp(2) - math.log(values.shape[2])) / self._r


class Wildcat:
    """(mean of the k+ largest + alpha mean of the k- smallest) / 2 (WILDCAT: Durand et al., CVPR 2017, eq. 1).

    The published F-CAM leaves the smallest values out by mistake, and with them the 1/2.

    Args:
        kmax, kmin: how many positions: below 1 a share of them, else a number; kmin 0: the largest alone.
        alpha: weight of the smallest.
    """

    def __init__(self, kmax: float = 0.5, kmin: float = 0.1, alpha: float = 0.6) -> None:
        self._kmax, self._kmin, self._alpha = kmax, kmin, alpha

    def __call__(self, maps: Tensor) -> Tensor:
        ordered = maps.flatten(2).sort(2, descending=True).values
        high, low = (_how_many(k, ordered.shape[2]) for k in (self._kmax, self._kmin))
        top = ordered[..., :high].mean(2)
        if not low or not self._alpha:
            return top
        return (top + self._alpha * ordered[..., -low:].mean(2)) / 2


def _how_many(k: float, positions: int) -> int:
    if k <= 0:
        return 0
    return min(positions, int(k)) if k >= 1 else max(1, round(k * positions))


POOLINGS = ("WGAP", "GAP", "MaxPool", "LogSumExpPool", "WILDCAT")


def build_pooling(
    name: str,
    channels: int,
    num_classes: int,
    *,
    lse_r: float = 10.0,
    modalities: int = 5,
    kmax: float = 0.5,
    kmin: float = 0.1,
    alpha: float = 0.6,
) -> Pooling:
    """A pooling by its name.

    Args:
        name: one of POOLINGS: linear layer after the mean (WGAP); mean, maximum, log-mean-exp or WILDCAT after a 1x1
            convolution.
        lse_r: of LogSumExpPool. modalities, kmax, kmin, alpha: of WILDCAT.

    Raises:
        ValueError: an unknown name.
    """
    pools: dict[str, Callable[[Tensor], Tensor]] = {
        "GAP": Mean(),
        "MaxPool": Max(),
        "LogSumExpPool": LogMeanExp(lse_r),
        "WILDCAT": Wildcat(kmax, kmin, alpha),
    }
    if name == "WGAP":
        return WGAP(channels, num_classes)
    if name not in pools:
        raise ValueError(f"unknown pooling '{name}': choose one of {', '.join(POOLINGS)}")
    return MapPooling(channels, num_classes, pools[name], modalities if name == "WILDCAT" else 1)
