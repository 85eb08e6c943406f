"""Early stopping: when it ends a run, that the best weights are the run's, and that a kill changes nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import train
from data.base import Batch
from models.classifier_model import ClassifierModel
from models.networks.classifier import JudgeNet
from tests.engine.test_resume import StopAfter, assert_same_run
from util.checkpoint import load_state
from util.engine.early_stopping import EarlyStopping, EarlyStoppingError
from util.seeding import StepInfo

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

CLASSIFIER = ("--model", "classifier", "--batch_size", 2, "--val_share", 0.4, "--save_epoch_freq", 1)
STEPS = 3  # of an epoch, with nine images of which four are held out


def model_of(value: float) -> ClassifierModel:
    """A model all of whose weights have one value, which it also knows as its last measure."""
    model = ClassifierModel(JudgeNet(2, 1, (8, 8)))
    for parameter in model.nets["C"].parameters():
        nn.init.constant_(parameter, value)
    model.load_extra_state({"validation": {"val_acc": value}})
    return model


def weight_of(model: ClassifierModel) -> float:
    return float(next(model.nets["C"].parameters()).detach().flatten()[0])


# --- by hand


def after(measures: Sequence[float], patience: int) -> tuple[EarlyStopping, int]:
    """The object after these measures of epochs 1, 2, ..., whose weights are 1, 2, ..., and the number of epochs."""
    stopping, epoch = EarlyStopping(patience, "val_acc"), 0
    for epoch, measure in enumerate(measures, 1):
        stopping.observe({"val_acc": measure}, epoch, model_of(epoch))
        if stopping.over:
            break
    return stopping, epoch


@pytest.mark.parametrize(
    ("measures", "patience", "epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.4, 0.9], 2, 4, 2),
        ([0.1, 0.5, 0.4, 0.6, 0.5, 0.5, 0.9], 2, 6, 4),
        ([0.5, 0.5, 0.5], 1, 2, 1),  # as good is no better
        ([0.5, float("nan"), 0.4], 2, 3, 1),
        ([float("nan"), 0.2, 0.1], 9, 3, 2),
        ([0.3, 0.2, 0.1], 3, 3, 1),  # patience would end after one more
    ],
)
def test_it_ends_after_epochs_without_a_better_one(
    measures: list[float], patience: int, epochs: int, best: int
) -> None:
    stopping, done = after(measures, patience)
    assert (done, stopping.best_epoch) == (epochs, best)
    model = model_of(99)
    assert stopping.restore(model)
    assert weight_of(model) == best
    assert model.facts()["val_acc"] == best  # what the model knew of itself then


def test_without_patience_nothing_is_kept() -> None:
    stopping, done = after([0.5, 0.1, 0.1, 0.1], 0)
    model = model_of(99)
    assert done == 4
    assert not stopping.restore(model)
    assert weight_of(model) == 99
    assert stopping.scalars() == {}


def test_a_measure_inside_an_epoch_may_be_the_best_but_is_no_wait() -> None:
    stopping, _ = after([0.5], 1)
    assert not stopping.observe({"val_acc": 0.4}, 2, model_of(2), counts=False)
    assert not stopping.over
    assert stopping.observe({"val_acc": 0.6}, 2, model_of(2), counts=False)
    assert stopping.best_epoch == 2


def test_later_training_does_not_reach_the_kept_weights() -> None:
    stopping, model = EarlyStopping(3, "val_acc"), model_of(1)
    stopping.observe({"val_acc": 0.5}, 1, model)
    with torch.no_grad():
        for tensor in model.nets["C"].state_dict().values():
            tensor.fill_(7)
    stopping.restore(model)
    assert weight_of(model) == 1


def test_state_and_load_go_on_where_it_was() -> None:
    for cut in range(5):
        measures = [0.1, 0.5, 0.4, 0.3, 0.2]
        first, _ = after(measures[:cut], 3)
        again = EarlyStopping(3, "val_acc")
        again.load(first.state())
        for epoch, measure in enumerate(measures[cut:], cut + 1):
            again.observe({"val_acc": measure}, epoch, model_of(epoch))
        model = model_of(99)
        again.restore(model)
        assert (again.over, again.best_epoch, weight_of(model)) == (True, 2, 2)
    fresh = EarlyStopping(3, "val_acc")
    fresh.load({})  # of a run that began without it
    assert (fresh.best_epoch, fresh.waited) == (-1, 0)


def test_something_must_be_held_out() -> None:
    EarlyStopping(0, "").check(None)
    EarlyStopping(2, "val_acc").check([1])
    for measure, held_out in (("val_acc", None), ("", [1])):
        with pytest.raises(EarlyStoppingError, match=r"^--early_stopping_patience 2: .*raise --val_share"):
            EarlyStopping(2, measure).check(held_out)


# --- runs


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The accuracy that each epoch of a run is told to have, to be filled."""
    planned: list[float] = []
    real = ClassifierModel.validate

    def validate(self: ClassifierModel, info: StepInfo, batches: Iterable[Batch]) -> dict[str, float]:
        found = real(self, info, batches) | {"val_acc": planned[info.step // STEPS - 1]}
        self.load_extra_state({"validation": {**self.extra_state()["validation"], **found}})
        return found

    monkeypatch.setattr(ClassifierModel, "validate", validate)
    return planned


def weights(file: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return loaded


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_ends_early_with_its_best_weights(
    train_run: Trained, data: DataMaker, measured: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """The published project's best model was a shallow copy, so that its last epoch was saved as its best."""
    measured += [0.2, 0.6, 0.4, 0.5, 0.9]
    images = data(count=(9, 4))
    flags = (*CLASSIFIER, "--n_epochs", 5, "--early_stopping_patience", 2)
    folder = train_run("early", images, *flags)
    said = "early stopping: the weights of epoch 2 are restored (val_acc 0.6000, no better one for 2 epochs)"
    assert said in capsys.readouterr().out.splitlines()
    assert not (folder / "5_net_C.pth").exists()
    second, last = weights(folder / "2_net_C.pth"), weights(folder / "4_net_C.pth")
    assert not same(second, last)
    for label in ("latest", "best"):
        assert same(weights(folder / f"{label}_net_C.pth"), second)
        facts = json.loads((folder / f"{label}_facts.json").read_text())
        assert (facts["val_acc"], facts["val_step"]) == (0.6, 2 * STEPS)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["best_epoch"] for line in log if "val_acc" in line] == [1, 2, 2, 2]
    # A run made longer goes on from its last weights, not from the best.
    assert same(load_state(folder / "latest_state.pt")["nets"]["C"], last)
    before = (folder / "latest_net_C.pth").read_bytes()
    train_run("early", images, *flags, "--continue_train")
    assert (folder / "latest_net_C.pth").read_bytes() == before


def test_the_best_weights_are_the_runs_too_where_it_comes_to_its_end(
    train_run: Trained, data: DataMaker, measured: list[float]
) -> None:
    measured += [0.6, 0.4, 0.5]
    folder = train_run("end", data(count=(9, 4)), *CLASSIFIER, "--n_epochs", 3, "--early_stopping_patience", 5)
    assert same(weights(folder / "latest_net_C.pth"), weights(folder / "1_net_C.pth"))


@pytest.mark.parametrize("stop", [2, 4, 7, 10])
def test_killed_and_continued_equals_unbroken(
    train_run: Trained, data: DataMaker, measured: list[float], monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    measured += [0.2, 0.6, 0.4, 0.5, 0.9]
    images = data(count=(9, 4))
    flags = (*CLASSIFIER, "--n_epochs", 5, "--early_stopping_patience", 2, "--lr_policy", "plateau")
    whole = train_run("whole", images, *flags)
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", lambda: StopAfter(stop))
        broken = train_run("broken", images, *flags)
    # The exported file of a kill after the last checkpoint: what counts is the state.
    torch.save({"x": torch.zeros(1)}, broken / "best_net_C.pth")
    train_run("broken", images, *flags, "--continue_train")
    assert_same_run(whole, broken)


def test_plateau_goes_by_the_loss_of_held_out_images(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A held-out loss that only grows: with patience 0 the rate halves at the end of every epoch but the first."""

    def validate(self: ClassifierModel, info: StepInfo, batches: Iterable[Batch]) -> dict[str, float]:
        return {"val_acc": 0.5, "val_CLS": float(info.step)}

    monkeypatch.setattr(ClassifierModel, "validate", validate)
    flags = (*CLASSIFIER, "--n_epochs", 4, "--lr_policy", "plateau", "--plateau_patience", 0, "--lr", 0.01)
    folder = train_run("plateau", data(count=(9, 4)), *flags)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rates = {line["epoch"]: line["lr"] for line in lines if "lr" in line}
    assert list(rates.values()) == pytest.approx([0.01, 0.01, 0.005, 0.0025])


def test_nothing_held_out_is_said_before_training(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "classifier", "--val_share", 0, "--early_stopping_patience", 3)
    with pytest.raises(EarlyStoppingError, match="no image is held out"):
        train_run("none", data(), *flags)
