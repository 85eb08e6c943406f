"""Randomness keyed by what it is for, so that no draw depends on the rank, the worker or the order of calls."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import numpy as np
import torch


def key(seed: int, purpose: str, *keys: int) -> int:
    """A 63-bit number that depends on every argument: equal arguments give equal numbers on any machine."""
    text = "/".join([str(seed), purpose, *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *keys: int) -> torch.Generator:
    """A CPU generator for one purpose at one place, for example `generator(seed, "patches", step)`.

    Args:
        seed: the run's seed.
        purpose: what is drawn; two purposes never share numbers.
        keys: step, epoch, global sample index, layer: whatever tells one draw from the next. Never the rank.
    """
    return torch.Generator().manual_seed(key(seed, purpose, *keys))


@dataclass(frozen=True)
class StepInfo:
    """Where in training a step stands. With the seed it keys every random draw of the step."""

    seed: int
    step: int  # optimiser steps done before this one, over the whole run
    progress: float = 0.0  # epochs done, with the fraction of the current one
    fraction: float = 0.0  # of the whole run that is done, 0 to 1
    epoch_share: float = 1.0  # of the whole run that one epoch is
    rank: int = 0
    world_size: int = 1

    def generator(self, purpose: str, *keys: int) -> torch.Generator:
        """The generator of one draw of this step, the same on every rank."""
        return generator(self.seed, purpose, self.step, *keys)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (third-party code may use them; ours does not)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
