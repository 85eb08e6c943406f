"""The processes of one run, as torchrun starts them, at the cost of a fork."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import start_processes

LOCAL = "127.0.0.1"
# A forked process has everything imported; one that has used a GPU cannot be forked.
METHOD = "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"


@contextmanager
def meeting_places(count: int) -> Iterator[list[int]]:
    """Ports at which a group each can meet, taken until the end: nobody else on the machine can have them."""
    stores = [TCPStore(LOCAL, 0, is_master=True, wait_for_workers=False) for _ in range(count)]
    yield [store.port for store in stores]


def as_ranks(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(rank, *arguments)` in `world` processes and wait for them; their errors are raised here."""
    start_processes(_live, (world, work, arguments), nprocs=world, start_method=METHOD)  # type: ignore[no-untyped-call]


def meet_at(port: int) -> None:
    """The next group of this process is formed at `port`, one of `meeting_places`."""
    os.environ["MASTER_PORT"] = str(port)


def _live(rank: int, world: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": LOCAL}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the first rank keeps no store: the parent does, as torchrun
    work(rank, *arguments)
