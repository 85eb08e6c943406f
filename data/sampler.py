"""The order in which samples are drawn: seeded, the same for any number of ranks, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from util.seeding import generator


class SampleKey(NamedTuple):
    """What a data set is asked for. Randomness is keyed by (epoch, position): a repeated sample differs."""

    epoch: int
    position: int  # place in the epoch's order over all ranks; may pass the last sample, see below
    index: int  # type: ignore[assignment]  # number of the sample in the data set (hides tuple.index)


class GlobalBatchSampler(Sampler[list[SampleKey]]):
    """Batches of one rank, out of global batches of world_size * batch_size samples.

    Global batch s holds positions s * world_size * batch_size and on; rank r takes the r-th share of it, so W
    ranks with batches of n see together exactly what one process with batches of W * n sees. The order of an
    epoch is a permutation keyed by (seed, epoch), or 0, 1, 2, ... when `serial`.

    The last global batch is filled by beginning the epoch's order again: every batch has the same size, so
    that ranks take equally many steps and weigh equally in the averaged gradient, and shapes never change; a
    data set smaller than a batch works too.

    Args:
        length: samples of the data set.
        per_epoch: samples of an epoch; 0: each of the data set once. Else an epoch goes on in the data set where the
            one before it has ended, and each round through the data has an order of its own, so that none is left out.
            What fills its last batch then is what the next epoch begins with.

    Raises:
        ValueError: an empty data set, a batch size below 1, or a rank outside the world.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        serial: bool = False,
        per_epoch: int = 0,
    ) -> None:
        if length < 1:
            raise ValueError("the data set is empty: there is nothing to draw batches from; check the folders")
        if batch_size < 1:
            raise ValueError(f"--batch_size {batch_size} must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside a world of {world_size} processes")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.serial = rank, world_size, serial
        self.per_epoch = per_epoch or length
        self._number, self._order = -1, [0][:0]  # the round whose order was asked for last
        self.epoch, self.first_step = 0, 0

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch of the next pass and the step it begins at: on resuming, those before are skipped.

        Raises:
            ValueError: first_step lies outside 0..len(self).
        """
        if not 0 <= first_step <= len(self):
            raise ValueError(f"first_step {first_step} is outside the {len(self)} steps of an epoch")
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        """Steps of a whole epoch, also where `set_epoch` begins later."""
        return -(-self.per_epoch // (self.world_size * self.batch_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first_step, len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            positions = range(start, start + self.batch_size)
            yield [SampleKey(self.epoch, position, self._index(position)) for position in positions]

    def _index(self, position: int) -> int:
        """The sample at a place of the epoch."""
        if self.per_epoch == self.length:
            number, place = self.epoch, position % self.length
        else:
            number, place = divmod((self.epoch - 1) * self.per_epoch + position, self.length)
            number += 1
        if number != self._number:
            self._number, self._order = number, self._order_of(number)
        return self._order[place]

    def _order_of(self, number: int) -> list[int]:
        """Of the nth round through the data set, counted from 1: of the nth epoch, where that is a round."""
        if self.serial:
            return list(range(self.length))
        order: list[int] = torch.randperm(self.length, generator=generator(self.seed, "order", number)).tolist()
        return order
