"""A verdict that is read a step later still lets no weight change: on a CPU, with fused optimisers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from util.engine.faults import NonFiniteLossError
from util.engine.late import LateCheck
from util.engine.step import train_step

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker


def weights(case: Bench) -> list[Tensor]:
    return [p.detach().clone() for net in case.model.nets.values() for p in net.parameters()]


def step(case: Bench, number: int, late: LateCheck | None) -> Any:
    made = train_step(case.model, case.batch(number), case.info(number), case.optimizers, case.precision, late=late)
    if late is not None:
        late.note(case.batch(number), 1, number + 1, made.scalars)
    return made


@pytest.mark.parametrize(("where", "optimizer"), [("loss", "adam"), ("gradient", "adamw"), ("loss", "sgd")])
def test_nothing_changes_from_a_step_at_fault_on(
    bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, where: str, optimizer: str
) -> None:
    case, late = bench("--model", "cut", "--fast", "--optimizer", optimizer), LateCheck(torch.device("cpu"))
    assert LateCheck.serves(list(case.optimizers.values()))
    step(case, 0, late)
    assert late.overdue() is None
    losses = case.model.phases[1].losses
    zero = torch.zeros((), requires_grad=True)
    first = next(case.model.nets["G"].parameters())

    def bad(state: Any) -> dict[str, Tensor]:
        # A square root at 0 is finite, and its gradient is not.
        added = losses(state)["NCE"] * math.inf if where == "loss" else (0 * first.sum() + zero).abs().sqrt()
        return losses(state) | {"bad": added}

    object.__setattr__(case.model.phases[1], "losses", bad)
    d_before = [p.detach().clone() for p in case.model.nets["D"].parameters()]
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in case.model.nets.items()}
    step(case, 1, late)
    assert not all(p.equal(old) for p, old in zip(case.model.nets["D"].parameters(), d_before, strict=True))
    for name in ("G", "F"):
        assert all(p.equal(old) for p, old in zip(case.model.nets[name].parameters(), before[name], strict=True))
    assert late.overdue(leave=1) is None  # its verdict is still under way
    object.__setattr__(case.model.phases[1], "losses", losses)
    held = weights(case)
    step(case, 2, late)  # a healthy batch after it
    assert all(now.equal(old) for now, old in zip(weights(case), held, strict=True))
    verdict = late.overdue(leave=1)
    assert verdict is not None
    assert verdict.step == 2
    fault = verdict.fault()
    assert isinstance(fault, NonFiniteLossError)
    assert "bad" in fault.terms


def test_a_healthy_run_is_the_same_bit_for_bit(bench: BenchMaker) -> None:
    made = []
    for late in (None, LateCheck(torch.device("cpu"))):
        case = bench("--model", "cut", "--fast")
        for number in range(2):
            step(case, number, late)
        made.append(weights(case))
    assert all(a.equal(b) for a, b in zip(*made, strict=True))


def test_optimisers_that_are_not_fused_are_not_served(bench: BenchMaker) -> None:
    assert not LateCheck.serves(list(bench("--model", "cut").optimizers.values()))
    assert LateCheck.serves(list(bench("--model", "cut", "--fast", "--optimizer", "sgd").optimizers.values()))
