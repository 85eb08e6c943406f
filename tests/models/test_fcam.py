"""F-CAM as a model: its terms, its frozen classifier of any kind of run, and runs that stand on their own."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.base import DataError
from data.wsol_truth import WsolBatch
from models import load_run
from models.fcam_model import FcamModel, FcamState, seed_counts
from models.losses.crf import Affinity, crf_energy, weight_from_fcam
from models.teacher import Seen
from options.parse import train_options
from options.schema import OptionError
from tests.conftest import tiny_flags
from tests.models.fcam_bench import CUTCAM, JUDGE, SMALL, STD_CL, classifier_run, write_run
from util.checkpoint import CheckpointError, load_state
from util.metrics.wsol import Truth
from util.seeding import StepInfo

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker, DataMaker, Trained

FCAM = ("--model", "fcam", *SMALL)


def flags(*more: object, source: tuple[object, ...] = JUDGE) -> tuple[object, ...]:
    return (*FCAM, "--classifier_run", classifier_run(*source), "--batch_size", 2, *more)


def state_of(made: Bench, epoch: int = 1) -> FcamState:
    """Of the first batch, in an epoch counted from 1."""
    state = made.model.forward_train(made.batch(), StepInfo(0, 3, progress=epoch - 1))
    assert isinstance(state, FcamState)
    return state


def terms_of(made: Bench, epoch: int = 1) -> dict[str, Tensor]:
    assert isinstance(made.model, FcamModel)
    return made.model.losses(state_of(made, epoch))


# --- terms


def test_terms_are_the_weighted_means_of_their_definitions(bench: BenchMaker) -> None:
    weights = ("--lambda_SL", 2, "--lambda_CRF", 3, "--lambda_SIZE", 4, "--lambda_ENT", 5)
    made = bench(*flags(*weights, "--elb_init_t", 1.5, "--elb_mulcoef", 1.1))
    state, found = state_of(made, epoch=3), terms_of(made, epoch=3)
    p = state.logits.softmax(1)
    logs = F.cross_entropy(state.logits, state.seeds, ignore_index=-1, reduction="none").sum((1, 2))
    known = (state.seeds >= 0).sum((1, 2))
    assert bool((known > 0).all())
    areas = p.sum((2, 3))
    t = 1.5 * 1.1**2
    expected = {
        "SL": 2 * (logs / known).mean(),
        "CRF": 3 * crf_energy(p[:, 1], (state.batch.A + 1) * 127.5, Affinity()).energy.mean(),
        "SIZE": 4 * (-(areas.log().sum(1)) / (2 * t)).mean(),
        "ENT": 5 * -(p * p.log2()).sum(1).mean(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_each_term_counts_from_its_first_to_its_last_epoch(bench: BenchMaker) -> None:
    spans = ("--sl_start_ep", 2, "--crf_start_ep", 3, "--size_end_ep", 1, "--ent_start_ep", 2, "--ent_end_ep", 2)
    made = bench(*flags(*spans))
    found = {epoch: set(terms_of(made, epoch)) for epoch in (1, 2, 3, 30)}
    assert found == {1: {"SIZE"}, 2: {"SL", "ENT"}, 3: {"SL", "CRF"}, 30: {"SL", "CRF"}}


def test_epochs_of_terms_are_numbers_of_epochs_also_of_a_run_that_begins_later(bench: BenchMaker) -> None:
    made = bench(*flags("--epoch_count", 3, "--sl_start_ep", 4, "--crf_end_ep", 3, "--n_epochs", 5))
    assert [set(terms_of(made, epoch)) & {"SL", "CRF"} for epoch in (1, 2)] == [
        {"CRF"},
        {"SL"},
    ]  # the third, the fourth


def test_fcams_own_weight_of_the_crf(bench: BenchMaker) -> None:
    ours = terms_of(bench(*flags("--lambda_CRF", 1)))["CRF"]
    published = terms_of(bench(*flags("--lambda_CRF", 0, "--crf_lambda", 1e-6)))["CRF"]
    torch.testing.assert_close(published, weight_from_fcam(1e-6, 32 * 32) * ours)
    halved = [
        terms_of(bench(*flags(*w, "--crf_scale", 0.5)))["CRF"] for w in (("--lambda_CRF", 1), ("--crf_lambda", 1e-6))
    ]
    torch.testing.assert_close(halved[1], weight_from_fcam(1e-6, 16 * 16) * halved[0])
    assert float(halved[0].detach()) == pytest.approx(float(ours.detach()), rel=0.15)  # ours does not shrink


def test_maps_that_say_nothing_leave_every_value_finite(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(*flags())
    assert isinstance(made.model, FcamModel)
    look = made.model.teacher.look

    def blank(*args: Any, **more: Any) -> Seen:
        seen = look(*args, **more)
        return seen._replace(cam=torch.zeros_like(seen.cam))

    monkeypatch.setattr(made.model.teacher, "look", blank)
    scalars = made.step().scalars
    assert float(scalars["SL"]) == 0
    assert all(bool(torch.isfinite(value)) for value in scalars.values())
    assert float(made.model.monitors(state_of(made))["seeded"]) == 0


def test_seeds_change_with_the_step_and_not_with_how_often_they_are_looked_at(bench: BenchMaker) -> None:
    made = bench(*flags("--sl_ksz", 1))
    model, batch = made.model, made.batch()
    seeds = [model.forward_train(batch, StepInfo(0, step)).seeds for step in (1, 1, 2)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])


# --- monitors and validation


def square_truth(size: int = 32) -> Truth:
    mask = np.zeros((size, size), np.bool_)
    mask[8:24, 8:24] = True
    return Truth((size, size), np.array([[8, 8, 23, 23]]), (mask,))


def test_the_precision_of_seeds_is_known_where_the_truth_is(bench: BenchMaker) -> None:
    made = bench(*flags())
    state = state_of(made)
    assert seed_counts(state.seeds, made.batch()) is None
    assert {"seed_fg", "seed_bg"}.isdisjoint(made.model.monitors(state))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:24, 8:24] = True
    known = replace(state, batch=WsolBatch(**{**vars(made.batch()), "truths": (None, square_truth)}))
    front, back = state.seeds[1] == 1, state.seeds[1] == 0
    expected = [float((front & inside).sum() / front.sum()), float((back & ~inside).sum() / back.sum())]
    found = made.model.monitors(known)
    assert [float(found["seed_fg"]), float(found["seed_bg"])] == pytest.approx(expected)
    energy = crf_energy(state.logits.softmax(1)[:, 1], (state.batch.A + 1) * 127.5)
    assert float(found["cut"]) == pytest.approx(float(energy.cut.mean()), rel=1e-5)


def test_validation_is_of_images_and_their_truth(bench: BenchMaker) -> None:
    made = bench(*flags())
    model = made.model
    assert isinstance(model, FcamModel)
    plain = list(made.dataset.whole_batches(2))
    info = StepInfo(0, 7)
    with model.evaluating(), torch.no_grad():
        found = model.validate(info, plain)
        right = torch.cat([model.classify(b.A).argmax(1) == b.label_A for b in plain]).float().mean()
        assert found.keys() == {"val_acc", "val_cut"}
        assert found["val_acc"] == pytest.approx(float(right))
        assert model.facts()["val_images"] == 5
        batches = [WsolBatch(**{**vars(b), "truths": (square_truth,) * len(b.A)}) for b in plain]
        known = model.validate(info, batches)
    assert {"val_seed_fg", "val_seed_bg", "val_MaxBoxAcc", "val_PxAP", "val_loc"} <= known.keys()
    assert {"val_MaxBoxAcc_CAM", "val_PxAP_CAM"} <= known.keys()
    assert known["val_loc"] == known["val_MaxBoxAccV2"]
    assert 0 <= known["val_PxAP"] <= 100
    assert known["val_cut"] == pytest.approx(found["val_cut"])
    fresh = bench(*flags()).model
    fresh.load_extra_state(model.extra_state())
    assert fresh.facts() == model.facts()


def test_maps_of_the_model_are_probabilities_at_the_images_size(bench: BenchMaker) -> None:
    made = bench(*flags())
    model = made.model
    assert isinstance(model, FcamModel)
    images = made.batch().A
    with model.evaluating():
        maps = model.full_resolution_maps(images, torch.tensor([0, 3]))
        both, seen = model.maps_and_cams(images, torch.tensor([0, -1]))
        assert maps.shape == seen.cam.shape == (2, 32, 32)
        torch.testing.assert_close(maps, both)
        torch.testing.assert_close(maps, state_of(made).logits.softmax(1)[:, 1], rtol=1e-4, atol=1e-5)
        odd = model.full_resolution_maps(torch.rand(1, 3, 35, 51) * 2 - 1)
    assert odd.shape == (1, 35, 51)
    assert bool(((maps >= 0) & (maps <= 1)).all())
    columns = model.panel(images)
    assert list(columns) == ["input", "CAM", "F-CAM"]
    assert {picture.shape for pictures in columns.values() for picture in pictures} == {(32, 32, 3)}
    assert list(model.visuals(state_of(made))) == ["real_A", "CAM", "F-CAM", "seeds"]


# --- classifiers of other runs


@pytest.mark.parametrize("source", [JUDGE, CUTCAM, STD_CL], ids=lambda source: str(source[1]))
def test_the_classifier_of_any_run_is_kept_as_it_was_trained(
    train_run: Trained, data: DataMaker, tmp_path: Path, source: tuple[object, ...]
) -> None:
    folder = write_run(tmp_path / "source", *source)
    classifier = load_run(folder)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = classifier.classify(images)
    own = ("--classifier_run", folder, "--batch_size", 4, "--n_epochs", 1, "--panel_freq", 1)
    size = ("--seed", 5)  # so that first weights of its own would be others
    run = train_run("fcam", data(), *FCAM, *own, *size)
    shutil.rmtree(folder)  # the run does without it
    again = load_run(run)
    assert isinstance(again, FcamModel)
    torch.testing.assert_close(again.classify(images), expected, rtol=1e-4, atol=1e-6)
    assert again.full_resolution_maps(images).shape == (2, 32, 32)
    assert (run / "panels" / "epoch_001.png").is_file()
    facts = json.loads((run / "latest_facts.json").read_text())
    assert facts["classifier"]["model"] == source[1]
    with pytest.raises(OptionError, match=r"^this run maps where a classifier sees"):
        again.translate(images)
    with pytest.raises(OptionError, match=r"^this run maps"):
        again.check_class(0)


def test_the_classifier_of_a_classifier_is_not_asked_for(train_run: Trained, data: DataMaker, tmp_path: Path) -> None:
    """A CUTCAM whose head was taught by a classifier: its own folder and that of its teacher may both go."""
    teacher = write_run(tmp_path / "teacher", *JUDGE)
    head = write_run(tmp_path / "head", *CUTCAM, "--classifier_run", teacher)
    words = (*FCAM, "--classifier_run", head, "--batch_size", 4)
    run = train_run("fcam", data(), *words, "--n_epochs", 1)
    kept = torch.load(run / "latest_net_C.pth", weights_only=True)
    shutil.rmtree(teacher)
    shutil.rmtree(head)
    train_run("fcam", data(), *words, "--n_epochs", 2, "--continue_train")
    again = torch.load(run / "latest_net_C.pth", weights_only=True)
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    model = load_run(run)
    assert isinstance(model, FcamModel)
    assert model.full_resolution_maps(torch.zeros(1, 3, 32, 32)).shape == (1, 32, 32)


def test_a_run_beside_this_one_is_meant_by_its_name(train_run: Trained, data: DataMaker) -> None:
    judge = train_run("both", data(), *JUDGE, "--batch_size", 4, "--n_epochs", 1, "--name", "judge")
    assert judge.parent.name == "both"
    run = train_run("both", data(), *FCAM, "--classifier_run", "judge", "--batch_size", 4, "--n_epochs", 1)
    files = [torch.load(path / "latest_net_C.pth") for path in (judge.parent / "judge", run)]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_training_moves_the_decoder_alone_also_with_weight_decay(bench: BenchMaker) -> None:
    made = bench(*flags("--weight_decay", 0.1))
    before = {key: value.clone() for key, value in made.model.nets["C"].state_dict().items()}
    for step in range(2):
        made.step(step)
    assert set(made.optimizers) == {"S"}
    assert all(torch.equal(before[key], value) for key, value in made.model.nets["C"].state_dict().items())
    assert not any(module.training for module in made.model.nets["C"].modules())


def test_sizes_and_channels_are_those_the_classifier_was_trained_on(tmp_path: Path) -> None:
    source = classifier_run(*JUDGE, "--input_nc", 1)
    beside = tmp_path / "grey"
    beside.symlink_to(source)
    words = ["--model", "fcam", "--dataroot", "x", "--checkpoints_dir", str(tmp_path)]
    for folder in (str(source), "grey"):
        run = train_options([*words, "--name", "full", "--classifier_run", folder])
        assert (run.networks.input_nc, run.data.load_size, run.data.crop_size) == (1, (36, 36), (32, 32))
    run = train_options([*words, "--classifier_run", str(source), "--crop_size", "64", "--input_nc", "3"])
    assert (run.networks.input_nc, run.data.load_size, run.data.crop_size) == (3, (36, 36), (64, 64))


def test_grey_images_go_to_a_classifier_of_grey_images(bench: BenchMaker) -> None:
    grey = (*JUDGE, "--input_nc", 1)
    made = bench(*flags("--input_nc", 1, source=grey))
    assert bool(torch.isfinite(made.step().scalars["CRF"]))


# --- truth of a data set with boxes


@pytest.fixture
def masked(data: DataMaker, tmp_path: Path) -> Path:
    """Images whose bright parts are their masks."""
    root = tmp_path / "with masks"
    shutil.copytree(data(count=(12, 4)), root)
    (root / "masks_train").mkdir()
    for file in sorted((root / "trainA").iterdir()):
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        cv2.imwrite(str(root / "masks_train" / file.name), np.where(picture > 120, 255, 0).astype(np.uint8))
    return root


BEST_LOC = ("--val_share", 0.34, "--train_truth", "--select", "best_loc", "--n_epochs", 2)


def test_a_run_on_images_with_masks_chooses_its_epoch_by_them(train_run: Trained, masked: Path) -> None:
    run = train_run("masks", masked, *flags(*BEST_LOC, "--batch_size", 4))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"seed_fg", "seed_bg", "cut", "fg_area"} <= set(log[0])
    measured = [line for line in log if "val_PxAP" in line]
    assert len(measured) == 2
    assert {"val_PxAP_CAM", "val_seed_fg"} <= set(measured[0])
    best = max(measured, key=lambda line: line["val_loc"])
    assert json.loads((run / "best_facts.json").read_text())["val_loc"] == pytest.approx(best["val_loc"])


def test_the_weights_that_were_measured_best_are_exported(
    train_run: Trained, masked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are averages over steps; training goes on with others, which are neither measured nor exported."""
    measured: list[dict[str, torch.Tensor]] = []
    validate = FcamModel.validate

    def falling(model: FcamModel, *given: Any) -> dict[str, float]:
        measured.append({key: value.clone() for key, value in model.decoder.state_dict().items()})
        return validate(model, *given) | {"val_loc": -float(len(measured))}

    monkeypatch.setattr(FcamModel, "validate", falling)
    run = train_run("masks", masked, *flags(*BEST_LOC, "--batch_size", 4))
    assert len(measured) == 2
    for label in ("best", "latest"):
        weights = torch.load(run / f"{label}_net_S.pth", weights_only=True)
        torch.testing.assert_close(weights, measured[0], rtol=0, atol=0)
    state = load_state(run / "latest_state.pt")
    torch.testing.assert_close(state["average"]["averages"]["S"], measured[1], rtol=0, atol=0)
    key = next(name for name, value in measured[1].items() if value.is_floating_point())
    assert not torch.equal(state["nets"]["S"][key], measured[1][key])


