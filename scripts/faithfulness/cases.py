"""What is explained: a run's network, and the images of a split as it takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.base import UNKNOWN, Dataset
from data.checkup import at_equal_distances
from data.classes_dataset import ClassesOptions, kind_of
from data.domain import check_classes
from data.images import read_raw
from data.single_dataset import SingleDataset
from models import load_trained
from models.base import Model
from models.cam.layers import find_layer
from models.classifier_model import ClassifierModel
from models.subjects import subject_of
from options.parse import RunOptions, extra
from options.schema import OptionError
from scripts.evaluating.annotated import find_boxes
from scripts.faithfulness.measures import Where
from scripts.faithfulness.options import Tabulation
from util.metrics.base import Boxes


@dataclass(frozen=True)
class Batch:
    """Some images of one size.

    Attributes:
        numbers: their places among the case's images.
        images: (N, C, H, W) in [-1, 1], as the network takes them.
    """

    numbers: list[int]
    images: Tensor


@dataclass(frozen=True)
class Case:
    """A network and images to explain.

    Attributes:
        title: what they are, in a line.
        net: images in [-1, 1] -> logits (N, K), on its device, in evaluation mode.
        layer: name of the layer of the maps.
        files: of the images; `labels`: their classes, -1 unknown.
        read: number -> (C, H, W) in [-1, 1].
        where: what maps are held against, if boxes or masks are known.
    """

    title: str
    net: nn.Module
    layer: str
    device: torch.device
    files: Sequence[Path]
    labels: Sequence[int]
    read: Callable[[int], Tensor]
    where: Where | None

    def batches(self, size: int, most: float = math.inf) -> Iterator[Batch]:
        """At most `most` images in order, at most `size` at once; images of different sizes never share a batch."""
        numbers: list[int] = []
        held: list[Tensor] = []
        for number in range(int(min(most, len(self.files)))):
            image = self.read(number)
            if held and (len(held) == size or held[0].shape != image.shape):
                yield Batch(numbers, torch.stack(held).to(self.device))
                numbers, held = [], []
            numbers.append(number)
            held.append(image)
        if held:
            yield Batch(numbers, torch.stack(held).to(self.device))


def case_of(run: RunOptions, device: torch.device) -> Case:
    """The classifier of a run, or CUTCAM's class head, on the split that `Tabulation` names.

    Raises:
        UserError: the run has neither, or weights, images, labels, boxes or the layer cannot be used.
    """
    wanted = extra(run, Tabulation)
    if isinstance(run.dataset, ClassesOptions):
        run = kind_of(run).settled(run)
    model = load_trained(run, device)
    what = "classifier" if isinstance(model, ClassifierModel) else "head"
    if what == "head" and "C" not in model.nets:
        raise OptionError(
            f"--name {run.experiment.name}: --model {run.experiment.model} names no classes, so that nothing can be "
            "explained; give a run of --model classifier or cutcam"
        )
    subject = subject_of(model, what)
    data, numbers = _images(run, model, wanted)
    files = [data.source_files[n] for n in numbers]
    labels = [data.labels[n] for n in numbers]
    check_classes(run, labels, files)
    layer = _layer_of(subject.net, subject.layer if wanted.layer == "auto" else wanted.layer, data, numbers, device)
    boxes = find_boxes(Path(run.data.dataroot), wanted.phase, files, wanted.boxes, wanted.masks)
    title = f"{run.experiment.name}, {run.experiment.epoch}: {what} at the layer {layer}"
    where = None if boxes is None else _where(boxes, files, wanted)
    return Case(title, subject.net, layer, device, files, labels, lambda n: _image(data, numbers[n]), where)


def _where(boxes: Boxes, files: Sequence[Path], wanted: Tabulation) -> Where:
    sizes = [(raw.shape[0], raw.shape[1]) for raw in map(read_raw, files)]
    return Where(boxes, sizes, wanted.tolerance, wanted.threshold)


def _images(run: RunOptions, model: Model[Any], wanted: Tabulation) -> tuple[Dataset, list[int]]:
    """The images of the split, and which of them are taken."""
    most = wanted.num_test or math.inf
    if isinstance(model, ClassifierModel):
        classes = kind_of(run).for_phase(run, wanted.phase, model.size_multiple)
        return classes, at_equal_distances(len(classes), most)
    single = SingleDataset.for_phase(run, wanted.phase, most, model.size_multiple, spread=True)
    return single, list(range(len(single)))


def _image(data: Dataset, number: int) -> Tensor:
    return data.whole_source(number).A


def _layer_of(net: nn.Module, spec: str, data: Dataset, numbers: Sequence[int], device: torch.device) -> str:
    digits = spec.removeprefix("-").isdigit()
    found = find_layer(net, int(spec) if digits else spec, _image(data, numbers[0])[None].to(device))
    if len(found) > 1:
        raise OptionError(f"--layer {spec}: means {len(found)} layers ({', '.join(n for n, _ in found)}); name one")
    return found[0][0]


def classes_of(labels: Sequence[int], numbers: Sequence[int], logits: Tensor, explained: str) -> Tensor:
    """(N,) int64: the class of each image that is explained."""
    predicted = logits.argmax(1)
    if explained == "predicted":
        return predicted
    known = torch.tensor([labels[n] for n in numbers], device=predicted.device)
    return torch.where(known == UNKNOWN, predicted, known)
