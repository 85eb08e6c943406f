"""A network whose activation is the caller's: residual, concatenating and pooling, as the usual ones are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.cam.tiny_networks import CLASSES

Activation = Callable[[Tensor], Tensor]


class ReluNet(nn.Module):
    """A stem with batch norm, a residual step, a concatenating step, pooling, and two linear layers, for 24 pixels.

    `last` is its last convolution. Activations follow a sum, a normalisation, a concatenation and a linear layer.

    Args:
        activation: called five times for the five activations: a module class, or `lambda: function`.
    """

    def __init__(self, activation: Callable[[], Activation]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.step = nn.Conv2d(6, 6, 3, 1, 1)
        self.norm_step = nn.BatchNorm2d(6, affine=False)
        self.more = nn.Conv2d(6, 4, 3, 1, 1)
        self.last = nn.Conv2d(10, 8, 3)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(200, 7)
        self.classify = nn.Linear(7, CLASSES, bias=False)
        self.act0, self.act1, self.act2, self.act3, self.act4 = (activation() for _ in range(5))

    def forward(self, images: Tensor) -> Tensor:
        first = self.act0(self.norm(self.stem(images)))
        second = self.act1(self.norm_step(self.step(first)) + first)
        third = self.act2(torch.cat([second, self.more(second)], 1))
        pooled = self.pool(self.act3(self.last(third)))
        logits: Tensor = self.classify(self.act4(self.hidden(pooled.flatten(1))))
        return logits


class _GuidedFunction(torch.autograd.Function):
    """The guided rule, written out."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor, upper: float) -> Tensor:
        ctx.save_for_backward(inputs)  # type: ignore[attr-defined]
        ctx.upper = upper  # type: ignore[attr-defined]
        return inputs.clamp(0, upper)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        (inputs,) = ctx.saved_tensors  # type: ignore[attr-defined]
        passes = (inputs > 0) & (inputs < ctx.upper) & (gradient > 0)  # type: ignore[attr-defined]
        return torch.where(passes, gradient, 0.0), None


def guided_activation(upper: float) -> Callable[[], Activation]:
    """A ReLU whose own derivative is the guided one: the plain gradient of such a network is what is looked for."""
    return lambda: lambda inputs: _GuidedFunction.apply(inputs, upper)
