"""Files that are whole or absent: the state a run continues from, and exported weights."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.files import write_atomic

MAGIC = b"CUTCAM01"  # the digits are the format's version
STATE_FILE = "latest_state.pt"


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state with its checksum, atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getvalue()
    write_atomic(path, MAGIC + hashlib.sha256(payload).digest() + payload, durable=True)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state, on the CPU.

    Raises:
        CheckpointError: absent, of another format or version, damaged, or holding anything but plain data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    magic, digest, payload = content[:8], content[8:40], content[40:]
    if magic[:6] != MAGIC[:6]:
        raise CheckpointError(f"{path}: is no training state of this project")
    if magic != MAGIC and len(magic) == len(MAGIC):
        raise CheckpointError(f"{path}: has format {magic[6:].decode(errors='replace')}, this program reads 01")
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path}: is damaged or truncated (its checksum does not fit); restore a copy")
    state = _unpickle(path, payload)
    return dict(state)


def _unpickle(path: Path, payload: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), "it ends too early")
        raise CheckpointError(f"{path}: cannot be loaded as plain weights ({reason[:200]})") from error


def export_weights(path: Path, net: nn.Module) -> None:
    """Write a network's state dict the way CUT does, one plain file a network."""
    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu() for key, value in net.state_dict().items()}, buffer)
    write_atomic(path, buffer.getvalue(), durable=True)


def load_weights(path: Path, net: nn.Module) -> None:
    """Load an exported state dict, ours or published, into a network.

    Raises:
        CheckpointError: absent, damaged, or made for a network of another shape.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: does not exist")
    weights = _unpickle(path, path.read_bytes())
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: holds no state dict of a network")
    expected = net.state_dict()
    # Files of very old PyTorch versions lack or carry counters of batch norm that change nothing.
    weights = {key: value for key, value in weights.items() if key in expected or "num_batches" not in key}
    problems = [f"lacks {key}" for key in expected if key not in weights and "num_batches" not in key]
    problems += [f"has the unknown {key}" for key in weights if key not in expected]
    problems += [
        f"has {key} of shape {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in weights and weights[key].shape != expected[key].shape
    ]
    if problems:
        raise CheckpointError(
            f"{path}: does not fit the network: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + "; check --netG, --ngf, --input_nc, --output_nc and the norm flags"
        )
    net.load_state_dict(weights, strict=False)
