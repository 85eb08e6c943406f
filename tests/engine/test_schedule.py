"""Learning rates by epoch, by hand from CUT's formulas."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from util.engine.optimizers import load_optimizer
from util.engine.schedule import Plateau, end_epoch, linear_factor, load_scheduler, make_scheduler

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained


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


def test_cosine_from_a_later_epoch_ends_at_zero_too() -> None:
    whole = rates("cosine", 6)
    assert rates("cosine", 4, epoch_count=3) == pytest.approx(whole[2:])
    assert whole[5] == pytest.approx(0)


def test_linear_from_a_later_epoch() -> None:
    """--epoch_count 3: the first epoch run is the third, and falls where the third of a whole run falls."""
    assert rates("linear", 4, epoch_count=3) == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_step() -> None:
    assert rates("step", 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine() -> None:
    """As PyTorch's, down to the end of all epochs."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs, expected = CosineAnnealingLR(optimizer, 5), []
    for _ in range(5):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates("cosine", 5, n_epochs=5, n_epochs_decay=0) == pytest.approx(expected)
    assert rates("cosine", 5, n_epochs=3, n_epochs_decay=2) == pytest.approx(expected)
    assert len(rates("cosine", 3, n_epochs=0, n_epochs_decay=0)) == 3


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


def continued(
    before: str, after: str, epochs: int, lr: float = 1.0, losses: float = 1.0, **changes: Any
) -> tuple[float, float]:
    """Rates after some epochs: of a run continued there with another policy or rate, and one that always had them."""
    arguments: dict[str, Any] = {"n_epochs": 3, "n_epochs_decay": 2, "epoch_count": 1, "lr_decay_iters": 2}
    found = []
    for first, rate, changed in ((before, 1.0, {}), (after, lr, changes), (after, lr, changes)):
        group = {"params": [torch.zeros(1, requires_grad=True)], "lr": rate, "initial_lr": rate}
        optimizer = SGD([group])
        scheduler = make_scheduler(optimizer, first, **(arguments | changed))
        found.append((optimizer, scheduler))
    (old, old_schedule), (again, again_schedule), (always, always_schedule) = found
    for _ in range(epochs):
        end_epoch(old_schedule, losses)
        end_epoch(always_schedule, losses)
    saved = old.state_dict()
    load_optimizer(again, saved)
    load_scheduler(again_schedule, old_schedule.state_dict(), saved["param_groups"])
    now, as_always = again.param_groups[0]["lr"], always.param_groups[0]["lr"]
    for one in (again_schedule, always_schedule):
        end_epoch(one, losses)
    assert (again.param_groups[0]["lr"] == always.param_groups[0]["lr"]) == (now == as_always)
    return now, as_always


@pytest.mark.parametrize("policy", ["linear", "step", "cosine", "none"])
@pytest.mark.parametrize("before", ["linear", "plateau"])
def test_a_continued_run_goes_by_its_new_rate_and_policy(before: str, policy: str) -> None:
    now, as_always = continued(before, policy, 3, lr=0.25)
    assert now == as_always
    now, as_always = continued(policy, policy, 4, lr=0.25, n_epochs=9, lr_decay_iters=3)
    assert now == as_always


def test_a_continued_plateau_keeps_what_it_has_seen_and_takes_a_new_rate() -> None:
    assert continued("plateau", "plateau", 8) == pytest.approx((0.2, 0.2))
    assert continued("plateau", "plateau", 8, lr=0.25) == pytest.approx((0.05, 0.05))
    assert continued("linear", "plateau", 5, lr=0.5)[0] == 0.5  # where linear has come to nothing


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


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        (("--max_iters", 3), "epoch 1 of 2"),  # 8 images, batches of 2: 4 steps an epoch
        (("--max_iters", 5), ""),
        (("--max_iters", 3, "--n_epochs", 2, "--n_epochs_decay", 0), ""),  # linear, and nothing that falls
        ((), ""),
        (("--max_iters", 3, "--lr_policy", "none"), ""),
    ],
)
def test_steps_that_end_before_the_rate_falls_are_told(
    flags: tuple[object, ...], ends: str, train_run: Trained, data: DataMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data(count=(8, 8))
    train_run("run", root, "--batch_size", 2, "--n_epochs", 1, "--n_epochs_decay", 1, *flags)
    text = f"--max_iters 3 ends the run in {ends}; the learning rate falls by epochs"
    assert (text in capsys.readouterr().out) == bool(ends)


def test_a_plateau_of_weights_that_stood_still_goes_on() -> None:
    """--head_lr_factor 0 is a rate of 0, which has no share of itself left."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = SGD([{"params": [weight], "lr": 0.0, "initial_lr": 0.0}], lr=1.0)
    scheduler = make_scheduler(optimizer, "plateau", n_epochs=3, n_epochs_decay=2, epoch_count=1, lr_decay_iters=2)
    saved = [{"lr": 0.0, "initial_lr": 0.0}]
    optimizer.param_groups[0]["initial_lr"] = 0.5
    load_scheduler(scheduler, scheduler.state_dict(), saved)
    assert optimizer.param_groups[0]["lr"] == 0.5
