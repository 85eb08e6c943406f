"""The image sets of an evaluation: translations as they were written, and real images of both domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base import UNKNOWN, DataError, labels_from_table, read_labels
from data.checkup import check_up, require_usable
from data.domain import LABELS_FILE, open_domain
from data.images import DomainFormat, decode, unit_to_uint8
from data.pairing import place_of
from data.single_dataset import SingleDataset, WholeImage
from models.base import Explanation, Model
from options.parse import RunOptions
from util.engine.inference import explain_image, to_network, translate_image
from util.metrics.base import ImageSet, Maps
from util.visual.overlay import heat_map, overlay
from util.visual.progress import with_bar
from util.visual.results import Results

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Translated:
    """A translated split.

    Args:
        source, images: inputs as stored, and translations as written, number by number.
        maps: of both, where the model has a class head.
        names: of the inputs, below their folder.
    """

    source: ImageSet
    images: ImageSet
    maps: Maps | None
    names: Sequence[str]


def target_set(run: RunOptions, phase: str, fmt: DomainFormat, most: float) -> ImageSet | None:
    """Real images of the target domain in the run's format, with labels where the data's own table has any.

    None where the data have no folder of them.

    Raises:
        DataError: files cannot be used.
    """
    root, skip = Path(run.data.dataroot), run.data.on_bad_image == "skip"
    try:
        place = place_of(root, phase, run.data.direction[-1], run.data.dataset_mode)
    except DataError:
        return None
    found = check_up(place.folder, most=most, depth=fmt.depth, quiet=run.log.quiet)
    require_usable([found], skip)
    seed, half = run.experiment.seed, place.half
    domain = open_domain(found, run.networks.output_nc, "auto", seed=seed, known=fmt, half=half)
    table = root / LABELS_FILE
    labels = [UNKNOWN] * len(domain.files)
    if table.is_file():  # the target's labels are for measuring; training never reads them
        labels, _ = labels_from_table(domain.files, root, read_labels(table))
    return ImageSet(place.name, domain.files, domain.read, labels)


def translate_split(
    model: Model[Any],
    random: Model[Any] | None,
    dataset: SingleDataset,
    results: Results,
    channels: int,
    name: str,
    quiet: bool = False,
) -> Translated:
    """Translate every image of a split, write the translations as test.py does, and read them back from the disk.

    Args:
        random: the same model with a randomised class head, for the sanity check; None: no maps are made.
        results: of the pattern that test.py uses.
        channels: of a translation.
        quiet: no progress bar.
    """
    gathered = _Gathered()
    for whole in with_bar(dataset.images(), name, "image", total=len(dataset), quiet=quiet):
        if random is None:
            fake = translate_image(model, whole.sample.A, whole.size)
        else:
            fake, seen = explain_image(model, whole.sample.A, whole.size, whole.sample.label_A)
            explained = int(seen.classes[0])
            gathered.add_maps(seen, explain_image(random, whole.sample.A, whole.size, explained)[1])
        results.add(whole.file, {"fake_B": (fake, dataset.target)})
        stem = results.stem_of(whole.file)
        suffix = ".tif" if dataset.target.depth == "float32" else ".png"
        gathered.add(whole, results.path("fake_B", stem, suffix))
    return gathered.translated(model, dataset, channels, name, with_maps=random is not None)


@dataclass
class _Gathered:
    """What accumulates while a split is translated."""

    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    source: list[NDArray[np.float32]] = field(default_factory=list)
    fake: list[NDArray[np.float32]] = field(default_factory=list)
    randomised: list[NDArray[np.float32]] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)

    def add(self, whole: WholeImage, written: Path) -> None:
        self.numbers.append(whole.sample.file_A)
        self.names.append(whole.file.as_posix())
        self.files.append(written)

    def add_maps(self, seen: Explanation, random: Explanation) -> None:
        self.source.append(seen.cam[0].float().cpu().numpy())
        self.fake.append(seen.cam_fake[0].float().cpu().numpy())
        self.randomised.append(random.cam[0].float().cpu().numpy())
        self.classes.append(int(seen.classes[0]))

    def translated(
        self, model: Model[Any], dataset: SingleDataset, channels: int, name: str, with_maps: bool
    ) -> Translated:
        files, numbers = self.files, self.numbers
        inputs = [dataset.source_files[number] for number in numbers]
        labels = [dataset.labels[number] for number in numbers]
        source = ImageSet(dataset.folder.name, inputs, lambda n: dataset.whole(numbers[n]).image, labels)
        fake = ImageSet(name, files, lambda n: decode(files[n], channels, dataset.target), labels)
        maps = Maps(self.source, self.fake, self.randomised, self.classes, confidence_of(model, dataset))
        return Translated(source, fake, maps if with_maps else None, self.names)


def confidence_of(model: Model[Any], dataset: SingleDataset) -> Callable[[Tensor, int], Tensor]:
    """(N, C, H, W) in [0, 1] at a file's own size and a class -> the model's probability of it, (N,)."""

    def confidence(images: Tensor, class_id: int) -> Tensor:
        taken = [to_network(dataset.taken(image), model.size_multiple, model.device)[0] for image in images]
        with torch.inference_mode():
            return model.classify(torch.cat(taken))[:, class_id].float().cpu()

    return confidence


def pictures(translated: Translated, number: int, target: Tensor | None) -> dict[str, Picture]:
    """What a gallery shows of one image, (H, W, 3) uint8: input, translation, true target, maps of both."""
    source, fake = translated.source.read(number), translated.images.read(number)
    shown = {"input": unit_to_uint8(source), "translation": unit_to_uint8(fake)}
    if target is not None:
        shown["target"] = unit_to_uint8(target)
    if translated.maps is not None:
        for heading, below, maps in (
            ("CAM of input", "input", translated.maps.source),
            ("CAM of translation", "translation", translated.maps.fake),
        ):
            picture = shown[below]
            shown[heading] = overlay(picture, heat_map(maps[number], (picture.shape[0], picture.shape[1])))
    return shown
