"""Weights as safetensors: several networks in one file that cannot hold code, read with the optional package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from util.checkpoint import CheckpointError
from util.errors import UserError, printable
from util.files import write_atomic

SAFE_FILE = "model.safetensors"
REMEDY = "pip install -r requirements-extras.txt, or this package alone"


class MissingPackageError(UserError, ImportError):
    """An optional package is needed and is not installed; the message names it and what it is for."""


def missing(package: str, what: str) -> MissingPackageError:
    """The error where an optional package is not installed.

    Args:
        what: needs it, as the message begins.
    """
    return MissingPackageError(f"{what}: needs the package {package}, which is not installed; {REMEDY}")


def holds_safe(folder: Path, epoch: str) -> bool:
    """Whether a folder's weights of an epoch are those of its safetensors file: an exported folder has no others."""
    return epoch == "latest" and (folder / SAFE_FILE).is_file() and not any(folder.glob("latest_net_*.pth"))


def write_nets(path: Path, nets: Mapping[str, nn.Module], about: Mapping[str, str]) -> None:
    """Write the state dicts of networks, with keys such as `G.model.1.weight`.

    Args:
        about: texts for the file's header.

    Raises:
        MissingPackageError: safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise missing("safetensors", path.name) from error
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()  # cloned: shared memory is refused
        for name, net in nets.items()
        for key, value in net.state_dict().items()
    }
    write_atomic(path, save(tensors, dict(about)), durable=True)


def read_net(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict of one network.

    Raises:
        CheckpointError: the file is damaged, or has no such network.
        MissingPackageError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise missing("safetensors", str(path)) from error
    try:
        held: dict[str, Any] = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: is damaged ({printable(error)[:200]}); restore a copy") from error
    found = {key.removeprefix(f"{name}."): value for key, value in held.items() if key.startswith(f"{name}.")}
    if not found:
        known = ", ".join(sorted({key.partition(".")[0] for key in held})) or "none"
        raise CheckpointError(f"{path}: holds no network {name}; there are: {printable(known)[:200]}")
    return found
