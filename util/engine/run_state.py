"""What a run continues from: all that a trainer holds, as tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from util import ranks
from util.checkpoint import CheckpointError
from util.engine.optimizers import load_optimizer
from util.engine.schedule import load_scheduler

if TYPE_CHECKING:
    from util.engine.trainer import Trainer


@dataclass(frozen=True)
class Position:
    """How far a run has come. `epoch` counts from the first epoch's number; `step_in_epoch` steps of it are done."""

    epoch: int
    step_in_epoch: int = 0
    step: int = 0
    total_iters: int = 0


def collect(trainer: Trainer) -> dict[str, Any]:
    """Everything a run needs to continue as if it had never stopped."""
    return {
        "nets": {name: net.state_dict() for name, net in trainer.model.nets.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()},
        "schedulers": {name: scheduler.state_dict() for name, scheduler in trainer.schedulers.items()},
        "scaler": trainer.precision.scaler.state_dict(),
        "average": trainer.average.state(),
        "model": trainer.model.extra_state(),
        "position": asdict(trainer.position),
        "loss_sum": trainer.loss_sum,
        "loss_steps": trainer.loss_steps,
        "nonfinite": trainer.nonfinite.state(),
        "bad_images": trainer.bad_images.state(),
        "early_stopping": trainer.early_stopping.state(),
        "files": trainer.loader.dataset.file_names,  # type: ignore[attr-defined]
        "world_size": ranks.world_size(),
        "steps_per_epoch": len(trainer.sampler),
        "samples_per_epoch": trainer.sampler.per_epoch,
        "first_epoch": trainer.first_epoch,
    }


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Continue from what `collect` returned.

    Raises:
        CheckpointError: the state was made by other networks or with another number of steps in an epoch.
    """
    before = (state["steps_per_epoch"], state.get("samples_per_epoch", trainer.sampler.per_epoch))
    now = (len(trainer.sampler), trainer.sampler.per_epoch)
    if state["position"]["step_in_epoch"] and before != now:
        raise CheckpointError(
            f"the checkpoint stands inside an epoch of {before[0]} steps and {before[1]} samples, and an epoch now has "
            f"{now[0]} and {now[1]}; continue with the same data, --batch_size, --samples_per_epoch and number of "
            "processes"
        )
    _check_files(trainer, state)
    if lacking := [name for name in trainer.model.nets if name not in state["nets"]]:
        raise CheckpointError(
            f"the checkpoint holds no network {', '.join(lacking)}, which the options of this command ask for; leave "
            "out the changed flags, or begin a new run"
        )
    try:
        for name, net in trainer.model.nets.items():
            net.load_state_dict(state["nets"][name])
        for name, optimizer in trainer.optimizers.items():
            saved = state["optimizers"][name]
            load_optimizer(optimizer, saved)
            load_scheduler(trainer.schedulers[name], state["schedulers"][name], saved["param_groups"])
        trainer.precision.scaler.load_state_dict(state["scaler"])
        trainer.average.load(state.get("average"))
        trainer.model.load_extra_state(state["model"])
        trainer.nonfinite.load(state["nonfinite"])
        trainer.bad_images.load(state)
        trainer.early_stopping.load(state.get("early_stopping", {}))
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"the checkpoint does not fit the options of this command: {reason}; leave out the changed flags"
        ) from error
    trainer.position = Position(**state["position"])
    trainer.loss_sum = float(state["loss_sum"])
    trainer.loss_steps = int(state.get("loss_steps", trainer.position.step_in_epoch))  # as earlier versions counted


def _check_files(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Which file a sample is follows from the list of files: inside an epoch it must be the same."""
    dataset: Any = trainer.loader.dataset
    if not (changes := dataset.changes_since(state.get("files", dataset.file_names))):
        return
    if state["position"]["step_in_epoch"]:
        raise CheckpointError(
            f"the checkpoint stands inside an epoch and the files have changed since ({changes}); "
            "continue with the same files"
        )
    trainer.model.messages.append(f"the files have changed since the run was left: {changes}")
