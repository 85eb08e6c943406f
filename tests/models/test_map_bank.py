"""The maps of other images: which are remembered, which are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.map_bank import MapBank


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(mode: str = "contrast") -> MapBank:
    return MapBank(mode, eps=1e-6, tau=1.0, temperature=0.07)


def test_rows_are_the_maps_at_one_size_and_of_length_one() -> None:
    bank, seen = bank_of(), maps(2, 32, 32)
    bank.take(seen, torch.tensor([4, 9]))
    expected = F.normalize(F.avg_pool2d(seen.relu()[:, None], 2).flatten(1), dim=1)
    torch.testing.assert_close(bank.rows, expected)
    assert bank.images.tolist() == [4, 9]


def test_an_image_is_not_compared_with_itself() -> None:
    bank = bank_of()
    bank.take(maps(3, 16, 16), torch.tensor([4, 9, 4]))
    rows, differ = bank.others(torch.tensor([9, 1]))
    assert rows.shape == (3, 256)
    assert differ.tolist() == [[True, False, True], [True, True, True]]


def test_maps_that_are_dead_or_not_finite_are_never_compared_with() -> None:
    bank, seen = bank_of(), maps(3, 16, 16)
    seen[0], seen[1, 3, 3] = -1.0, torch.nan
    bank.take(seen, torch.tensor([1, 2, 3]))
    assert bank.rows.isfinite().all()
    assert bank.others(torch.tensor([7]))[1].tolist() == [[False, False, True]]


def test_the_oldest_are_forgotten_and_a_state_brings_all_back() -> None:
    bank = bank_of()
    for step in range(MapBank.LENGTH // 2 + 3):
        bank.take(maps(2, 8, 8, seed=step), torch.tensor([2 * step, 2 * step + 1]))
    assert bank.images.tolist() == list(range(6, MapBank.LENGTH + 6))
    again = bank_of()
    again.load(bank.state())
    assert torch.equal(again.rows, bank.rows)
    assert torch.equal(again.images, bank.images)
