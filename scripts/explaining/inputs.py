"""Which images are explained: given files, random ones of a split, one by its number, or all of a split."""

from __future__ import annotations

import glob
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from data.base import UNKNOWN, DataError
from data.checkup import BadImage, Checkup, look_at, reason_of, scan_folder
from data.classes_dataset import ClassesDataset, ClassesOptions, kind_of
from data.decoders import EXTENSIONS
from data.domain import LABELS_FILE, Domain, load_classes, load_formats, open_domain, preprocess_from
from data.imagenette import IMAGENETTE
from data.images import ImageError
from data.labels import read_labels
from data.single_dataset import SingleDataset
from data.transforms import Preprocess
from options.groups import Explanation, Given, Inference
from options.parse import RunOptions, extra
from options.schema import OptionError, shorten
from scripts.explaining.video import is_video
from util.errors import counted, printable
from util.seeding import generator


@dataclass(frozen=True)
class Input:
    """An image to explain.

    Attributes:
        file: its path below the folder of all inputs, which names its results.
        path: of the file itself.
        image: (C, H, W) in [0, 1], at its own size.
        sample: (C, h, w) in [-1, 1], preprocessed without random changes; the whole image, never a crop of it.
        label: its true class, -1 unknown.
        index: its number in the split, None where it was given as a file.
    """

    file: Path
    path: Path
    image: Tensor
    sample: Tensor
    label: int
    index: int | None

    @property
    def size(self) -> tuple[int, int]:
        """The file's own height and width."""
        return self.image.shape[-2], self.image.shape[-1]


@dataclass(frozen=True)
class Inputs:
    """The images chosen, read one by one in order.

    Attributes:
        domain: files, format, labels and names of the classes.
        chosen: numbers of the files in it.
        counted: these numbers are those of a split.
        bad: a line for each file that --on_bad_image skip has left out so far.
    """

    domain: Domain
    chosen: Sequence[int]
    counted: bool
    preprocess: Preprocess
    bad: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Input]:
        """The images; with --on_bad_image skip without those that cannot be read, which are named.

        Raises:
            ImageError: one cannot be read.
            DataError: with skip, none can.
        """
        given = 0
        for number in self.chosen:
            try:
                image = self.domain.read(number)
            except ImageError as error:
                if not self.domain.skip_bad:
                    raise
                print(f"WARNING: {error}; it is left out (--on_bad_image skip)", file=sys.stderr)
                path = self.domain.files[number]
                line = BadImage(path, reason_of(error, path)).line(self.domain.folder)
                self.bad.extend([] if line in self.bad else [line])
                continue
            given += 1
            yield self._input(number, image)
        if not given:
            raise DataError(f"{printable(self.domain.folder)}: none of the images chosen can be read")

    def _input(self, number: int, image: Tensor) -> Input:
        path = self.domain.files[number]
        sample = self.preprocess(image, generator(0, "whole", number)) * 2 - 1
        file, index = path.relative_to(self.domain.folder), number if self.counted else None
        return Input(file, path, image, sample, self.domain.labels[number], index)


def choose_inputs(
    run: RunOptions, size_multiple: int, names: Mapping[int, str] | None = None, split_flag: str = "--phase"
) -> Inputs:
    """What --image names, else --random images of the split, else that of --index, else the first --num_test.

    Args:
        names: of the classes, by id, where no run has kept them.
        split_flag: what the command calls the flag that names the split, for messages.

    Raises:
        UserError: there is no such file, folder, split or number, or files cannot be used.
    """
    given = asked_pictures(run, size_multiple, names)
    if given is not None:
        return given
    domain, bad = _split(run, size_multiple, extra(run, Inference).phase)
    chosen = numbers_asked(run, len(domain.files), split_flag)
    return Inputs(domain, chosen, True, preprocess_from(run, size_multiple).for_inference(), bad)


