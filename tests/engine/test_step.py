"""One training step on a model so small that every number can be worked out."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from util.engine.faults import NonFiniteLossError
from util.engine.step import Precision, StepResult, gradient_norms, only_trains, train_step
from util.seeding import StepInfo

if TYPE_CHECKING:
    from tests.conftest import BenchMaker

CPU = torch.device("cpu")
Losses = Callable[[Tensor], dict[str, Tensor]]


class Scalar(nn.Module):
    """One weight w; gives w x."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


class Two:
    """G makes y = g x; phase D trains d on (d y)^2, phase G trains g on (1 - d y)^2 and 3 y."""

    def __init__(self) -> None:
        self.nets: dict[str, nn.Module] = {"G": Scalar(2.0), "D": Scalar(0.5)}
        self.passes = 0
        self.phases = [
            SimpleNamespace(name="D", nets=("D",), losses=lambda y: {"D_fake": self.nets["D"](y.detach()) ** 2}),
            SimpleNamespace(name="G", nets=("G",), losses=self.g_losses),
        ]

    def g_losses(self, y: Tensor) -> dict[str, Tensor]:
        return {"adv": (1 - self.nets["D"](y)) ** 2, "size": 3 * y}

    def forward_train(self, batch: Any, info: StepInfo) -> Tensor:
        self.passes += 1
        made: Tensor = self.nets["G"](batch.A)
        return made

    def weights(self) -> dict[str, float]:
        return {name: net.get_parameter("w").item() for name, net in self.nets.items()}


def batch_of(value: float) -> Any:
    return SimpleNamespace(A=torch.tensor(value), path_A=("trainA/one.png",), path_B=("trainB/two.png",))


def step(model: Two, value: float = 1.0, number: int = 0, amp: str = "off", watch: bool = False) -> Any:
    optimizers = {name: SGD(net.parameters(), lr=0.1) for name, net in model.nets.items()}
    info = StepInfo(0, number)
    return train_step(model, batch_of(value), info, optimizers, Precision(amp, CPU), watch)  # type: ignore[arg-type]


def test_one_step_by_hand() -> None:
    model = Two()
    result = step(model, watch=True)
    # D: loss (0.5 * 2)^2 = 1, slope 2 d y^2 = 4, so d = 0.5 - 0.4 = 0.1, seen by the next phase.
    # G: adv (1 - 0.1 * 2)^2 = 0.64, slope -2 (1 - d y) d = -0.16; size 6, slope 3; g = 2 - 0.1 * 2.84.
    assert model.weights() == pytest.approx({"D": 0.1, "G": 2 - 0.284})
    expected = {"D_fake": 1.0, "D": 1.0, "adv": 0.64, "size": 6.0, "G": 6.64}
    norms = {"grad_D_fake": 4.0, "grad_adv": 0.16, "grad_size": 3.0}
    assert {name: float(value) for name, value in result.scalars.items()} == pytest.approx(expected | norms)
    assert not any(value.requires_grad for value in result.scalars.values())
    assert model.passes == 1
    assert result.state.item() == 2.0
    gradients = {name: net.get_parameter("w").grad for name, net in model.nets.items()}
    assert gradients == pytest.approx({"D": 4.0, "G": 2.84})  # D's is its own phase's: G's sent it none


def test_watching_gradients_changes_nothing() -> None:
    watched, plain = Two(), Two()
    for number in range(3):
        step(watched, number=number, watch=True)
        result = step(plain, number=number)
    assert watched.weights() == plain.weights()
    assert not any(name.startswith("grad_") for name in result.scalars)


def test_a_phase_without_terms_does_nothing() -> None:
    model = Two()
    model.phases[0].losses = lambda y: {}
    result = step(model)
    assert set(result.scalars) == {"adv", "size", "G"}
    assert model.weights()["D"] == 0.5


def test_a_phase_whose_terms_are_constant_moves_nothing() -> None:
    model = Two()
    model.phases[0].losses = lambda y: {"D_fake": y.detach() * 0 + 7}
    assert float(step(model).scalars["D"]) == 7
    assert model.weights()["D"] == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_every_term(bad: float) -> None:
    model = Two()
    g_losses = model.g_losses
    model.phases[1].losses = lambda y: g_losses(y) | {"broken": y * bad}
    words = rf"loss of G is not finite: adv = 0.64, size = 6, broken = {bad:g}"
    with pytest.raises(NonFiniteLossError, match=words) as caught:
        step(model)
    assert caught.value.phase == "G"
    assert list(caught.value.terms) == ["adv", "size", "broken"]
    assert model.weights()["G"] == 2.0  # no weight of that phase has changed
    assert all(p.requires_grad for net in model.nets.values() for p in net.parameters())


