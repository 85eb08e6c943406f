"""Averages of weights: what is exported, while training goes on with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from util.checkpoint import load_state
from util.engine.ema import WARM_UP, WeightAverage

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

RUN = ("--model", "cutcam", "--num_classes", 4, "--n_epochs", 2, "--n_epochs_decay", 0, "--save_epoch_freq", 1)


def exported(run: Path, name: str) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / f"latest_net_{name}.pth", weights_only=True)
    return weights


def test_the_average_is_the_recursion_written_out() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = WeightAverage({"G": net}, 0.9)
    expected = 0.0
    for step in range(1, 100):
        nn.init.constant_(net.weight, float(step))
        average.update()
        decay = min(0.9, (1 + step) / (WARM_UP + step))
        expected = decay * expected + (1 - decay) * step
        weights = average.weights("G")
        assert weights is not None
        assert float(weights["weight"]) == pytest.approx(expected, rel=1e-5)
    assert decay == 0.9  # the warm-up is over


def test_buffers_are_copied_and_the_networks_get_their_own_weights_back() -> None:
    net = nn.BatchNorm1d(2)
    average = WeightAverage({"G": net}, 0.99)
    net(torch.randn(8, 2))
    nn.init.constant_(net.weight, 7.0)
    average.update()
    weights = average.weights("G")
    assert weights is not None
    assert torch.equal(weights["running_mean"], net.running_mean)  # type: ignore[arg-type]

    def leave_with_an_error() -> None:
        with average.applied():
            assert 1 < float(net.weight[0]) < 7
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        leave_with_an_error()
    assert float(net.weight[0]) == 7
    assert average.weights("D") is None


def test_no_decay_averages_nothing() -> None:
    average = WeightAverage({"G": nn.Linear(1, 1)}, 0.0)
    average.update()
    assert average.weights("G") is None


def test_translating_and_explaining_networks_are_exported_as_averages(train_run: Trained, data: DataMaker) -> None:
    run = train_run("run", data(), *RUN)
    state = load_state(run / "latest_state.pt")
    for name, averaged in {"G": True, "C": True, "D": False, "F": False}.items():
        own, file = state["nets"][name], exported(run, name)
        assert averaged != all(torch.equal(value, file[key]) for key, value in own.items()), name
        if averaged:
            assert all(torch.equal(value, file[key]) for key, value in state["average"]["averages"][name].items())
    assert state["average"]["updates"] == state["position"]["step"] == 10


def test_training_does_not_depend_on_the_average(train_run: Trained, data: DataMaker) -> None:
    one, two = (train_run(name, data(), *RUN, "--ema_decay", decay) for name, decay in (("one", 0), ("two", 0.9)))
    states = [load_state(run / "latest_state.pt")["nets"] for run in (one, two)]
    for name, weights in states[0].items():
        assert all(torch.equal(value, states[1][name][key]) for key, value in weights.items())
        if name == "G":
            assert all(torch.equal(value, exported(one, name)[key]) for key, value in weights.items())


def test_a_run_of_before_goes_on_with_an_average_that_begins_with_its_weights(
    train_run: Trained, data: DataMaker
) -> None:
    from util.checkpoint import save_state

    run = train_run("run", data(), *RUN)
    state = load_state(run / "latest_state.pt")
    del state["average"]
    save_state(run / "latest_state.pt", state)
    train_run("run", data(), *RUN, "--n_epochs", 3, "--continue_train")
    after = load_state(run / "latest_state.pt")
    assert after["average"]["updates"] == 5
