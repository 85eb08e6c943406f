"""Optimisers of a run against their update formulas by hand, and which flags reach them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from util.checkpoint import CheckpointError, load_state
from util.engine.build import optimizers_from
from util.engine.late import LateCheck
from util.engine.optimizers import OPTIMIZERS, load_optimizer

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

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


# --- continued with other settings


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fused", [(False, True), (True, False)])
def test_a_state_is_continued_as_this_command_steps(name: str, fused: tuple[bool, bool]) -> None:
    """Begun on a CPU and continued fused, as on a GPU, and the other way round; the settings are the new ones."""
    weights = [torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_() for _ in range(2)]
    own: list[dict[str, object]] = [{"momentum": 0.5}, {"momentum": 0.9}]
    if name != "sgd":
        own = [{"betas": (0.5, 0.999)}, {"betas": (0.9, 0.99)}]
    before, after = (
        OPTIMIZERS[name]([weight], lr=LR, weight_decay=decay, fused=is_fused, **one)
        for weight, decay, is_fused, one in zip(weights, (0.0, DECAY), fused, own, strict=True)
    )
    weights[0].grad = torch.ones(4, 6)
    before.step()
    saved = copy.deepcopy(before.state_dict())
    load_optimizer(after, saved)
    (group,) = after.param_groups
    assert (group["fused"], group["weight_decay"]) == (fused[1], DECAY)
    assert group.items() >= own[1].items()
    weights[1].grad = torch.ones(4, 6)
    if fused[1]:
        LateCheck(torch.device("cpu")).guard(after)
    kept = weights[1].detach().clone()
    after.step()
    assert not torch.equal(weights[1], kept)
    moments = "momentum_buffer" if name == "sgd" else "exp_avg"
    past, now = before.state[weights[0]][moments], after.state[weights[1]][moments]
    gradient = 1 + (DECAY * kept if name != "adamw" else 0)
    expected = 0.9 * past + gradient * (1 if name == "sgd" else 0.1)
    torch.testing.assert_close(now, expected)


def test_flags_of_a_continued_run_hold(train_run: Trained, data: DataMaker, tmp_path: Path) -> None:
    root, cut = data(), ("--model", "cut", "--lr_policy", "step", "--lr_decay_iters", 1)
    train_run("run", root, *cut, "--max_iters", 1)
    changed = ("--lr", 0.01, "--beta1", 0.9, "--weight_decay", 0.5, "--optimizer", "adamw", "--lr_gamma", 0.5)
    train_run("run", root, *cut, *changed, "--max_iters", 9, "--continue_train")
    state = load_state(tmp_path / "run/run/latest_state.pt")
    (group,) = state["optimizers"]["G"]["param_groups"]
    assert (group["betas"][0], group["weight_decay"], group["decoupled_weight_decay"]) == (0.9, 0.5, True)
    assert group["lr"] == pytest.approx(0.01 * 0.5 ** state["schedulers"]["G"]["last_epoch"])
    options = (tmp_path / "run/run/options.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=r"trained with --optimizer adam or adamw, .* --optimizer sgd cannot go"):
        train_run("run", root, *cut, "--optimizer", "sgd", "--max_iters", 12, "--continue_train")
    assert (tmp_path / "run/run/options.yaml").read_bytes() == options
