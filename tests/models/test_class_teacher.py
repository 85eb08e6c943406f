"""A frozen classifier that judges CUTCAM's translations in the head's place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F

from models import load_run
from models.augmenting import augmented
from models.networks.frozen_classifier import FrozenClassifier
from options.schema import OptionError
from tests.models.cutcam_bench import README, cutcam
from tests.models.fcam_bench import JUDGE, classifier_run, write_run
from util.engine.step import only_trains

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained


def test_it_moves_the_generator_and_nothing_moves_it(bench: BenchMaker) -> None:
    made = bench(*README, "--lambda_CLS", 2, "--lambda_CAM", 0, "--classifier_run", classifier_run(*JUDGE))
    made.model.load_first_weights()
    model = cutcam(made)
    teacher = model.nets["T"]
    assert isinstance(teacher, FrozenClassifier)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    state = model.forward_train(made.batch(), made.info())
    torch.testing.assert_close(state.logits_fake, teacher(state.fake_B))
    assert not state.logits_seen.requires_grad
    with only_trains(model.nets, made.model.phases[1].nets):
        terms = made.model.phases[1].losses(state)
    parts = [F.cross_entropy(x, state.labels, label_smoothing=0.1) for x in (state.logits_A, state.logits_fake)]
    torch.testing.assert_close(terms["CLS"], parts[0] + parts[1])
    slopes = torch.autograd.grad(parts[1], list(model.nets["G"].parameters()), allow_unused=True)
    assert max(float(slope.abs().max()) for slope in slopes if slope is not None) > 0
    made.step()
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())


def test_it_may_judge_changed_translations(bench: BenchMaker) -> None:
    flags = (*README, "--lambda_CAM", 0, "--classifier_run", classifier_run(*JUDGE))
    plain, made = bench(*flags), bench(*flags, "--cls_augment", "noise,color")
    for case in (plain, made):
        case.model.load_first_weights()
    model, state = cutcam(made), cutcam(made).forward_train(made.batch(), made.info())
    usual = cutcam(plain).forward_train(plain.batch(), plain.info())
    assert torch.equal(state.fake_B, usual.fake_B)
    assert torch.equal(state.logits_seen, usual.logits_seen)
    shown = augmented(state.fake_B, ("color", "noise"), state.batch, made.info(), "cls_augment")
    torch.testing.assert_close(state.logits_fake, model.nets["T"](shown))
    assert not torch.allclose(state.logits_fake, usual.logits_fake)
    slopes = torch.autograd.grad(state.logits_fake.sum(), list(model.nets["G"].parameters()), allow_unused=True)
    assert max(float(slope.abs().max()) for slope in slopes if slope is not None) > 0
    made.step()


def test_a_pseudo_label_is_agreed_upon_by_the_classifier_alone(bench: BenchMaker, data: DataMaker) -> None:
    made = bench(*README, "--classifier_run", classifier_run(*JUDGE), data=data(labelled=()))
    model = cutcam(made)
    state = model.forward_train(made.batch(), made.info())
    torch.testing.assert_close(state.logits_seen, model.nets["T"](state.batch.A))


def test_a_run_does_without_the_classifiers_folder(train_run: Trained, data: DataMaker, tmp_path: Path) -> None:
    source = write_run(tmp_path / "source", *JUDGE)
    flags = ("--model", "cutcam", "--num_classes", 4, "--classifier_run", source)
    run = train_run("run", data(), *flags, "--n_epochs", 1)
    kept = torch.load(run / "latest_net_T.pth", weights_only=True)
    shutil.rmtree(source)
    train_run("run", data(), *flags, "--n_epochs", 2, "--continue_train")
    again = torch.load(run / "latest_net_T.pth", weights_only=True)
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    image = torch.zeros(1, 3, 32, 32)
    fake, _ = load_run(run).translate(image, explain=True)
    assert fake.shape == image.shape


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--classifier_run", "nowhere"), "--classifier_run nowhere: neither nowhere nor .* holds options.yaml"),
        (
            ("--classifier_run", classifier_run(*JUDGE), "--input_nc", 1, "--output_nc", 1),
            "--input_nc 1: the classifier of .* 3 channels",
        ),
    ],
)
def test_what_cannot_judge_is_refused(bench: BenchMaker, flags: tuple[object, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bench(*README, *flags)


def test_labels_beyond_its_classes_are_refused(bench: BenchMaker) -> None:
    two = classifier_run("--model", "classifier", "--num_classes", 2)
    with pytest.raises(OptionError, match="knows the classes 0 to 1, and an image has the label 3"):
        bench(*README, "--classifier_run", two)
