"""Learning rates over epochs, on PyTorch's schedulers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

# What a plateau schedule has seen; the rest of its state are the options of the command.
_SEEN = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


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
    gamma: float = 0.1,
) -> LRScheduler:
    """The scheduler of one optimiser, stepped once at the end of each epoch.

    Args:
        policy: linear (constant for n_epochs, then straight to zero one epoch after the last), step (times gamma
            every lr_decay_iters epochs), plateau (falls after epochs without a lower loss), cosine (to zero at the end
            of all epochs), none (constant).
        epoch_count: number of the first epoch.
        plateau: a fifth after 5 epochs, as CUT's, unless given.

    Raises:
        ValueError: an unknown policy.
    """
    if policy == "plateau":
        how = plateau or Plateau()
        return ReduceLROnPlateau(
            optimizer, factor=how.factor, threshold=how.threshold, patience=how.patience, min_lr=how.min_lr
        )
    factors = {
        "linear": lambda done: linear_factor(done + epoch_count, n_epochs, n_epochs_decay),
        "step": lambda done: gamma ** (done // lr_decay_iters),
        # CUT's ends after n_epochs and rises again from there; without epochs of decay the two are one.
        "cosine": lambda done: cosine_factor(done + epoch_count, n_epochs + n_epochs_decay),
        "none": lambda done: 1.0,
    }
    if policy not in factors:
        raise ValueError(f"--lr_policy {policy}: choose one of linear, step, plateau, cosine, none")
    return LambdaLR(optimizer, factors[policy])


def cosine_factor(epoch: int, last_epoch: int) -> float:
    """The factor of the learning rate in epoch `epoch`, counted from 1; zero after the last."""
    return (1 + math.cos(math.pi * min(1.0, (epoch - 1) / max(1, last_epoch)))) / 2


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


def load_scheduler(scheduler: LRScheduler, state: Mapping[str, Any], saved: Sequence[Mapping[str, Any]]) -> None:
    """Restore a scheduler, after its optimiser. The options of this command hold, also where they have changed.

    A run that ended with a rate of zero can so be made longer, and a rate or a policy be changed on the way.

    Args:
        saved: the optimiser's groups of parameters as they were saved.
    """
    groups = scheduler.optimizer.param_groups
    if isinstance(scheduler, LambdaLR):
        done, factors = int(state["last_epoch"]), scheduler.lr_lambdas
        rates = [first * factor(done) for first, factor in zip(scheduler.base_lrs, factors, strict=True)]
        moved = {"last_epoch": done, "_step_count": done + 1, "_last_lr": rates}
        scheduler.load_state_dict({**scheduler.state_dict(), **moved})
    elif "num_bad_epochs" in state:  # how far a plateau has let the rate fall is its past
        scheduler.load_state_dict({name: state[name] for name in _SEEN})
        rates = [
            before["lr"] * (group["initial_lr"] / first)
            if (first := before.get("initial_lr", group["initial_lr"]))
            else group["initial_lr"]
            for group, before in zip(groups, saved, strict=True)
        ]
    else:
        rates = [group["initial_lr"] for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
