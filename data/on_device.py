"""Images that are windowed, resized, cropped and mirrored on the networks' device (--augment_on_device).

Loading processes decode and draw the random numbers, by the same keys as ever; counts travel as they are stored, at a
quarter (8 bits) or half (16 bits) of the bytes of float32; the device does the rest, for a batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.images import Counts, as_unit
from data.transforms import Draws, Preprocess


@dataclass(frozen=True)
class Waiting:
    """One image with all that makes it what a network takes.

    Args:
        channels: of the result.
        draws: `draws_of` its generator.
        patch_index: as `Preprocess` takes it.
    """

    counts: Counts
    channels: int
    preprocess: Preprocess
    draws: Draws
    patch_index: int


@dataclass(frozen=True)
class _Group:
    """Images of one size and kind. 16 bits travel as int16: few operations of torch know uint16."""

    places: tuple[int, ...]  # in the batch
    counts: Tensor  # (n, H, W, c)
    deep: bool
    windows: Tensor  # (n, 2) float64
    channels: int
    preprocess: Preprocess
    draws: tuple[Draws, ...]
    patch_indices: tuple[int, ...]

    def images(self, device: torch.device) -> list[Tensor]:
        """(channels, h, w) in [0, 1] each."""
        counts = self.counts.to(device, non_blocking=True)
        values = (counts.int() & 0xFFFF if self.deep else counts).float()
        # The span is taken in float64 and then rounded, as Counts.image does with Python's numbers.
        low, high = self.windows[:, 0], self.windows[:, 1]
        ends = torch.stack([low, high - low]).float().to(device, non_blocking=True).view(2, -1, 1, 1, 1)
        unit = as_unit(values - ends[0], 0.0, ends[1], self.channels)
        return self.preprocess.all_at_once(unit, self.draws, self.patch_indices)


@dataclass(frozen=True)
class WaitingBatch:
    """The images of a batch's A, or of its B."""

    groups: tuple[_Group, ...]

    @classmethod
    def of(cls, images: Sequence[Waiting]) -> WaitingBatch:
        """Images of one batch, in its order."""
        kinds: dict[tuple[object, ...], list[int]] = {}
        for place, one in enumerate(images):
            values = one.counts.values
            kinds.setdefault((values.shape, values.dtype, one.channels, one.preprocess), []).append(place)
        return cls(tuple(_grouped(places, [images[place] for place in places]) for places in kinds.values()))

    def pin_memory(self) -> WaitingBatch:
        """The same in page-locked memory."""
        return WaitingBatch(tuple(replace(group, counts=group.counts.pin_memory()) for group in self.groups))

    def images(self, device: torch.device) -> list[Tensor]:
        """(C, h, w) in [-1, 1] each, in the batch's order, on the device."""
        made = {
            place: image * 2 - 1
            for group in self.groups
            for place, image in zip(group.places, group.images(device), strict=True)
        }
        return [made[place] for place in sorted(made)]


def _grouped(places: Sequence[int], images: Sequence[Waiting]) -> _Group:
    first, stacked = images[0], np.stack([one.counts.values for one in images])
    deep = stacked.dtype == np.uint16
    return _Group(
        tuple(places),
        torch.from_numpy(stacked.view(np.int16) if deep else stacked),
        deep,
        torch.tensor([(one.counts.window.low, one.counts.window.high) for one in images], dtype=torch.float64),
        first.channels,
        first.preprocess,
        tuple(one.draws for one in images),
        tuple(one.patch_index for one in images),
    )
