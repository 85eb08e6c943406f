"""Judges: classifiers of real images that are asked about others, in [0, 1] and of any size.

A judge is a trained run of `--model classifier`, or is trained in memory on images that lie in no folder of a data
set, by the same network, augmentation and schedule: with the same images, options and seed, the weights are equal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.base import DataError
from data.classes_dataset import ClassesDataset, ClassesOptions, hold_out
from data.domain import Domain, load_classes, load_formats, preprocess_from
from data.images import Counts, DomainFormat, Window
from data.labels import check_labels
from data.sampler import GlobalBatchSampler
from models import load_trained
from models.classifier_model import ClassifierModel, ClassifierOptions
from options.parse import RunOptions, inference_options, train_options
from options.schema import OptionError
from util.checkpoint import CheckpointError, load_state, save_state
from util.engine.build import optimizers_from, schedulers_from
from util.engine.schedule import end_epoch
from util.engine.step import Precision, train_step
from util.errors import printable
from util.metrics.base import ImageSet, Judge
from util.metrics.features import pixels_digest
from util.seeding import StepInfo, generator
from util.strict_json import Fields, read_json
from util.visual.base import say

Progress = Callable[[int, int], None]  # steps done, of how many
UNIT = Window(0.0, 1.0)  # of images that come as they are shown
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as files are read


@dataclass(frozen=True)
class TrainedJudge(Judge):
    """A judge and what tells it from others. `accuracy` is NaN where no image was held out.

    Args:
        features: (N, C, H, W) in [0, 1] -> (N, d), the input of the last linear layer.
        both: features and logits, from one pass.
        class_names: by class id.
        held_out: number of images behind `accuracy`.
        format: how the files that it was trained on map to [0, 1]; None where it was given images.
        digest: equal for two judges only where they answer alike.
        model: on its device, in evaluation mode; takes images as `prepare` returns them.
        prepare: (N, C, H, W) in [0, 1] -> what the network takes: its channels, its size, in [-1, 1].
        run: its options; `fit_judge` trains another by the same.
    """

    features: Callable[[Tensor], Tensor]
    both: Callable[[Tensor], tuple[Tensor, Tensor]]
    class_names: Mapping[int, str]
    held_out: int
    format: DomainFormat | None
    digest: str
    model: ClassifierModel
    prepare: Callable[[Tensor], Tensor]
    run: RunOptions


def load_judge(folder: str | Path, device: str | torch.device = "cpu", epoch: str = "latest") -> TrainedJudge:
    """The judge that a run of `--model classifier` has trained.

    Args:
        folder: `<checkpoints_dir>/<name>`.
        epoch: which exported weights: latest, a number, or iter_NUMBER.

    Raises:
        OptionError, CheckpointError, JsonError: the folder is no such run, or lacks or has damaged files.
    """
    folder = Path(folder)
    flags = ["--checkpoints_dir", str(folder.parent), "--name", folder.name, "--epoch", epoch]
    run = inference_options((), flags)
    if not isinstance(run.model, ClassifierOptions) or not isinstance(run.dataset, ClassesOptions):
        raise OptionError(f"{folder}: is a run of --model {run.experiment.model}; a judge is one of --model classifier")
    model = load_trained(run, torch.device(device))
    assert isinstance(model, ClassifierModel)
    path = folder / f"{epoch}_facts.json"
    facts = Fields(read_json(path), str(path))
    formats, held_out = load_formats(folder), facts.whole("val_images") if "val_images" in facts.content else 0
    accuracy = facts.number("val_acc") if held_out else None
    source = f"train{run.dataset.domain or ''}"
    return _judge(
        model,
        run,
        name=f"classifier trained on {source} ({facts.whole('images')} images, {facts.whole('classes')} classes)",
        accuracy=math.nan if accuracy is None else accuracy,
        held_out=held_out,
        class_names=load_classes(folder) or {},
        format=formats[0] if formats else None,
    )


def judge_options(*flags: object) -> RunOptions:
    """The options of `--model classifier` with these flags, for `fit_judge`; whole images unless they say otherwise.

    Raises:
        OptionError: no such flag or value.
    """
    start = ("--model", "classifier", "--dataroot", "images", "--preprocess", "none")
    return train_options([*start, *map(str, flags)])


def fit_judge(
    images: ImageSet,
    num_classes: int,
    name: str,
    *,
    run: RunOptions | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    class_names: Mapping[int, str] | None = None,
    keep_in: Path | None = None,
) -> TrainedJudge:
    """Train a judge; the same images, options and seed give the same weights on one machine's CPU.

    Images without a label are left out, and `--val_share` of each class is held out for `accuracy`.

    Args:
        num_classes: K.
        name: what the images are; the judge is named after it.
        run: of another judge, or from `judge_options`; its number of classes does not count.
        seed: None: that of `run`.
        progress: is told after every step.
        keep_in: folder where the trained judge is kept, and found again for the same pixels, labels and options.

    Raises:
        DataError: fewer than two classes, a label that is none of the classes, or images that cannot be one batch.
    """
    run = _options(run or judge_options(), num_classes, seed)
    device = torch.device(device)
    train, held = _data_sets(images, run, num_classes)
    file = keep_in / f"{_recipe(images, run)}.pt" if keep_in else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = ClassifierModel.from_options(run)
        model.load_first_weights()
        model.to(device)
        accuracy = _kept(file, model) if file else None
        if accuracy is None:
            accuracy = _train(model, train, held, run, progress)
            if file:
                _keep(file, model, accuracy)
    model.messages.clear()
    model.train(False)
    return _judge(
        model,
        run,
        name=f"classifier trained on {name} ({len(train)} images, {num_classes} classes)",
        accuracy=accuracy,
        held_out=len(held),
        class_names=class_names or {},
        format=None,
    )


def with_channels(images: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) with C of 1 or 3 as (N, channels, H, W): luminance, or one channel repeated, as files are read."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        return (images * images.new_tensor(_LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True).clamp(0, 1)
    return images.expand(-1, channels, -1, -1)


# --- asking


def _judge(model: ClassifierModel, run: RunOptions, **known: Any) -> TrainedJudge:
    channels, preprocess = run.networks.input_nc, preprocess_from(run, model.size_multiple).for_inference()

    def prepare(images: Tensor) -> Tensor:
        draws = generator(0, "whole")  # nothing is drawn in inference
        taken = [preprocess(image, draws) for image in with_channels(images, channels)]
        return (torch.stack(taken) * 2 - 1).to(model.device)

    @torch.no_grad()
    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = model.classifier.with_features(prepare(images))
        return features.float().cpu(), logits.float().cpu()

    return TrainedJudge(
        logits=lambda images: both(images)[1],
        features=lambda images: both(images)[0],
        both=both,
        digest=_digest(model, channels, preprocess),
        model=model,
        prepare=prepare,
        run=run,
        **known,
    )


def _digest(model: ClassifierModel, *settings: object) -> str:
    found = hashlib.sha256(repr((type(model.classifier).__name__, *settings)).encode())
    for key, value in sorted(model.classifier.state_dict().items()):
        found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


# --- training


@dataclass(frozen=True)
class _Given(Domain):
    """A domain whose images come from elsewhere; its files are names only."""

    read_given: Callable[[int], Tensor] | None = None

    def counts(self, file: int) -> Counts:
        assert self.read_given is not None
        pixels = with_channels(self.read_given(file)[None], self.channels)[0]
        return Counts(pixels.movedim(0, -1).numpy(), UNIT)


def _options(run: RunOptions, num_classes: int, seed: int | None) -> RunOptions:
    chosen: Any = {"num_classes": num_classes}
    experiment = run.experiment if seed is None else replace(run.experiment, seed=seed)
    return replace(run, experiment=experiment, model=replace(run.model, **chosen))


def _data_sets(images: ImageSet, run: RunOptions, num_classes: int) -> tuple[ClassesDataset, ClassesDataset]:
    """Training images and held-out ones."""
    assert isinstance(run.dataset, ClassesOptions)
    check_labels(images.labels, images.files, num_classes)
    labelled = images.only([n for n, label in enumerate(images.labels) if label >= 0], images.name)
    if len(set(labelled.labels)) < 2:
        raise DataError(
            f"{images.name}: {len(labelled)} of {len(images)} images have a label, number of classes "
            f"{len(set(labelled.labels))}; a classifier needs two"
        )
    names = [file.name for file in labelled.files]
    held = hold_out(names, labelled.labels, run.dataset.val_share, run.experiment.seed)
    rest = sorted(set(range(len(labelled))) - set(held))
    train, validation = (_data_set(labelled.only(numbers, images.name), run) for numbers in (rest, held))
    return train, validation


def _data_set(images: ImageSet, run: RunOptions) -> ClassesDataset:
    names = [Path(file.name) for file in images.files]
    read_as, channels = DomainFormat(UNIT, "float32"), run.networks.input_nc
    domain = _Given(Path(), names, read_as, channels, list(images.labels), read_given=images.read)
    preprocess = preprocess_from(run, ClassifierModel.size_multiple)
    return ClassesDataset(domain, Path(), preprocess, seed=run.experiment.seed)


# --- kept for next time


def _recipe(images: ImageSet, run: RunOptions) -> str:
    """Equal where the same judge would be trained; the names count since the held-out share is drawn by them."""
    names = [file.name for file in images.files]
    settings = (run.model, run.dataset, run.data, run.networks, run.optim, run.schedule, run.experiment.seed)
    return pixels_digest(images, repr((settings, names, list(images.labels), torch.__version__)), progress=True)


def _kept(file: Path, model: ClassifierModel) -> float | None:
    """Load what an earlier training has left, and return its accuracy; None where there is nothing to be believed."""
    if not file.is_file():
        return None
    try:
        state = load_state(file)
        weights, accuracy = state["weights"], float(state["accuracy"])
        if {key: value.shape for key, value in weights.items()} != {
            key: value.shape for key, value in model.classifier.state_dict().items()
        }:
            return None
        model.classifier.load_state_dict(weights)
    except (CheckpointError, LookupError, AttributeError, TypeError, ValueError):
        return None  # damaged: it is trained anew and written over
    return accuracy


def _keep(file: Path, model: ClassifierModel, accuracy: float) -> None:
    try:
        save_state(file, {"weights": model.classifier.state_dict(), "accuracy": accuracy})
    except OSError as error:  # the judge itself is there
        say(f"WARNING: {printable(file)}: the classifier is not kept for next time: {error.strerror or error}")


def _train(
    model: ClassifierModel, train: ClassesDataset, held: ClassesDataset, run: RunOptions, progress: Progress | None
) -> float:
    """Train as train.py does, without a folder; returns the accuracy on the held-out images."""
    data, schedule, seed = run.data, run.schedule, run.experiment.seed
    sampler = GlobalBatchSampler(len(train), data.batch_size, seed, serial=data.serial_batches)
    optimizers = optimizers_from(run, model)
    schedulers = schedulers_from(run, optimizers, schedule.epoch_count)
    precision, step = Precision(run.optim.amp, model.device), 0
    epochs = range(schedule.epoch_count, schedule.last_epoch + 1)
    steps = min(len(epochs) * len(sampler), schedule.max_iters or math.inf)
    model.check_data(train.labels)
    model.train()
    for epoch in epochs:
        sampler.set_epoch(epoch)
        loss = 0.0
        for keys in sampler:
            batch = train.collate([train[key] for key in keys]).to(model.device)
            loss += float(train_step(model, batch, StepInfo(seed, step), optimizers, precision).scalars["C"])
            step += 1
            if progress:
                progress(step, int(steps))
            if step == steps:
                break
        if step == steps:
            break
        for scheduler in schedulers.values():
            end_epoch(scheduler, loss / len(sampler))
    if not len(held):
        return math.nan
    batches = (batch.to(model.device) for batch in held.whole_batches(data.batch_size))
    with torch.no_grad(), model.evaluating():
        return model.validate(StepInfo(seed, step), batches)["val_acc"]
