"""`--accumulate`: several batches make one step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from util.checkpoint import load_state
from util.engine.step import only_trains, train_step

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

FLAGS = ("--model", "cut", "--batch_size", 4, "--optimizer", "sgd", "--lr", 0.1)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_is_made_on_the_mean_of_the_parts_gradients(bench: BenchMaker, parts: int) -> None:
    made = bench(*FLAGS)
    model, batch, info = made.model, made.batch(), made.info()
    expected = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in model.nets.items()}
    for part in batch.parts(parts):
        state = model.forward_train(part, info)
        for phase in model.phases:
            with only_trains(model.nets, phase.nets):
                total = torch.stack(list(phase.losses(state).values())).sum()
            for name in phase.nets:
                named = dict(model.nets[name].named_parameters())
                gradients = torch.autograd.grad(total, list(named.values()), retain_graph=True)
                for key, gradient in zip(named, gradients, strict=True):
                    expected[name][key] -= 0.1 * gradient / parts
    result = train_step(model, batch, info, made.optimizers, made.precision, accumulate=parts)
    for name, net in model.nets.items():
        for key, value in net.state_dict().items():
            assert torch.allclose(value, expected[name][key], rtol=1e-4, atol=1e-5), f"{name} {key}"
    assert len(result.state.batch.path_A) == 4 // parts


def test_one_phase_learns_what_a_whole_batch_teaches(bench: BenchMaker) -> None:
    """G's adversarial term is out of it: there the order of D's step makes the stated difference."""
    whole = bench(*FLAGS, "--lambda_GAN", 0)
    start = copy.deepcopy(whole.model.nets["G"].state_dict())
    apart = bench(*FLAGS, "--lambda_GAN", 0)
    batch, info = whole.batch(), whole.info()
    one = train_step(whole.model, batch, info, whole.optimizers, whole.precision)
    two = train_step(apart.model, batch, info, apart.optimizers, apart.precision, accumulate=4)
    for name, value in one.scalars.items():
        assert float(two.scalars[name]) == pytest.approx(float(value), rel=1e-5)
    moved = 0.0
    for key, value in whole.model.nets["G"].state_dict().items():
        moved = max(moved, float((value - start[key]).abs().max()))
        assert torch.allclose(value, apart.model.nets["G"].state_dict()[key], rtol=1e-4, atol=1e-5)
    assert moved > 1e-3


def test_a_run_counts_all_images_and_goes_on_as_if_it_had_not_stopped(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "cut", "--batch_size", 2, "--accumulate", 2, "--n_epochs", 2, "--n_epochs_decay", 0)
    whole = train_run("whole", data(count=(9, 4)), *flags)
    train_run("broken", data(count=(9, 4)), *flags, "--max_iters", 4)
    broken = train_run("broken", data(count=(9, 4)), *flags, "--max_iters", 0, "--continue_train")
    one, two = (load_state(run / "latest_state.pt") for run in (whole, broken))
    assert one["position"]["step"] == two["position"]["step"] == 6  # 9 images in steps of 4, twice
    assert one["position"]["total_iters"] == 24
    for name, weights in one["nets"].items():
        assert all(torch.equal(value, two["nets"][name][key]) for key, value in weights.items())


def test_a_batch_is_shared_out_evenly_or_not_at_all(bench: BenchMaker) -> None:
    batch = bench(*FLAGS).batch()
    parts = batch.parts(2)
    assert [part.path_A for part in parts] == [batch.path_A[:2], batch.path_A[2:]]
    assert torch.equal(torch.cat([part.A for part in parts]), batch.A)
    with pytest.raises(ValueError, match="a batch of 4 samples has no 3 equal parts"):
        batch.parts(3)
