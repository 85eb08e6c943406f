"""Optimisers of a run against their update formulas by hand, and which flags reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from util.engine.build import optimizers_from
from util.engine.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from tests.conftest import BenchMaker

LR, DECAY, MOMENTUM, B1, B2, EPS = 0.1, 0.05, 0.8, 0.7, 0.9, 1e-8


def sgd(w: float, gradients: list[float]) -> float:
    v = 0.0
    for number, g in enumerate(gradients):
        g += DECAY * w
        v = g if number == 0 else MOMENTUM * v + g
        w -= LR * v
    return w


def adam(w: float, gradients: list[float], decoupled: bool = False) -> float:
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        if decoupled:
            w -= LR * DECAY * w
        else:
            g += DECAY * w  # L2, as Adam's weight_decay is
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
        w -= LR * (m / (1 - B1**t)) / ((v / (1 - B2**t)) ** 0.5 + EPS)
    return w


def adamw(w: float, gradients: list[float]) -> float:
    return adam(w, gradients, decoupled=True)


@pytest.mark.parametrize(("name", "formula"), [("sgd", sgd), ("adam", adam), ("adamw", adamw)])
def test_each_optimizer_follows_its_formula(
    bench: BenchMaker, name: str, formula: Callable[[float, list[float]], float]
) -> None:
    flags = ("--weight_decay", DECAY, "--momentum", MOMENTUM, "--beta1", B1, "--beta2", B2, "--lr", LR)
    made = bench("--model", "classifier", "--num_classes", 4, "--optimizer", name, *flags)
    optimizer = made.optimizers["C"]
    weight = next(made.model.nets["C"].parameters())
    start = weight.detach().flatten()[0].item()
    gradients = [0.5, -0.2, 0.3]
    for gradient in gradients:
        optimizer.zero_grad()
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    assert weight.detach().flatten()[0].item() == pytest.approx(formula(start, gradients), rel=1e-4, abs=1e-6)


def settings(bench: BenchMaker, *flags: object) -> dict[str, object]:
    made = bench(*flags)
    group = optimizers_from(made.run, made.model)[next(iter(made.model.nets))].param_groups[0]
    return {key: value for key, value in group.items() if not isinstance(value, list | Tensor)}


def test_a_classifiers_sgd_has_momentum_and_a_translators_is_plain(bench: BenchMaker) -> None:
    classifier = settings(bench, "--model", "classifier", "--num_classes", 4, "--optimizer", "sgd")
    assert (classifier["momentum"], classifier["weight_decay"]) == (0.9, 0)
    assert settings(bench, "--model", "cut", "--optimizer", "sgd")["momentum"] == 0
    assert settings(bench, "--model", "cut")["weight_decay"] == 0


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_without_its_compiler_pytorch_computes_the_same(name: str, kind: Callable[..., Optimizer]) -> None:
    """Bit for bit, and each continues from the other's state; hooks and schedules reach both."""
    weights = [torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_() for _ in range(2)]
    settings = {"lr": LR, "weight_decay": DECAY} | ({"momentum": MOMENTUM} if name == "sgd" else {"betas": (B1, B2)})
    ours, theirs = OPTIMIZERS[name]([weights[0]], **settings), kind([weights[1]], **settings)
    stepped: list[Optimizer] = []
    ours.register_step_post_hook(lambda optimizer, *_: stepped.append(optimizer))
    for number in range(4):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            optimizer.zero_grad()
            (weight * (number + 1.5)).sin().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert torch.equal(*weights)
        states = [optimizer.state_dict() for optimizer in (ours, theirs)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
        ours.load_state_dict(states[1])
        theirs.load_state_dict(states[0])
    assert stepped == [ours] * 4
    assert isinstance(ours, kind)  # type: ignore[arg-type]