def test_the_best_epoch_needs_data_with_truth(bench: BenchMaker) -> None:
    with pytest.raises(OptionError, match="--select best_loc: only --dataset_mode wsol reads boxes and masks"):
        bench(*flags("--select", "best_loc", "--dataset_mode", "classes"))


def test_an_epoch_cannot_be_chosen_by_what_nobody_knows(train_run: Trained, data: DataMaker) -> None:
    """The advice is what this model has: a classifier has best_cls, too."""
    with pytest.raises(DataError, match=r"^--select best_loc: no held-out image .*, or take --select last$"):
        train_run("blind", data(), *flags("--select", "best_loc", "--val_share", 0.34))


# --- defaults and mistakes


def test_defaults_are_fcams() -> None:
    run = train_options(["--model", "fcam", "--dataroot", "x"])
    assert run.data.dataset_mode == "wsol"  # the truth that it watches by is read where there is one
    assert (run.optim.optimizer, run.optim.lr, run.optim.momentum, run.optim.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
    assert (run.schedule.last_epoch, run.schedule.lr_policy, run.data.batch_size) == (50, "none", 32)
    assert (run.data.load_size, run.data.crop_size, run.optim.nesterov) == ((256, 256), (224, 224), True)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_another_optimiser_is_taken(optimizer: str) -> None:
    assert train_options(["--model", "fcam", "--dataroot", "x", "--optimizer", optimizer]).optim.optimizer == optimizer


def test_published_names_of_flags_are_understood() -> None:
    given = ["--sl_fc_lambda", "2", "--max_sizepos_fc_lambda", "3", "--entropy_fc_lambda", "4"]
    given += ["--max_sizepos_fc_start_ep", "5", "--max_sizepos_fc_end_ep", "6"]
    opt = train_options(["--model", "fcam", "--dataroot", "x", *given]).model
    names = ("lambda_SL", "lambda_SIZE", "lambda_ENT", "size_start_ep", "size_end_ep")
    assert [getattr(opt, name) for name in names] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), r"^--classifier_run: give the run of the classifier"),
        (
            ("--classifier_run", "nowhere"),
            r"^--classifier_run nowhere: neither nowhere nor .*nowhere holds options\.yaml",
        ),
        (("--sl_ksz", 4), r"^--sl_ksz 4: must be odd"),
        (("--elb_max_t", 0.5), r"^--elb_max_t 0\.5: is below --elb_init_t 1\.0"),
        (("--crf_start_ep", 5, "--crf_end_ep", 4), r"^--crf_end_ep 4: is before --crf_start_ep 5"),
        (
            ("--classifier_run", "JUDGE", "--teacher", "gradcan"),
            r"^--teacher gradcan: unknown .*did you mean 'gradcam'.*, builtin$",
        ),
        (("--classifier_run", "JUDGE", "--teacher", "builtin"), r"^--teacher builtin: JudgeNet has no maps of its own"),
        (
            ("--classifier_run", "JUDGE", "--input_nc", 1),
            r"^--input_nc 1: the classifier .* of 3 channels; give --input_nc 3",
        ),
        (("--classifier_run", "JUDGE", "--crf_sigma_rgb", 1), r"^--crf_sigma_rgb 1\.0: makes a grid of [\d,]+ cells"),
        (("--classifier_run", "CUT"), r"^--classifier_run .*: a run of --model cut has no classifier"),
        (
            ("--classifier_run", "FULL"),
            r"^--classifier_run .*: is a run of --model fcam, .*; give that one: /\S+/source$",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, given: tuple[object, ...], message: str) -> None:
    cut = ("--model", "cut", "--ngf", 8, "--ndf", 8, "--netG", "resnet_6blocks", "--nce_layers", "0,4")
    places = {"JUDGE": JUDGE, "CUT": cut, "FULL": (*FCAM, "--classifier_run", classifier_run(*JUDGE))}
    words = [classifier_run(*places[word]) if isinstance(word, str) and word in places else word for word in given]
    with pytest.raises(OptionError, match=message) as error:
        FcamModel.from_options(train_options(tiny_flags(tmp_path, tmp_path, "--model", "fcam", *words)))
    assert "\n" not in str(error.value)


