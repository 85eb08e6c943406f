"""Learning rates by epoch, by hand from CUT's formulas."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch.optim import SGD

from util.engine.schedule import Plateau, end_epoch, linear_factor, load_scheduler, make_scheduler


def rates(policy: str, epochs: int, losses: list[float] | None = None, **changes: Any) -> list[float]:
    """The learning rate of each epoch, from 1 at first."""
    arguments: dict[str, Any] = {"n_epochs": 3, "n_epochs_decay": 2, "epoch_count": 1, "lr_decay_iters": 2}
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer, policy, **(arguments | changes))
    found = []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        end_epoch(scheduler, losses[epoch] if losses else 0.0)
    return found


def test_linear_is_cuts_formula() -> None:
    """1 - max(0, e + epoch_count - n_epochs) / (n_epochs_decay + 1), e counting from 0."""
    assert rates("linear", 6) == pytest.approx([1, 1, 1, 2 / 3, 1 / 3, 0])
    assert rates("linear", 8, n_epochs=1, n_epochs_decay=3) == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4, 0, 0, 0, 0])
    expected = [1 - max(0, e + 1 - 4) / (5 + 1) for e in range(9)]
    assert rates("linear", 9, n_epochs=4, n_epochs_decay=5) == pytest.approx(expected)
    assert [linear_factor(e, 200, 200) for e in (1, 200, 201, 400)] == pytest.approx([1, 1, 200 / 201, 1 / 201])


def test_linear_from_a_later_epoch() -> None:
    """--epoch_count 3: the first epoch run is the third, and falls where the third of a whole run falls."""
    assert rates("linear", 4, epoch_count=3) == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_step() -> None:
    assert rates("step", 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine() -> None:
    expected = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)]
    assert rates("cosine", 4, n_epochs=4) == pytest.approx(expected)
    assert len(rates("cosine", 3, n_epochs=0)) == 3


def test_plateau_waits_five_epochs() -> None:
    """A fifth after more than 5 epochs without a loss 1 % below the best."""
    assert rates("plateau", 9, [1.0] * 9) == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.2, 0.2])
    falling = [0.9**e for e in range(9)]
    assert rates("plateau", 9, falling) == [1.0] * 9
    hardly = [1 - 0.001 * e for e in range(9)]
    assert rates("plateau", 9, hardly)[-1] == pytest.approx(0.2)


def test_plateau_by_its_own_numbers() -> None:
    """Half after more than 1 epoch without a loss 20 % below the best, and never below 0.3."""
    how = Plateau(factor=0.5, patience=1, threshold=0.2, min_lr=0.3)
    assert rates("plateau", 8, [1.0] * 8, plateau=how) == pytest.approx([1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3])
    assert rates("plateau", 4, [1.0, 0.85, 0.81, 0.7], plateau=how)[-1] == pytest.approx(0.5)
    assert rates("plateau", 4, [1.0, 0.75, 0.6, 0.4], plateau=how)[-1] == 1


def test_none_is_constant_also_after_a_pause_with_another_rate() -> None:
    assert rates("none", 5) == [1] * 5
    optimizers = [SGD([torch.zeros(1, requires_grad=True)], lr=lr) for lr in (1.0, 0.25)]
    first, again = (make_scheduler(optimizer, "none", 3, 2, 1, 2) for optimizer in optimizers)
    end_epoch(first, 0.0)
    load_scheduler(again, first.state_dict())
    end_epoch(again, 0.0)
    assert optimizers[1].param_groups[0]["lr"] == 0.25


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="--lr_policy exponential: choose one of linear, step, plateau, cosine"):
        rates("exponential", 1)


def test_a_run_continued_at_the_end_of_an_epoch_is_not_warned_about() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer, "linear", 1, 1, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        end_epoch(scheduler, 0.0)  # before any step of this process
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
