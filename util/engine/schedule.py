"""Learning rates over epochs, on PyTorch's schedulers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR


@dataclass(frozen=True)
class Plateau:
    """When and how --lr_policy plateau lets the rate fall.

    Attributes:
        factor: of the rate at each fall.
        patience: epochs without a lower loss before a fall.
        threshold: share of the lowest loss by which a lower one must be lower.
        min_lr: it falls no further.
    """

    factor: float = 0.2
    patience: int = 5
    threshold: float = 0.01
    min_lr: float = 0.0


def make_scheduler(
    optimizer: Optimizer,
    policy: str,
    n_epochs: int,
    n_epochs_decay: int,
    epoch_count: int,
    lr_decay_iters: int,
    plateau: Plateau | None = None,
) -> LRScheduler:
    """The scheduler of one optimiser, stepped once at the end of each epoch.

    Args:
        policy: linear (constant for n_epochs, then straight to zero one epoch after the last), step (a tenth
            every lr_decay_iters epochs), plateau (falls after epochs without a lower loss), cosine (over n_epochs),
            none (constant).
        epoch_count: number of the first epoch.
        plateau: a fifth after 5 epochs, as CUT's, unless given.

    Raises:
        ValueError: an unknown policy.
    """
    if policy == "linear":
        return LambdaLR(optimizer, lambda done: linear_factor(done + epoch_count, n_epochs, n_epochs_decay))
    if policy == "step":
        return StepLR(optimizer, lr_decay_iters, gamma=0.1)
    if policy == "plateau":
        how = plateau or Plateau()
        return ReduceLROnPlateau(
            optimizer, factor=how.factor, threshold=how.threshold, patience=how.patience, min_lr=how.min_lr
        )
    if policy == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, n_epochs))
    if policy == "none":
        return LambdaLR(optimizer, lambda done: 1.0)
    raise ValueError(f"--lr_policy {policy}: choose one of linear, step, plateau, cosine, none")


def linear_factor(epoch: int, n_epochs: int, n_epochs_decay: int) -> float:
    """The factor of the learning rate in epoch `epoch`, counted from 1."""
    return max(0.0, 1.0 - max(0, epoch - n_epochs) / (n_epochs_decay + 1))


def end_epoch(scheduler: LRScheduler, loss: float) -> None:
    """Step a scheduler; only plateau looks at the loss."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        with warnings.catch_warnings():
            # A run continued at the very end of an epoch steps the schedule before any optimiser: in order.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            scheduler.step()


def load_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Restore a scheduler, after its optimiser.

    A linear or constant one then goes by the options of this command, not by those it was saved with: a run that
    ended with a rate of zero can be made longer. The others depend on their past.
    """
    if not isinstance(scheduler, LambdaLR):
        scheduler.load_state_dict(dict(state))
        return
    first_rates = list(scheduler.base_lrs)
    scheduler.load_state_dict(dict(state))
    scheduler.base_lrs = first_rates
    rates = [r * factor(scheduler.last_epoch) for r, factor in zip(first_rates, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
