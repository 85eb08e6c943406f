"""Early stopping: when a measure of held-out images no longer grows, training ends, and the best weights are the run's.

The best weights wait in memory and in the training state, not in their exported file alone: a run that is killed and
continued goes on from its last checkpoint, which may be older than that file.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from util.errors import UserError

if TYPE_CHECKING:
    from models.base import Model

BEST = "best"  # prefix of the exported weights


class EarlyStoppingError(UserError, ValueError):
    """There is nothing to stop by."""


class EarlyStopping:
    """Remembers the best epoch of a run.

    Args:
        patience: training ends after so many epochs in a row that are not better than the best one; 0: never, and
            nothing is remembered.
        measure: the value of `Model.validate` to go by; more is better.

    Attributes:
        best_epoch: number of the best epoch so far; -1: none has been measured.
        waited: epochs since then.
    """

    def __init__(self, patience: int, measure: str) -> None:
        self._patience, self._measure = patience, measure
        self.best_epoch, self.waited = -1, 0
        self._best = -float("inf")
        self._kept: dict[str, Any] = {}

    def check(self, held_out: object) -> None:
        """Raise an EarlyStoppingError where patience is asked for and nothing is held out to measure by."""
        if self._patience and not (self._measure and held_out):
            raise EarlyStoppingError(
                f"--early_stopping_patience {self._patience}: no image is held out to measure by; raise --val_share, "
                "give a folder val, or set it to 0"
            )

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self._patience <= self.waited

    def observe(self, values: Mapping[str, float], epoch: int, model: Model[Any], counts: bool = True) -> bool:
        """Take note of what has been measured; True where it is better than everything before.

        Args:
            values: what `Model.validate` returned.
            epoch: the number of the epoch whose weights were measured.
            counts: a whole epoch has passed; otherwise the wait does not grow longer.
        """
        if not self._patience or self._measure not in values:
            return False
        if not values[self._measure] > self._best:  # NaN is no better
            self.waited += counts
            return False
        self._best, self.best_epoch, self.waited = values[self._measure], epoch, 0
        self._kept = {
            "nets": {name: _copied(net.state_dict()) for name, net in model.nets.items()},
            "model": copy.deepcopy(model.extra_state()),
        }
        return True

    def restore(self, model: Model[Any]) -> bool:
        """Give a model its best weights back, and what it knew of them; False where there are none."""
        if not self._kept or not self._patience:
            return False
        for name, net in model.nets.items():
            net.load_state_dict(self._kept["nets"][name])
        model.load_extra_state(self._kept["model"])
        return True

    def describe(self) -> str:
        """Which epoch was the best, for the end of a run."""
        why = f"no better one for {self.waited} epochs" if self.over else "the best of all"
        measured = f"{self._measure} {self._best:.4f}"
        return f"early stopping: the weights of epoch {self.best_epoch} are restored ({measured}, {why})"

    def scalars(self) -> dict[str, float]:
        """What the log shows beside the measures."""
        return {"best_epoch": float(self.best_epoch)} if self._kept else {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors and plain values."""
        return {"best": self._best, "best_epoch": self.best_epoch, "waited": self.waited, **self._kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned; from an empty one, anew."""
        if "nets" not in state:
            return
        self._best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.waited = int(state["waited"])
        self._kept = {key: state[key] for key in ("nets", "model")}


def _copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in weights.items()}
