"""Image sets that are made, not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from util.metrics.base import ImageSet

SetMaker = Callable[..., ImageSet]


@pytest.fixture
def images_of() -> SetMaker:
    """`images_of(list of (C, H, W), labels)` -> an ImageSet; its files need not exist."""

    def make(images: Sequence[Tensor], labels: Sequence[int] | None = None, name: str = "set") -> ImageSet:
        files = [Path(f"{name}{number}.png") for number in range(len(images))]
        return ImageSet(name, files, lambda number: images[number], labels or [-1] * len(images))

    return make


def noise(count: int, size: tuple[int, int] = (40, 36), channels: int = 3, seed: int = 0) -> list[Tensor]:
    """Smooth random images (C, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, channels, 6, 6, generator=generator)
    return list(torch.nn.functional.interpolate(rough, size, mode="bilinear"))
