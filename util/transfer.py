"""Numbers made on the host, sent to a device that goes on working meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor


def send(host: Tensor, device: torch.device | str) -> Tensor:
    """A host tensor on a device, without the host waiting for the work queued there.

    A plain `.to` waits, and so does a copy of memory that the system may move: on a GPU the copy is one of page-locked
    memory, which PyTorch keeps until the copy is done.
    """
    place = torch.device(device)
    return (host.pin_memory() if place.type == "cuda" else host).to(place, non_blocking=True)