def test_classes_the_classifier_does_not_know_are_refused(bench: BenchMaker) -> None:
    made = bench(*flags())
    with pytest.raises(OptionError, match=r"knows the classes 0 to 3, and an image has the label 4"):
        made.model.check_data([0, 4])
    made.model.check_data([0, -1])
    assert "without a label" in made.model.messages[-1]


def test_weights_that_are_missing_or_of_another_epoch_are_named(
    train_run: Trained, data: DataMaker, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "source", *JUDGE)
    with pytest.raises(
        CheckpointError, match=r"^--classifier_epoch best: .*best_net_C\.pth .*there are: latest_net_C\.pth"
    ):
        train_run("a", data(), *FCAM, "--classifier_run", folder, "--classifier_epoch", "best", "--n_epochs", 1)


def test_a_teacher_that_does_not_fit_the_classifier_is_named_at_the_first_step(bench: BenchMaker) -> None:
    made = bench(*flags("--teacher_layer", "trunk.3"))
    with pytest.raises(OptionError, match=r"^--teacher cam --teacher_layer trunk\.3: cam needs a mean over positions"):
        made.step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--teacher_layer", "nosuch"),
            "--teacher cam --teacher_layer nosuch: no layer 'nosuch' in StagedClassifier: ",
        ),
        (
            ("--teacher_layer", "encoder"),
            "--teacher cam --teacher_layer encoder: layer 'encoder' was called 0 times",
        ),
        (("--crop_size", 8, "--load_size", 8), "--crop_size 8,8: leaves the classifier's last features one position"),
        (
            ("--lambda_SL", 0, "--lambda_CRF", 0, "--lambda_SIZE", 0, "--lambda_ENT", 0),
            "--lambda_SL --lambda_CRF --lambda_SIZE --lambda_ENT: are all 0, and there is nothing to learn from",
        ),
        (
            ("--sl_start_ep", 8, "--crf_start_ep", 8, "--size_start_ep", 8, "--ent_start_ep", 8, "--n_epochs", 7),
            "--n_epochs 7: in epochs 1 to 7 no term of the loss counts",
        ),
    ],
)
def test_what_cannot_train_is_said_before_a_run_has_a_folder(
    train_run: Trained, data: DataMaker, tmp_path: Path, given: tuple[object, ...], message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        train_run("none", data(), *flags(*given, source=STD_CL))
    assert str(caught.value).startswith(message)
    assert not re.search(r"[ ']net\.", str(caught.value))
    assert not list(tmp_path.rglob("options.yaml"))


def test_damaged_facts_are_named(train_run: Trained, data: DataMaker) -> None:
    run = train_run("fcam", data(), *flags("--batch_size", 4, "--n_epochs", 1))
    facts = run / "latest_facts.json"
    facts.write_text(facts.read_text().replace('"classifier": {', '"classifier": 3, "x": {'))
    with pytest.raises(ValueError, match=r"latest_facts\.json, classifier: should be an object"):
        load_run(run)