def asked_pictures(run: RunOptions, size_multiple: int, names: Mapping[int, str] | None = None) -> Inputs | None:
    """What --image or --input names; None where neither does.

    Raises:
        UserError: as `given_inputs`.
    """
    look = extra(run, Explanation)
    _say_unused(look)
    if look.image is None:
        return None
    given = any(isinstance(group, Given) and group.input is not None for group in run.extra)
    return given_inputs(run, look.image, size_multiple, names or {}, "--input" if given else "--image")


def numbers_asked(run: RunOptions, count: int, split_flag: str = "--phase") -> Sequence[int]:
    """Of so many images of a split, --random ones, else that of --index, else the first --num_test.

    Raises:
        OptionError: --index is none of them.
    """
    look, wanted = extra(run, Explanation), extra(run, Inference)
    if look.random:
        if look.random > count:
            print(
                f"--random {look.random}: --phase {wanted.phase} has {counted(count, 'image')}; all are taken",
                file=sys.stderr,
            )
        return drawn(count, look.random, run.experiment.seed)
    if look.index is None:
        return range(min(count, wanted.num_test))
    if look.index >= count:
        raise OptionError(
            f"--index {look.index}: {split_flag} {wanted.phase} has {counted(count, 'image')}, 0 to {count - 1}"
        )
    return [look.index]


def _say_unused(look: Explanation) -> None:
    """--image goes before --random and that before --index, as in the published project."""
    chosen = {"--image": look.image is not None, "--random": look.random > 0, "--index": look.index is not None}
    first, *unused = [flag for flag, given in chosen.items() if given] or [""]
    if unused:
        print(f"{' and '.join(unused)}: not used, {first} chooses the images", file=sys.stderr)


def say_one_by_one(run: RunOptions) -> None:
    """Say which given flags of inference are of no use where explainers or F-CAM take the images."""
    for name in ("amp", "batch_size"):
        if name in run.given:
            print(f"--{name}: not used, maps are made image by image in full precision", file=sys.stderr)


def given_inputs(
    run: RunOptions, given: str, size_multiple: int, names: Mapping[int, str] | None = None, flag: str = "--image"
) -> Inputs:
    """The images that a path means, read as the run's are; only the first --num_test where this command gives it.

    Args:
        given: a file, a folder, or a pattern.
        names: of the classes, by id, where no run has kept them.
        flag: that gave the path, for messages.

    Raises:
        UserError: there is no such file, or files cannot be used.
    """
    domain, bad = _given_files(run, given, load_classes(run.folder) or names or {}, flag)
    count = len(domain.files)
    if "num_test" in run.given and extra(run, Inference).num_test < count:
        print(f"{extra(run, Inference).num_test} of {count} images of {flag} are taken (--num_test)")
        count = extra(run, Inference).num_test
    return Inputs(domain, range(count), False, preprocess_from(run, size_multiple).for_inference(), bad)


def drawn(count: int, most: int, seed: int) -> list[int]:
    """At most so many of the numbers below `count`, each once, in the order drawn; the seed alone decides."""
    return torch.randperm(count, generator=generator(seed, "explained images"))[:most].tolist()


# --- a split


def _split(run: RunOptions, size_multiple: int, phase: str) -> tuple[Domain, list[str]]:
    """The images of a phase with their labels, and a line for each that was left out."""
    if not isinstance(run.dataset, ClassesOptions):
        found = SingleDataset.for_phase(run, phase, math.inf, size_multiple)
        return domain_of(run, found, found.folder), list(found.bad_images)
    kind = kind_of(run)
    try:
        classes = kind.for_phase(run, phase, size_multiple)
    except DataError:
        if "phase" in run.given or phase != "test":
            raise
        classes = kind.for_phase(run, "val", size_multiple)  # what training has held out
    return domain_of(run, classes, folder_of(classes.source_files)), list(classes.bad_images)


def domain_of(run: RunOptions, found: SingleDataset | ClassesDataset, folder: Path) -> Domain:
    """The images of a data set, with what the run calls their classes."""
    names = {**(load_classes(run.folder) or {}), **found.class_names}
    channels, skip = run.networks.input_nc, run.data.on_bad_image == "skip"
    return Domain(folder, found.source_files, found.source, channels, found.labels, names, skip_bad=skip)


