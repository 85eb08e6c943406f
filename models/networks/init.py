"""Initial weights, drawn from a generator of their own so that a run's start depends on its seed only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INIT_TYPES = ("normal", "xavier", "kaiming", "orthogonal")


class OwnWeights(nn.Module):
    """A layer whose weights begin as its design asks, whatever `init_type` says."""

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw the first weights, in place; biases are 0. None draws from PyTorch's global generator."""
        raise NotImplementedError

    @staticmethod
    def draw_normal(weight: nn.Parameter, generator: torch.Generator | None) -> None:
        """N(0, 1), drawn on the CPU in float32 as all first weights are."""
        _assign(weight, torch.empty(weight.shape).normal_(generator=generator))


_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def init_weights(
    net: nn.Module, init_type: str = "xavier", gain: float = 0.02, generator: torch.Generator | None = None
) -> None:
    """Draw the weights of every convolution, linear layer and batch norm of `net`, in place; biases become 0.

    A layer with `OwnWeights` draws its own.

    Args:
        net: any module; its layers are visited in the order of `net.modules()`.
        init_type: `normal` N(0, gain), `xavier` (normal, Glorot & Bengio 2010) times gain, `kaiming` (normal,
            fan in, He et al. 2015; gain is not used), `orthogonal` (Saxe et al. 2014) times gain.
        gain: also the standard deviation of batch-norm weights, whose mean is 1.
        generator: a CPU generator; None draws from PyTorch's global one. Draws are made on the CPU in
            float32, so the same generator gives the same weights on every device.

    Raises:
        ValueError: unknown init_type.
    """
    if init_type not in INIT_TYPES:
        raise ValueError(f"unknown init_type '{init_type}': choose one of {', '.join(INIT_TYPES)}")
    for module in net.modules():
        if isinstance(module, _WEIGHTED):
            _assign(module.weight, _draw(module.weight.shape, init_type, gain, generator))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, OwnWeights):
            module.draw(generator)
        elif isinstance(module, _NORMS) and module.affine:
            _assign(module.weight, torch.empty(module.weight.shape).normal_(1.0, gain, generator=generator))
            nn.init.zeros_(module.bias)


def _draw(shape: torch.Size, init_type: str, gain: float, generator: torch.Generator | None) -> Tensor:
    """A float32 CPU tensor with the distribution asked for."""
    weight = torch.empty(shape)
    if init_type == "normal":
        return nn.init.normal_(weight, 0.0, gain, generator=generator)
    if init_type == "xavier":
        return nn.init.xavier_normal_(weight, gain=gain, generator=generator)
    if init_type == "kaiming":
        return nn.init.kaiming_normal_(weight, a=0, mode="fan_in", generator=generator)
    return nn.init.orthogonal_(weight, gain=gain, generator=generator)


def _assign(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
