"""Files that are whole or absent: the state a run continues from, and exported weights."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError, printable
from util.files import write_atomic

MAGIC = b"CUTCAM01"  # the digits are the format's version
STATE_FILE = "latest_state.pt"
SHAPE_OF_G = "--netG, --ngf, --input_nc, --output_nc and the norm flags"


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
        version = printable(magic[6:].decode(errors="replace"))
        raise CheckpointError(f"{path}: has format {version}, this program reads 01")
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path}: is damaged or truncated (its checksum does not fit); restore a copy")
    state = _unpickle(path, payload)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds no training state, though its checksum fits")
    return state


def _unpickle(path: Path, payload: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange files PyTorch says more than one line
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # on bad bytes the unpickler may raise anything
        raise CheckpointError(f"{path}: cannot be loaded as plain weights ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What is wrong, out of PyTorch's many lines; the first advises to load the file in spite of the danger."""
    lines = str(error).splitlines()
    if isinstance(error, pickle.UnpicklingError):
        lines = [line for line in lines if "nsupported" in line] or ["its pickle is damaged"]
    return printable(next(iter(lines), "it ends too early"))[:200]


def _check_archive(path: Path, payload: bytes) -> None:
    """Compare the checksums in the archive that `torch.save` writes: `torch.load` does not."""
    if not payload.startswith(b"PK"):
        return  # as PyTorch wrote before 1.6: there is none to compare
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
            # PyTorch never compresses, so this is a bomb: a few bytes that would fill the memory.
            damaged = archive.testzip() if claimed <= len(payload) else None
    except Exception as error:  # a damaged directory leads anywhere
        raise CheckpointError(f"{path}: is a damaged archive ({printable(error)[:200]}); restore a copy") from error
    if claimed > len(payload):
        raise CheckpointError(f"{path}: claims {claimed:,} bytes and has {len(payload):,}; it is no file of weights")
    if damaged:
        raise CheckpointError(f"{path}: is damaged (the checksum of {printable(damaged)[:200]} does not fit)")


def export_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a network's state dict the way CUT does, one plain file a network."""
    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu() for key, value in weights.items()}, buffer)
    write_atomic(path, buffer.getvalue(), durable=True)


def read_plain(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU: tensors and plain values, nothing that could run.

    Raises:
        CheckpointError: absent, damaged, or holding anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: does not exist")
    payload = path.read_bytes()
    _check_archive(path, payload)
    return _unpickle(path, payload)


def load_weights(
    path: Path,
    net: nn.Module,
    flags: str = SHAPE_OF_G,
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights,
    unwrap: Callable[[Any], Any] = lambda content: content,
) -> None:
    """Load an exported state dict, ours or published, into a network.

    Args:
        flags: what to check where the network has another shape.
        adapt: makes the network's state dict from that of the file, where they may differ.
        unwrap: finds the state dict in what the file holds, where it may hold more.

    Raises:
        CheckpointError: absent, damaged, not finite, or made for a network of another shape. The network is then as
            it was.
    """
    fit_weights(path, unwrap(read_plain(path)), net, flags, adapt)


def fit_weights(
    path: Path,
    weights: Any,
    net: nn.Module,
    flags: str = SHAPE_OF_G,
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights,
) -> None:
    """Load a state dict that was read from a file into a network; see `load_weights`.

    Raises:
        CheckpointError: it is none, is not finite, or was made for a network of another shape.
    """
    if not isinstance(weights, dict) or not all(_is_plain(key, value) for key, value in weights.items()):
        raise CheckpointError(f"{path}: holds no state dict of a network")
    weights, expected = _without_unused(adapt(weights), net), net.state_dict()
    # Files of very old PyTorch versions lack or carry counters of batch norm that change nothing.
    weights = {key: value for key, value in weights.items() if key in expected or "num_batches" not in key}
    problems = [f"lacks {key}" for key in expected if key not in weights and "num_batches" not in key]
    problems += [f"has the unknown {printable(key)[:200]}" for key in weights if key not in expected]
    problems += [
        f"has {key} of shape {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in weights and weights[key].shape != expected[key].shape
    ]
    problems += [
        f"has {key} of type {weights[key].dtype} instead of {expected[key].dtype}"
        for key in expected
        if key in weights and weights[key].is_floating_point() != expected[key].is_floating_point()
    ]
    if problems:
        raise CheckpointError(
            f"{path}: does not fit the network: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + f"; check {flags}"
        )
    for key, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {key} holds NaN or infinite values; use an earlier checkpoint")
    net.load_state_dict(weights, strict=False)


def _without_unused(weights: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Weights without the running statistics of instance norms, which PyTorch saved before 0.4 and nothing reads."""
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    return {
        key: value
        for key, value in weights.items()
        if not (key.endswith((".running_mean", ".running_var")) and key.rpartition(".")[0] in norms)
    }


def _is_plain(key: Any, value: Any) -> bool:
    """Whether it is a name with numbers that can be copied into a network's."""
    return (
        isinstance(key, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_complex() or value.is_quantized)
    )
