"""Golden numbers of the published CUT code, and the weights that reproduce them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden() -> dict[str, npt.NDArray[np.float32]]:
    with np.load(GOLDEN / "cut_golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[nn.Module], None]:
    """Sets every tensor of a network from its name alone; blur filters stay as built."""

    def set_weights(net: nn.Module) -> None:
        for name, tensor in net.state_dict().items():
            if name.endswith(".filt"):
                continue
            shape = tuple(tensor.shape)
            draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
            scale = 1.6 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
            tensor.copy_(torch.from_numpy((draw * scale).astype(np.float32)))

    return set_weights


@pytest.fixture(scope="session")
def published_keys() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by state-dict name of the published networks at default size, under "G", "D" and "F"."""
    networks: dict[str, dict[str, tuple[int, ...]]] = {}
    current: dict[str, tuple[int, ...]] = {}
    for line in (GOLDEN / "cut_state_dict_keys.txt").read_text().splitlines():
        if line.startswith("## "):
            current = networks.setdefault(line.split()[1], {})
        elif line.startswith("   "):
            name, shape = line.strip().removesuffix("(buffer)").split(" ", 1)
            current[name] = tuple(int(n) for n in shape.strip(" (),").split(",") if n.strip())
    return networks
