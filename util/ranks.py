"""The processes of one run: who is first, and sums over all of them. Works unchanged with a single process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


def start(device: torch.device) -> None:
    """Join the process group that `torchrun` describes in the environment; nothing to do for one process."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)  # what is only called "cuda" must be this rank's GPU, not the first
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)


def device() -> torch.device:
    """Where a tensor must be to be sent to the other ranks."""
    if world_size() > 1 and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks (the tensor itself with one process); carries no gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def on_any(here: bool) -> bool:
    """Whether something is so on any rank; all ranks must ask."""
    return bool(sum_over_ranks(torch.tensor(float(here), device=device())) > 0) if world_size() > 1 else here


def rows_of_all(rows: Tensor) -> Tensor:
    """The rows of all ranks, rank by rank, on every rank; as many on each. Carries no gradient."""
    if world_size() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def texts_of_all(texts: Sequence[str]) -> list[str]:
    """The texts of all ranks, rank by rank, on every rank."""
    if world_size() == 1:
        return list(texts)
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, list(texts))
    return [text for part in gathered for text in part]


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks; carries no gradient."""
    return sum_over_ranks(value) / world_size()


def known_mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over the ranks that know a value; NaN stands for unknown, and stays where no rank knows it."""
    known = ~values.isnan()
    total = sum_over_ranks(torch.where(known, values, 0.0))
    return total / sum_over_ranks(known.to(values.dtype))


def from_first(value: Tensor) -> Tensor:
    """The first rank's tensor on every rank; shapes must agree."""
    if world_size() > 1:
        value = value.contiguous()
        dist.broadcast(value, 0)
    return value


def average_gradients(parameters: Iterable[Tensor], beside: Tensor | None = None) -> None:
    """Replace every gradient by its mean over ranks, in one flat message per dtype.

    Parameters without a gradient are skipped: they have none on any rank, since all ranks run the same graph.

    Args:
        beside: a number () on the gradients' device; it travels in the first message, and becomes its sum over ranks.
    """
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        parts = [gradient.reshape(-1) for gradient in gradients]
        if beside is not None:
            parts.append(beside.detach().reshape(1).to(parts[0].dtype))
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        if beside is not None:
            flat, total = torch.split(flat, [len(flat) - 1, 1])
            beside.detach().copy_(total[0])
            beside = None
        flat /= world_size()
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
