"""The folder of a run: what stands in it before the first step, and what a continued run finds there."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from util.checkpoint import STATE_FILE, CheckpointError, load_state
from util.files import write_atomic

ENVIRONMENT_FILE = "environment.txt"


def state_to_continue(folder: Path, continue_train: bool) -> dict[str, Any] | None:
    """The state to continue from, or None for a new run.

    Raises:
        CheckpointError: the folder already holds a run that was not asked to continue, or the state is unusable.
    """
    path = folder / STATE_FILE
    if continue_train:
        if not path.is_file():
            raise CheckpointError(f"--continue_train: {path} does not exist; start the run without the flag")
        return load_state(path)
    if path.is_file():
        raise CheckpointError(
            f"{folder} already holds a run: add --continue_train to continue it, choose another --name, "
            "or delete the folder"
        )
    return None


def describe_run(folder: Path, options_yaml: str, options_file: str) -> None:
    """Write the run's options and the versions of every installed package beside its checkpoints."""
    write_atomic(folder / options_file, options_yaml.encode())
    versions = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]})
    write_atomic(folder / ENVIRONMENT_FILE, ("\n".join(versions) + "\n").encode())
