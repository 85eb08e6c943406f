"""The global order: a permutation per epoch, shared out over ranks, resumable."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.sampler import GlobalBatchSampler, SampleKey
from util.seeding import generator

Batches = list[list[SampleKey]]


def test_one_process_covers_an_epoch() -> None:
    batches = list(GlobalBatchSampler(12, 4, seed=5))
    keys = [key for batch in batches for key in batch]
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert [key.position for key in keys] == list(range(12))
    assert {key.epoch for key in keys} == {0}
    assert [key.index for key in keys] == torch.randperm(12, generator=generator(5, "order", 0)).tolist()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = GlobalBatchSampler(50, 5, seed)
        sampler.set_epoch(epoch)
        return [key.index for batch in sampler for key in batch]

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6
    assert all(sorted(order(0, epoch)) == list(range(50)) for epoch in range(3))


def test_serial_is_in_order() -> None:
    sampler = GlobalBatchSampler(5, 2, seed=0, serial=True)
    sampler.set_epoch(3)
    assert [[key.index for key in batch] for batch in sampler] == [[0, 1], [2, 3], [4, 0]]
    assert [key for batch in sampler for key in batch][-1] == SampleKey(3, 5, 0)


@pytest.mark.parametrize("length", [1, 3, 8, 11, 24, 25])
@pytest.mark.parametrize(("world", "batch"), [(2, 3), (4, 2), (3, 1)])
def test_ranks_together_equal_one_process(length: int, world: int, batch: int) -> None:
    single = GlobalBatchSampler(length, world * batch, seed=7)
    ranks = [GlobalBatchSampler(length, batch, 7, rank, world) for rank in range(world)]
    for sampler in (single, *ranks):
        sampler.set_epoch(2)
    merged = [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)]
    assert merged == list(single)
    assert all(len(sampler) == len(single) for sampler in ranks)


@pytest.mark.parametrize("length", [1, 5, 6, 7, 100])
def test_last_batch_is_filled_from_the_start(length: int) -> None:
    sampler = GlobalBatchSampler(length, 6, seed=1)
    keys = [key for batch in sampler for key in batch]
    assert len(keys) == 6 * len(sampler) == 6 * -(-length // 6)
    assert sorted(key.index for key in keys[:length]) == list(range(length))
    assert all(key.index == keys[key.position % length].index for key in keys)
    assert len({key.position for key in keys}) == len(keys)


@pytest.mark.parametrize("per_epoch", [1, 4, 6, 9, 14, 23])
@pytest.mark.parametrize("serial", [False, True])
def test_epochs_of_another_length_go_round_the_data_set_without_a_gap(per_epoch: int, serial: bool) -> None:
    sampler = GlobalBatchSampler(7, 2, seed=1, per_epoch=per_epoch, serial=serial)
    found = list[int]()
    for epoch in range(1, 60):
        sampler.set_epoch(epoch)
        keys = [key for batch in sampler for key in batch]
        assert len(keys) == 2 * len(sampler) == 2 * -(-per_epoch // 2)
        assert {key.epoch for key in keys} == {epoch}
        assert [key.position for key in keys] == list(range(len(keys)))
        found += [key.index for key in keys[:per_epoch]]  # then what the next epoch begins with
    rounds = [found[n : n + 7] for n in range(0, len(found) - 6, 7)]
    plain = GlobalBatchSampler(7, 7, seed=1, serial=serial)
    for number, once in enumerate(rounds, 1):
        plain.set_epoch(number)
        assert once == [key.index for batch in plain for key in batch]


def test_ranks_together_equal_one_process_in_epochs_of_another_length() -> None:
    single = GlobalBatchSampler(11, 6, seed=7, per_epoch=15)
    ranks = [GlobalBatchSampler(11, 3, 7, rank, 2, per_epoch=15) for rank in (0, 1)]
    for sampler in (single, *ranks):
        sampler.set_epoch(4)
    assert [[*first, *second] for first, second in zip(*ranks, strict=True)] == list(single)
    single.set_epoch(4, first_step=2)
    ranks[0].set_epoch(4)
    assert next(iter(single))[:3] == list(ranks[0])[2]


def test_resume_in_mid_epoch() -> None:
    whole, resumed = GlobalBatchSampler(23, 2, 3, 1, 2), GlobalBatchSampler(23, 2, 3, 1, 2)
    whole.set_epoch(4)
    for first in range(len(whole) + 1):
        resumed.set_epoch(4, first_step=first)
        assert list(resumed) == list(whole)[first:]
        assert len(resumed) == 6
    resumed.set_epoch(5)
    assert len(list(resumed)) == 6


class Echo(Dataset[SampleKey]):
    def __getitem__(self, key: SampleKey) -> SampleKey:
        return key


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_loader(workers: int) -> None:
    """Keys arrive whole, in order, also with workers that live on over epochs."""
    sampler = GlobalBatchSampler(9, 2, seed=0)
    loader: DataLoader[SampleKey] = DataLoader(
        Echo(),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=list,
    )
    assert len(loader) == 5
    for epoch, first in ((0, 0), (1, 2)):
        sampler.set_epoch(epoch, first)
        assert list(loader) == list(sampler)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 1, 0, 0, 1), "empty"),
        ((5, 0, 0, 0, 1), "--batch_size 0"),
        ((5, 1, 0, 2, 2), "rank 2"),
        ((5, 1, 0, -1, 2), "rank -1"),
        ((5, 1, 0, 0, 0), "world of 0"),
    ],
)
def test_refuses(arguments: tuple[int, int, int, int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GlobalBatchSampler(*arguments)


@pytest.mark.parametrize("first", [-1, 6])
def test_first_step_outside_the_epoch(first: int) -> None:
    with pytest.raises(ValueError, match="first_step"):
        GlobalBatchSampler(10, 2, 0).set_epoch(0, first)
