"""A classifier, explained on files, on random images, or on a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.bad_images import write_list
from data.images import unit_to_uint8
from models import load_trained
from models.base import Model
from models.subjects import subject_of
from options.groups import Explanation, Inference
from options.parse import RunOptions, extra
from options.schema import OptionError
from scripts.explaining.drawing import Words, percent
from scripts.explaining.inputs import Input, Inputs, choose_inputs, say_one_by_one
from scripts.explaining.maps import MapMaker, View, choose_classes, class_target, ranking_of
from scripts.explaining.written import Explained, Writer
from util.engine.inference import to_network
from util.errors import counted


def explain_classifier(run: RunOptions, device: torch.device) -> Path:
    """Write maps, figures, `manifest.json` and a page to `<results_dir>/<name>/<epoch>`; returns the page.

    Raises:
        UserError: weights, images, methods or layers cannot be used.
    """
    wanted, look = extra(run, Inference), extra(run, Explanation)
    _check(look)
    say_one_by_one(run)
    model = load_trained(run, device, tile=wanted.tile)
    inputs = choose_inputs(run, model.size_multiple)
    asked = ClassifierExplainer(model, look, inputs.domain.class_names)
    folder = Path(wanted.results_dir) / run.experiment.name / run.experiment.epoch
    about = {"run": run.experiment.name, "epoch": run.experiment.epoch, "explained": "classifier"}
    writer, tally = Writer(folder, look, inputs.domain.class_names, about), Tally()
    for source, seen in asked.all(inputs):
        line = f"{caption(source)}: {asked.line(source, seen)}"
        print(line)
        tally.add(source.label, seen.predicted)
        writer.add(source, [seen], asked.maker.methods, line)
    text = say_left_out(asked.maker)
    page = writer.close(f"{run.experiment.name}, {run.experiment.epoch}: what the classifier looks at", text, tally.all)
    write_list(folder, inputs.bad)
    print(f"{tally.line}; page: {page}")
    return page


class ClassifierExplainer:
    """Asks a classifier about images, one by one.

    Args:
        model: in evaluation mode, on its device.
        names: of its classes, by id.
    """

    def __init__(self, model: Model[Any], look: Explanation, names: Mapping[int, str]) -> None:
        subject = subject_of(model, "classifier")
        self._model, self.look, self._names = model, look, names
        self.maker = MapMaker(subject.net, look, subject.layer)

    def all(self, inputs: Inputs) -> Iterator[tuple[Input, Explained]]:
        """Every input and what is seen in it."""
        for source in inputs:
            yield source, self.one(source)

    def one(self, source: Input) -> Explained:
        """Maps of one image, and what figures say of it."""
        batch, taken = to_network(source.sample, self._model.size_multiple, self._model.device)
        probabilities = self._model.classify(batch)[0].cpu()
        classes = choose_classes(self.look, probabilities, source.label, usual="predicted")
        view, target = View(batch, taken, source.size), class_target(self.look, classes)
        maps, predicted = self.maker.maps(view, target), int(probabilities.argmax())
        return Explained(
            side="",
            picture=unit_to_uint8(source.image),
            words=self._words(source.label, predicted, classes, probabilities.tolist()),
            maps=maps,
            by_layer=self.maker.by_layer(view, target) if self.look.layers else {},
            predicted=predicted,
            probability=float(probabilities[predicted]),
            ranking=ranking_of(probabilities),
        )

    def line(self, source: Input, seen: Explained) -> str:
        """`predicted T72 (7) 81.2 %, actual class T62 (6)`."""
        assert seen.predicted is not None
        assert seen.probability is not None
        actual = f"{self.name(source.label)} ({source.label})" if source.label >= 0 else "unknown"
        predicted = f"{self.name(seen.predicted)} ({seen.predicted}) {percent(seen.probability)}"
        first = next(iter(seen.maps.values()))[0]
        explained = "" if first.target == seen.predicted else f", explained {self.name(first.target)} ({first.target})"
        return f"predicted {predicted}, actual class {actual}{explained}"

    def name(self, number: int | None) -> str:
        """Of a class; its number where it has none."""
        return "" if number is None else self._names.get(number, str(number))

    def _words(self, label: int, predicted: int, classes: list[int], shares: list[float]) -> Words:
        return Words(
            picture="Input",
            true=f"true: {self.name(label)}" if label >= 0 else "",
            predicted=f"predicted: {self.name(predicted)}, {percent(shares[predicted])}",
            explained=[f"{self.name(c)}, {percent(shares[c])}" for c in classes],
        )


@dataclass
class Tally:
    """How often the network was right."""

    images: int = 0
    labelled: int = 0
    right: int = 0

    def add(self, label: int, predicted: int | None) -> None:
        """Count an image."""
        self.images += 1
        self.labelled += label >= 0
        self.right += label >= 0 and label == predicted

    @property
    def all(self) -> dict[str, Any]:
        """For the manifest."""
        return {"images": self.images, "labelled": self.labelled, "right": self.right}

    @property
    def line(self) -> str:
        """For the console."""
        if not self.labelled:
            return f"{counted(self.images, 'image')} explained"
        share = percent(self.right / self.labelled)
        right = f"{self.right} of {self.labelled} with a label named rightly ({share})"
        return f"{counted(self.images, 'image')} explained, {right}"


def caption(source: Input) -> str:
    """`index 3, sub/x.png`: which image."""
    return source.file.as_posix() if source.index is None else f"index {source.index}, {source.file.as_posix()}"


def say_left_out(maker: MapMaker) -> str:
    """Say on the console which methods do not apply; the same text for the page."""
    lines = [f"{method} does not apply: {reason}" for method, reason in maker.left_out.items()]
    lines += [f"{method} does not apply to {', '.join(layers)}" for method, layers in maker.left_out_at.items()]
    for line in lines:
        print(line)
    return "\n\n".join(lines)


def _check(look: Explanation) -> None:
    if look.explain is not None:
        raise OptionError(f"--explain {look.explain}: belongs to translation runs; a classifier has its classes alone")
    if look.patches:
        raise OptionError("--patches: belongs to --explain discriminator of a translation run")
    if look.grid:
        raise OptionError("--grid: shows translations by epoch, and a classifier has none; take --epochs alone")