def test_a_gradient_that_is_not_finite_behind_a_finite_loss_is_noticed() -> None:
    model = Two()
    g_losses = model.g_losses
    model.phases[1].losses = lambda y: g_losses(y) | {"root": (y * 0).sqrt().sum()}  # 0, with an infinite slope
    with pytest.raises(NonFiniteLossError, match=r"the gradient of G is not finite: adv = 0.64, size = 6, root = 0"):
        step(model)
    assert model.weights()["G"] == 2.0


def test_only_trains_freezes_and_gives_back() -> None:
    nets = {"G": Scalar(1.0), "D": Scalar(1.0), "C": Scalar(1.0)}
    nets["C"].w.requires_grad_(False)  # frozen by its owner: stays so
    with only_trains(nets, ("G",)):
        assert [net.w.requires_grad for net in nets.values()] == [True, False, False]
        product = nets["D"](nets["G"](torch.tensor(2.0)))
        product.backward()
    assert [net.w.requires_grad for net in nets.values()] == [True, True, False]
    assert nets["G"].w.grad is not None
    assert nets["D"].w.grad is None

    def fail() -> None:
        with only_trains(nets, ()):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert nets["G"].w.requires_grad


def test_gradient_norms() -> None:
    a, b, unused = (torch.tensor(v, requires_grad=True) for v in ([3.0, 4.0], [12.0], [1.0]))
    terms = {"both": (a.square().sum() + b.square().sum()) / 2, "one": b.sum(), "none": torch.tensor(1.0)}
    norms = gradient_norms(terms, [a, b, unused])
    assert {name: float(value) for name, value in norms.items()} == pytest.approx({"grad_both": 13, "grad_one": 1})
    assert float(gradient_norms({"x": unused.sum()}, [a])["grad_x"]) == 0.0


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_sixteen_bits(bench: BenchMaker, amp: str) -> None:
    """Features in 16 bits, losses in 32, weights near those of a step in 32 bits."""
    flags = ("--model", "cutcam", "--num_classes", 4, "--batch_size", 2, "--init_gain", 1, "--lr", 0)
    half, full = bench(*flags, "--amp", amp), bench(*flags)
    result, reference = half.step(), full.step()
    state: Any = result.state
    assert state.seen_A[1].dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    assert all(value.dtype == torch.float32 for value in result.scalars.values())
    for name in ("D", "G_GAN", "NCE", "CLS"):
        assert float(result.scalars[name]) == pytest.approx(float(reference.scalars[name]), rel=0.05)
    assert all(p.dtype == torch.float32 for net in half.model.nets.values() for p in net.parameters())


def test_fp16_skips_a_step_whose_gradients_overflow() -> None:
    model = Two()
    model.phases = model.phases[1:]
    model.phases[0].losses = lambda y: {"huge": y * 1e35}
    optimizers = {"G": SGD(model.nets["G"].parameters(), lr=1e-30)}
    precision = Precision("fp16", CPU)
    before = precision.scaler.get_scale()
    train_step(model, batch_of(1.0), StepInfo(0, 0), optimizers, precision)  # type: ignore[arg-type]
    assert model.weights()["G"] == 2.0
    assert precision.scaler.get_scale() < before


def translation(result: StepResult) -> Tensor:
    state: Any = result.state
    made: Tensor = state.fake_B.detach()
    return made


def test_dropout_depends_on_step_and_rank_not_on_what_was_drawn_before(bench: BenchMaker) -> None:
    made = []
    for burned in (0, 5):
        torch.manual_seed(123)
        torch.rand(burned)
        instance = bench("--model", "cut", "--no_dropout", False)
        made.append([translation(instance.step(number)) for number in range(2)])
    assert torch.equal(made[0][1], made[1][1])
    batch = instance.batch()
    draws = []
    for info in (StepInfo(0, 0), StepInfo(0, 1), StepInfo(0, 0, rank=1, world_size=2)):
        fresh = bench("--model", "cut", "--no_dropout", False)
        draws.append(translation(train_step(fresh.model, batch, info, fresh.optimizers, fresh.precision)))
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
