"""The folder of a run: what stands in it before the first step, and what a continued run finds there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from util import ranks
from util.checkpoint import STATE_FILE, CheckpointError, load_state
from util.engine.faults import NonFiniteLossError
from util.engine.run_state import Position
from util.errors import printable
from util.files import check_writable, inside, write_atomic
from util.provenance import provenance

if TYPE_CHECKING:
    from util.engine.signals import StopRequest
    from util.engine.trainer import Trainer

ENVIRONMENT_FILE = "environment.txt"
# What a state must hold for a run to go on, and of which kind.
OUTLINE: Mapping[str, type] = {
    "nets": dict,
    "optimizers": dict,
    "schedulers": dict,
    "scaler": dict,
    "model": dict,
    "position": dict,
    "loss_sum": float,
    "nonfinite": dict,
    "steps_per_epoch": int,
    "first_epoch": int,
}


def state_to_continue(folder: Path, continue_train: bool) -> dict[str, Any] | None:
    """The state to continue from, or None for a new run.

    Raises:
        UserError: nothing can be written there, or a link in the folder leads out of it.
        CheckpointError: the folder already holds a run that was not asked to continue, or weights that a new one would
            write over, or the state is unusable.
    """
    path = folder / STATE_FILE
    check_writable(folder, "--checkpoints_dir")
    _check_links(folder)
    if continue_train:
        if not path.is_file():
            raise CheckpointError(f"--continue_train: {path} does not exist; start the run without the flag")
        state = load_state(path)
        _check_outline(path, state)
        return state
    if path.is_file():
        raise CheckpointError(
            f"{folder} already holds a run: add --continue_train to continue it, choose another --name, "
            "or delete the folder"
        )
    if weights := next(folder.glob("latest_net_*.pth"), None):
        raise CheckpointError(
            f"{folder} already holds weights ({printable(weights.name)}), which a new run would write over: choose "
            "another --name, or move them"
        )
    return None


def begun_anew(folder: Path, options_file: str) -> str:
    """What is said of a folder in which an earlier start has left its options and no checkpoint; else nothing."""
    if not (folder / options_file).is_file():
        return ""
    return f"{folder}: an earlier start has left no checkpoint there; the run begins anew with this command's options"


def fit(trainer: Trainer, stop: StopRequest) -> bool:
    """`trainer.fit`; where a new run ends with an error and has kept nothing it learned, its first checkpoint goes.

    What was wrong in the command would be wrong in continuing, and the corrected one could not begin.
    """
    new = trainer.position.step == 0
    try:
        return trainer.fit(stop)
    except (NonFiniteLossError, CheckpointError):  # say how the run goes on from that checkpoint
        raise
    except Exception:
        if new and trainer.disk.saved <= 0 and ranks.is_first():
            for name in (STATE_FILE, "latest_facts.json", *(f"latest_net_{net}.pth" for net in trainer.model.nets)):
                with contextlib.suppress(OSError):
                    (trainer.outputs.folder / name).unlink(missing_ok=True)
        raise


def _check_links(folder: Path) -> None:
    """Raise where a link in the folder leads out of it: logs and pictures would be written through it."""
    for place, folders, names in os.walk(folder):
        for link in (Path(place, name) for name in (*folders, *names)):
            if link.is_symlink() and not inside(link, folder):
                raise CheckpointError(
                    f"{printable(link)}: is a link that leads out of the run's folder; put a copy in its place"
                )


def _check_outline(path: Path, state: Mapping[str, Any]) -> None:
    """Raise where a state lacks what the trainer reads: another version wrote it, or another program."""
    wrong = [key for key, kind in OUTLINE.items() if not isinstance(state.get(key), kind)]
    if not wrong:
        position = state["position"]
        names = {field.name for field in fields(Position)}
        if set(position) != names or not all(isinstance(value, int) and value >= 0 for value in position.values()):
            wrong = ["position"]
    if wrong:
        raise CheckpointError(
            f"{path}: {wrong[0]!r} is missing or is not what this version writes; continue with the version that "
            "wrote it, or begin a new run with --pretrained_name"
        )


def describe_run(
    folder: Path, options_yaml: str, options_file: str, device: torch.device, continued: bool = False
) -> None:
    """Write the run's options beside its checkpoints, and how it was started: `environment.txt`.

    That is a list of requirements, the versions of every installed package, after comments that say by which command,
    when, on what and by which commit of this program.

    Args:
        continued: the comments of earlier starts stay, above those of this one.
    """
    write_atomic(folder / options_file, options_yaml.encode())
    file = folder / ENVIRONMENT_FILE
    earlier = _comments(file) if continued else ""
    own = "".join(f"# {name}: {value}\n" for name, value in provenance(device).items())
    write_atomic(file, f"{earlier}{own}{_installed()}".encode())


def _comments(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # a run of before; or somebody has taken it away
        return ""
    return "".join(f"{line}\n" for line in lines if line.startswith("#"))


@cache
def _installed() -> str:
    """`name==version` of every installed package, a line each."""
    versions = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "".join(f"{line}\n" for line in sorted(versions))
