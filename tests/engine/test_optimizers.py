"""Optimisers of a run against their update formulas by hand, and which flags reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from util.engine.build import optimizers_from

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
