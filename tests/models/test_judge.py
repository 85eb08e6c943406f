"""Judges: a trained run asked about images, and one trained in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from data.base import DataError
from data.images import DomainFormat, Window, decode
from models import load_run
from models.judge import TrainedJudge, fit_judge, judge_options, load_judge, with_channels
from options.schema import OptionError
from util.checkpoint import CheckpointError
from util.metrics.base import ImageSet, Judge
from util.seeding import generator
from util.strict_json import JsonError

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

BYTES = DomainFormat(Window(0.0, 255.0), "uint8")
FLAGS = ("--model", "classifier", "--batch_size", 4, "--n_epochs", 2, "--val_share", 0.25, "--input_nc", 1)


def images_of(folder: Path, channels: int = 1, labels: Sequence[int] | None = None) -> ImageSet:
    files = sorted(folder.glob("*.png"))
    known = [n % 4 for n in range(len(files))] if labels is None else labels
    return ImageSet(folder.name, files, lambda number: decode(files[number], channels, BYTES), known)


def noise(count: int, channels: int, *size: int) -> Tensor:
    return torch.rand(count, channels, *size, generator=generator(3, "test images"))


@pytest.fixture
def run(train_run: Trained, data: DataMaker) -> Path:
    return train_run("judge", data(count=(16, 4)), *FLAGS)


# --- a trained run


def test_a_trained_run_answers_as_it_was_validated(run: Path, data: DataMaker) -> None:
    judge = load_judge(run)
    facts = json.loads((run / "latest_facts.json").read_text())
    assert isinstance(judge, Judge)
    assert judge.name == "classifier trained on trainA (12 images, 4 classes)"
    assert (judge.accuracy, judge.held_out) == (facts["val_acc"], 4)
    assert dict(judge.class_names) == {0: "disc", 1: "frame", 2: "bars", 3: "cross"}
    assert judge.format == BYTES
    held = [file for file in images_of(data(count=(16, 4)) / "trainA").files if is_held_out(file, judge)]
    pictures = torch.stack([decode(file, 1, BYTES) for file in held])
    labels = torch.tensor([int(file.stem) % 4 for file in held])
    logits = judge.logits(pictures)
    assert float((logits.argmax(1) == labels).float().mean()) == judge.accuracy
    features, again = judge.both(pictures)
    assert torch.equal(logits, again)
    assert torch.equal(features, judge.features(pictures))
    assert features.shape == (4, 128)
    assert not logits.requires_grad
    net = judge.model.classifier
    torch.testing.assert_close(net.classify(features), logits)  # type: ignore[operator]


def is_held_out(file: Path, judge: TrainedJudge) -> bool:
    from data.classes_dataset import hold_out

    names = [f"{number:02d}.png" for number in range(16)]
    return int(file.stem) in hold_out(names, [n % 4 for n in range(16)], 0.25, judge.run.experiment.seed)


def test_images_are_prepared_as_in_training(run: Path) -> None:
    judge = load_judge(run)
    prepared = judge.prepare(noise(2, 1, 40, 44))
    assert prepared.shape == (2, 1, 32, 32)  # --crop_size
    assert float(prepared.min()) < -0.5
    same = noise(2, 1, 32, 32)
    assert torch.equal(judge.prepare(same), same * 2 - 1)
    for size in ((16, 16), (31, 90)):
        assert judge.logits(noise(3, 1, *size)).shape == (3, 4)
    colour = noise(2, 3, 32, 32)
    assert torch.equal(judge.logits(colour), judge.logits(with_channels(colour, 1)))


def test_channels_become_others_as_files_are_read(data: DataMaker) -> None:
    file = sorted((data() / "trainA").glob("*.png"))[0]
    grey, colour = decode(file, 1, BYTES)[None], decode(file, 3, BYTES)[None]
    assert torch.equal(with_channels(colour, 1), grey)
    assert torch.equal(with_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert with_channels(colour, 3) is colour


def test_digests_tell_judges_apart(run: Path, train_run: Trained, data: DataMaker) -> None:
    first, again = load_judge(run), load_judge(run)
    assert first.digest == again.digest
    other = load_judge(train_run("other", data(count=(16, 4)), *FLAGS, "--seed", 1))
    larger = load_judge(train_run("larger", data(count=(16, 4)), *FLAGS, "--crop_size", 36))
    assert len({first.digest, other.digest, larger.digest}) == 3
    text = (run / "options.yaml").read_text()
    (run / "options.yaml").write_text(text.replace("crop_size: [32, 32]", "crop_size: [28, 28]"))
    assert (run / "options.yaml").read_text() != text
    assert load_judge(run).digest != first.digest  # the same weights see other images


def test_what_is_no_judge_is_refused(run: Path, train_run: Trained, data: DataMaker) -> None:
    with pytest.raises(OptionError, match="does not exist"):
        load_judge(run.parent / "absent")
    with pytest.raises(OptionError, match=r"is a run of --model cut; a judge is one of --model classifier"):
        load_judge(train_run("cut", data(), "--max_iters", 1))
    with pytest.raises(CheckpointError, match="--epoch 9"):
        load_judge(run, epoch="9")
    facts = run / "latest_facts.json"
    for content in ('{"classes": 4', '{"classes": 4, "images": "many"}'):
        facts.write_text(content)
        with pytest.raises(JsonError, match=r"latest_facts\.json"):
            load_judge(run)
    facts.write_text('{"classes": 4, "images": 12}')
    assert math.isnan(load_judge(run).accuracy)


# --- in memory


@pytest.mark.parametrize("arch", ["judge", "squeezenet1_1"])  # the second one has dropout
def test_training_in_memory_gives_the_weights_of_train_py(train_run: Trained, data: DataMaker, arch: str) -> None:
    run = train_run("judge", data(count=(16, 4)), *FLAGS, "--arch", arch)
    trained = load_judge(run)
    images = images_of(data(count=(16, 4)) / "trainA")
    fitted = fit_judge(images, 4, "trainA", run=trained.run)
    expected = load_run(run).nets["C"].state_dict()
    for key, value in fitted.model.nets["C"].state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert fitted.digest == trained.digest
    assert (fitted.name, fitted.accuracy, fitted.held_out) == (trained.name, trained.accuracy, trained.held_out)


def test_a_seed_gives_a_judge_and_another_another(data: DataMaker) -> None:
    options = judge_options("--batch_size", 4, "--n_epochs", 2, "--input_nc", 1, "--gpu_ids", -1)
    images, steps = images_of(data(count=(16, 4)) / "trainA"), list[tuple[int, int]]()
    state = torch.random.get_rng_state()
    first = fit_judge(images, 4, "x", run=options, progress=lambda done, of: steps.append((done, of)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert steps == [(n, 6) for n in range(1, 7)]  # 12 images, 4 held out
    torch.manual_seed(5)
    assert fit_judge(images, 4, "x", run=options).digest == first.digest
    assert fit_judge(images, 4, "x", run=options, seed=1).digest != first.digest
    assert fit_judge(images, 5, "x", run=options).logits(noise(2, 1, 40, 44)).shape == (2, 5)


def test_steps_can_be_limited(data: DataMaker) -> None:
    options = judge_options("--batch_size", 4, "--n_epochs", 9, "--max_iters", 5, "--input_nc", 1, "--gpu_ids", -1)
    steps: list[int] = []
    images = images_of(data(count=(16, 4)) / "trainA")
    fit_judge(images, 4, "x", run=options, progress=lambda done, of: steps.append(done))
    assert steps == [1, 2, 3, 4, 5]


def test_images_are_read_in_the_channels_of_the_options(data: DataMaker) -> None:
    options = judge_options("--batch_size", 4, "--max_iters", 2, "--input_nc", 1, "--gpu_ids", -1)
    folder = data(count=(16, 4)) / "trainA"
    grey, colour = (fit_judge(images_of(folder, channels), 4, "x", run=options) for channels in (1, 3))
    assert grey.digest == colour.digest


def test_it_learns_and_names_images_it_has_not_seen(data: DataMaker) -> None:
    options = judge_options("--batch_size", 8, "--n_epochs", 12, "--input_nc", 1, "--gpu_ids", -1)
    judge = fit_judge(images_of(data(count=(40, 4)) / "trainA"), 4, "x", run=options)
    new = images_of(data(count=(60, 4)) / "trainA").only(range(40, 60), "new")
    (batch,) = new.batches(20)
    assert float((judge.logits(batch).argmax(1) == torch.tensor(new.labels)).float().mean()) >= 0.7


def test_unlabelled_images_are_left_out_and_two_classes_are_needed(data: DataMaker) -> None:
    options = judge_options("--batch_size", 4, "--max_iters", 1, "--input_nc", 1, "--gpu_ids", -1, "--val_share", 0)
    folder = data(count=(16, 4)) / "trainA"
    some = images_of(folder, labels=[0, 1, -1, -1] * 4)
    judge = fit_judge(some, 2, "some", run=options)
    assert judge.name == "classifier trained on some (8 images, 2 classes)"
    assert math.isnan(judge.accuracy)
    assert judge.held_out == 0
    with pytest.raises(DataError, match=r"trainA: 8 of 16 images have a label, number of classes 1"):
        fit_judge(replace(some, labels=[0, -1] * 8), 2, "x", run=options)
    with pytest.raises(DataError, match=r"label_id 1 is not in 0\.\.0"):
        fit_judge(some, 1, "x", run=options)


def test_a_kept_judge_is_found_again_for_the_same_images_and_options_only(data: DataMaker, tmp_path: Path) -> None:
    options = judge_options("--batch_size", 4, "--n_epochs", 2, "--input_nc", 1, "--gpu_ids", -1)
    images, steps = images_of(data(count=(16, 4)) / "trainA"), list[int]()

    def fit(images: ImageSet = images, **more: Any) -> TrainedJudge:
        steps.clear()
        return fit_judge(images, 4, "x", run=options, keep_in=tmp_path, progress=lambda n, _: steps.append(n), **more)

    first = fit()
    assert steps
    again = fit()
    assert not steps
    assert (again.digest, again.accuracy, again.held_out) == (first.digest, first.accuracy, first.held_out)
    other_pixels = replace(images, read=lambda number: 1 - images.read(number))
    other_labels = replace(images, labels=[label ^ 1 for label in images.labels])
    for changed in (fit(seed=1), fit(other_pixels), fit(other_labels)):
        assert steps
        assert changed.digest != first.digest
    for file in tmp_path.glob("*.pt"):  # a damaged file is trained anew, and written over
        file.write_bytes(file.read_bytes()[:-9])
    assert fit().digest == first.digest
    assert steps
    assert fit().digest == first.digest
    assert not steps
