"""Half precision on the CPU: it must train, not only run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.conftest import BenchMaker


@pytest.mark.parametrize("flags", [("--model", "cut"), ("--model", "cutcam", "--num_classes", "4")])
def test_fp16_trains(bench: BenchMaker, flags: tuple[str, ...]) -> None:
    """Patches embedded in 16 bits overflowed: the scaler skipped every step and halved its scale each time."""
    case = bench(*flags, "--amp", "fp16")
    before = {name: parameter.detach().clone() for name, parameter in case.model.nets["G"].named_parameters()}
    for step in range(12):
        case.step(step)
    assert case.precision.scaler.get_scale() >= 128
    moved = [name for name, p in case.model.nets["G"].named_parameters() if not p.equal(before[name])]
    assert len(moved) == len(before)
    if "cutcam" in flags:
        assert case.model.extra_state()["cap"]["measured"]


def test_fp16_without_a_term_is_no_error(bench: BenchMaker) -> None:
    case = bench("--model", "cut", "--amp", "fp16", "--lambda_GAN", "0", "--lambda_NCE", "0")
    assert not case.step(0).scalars


def test_momentum_begins_at_nothing_where_the_first_step_overflows(bench: BenchMaker) -> None:
    """PyTorch's fused SGD leaves the step out, and takes its unwritten momentum for what it has learned."""
    case = bench("--model", "cut", "--amp", "fp16", "--optimizer", "sgd", "--momentum", 0.9, "--fast")
    scaler, optimizer = case.precision.scaler, case.optimizers["G"]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    scaler.scale(torch.ones(()))  # the scale exists from the first loss on
    for value in (float("inf"), 1.0):
        for weight in weights:
            weight.grad = torch.full_like(weight, value) * scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
    assert all(optimizer.state[weight]["momentum_buffer"].eq(1).all() for weight in weights)
