"""The image sets of an evaluation: translations as they were written, and real images of both domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base import UNKNOWN, DataError
from data.checkup import check_up, require_usable
from data.domain import LABELS_FILE, load_classes, open_domain
from data.images import DomainFormat, decode, unit_to_uint8
from data.labels import labels_from_table, read_labels
from data.pairing import place_of
from data.single_dataset import SingleDataset, WholeImage
from models.base import Explanation, Model
from options.parse import RunOptions
from scripts.explaining.sizes import say_sizes
from util.engine.build import Pace
from util.engine.inference import by_size, drawing, explain_images, noise_key, to_network, translate_images
from util.metrics.base import ImageSet, Maps
from util.sharing import in_order, mine
from util.visual.overlay import heat_map, overlay
from util.visual.progress import with_bar
from util.visual.results import Results

Picture = NDArray[np.uint8]
Array = NDArray[np.float32]


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
        labels, _ = labels_from_table(domain.files, root, read_labels(table), load_classes(run.folder))
    return ImageSet(place.name, domain.files, domain.read, labels)


def translate_split(
    model: Model[Any],
    random: Model[Any] | None,
    dataset: SingleDataset,
    results: Results,
    name: str,
    speed: Pace,
    run: RunOptions,
) -> Translated:
    """Translate every image of a split, write the translations as test.py does, and read them back from the disk.

    The processes that torchrun starts share the images, and all know the whole in the end.

    Args:
        random: the same model with a randomised class head, for the sanity check; None: no maps are made.
        results: of the pattern that test.py uses.
        speed: how many images at once, and what reads ahead.
        run: options of the run.
    """
    done: list[_Done] = []
    share = mine(len(dataset))
    images = say_sizes(dataset.images(speed.processes, share=share), run, model.size_multiple)

    def work(group: list[WholeImage]) -> list[_Work]:
        samples, sizes = [whole.sample.A for whole in group], [whole.size for whole in group]
        noise = [noise_key(run.experiment.seed, whole.file) for whole in group]
        if random is None:
            return [_Work(fake) for fake in translate_images(model, samples, sizes, speed.amp, noise)]
        made = explain_images(model, samples, sizes, [whole.sample.label_A for whole in group], speed.amp, noise)
        explained = [int(seen.classes[0]) for _, seen in made]
        others = explain_images(random, samples, sizes, explained, speed.amp)
        return [_Work(fake, seen, other) for (fake, seen), (_, other) in zip(made, others, strict=True)]

    worked = by_size(images, work, speed.together)
    suffix = ".tif" if dataset.target.depth == "float32" else ".png"
    with results:
        for whole, made in with_bar(worked, name, "image", total=len(share), quiet=run.log.quiet):
            results.add(whole.file, {"fake_B": (made.fake, dataset.target)})
            done.append(_Done.of(whole, made, results.path("fake_B", results.stem_of(whole.file), suffix)))
    numbers = [one.number for one in done]
    results.gather(numbers)  # waits until the files are there
    dataset.gather()
    return _translated(in_order(numbers, done), model, dataset, name, run, with_maps=random is not None)


@dataclass(frozen=True)
class _Work:
    """What the networks make of an image; the explanations where there is a class head."""

    fake: Tensor
    seen: Explanation | None = None
    random: Explanation | None = None


@dataclass(frozen=True)
class _Done:
    """What is kept of an image once its translation is written.

    Attributes:
        maps: of input, of translation, and of the input by the randomised head; none without a class head.
        explained: the class they are of.
    """

    number: int
    name: str
    written: Path
    maps: tuple[Array, ...] = ()
    explained: int = UNKNOWN

    @classmethod
    def of(cls, whole: WholeImage, made: _Work, written: Path) -> _Done:
        number, name = whole.sample.file_A, whole.file.as_posix()
        if made.seen is None or made.random is None:
            return cls(number, name, written)
        maps = made.seen.cam, made.seen.cam_fake, made.random.cam
        plain = tuple(one[0].float().cpu().numpy() for one in maps)
        return cls(number, name, written, plain, int(made.seen.classes[0]))


def _translated(
    done: Sequence[_Done], model: Model[Any], dataset: SingleDataset, name: str, run: RunOptions, with_maps: bool
) -> Translated:
    files, numbers = [one.written for one in done], [one.number for one in done]
    inputs = [dataset.source_files[number] for number in numbers]
    labels = [dataset.labels[number] for number in numbers]
    source = ImageSet(dataset.folder.name, inputs, lambda n: dataset.whole(numbers[n]).image, labels)
    fake = ImageSet(name, files, lambda n: decode(files[n], run.networks.output_nc, dataset.target), labels)
    maps = None
    if with_maps:
        before, after, randomised = ([one.maps[kind] for one in done] for kind in range(3))
        confidence = confidence_of(model, dataset, run.experiment.seed)
        maps = Maps(before, after, randomised, [one.explained for one in done], confidence)
    return Translated(source, fake, maps, [one.name for one in done])


def confidence_of(model: Model[Any], dataset: SingleDataset, seed: int) -> Callable[[Tensor, int], Tensor]:
    """(N, C, H, W) in [0, 1] at a file's own size and a class -> the model's probability of it, (N,)."""

    def confidence(images: Tensor, class_id: int) -> Tensor:
        taken = [to_network(dataset.taken(image), model.size_multiple, model.device)[0] for image in images]
        with torch.inference_mode(), drawing(model, [noise_key(seed, "confidence")]):
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