def folder_of(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([file.parent for file in files]))


# --- given files


def _given_files(run: RunOptions, given: str, names: Mapping[int, str], flag: str) -> tuple[Domain, list[str]]:
    """The domain of some files, and a line for each that was left out."""
    if is_video(given):
        raise OptionError(
            f"{flag} {shorten(given)}: is a video, which a translation run alone takes, with maps of its own class "
            "head (no --cam_method and the like); give pictures, such as its frames"
        )
    files, skip = given_files(given, flag), run.data.on_bad_image == "skip"
    folder = Path(given) if Path(given).is_dir() else folder_of(files)
    formats = load_formats(run.folder)
    known = formats[run.turned] if formats else None  # turned round, the target is what is read
    good, bad, depth = _usable(files, known.depth if known else "", skip, flag)
    window = run.data.window_A if run.data.direction == "AtoB" else run.data.window_B
    found = Checkup(folder, good, list(range(len(good))), [], len(files), depth)
    channels, seed = run.channels[0], run.experiment.seed
    domain = open_domain(found, channels, window, seed=seed, known=known, skip_bad=skip)
    return replace(domain, labels=_labels(good, run, names), class_names=names), [one.line(folder) for one in bad]


def given_files(given: str, flag: str = "--image") -> list[Path]:
    """The images that a path means: a file, all in a folder and below it, or what fits a pattern such as `data/*.png`.

    Raises:
        OptionError: there is none.
    """
    path = Path(given)
    if path.is_dir():
        try:
            return scan_folder(path)
        except DataError as error:
            raise DataError(f"{flag} {error}") from error
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(given):
        raise OptionError(f"{flag} {shorten(given)}: no such file or folder")
    found = sorted(Path(name) for name in glob.glob(given, recursive=True))
    images = [one for one in found if one.is_file() and one.suffix.lower() in EXTENSIONS]
    if not images:
        raise OptionError(f"{flag} {shorten(given)}: no image fits this pattern")
    return images


def _usable(files: Sequence[Path], depth: str, skip: bool, flag: str) -> tuple[list[Path], list[BadImage], str]:
    """The files of one depth that can be read, by their headers, those that cannot, and that depth."""
    good, bad = list[Path](), list[BadImage]()
    for file, found in zip(files, look_at(files, quiet=True), strict=True):
        depth = depth or (found if isinstance(found, str) else "")
        if found == depth:
            good.append(file)
            continue
        reason = found.reason if isinstance(found, BadImage) else f"it is {found}, and the run's images are {depth}"
        line = f"{flag} {printable(file)}: {reason}"
        if not skip:
            raise DataError(f"{line}; --on_bad_image skip goes on without it")
        print(f"WARNING: {line}; it is left out", file=sys.stderr)
        bad.append(BadImage(file, reason))
    if not good:
        raise DataError(f"{flag}: none of {len(files)} files can be used")
    return good, bad, depth


def _labels(files: Sequence[Path], run: RunOptions, names: Mapping[int, str]) -> list[int]:
    """True classes: from the label table of the data root the files lie in, else from a folder named after a class."""
    root, numbers = Path(run.data.dataroot), {name: label for label, name in names.items()}
    table = Path(getattr(run.dataset, "labels_A", None) or root / LABELS_FILE)
    known = read_labels(table).numbered_as(names) if run.data.dataroot and table.is_file() else None
    labels = []
    for file in files:
        place = Path(os.path.abspath(file))
        inside = known is not None and place.is_relative_to(os.path.abspath(root))
        row = known.row(place.relative_to(os.path.abspath(root)).as_posix()) if known and inside else None
        by_folder = numbers.get(IMAGENETTE.get(file.parent.name, file.parent.name), UNKNOWN)
        label = known.class_id(row) if known and row else by_folder
        labels.append(label if label in names else UNKNOWN)
    return labels
