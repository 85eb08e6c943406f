"""Numbers that go wrong: every term named, the batch on record, the last good checkpoint kept, the step skipped."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from models.cut_model import CutModel
from models.cutcam_model import CutCamModel
from models.networks import Generator
from tests.engine.test_resume import assert_equal
from util.checkpoint import load_state
from util.engine import trainer
from util.engine.faults import MOST_IN_A_ROW, NonFiniteLossError, NonFinitePolicy
from util.engine.step import train_step

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

CUT = ("--model", "cut", "--n_epochs", 2, "--n_epochs_decay", 1)
CUTCAM = ("--model", "cutcam", "--num_classes", 4, "--n_epochs", 2, "--n_epochs_decay", 1)


def break_contrast(monkeypatch: pytest.MonkeyPatch, steps: Container[int]) -> None:
    """NCE_Y is NaN in these steps, counted from 0."""
    g_losses = CutModel.g_losses

    def broken(self: CutModel, state: Any) -> dict[str, torch.Tensor]:
        terms = g_losses(self, state)
        return terms | {"NCE_Y": terms["NCE_Y"] * float("nan")} if state.info.step in steps else terms

    monkeypatch.setattr(CutModel, "g_losses", broken)


def test_a_loss_that_is_not_finite_ends_the_run_with_every_term(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terms = ", ".join(rf"{n} = [-\d.]+" for n in ("G_GAN", "NCE")) + ", NCE_Y = nan, CLS = .*, CAM = .*, IDT = .*"
    words = rf"step 3: the loss of G is not finite: {terms}; images: trainA/\d\d\.png, .*lower --lr.*--on_nan skip"
    with monkeypatch.context() as patch:
        break_contrast(patch, {2})
        with pytest.raises(NonFiniteLossError, match=words) as caught:
            train_run("run", data(labelled=()), *CUTCAM, "--lambda_IDT", 1, "--save_latest_freq", 2)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "run" / "run"
    (line,) = [json.loads(text) for text in (folder / "nonfinite.jsonl").read_text().splitlines()]
    assert (line["epoch"], line["step"], line["phase"], line["terms"]["NCE_Y"]) == (1, 3, "G", "nan")
    assert math.isfinite(line["terms"]["NCE"])
    assert all(name in str(caught.value) for name in line["A"] + line["B"])
    assert load_state(folder / "latest_state.pt")["position"]["step"] == 2  # the last good one
    train_run("run", data(labelled=()), *CUTCAM, "--lambda_IDT", 1, "--continue_train")


def test_a_step_that_is_not_finite_can_be_skipped(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    break_contrast(monkeypatch, {1, 3})
    flags = (*CUTCAM, "--on_nan", "skip", "--n_epochs", 2, "--n_epochs_decay", 0, "--normG", "batch")
    folder = train_run("run", data(), *flags)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING: step")]
    assert [line.split(":")[1] for line in warnings] == [" step 2", " step 4"]
    assert all("NCE_Y = nan" in line and "--on_nan skip" in line for line in warnings)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 3, *range(5, 11)]
    assert [line.get("skipped_steps") for line in logged] == [None, 1.0, *[2.0] * 6]
    state = load_state(folder / "latest_state.pt")
    assert all(value.isfinite().all() for net in state["nets"].values() for value in net.values())
    assert state["nonfinite"] == {"skipped": 2, "in_a_row": 0}


def test_a_step_can_be_skipped_in_16_bits_after_an_earlier_phase_has_learned(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D has stepped when G fails; the scaler must not take the next step for the same one."""
    break_contrast(monkeypatch, {1})
    flags = (*CUT, "--on_nan", "skip", "--amp", "fp16", "--n_epochs", 1, "--n_epochs_decay", 0)
    state = load_state(train_run("run", data(), *flags) / "latest_state.pt")
    assert state["nonfinite"]["skipped"] == 1
    assert state["position"]["step"] == 5


def test_the_loss_that_plateau_goes_by_is_of_the_steps_that_counted(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_contrast(monkeypatch, {1, 3})
    seen = list[float]()
    monkeypatch.setattr(trainer, "end_epoch", lambda scheduler, loss: seen.append(loss))
    flags = (*CUT, "--on_nan", "skip", "--lr_policy", "plateau", "--n_epochs", 1, "--n_epochs_decay", 0)
    run = train_run("run", data(), *flags)
    losses = [json.loads(line)["G"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert seen[0] == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_a_skipped_step_leaves_every_statistic_as_it_was(
    bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """G overflows: running statistics of batch norm and of the head have seen it before any loss is known."""
    made = bench(*CUTCAM, "--normG", "batch")
    model = made.model
    assert isinstance(model, CutCamModel)
    made.step()
    nets = {name: copy.deepcopy(net.state_dict()) for name, net in model.nets.items()}
    watch = copy.deepcopy(model.watch.state())
    run = type(model.generator)._run

    def overflow(self: Generator, x: torch.Tensor, layers: Sequence[int], decode: bool) -> Any:
        return run(self, x * float("inf"), layers, decode)

    monkeypatch.setattr(type(model.generator), "_run", overflow)
    with (
        pytest.raises(NonFiniteLossError, match="the loss of D"),
        NonFinitePolicy(True, tmp_path).protecting(model.nets),
    ):
        made.step(1)
    assert_equal({name: net.state_dict() for name, net in model.nets.items()}, nets)
    assert_equal(model.watch.state(), watch)


def test_too_many_skipped_steps_in_a_row_end_the_run(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_contrast(monkeypatch, range(3, 100))
    with pytest.raises(NonFiniteLossError, match=rf"step {3 + MOST_IN_A_ROW}: .*the weights themselves are at fault"):
        train_run("run", data(), *CUTCAM, "--on_nan", "skip", "--n_epochs", 9, "--print_freq", 1000)


def test_weights_that_are_not_finite_are_never_saved(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever spoils them: here something outside of any loss."""

    def spoil(model: Any, *rest: Any) -> Any:
        result = train_step(model, *rest)
        if rest[1].step == 2:
            next(model.nets["F"].parameters()).data.view(-1)[0] = float("inf")
        return result

    monkeypatch.setattr(trainer, "train_step", spoil)
    with pytest.raises(NonFiniteLossError, match=r"weight mlp_0.* of F is not finite.* the last checkpoint is kept"):
        train_run("run", data(), *CUT, "--save_latest_freq", 3)
    assert load_state(tmp_path / "run" / "run" / "latest_state.pt")["position"]["step"] == 0
