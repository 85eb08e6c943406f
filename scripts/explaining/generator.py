"""Parts of a translation run, explained: the class head on G's encoder, D's decision, the distance of G(x) to x."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.bad_images import write_list
from data.images import unit_to_uint8
from models import load_trained
from models.base import Model
from models.subjects import load_discriminator, subject_of
from options.groups import Explanation, Inference
from options.parse import RunOptions, extra
from options.schema import OptionError
from scripts.explaining.classifier import caption, say_left_out
from scripts.explaining.drawing import Words, percent
from scripts.explaining.inputs import Input, choose_inputs, say_one_by_one
from scripts.explaining.maps import MapMaker, View, choose_classes, class_target, ranking_of
from scripts.explaining.sizes import SizeNote
from scripts.explaining.written import Explained, Writer
from util.engine.inference import drawing, noise_key, to_image, to_network
from util.errors import counted

# What figures call the thing explained where it is no class.
EXPLAINED = {"discriminator": "what looks fake", "distance": "difference to input"}
SIDES = {"input": "input", "translation": "output"}


def explain_generator(run: RunOptions, device: torch.device) -> Path:
    """Write maps, figures, `manifest.json` and a page to `<results_dir>/<name>/<epoch>/explain_<part>`.

    Returns:
        The page.

    Raises:
        UserError: weights, images, methods or layers cannot be used, or the run has no such part.
    """
    wanted, look = extra(run, Inference), extra(run, Explanation)
    what = look.explain or "head"
    _check(look, wanted, what)
    say_one_by_one(run)
    model = load_trained(run, device, evaluate=wanted.eval)
    asked = GeneratorExplainer(model, look, what, run.experiment.seed)
    if what == "discriminator":
        load_discriminator(model, run)
    inputs = choose_inputs(run, model.size_multiple)
    asked.names = dict(inputs.domain.class_names)
    folder = Path(wanted.results_dir) / run.experiment.name / run.experiment.epoch / f"explain_{what}"
    about = {"run": run.experiment.name, "epoch": run.experiment.epoch, "explained": what}
    writer, count = Writer(folder, look, inputs.domain.class_names, about), 0
    note = SizeNote(run, model.size_multiple)
    for source in inputs:
        seen = list(asked.views(source))
        line = f"{caption(source)}: {'; '.join(_line(one) for one in seen)}"
        print(line)
        note.see(source.size, (source.sample.shape[-2], source.sample.shape[-1]))
        writer.add(source, seen, asked.maker.methods, line)
        count += 1
    title = f"{run.experiment.name}, {run.experiment.epoch}: what the {what} looks at"
    page = writer.close(title, say_left_out(asked.maker), {"images": count})
    write_list(folder, inputs.bad)
    print(f"{counted(count, 'image')} explained; page: {page}")
    return page


class GeneratorExplainer:
    """Asks a part of a translation model about images and their translations.

    Translations are those that test.py writes in the model's mode; explained they are in evaluation mode, in which no
    method's changed images mix or draw.

    Args:
        model: on its device.
        what: "head", "discriminator" or "distance".
        seed: what dropout draws by, with the image's name.

    Attributes:
        names: of the classes, by id.
    """

    def __init__(self, model: Model[Any], look: Explanation, what: str, seed: int = 0) -> None:
        self._model, self.look, self._what, self._seed = model, look, what, seed
        self._subject = subject_of(model, what, look.patches)
        self.maker = MapMaker(self._subject.net, look, self._subject.layer)
        self.names: dict[int, str] = {}

    def views(self, source: Input) -> Iterator[Explained]:
        """The input, its translation, or both; a head explains the same classes on both."""
        batch, taken = to_network(source.sample, self._model.size_multiple, self._model.device)
        fake = self._translated(batch, source.file)
        drawn = {"input": source.image, "translation": to_image(fake, taken, source.size)}
        with self._model.evaluating():
            classes = self._classes(batch, source.label)
            for image, seen in (("input", batch), ("translation", fake)):
                if image in self._subject.images:
                    view = View(seen, taken, source.size)
                    yield self._explained(image, view, drawn[image], batch, classes, source.label)

    def _translated(self, batch: Tensor, file: Path) -> Tensor:
        """In the model's mode; what batch norm then learns of the image is undone: the explained network uses it."""
        nets = [self._model.nets[name] for name in self._model.inference_nets]
        kept = [(buffer, buffer.clone()) for net in nets for buffer in net.buffers()]
        with torch.no_grad(), drawing(self._model, [noise_key(self._seed, file)]):
            fake = self._model.translate(batch)
            for buffer, before in kept:
                buffer.copy_(before)
        return fake

    def _classes(self, batch: Tensor, label: int) -> list[int]:
        if self._what != "head":
            return []
        return choose_classes(self.look, self._model.classify(batch)[0].cpu(), label)

    def _explained(
        self, image: str, view: View, picture: Tensor, source: Tensor, classes: list[int], label: int
    ) -> Explained:
        target = class_target(self.look, classes) if classes else self._subject.targets(source)
        maps = self.maker.maps(view, target)
        shares = self._model.classify(view.batch)[0].tolist() if classes else []
        predicted = max(range(len(shares)), key=shares.__getitem__) if shares else None
        score = next(iter(maps.values()))[0].score
        return Explained(
            side=SIDES[image],
            picture=unit_to_uint8(picture),
            words=self._words(image, label, classes, shares, score),
            maps=maps,
            by_layer=self.maker.by_layer(view, target) if self.look.layers else {},
            predicted=predicted,
            probability=None if predicted is None else shares[predicted],
            ranking=ranking_of(torch.tensor(shares)) if shares else (),
        )

    def _words(self, image: str, label: int, classes: list[int], shares: list[float], score: float) -> Words:
        if not classes:
            says = f"D says {-score:.2f}" if self._what == "discriminator" else f"mean squared difference {score:.3g}"
            return Words(image.capitalize(), "", says, [EXPLAINED[self._what]])
        best = max(range(len(shares)), key=shares.__getitem__)
        return Words(
            picture=image.capitalize(),
            true=f"true: {self._name(label)}" if label >= 0 else "",
            predicted=f"predicted: {self._name(best)}, {percent(shares[best])}",
            explained=[f"{self._name(c)}, {percent(shares[c])}" for c in classes],
        )

    def _name(self, number: int) -> str:
        return self.names.get(number, str(number))


def _line(one: Explained) -> str:
    """`input predicted: car, 81.2 %, explained: bus, 10.1 %`; what is explained only where it is something else."""
    said = f"{one.words.picture.lower()} {one.words.predicted}"
    names = [] if one.predicted is None else one.words.explained
    other = f"predicted: {names[0]}" != one.words.predicted if names else False
    return f"{said}, explained: {'; '.join(names)}" if other or len(names) > 1 else said


def _check(look: Explanation, wanted: Inference, what: str) -> None:
    if wanted.tile:
        raise OptionError(f"--tile {wanted.tile}: explainers see an image in one piece; leave it out")
    if look.grid:
        raise OptionError("--grid: is of the run's own maps; take --epochs alone")
    if what != "discriminator" and look.patches:
        raise OptionError(f"--patches: belongs to --explain discriminator, not to {what}")
    for flag, given in (
        ("class_idx", look.class_idx >= 0),
        ("top_k", look.top_k > 1),
        ("score", look.score != "logit"),
        ("explained", look.explained != "auto"),
    ):
        if what != "head" and given:
            raise OptionError(f"--{flag}: belongs to classes, and --explain {what} knows none; leave it out")
