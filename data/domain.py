"""One domain of a data set: its files, how their intensities are read, and their labels."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from data.base import UNKNOWN, DataError
from data.cache import PixelCache, open_cache
from data.checkup import (
    BadImage,
    Checkup,
    check_kept,
    check_up,
    reason_of,
    require_usable,
    say_other_channels,
    say_skipped,
)
from data.images import (
    Counts,
    DomainFormat,
    ImageError,
    Window,
    WindowRule,
    estimate_format,
    parse_window,
    read_counts,
    read_raw,
)
from data.labels import (
    check_labels,
    labels_from_folders,
    labels_from_table,
    read_labels,
    renamed,
    rows_without_files,
)
from data.on_device import Waiting
from data.pairing import half_of, place_of
from data.transforms import Preprocess, draws_of
from options.schema import Group, OptionError, fields_of, option, shorten
from util import ranks
from util.errors import printable
from util.files import write_atomic

if TYPE_CHECKING:
    from options.parse import RunOptions

T = TypeVar("T")

LABELS_FILE = "labels.csv"
DOMAINS_FILE = "domains.json"
_REMEDY_INSIDE = (
    "a run that goes on inside an epoch counts on its files: put them back or repair them, or go on without them by "
    "--on_bad_image skip"
)


@dataclass(frozen=True)
class FolderOptions(Group):
    """labels of the source images"""

    labels_A: str | None = option(
        None,
        f"labels of the source: CSV (file,label,label_id), or JSON of path: class; none: <dataroot>/{LABELS_FILE}",
    )
    labels_from_folders: bool = option(False, "class sub-folders of the source's folder are its labels")


@dataclass(frozen=True)
class Domain:
    """Files of one folder, read with one format into a number of channels.

    Args:
        numbers: the place of each file in its folder, those counted that were left out at the start.
        skip_bad: another file is read where one cannot be.
        half: the part of each image that shows the domain: left, right, or all of it (empty).
        cache: what keeps decoded files; None: each is decoded whenever it is read.
        sizes: (height, width) of the files, as far as their headers were read.
    """

    folder: Path
    files: list[Path]
    format: DomainFormat
    channels: int
    labels: list[int] = field(default_factory=list)
    class_names: Mapping[int, str] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    skip_bad: bool = False
    half: str = ""
    cache: PixelCache | None = None
    sizes: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def counts(self, file: int) -> Counts:
        """File number `file` as it is stored, or the half of it that shows the domain.

        Raises:
            ImageError: it cannot be read.
        """
        path = self.files[file]
        try:
            found = read_counts(path, self.format, self.cache.read if self.cache else read_raw)
            return replace(found, values=half_of(found.values, self.half, path))
        except ImageError as error:
            if self.skip_bad:
                raise
            raise ImageError(f"{error} (--on_bad_image skip goes on without it)") from error

    def read(self, file: int) -> Tensor:
        """File number `file`, (channels, H, W) in [0, 1].

        Raises:
            ImageError: it cannot be read.
        """
        return self.counts(file).image(self.channels)

    def read_from(self, file: int) -> tuple[Tensor, int, tuple[str, ...]]:
        """As `counts_from`, with the image as `read` gives it."""
        counts, number, skipped = self.counts_from(file)
        return counts.image(self.channels), number, skipped

    def counts_from(self, file: int) -> tuple[Counts, int, tuple[str, ...]]:
        """File number `file`, or with `skip_bad` the first after it that can be read; after the last comes the first.

        What is read follows from the files alone: every rank, worker and continued run reads the same.

        Returns:
            The image, its number, and a line for each file passed over.

        Raises:
            ImageError: the file cannot be read.
            DataError: with `skip_bad`, none can.
        """
        skipped: list[str] = []
        for step in range(len(self.files)):
            number = (file + step) % len(self.files)
            try:
                return self.counts(number), number, tuple(skipped)
            except ImageError as error:
                if not self.skip_bad:
                    raise
                path = self.files[number]
                skipped.append(BadImage(path, reason_of(error, path)).line(self.folder))
        raise DataError(f"{printable(self.folder)}: none of its files can be read, the first because {skipped[0]}")


def augmented(
    counts: Counts, channels: int, preprocess: Preprocess, draw: torch.Generator, patch_index: int, waits: bool
) -> tuple[Tensor, Waiting | None]:
    """A training image (C, H, W) in [-1, 1]; or, where the device is to make it, nothing and what it is made from.

    Args:
        waits: leave it to the device (--augment_on_device).
    """
    if waits:
        return torch.empty(0), Waiting(counts, channels, preprocess, draws_of(draw), patch_index)
    return preprocess(counts.image(channels), draw, patch_index) * 2 - 1, None


def cached(run: RunOptions, *domains: Domain) -> tuple[Domain, ...]:
    """The domains of a run with the cache that --cache asks for.

    Raises:
        UserError: it cannot be had.
    """
    data, files = run.data, [file for domain in domains for file in domain.files]
    cache = open_cache(
        data.cache, data.cache_dir, data.cache_gb, files, rank=ranks.rank(), world_size=ranks.world_size()
    )
    return tuple(replace(domain, cache=cache) for domain in domains)


def open_domain(
    found: Checkup,
    channels: int,
    window: str,
    *,
    seed: int,
    known: DomainFormat | None = None,
    skip_bad: bool = False,
    half: str = "",
) -> Domain:
    """Settle how the files of a folder map to intensities.

    Args:
        window: rule of `--window_A` and `--window_B`, used unless the format is `known` from the run.
        half: as in `Domain`.

    Raises:
        ImageError: the files cannot be used.
        OptionError: a window that halves of images do not have.
    """
    rule = _rule(window)
    if half and not known and rule.kind != "counts" and (rule.kind != "auto" or found.depth != "uint8"):
        raise OptionError(
            f"--window_A or --window_B {window}: a window from the pixels would mix the two images that stand side by "
            f"side in {printable(found.folder)}; give both as LO,HI in counts"
        )
    fmt = known or estimate_format(found.good, rule, seed, skip_bad)
    made = Domain(found.folder, found.files, fmt, channels, numbers=found.numbers, skip_bad=skip_bad, half=half)
    return replace(made, sizes=found.sizes)


def part_of(domain: Domain, numbers: Sequence[int]) -> Domain:
    """The files of these numbers, in this order."""
    return replace(
        domain,
        files=[domain.files[n] for n in numbers],
        labels=[domain.labels[n] for n in numbers] if domain.labels else [],
        numbers=[domain.numbers[n] for n in numbers],
    )


def without(domain: Domain, files: Sequence[Path]) -> Domain:
    """The domain without those of its files that are among these."""
    left_out = set(files)
    return part_of(domain, [number for number, file in enumerate(domain.files) if file not in left_out])


def _rule(window: str) -> WindowRule:
    try:
        return parse_window(window)
    except ValueError as error:
        raise OptionError(f"--window_A or --window_B {window}: {error}") from error


def target_format(window: str, source: DomainFormat) -> DomainFormat:
    """How translations are written where no run has kept it: at the source's depth, in the window that is given.

    Without one: 0..255 at 8 bits, else the source's window.

    Raises:
        OptionError: percentiles, which would need the images of the target.
    """
    rule = _rule(window)
    if rule.kind == "percent":
        raise OptionError(f"--window_A or --window_B {window}: is a share of images that are not read; give LO,HI")
    if rule.kind == "counts":
        return DomainFormat(Window(rule.low, rule.high), source.depth)
    if rule.kind == "image":
        return DomainFormat(None, source.depth)
    return DomainFormat(Window(0.0, 255.0), source.depth) if source.depth == "uint8" else source


def _warn(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr)


def labels_for(
    domain: Domain,
    root: Path,
    options: FolderOptions,
    classes: Mapping[int, str] | None = None,
    warn: Callable[[str], None] = _warn,
) -> tuple[list[int], Mapping[int, str]]:
    """Class id of each file (-1 unknown) and the classes' names, as the options say.

    Args:
        classes: names by id that the run was trained with, if it was.
        warn: is told of rows that name no file.

    Raises:
        DataError: a table that was asked for is missing or labels nothing; contradictory options.
    """
    if options.labels_from_folders and options.labels_A:
        raise OptionError("--labels_from_folders and --labels_A: use one of them")
    if options.labels_from_folders:
        return labels_from_folders(domain.files, domain.folder, classes)
    table = Path(options.labels_A) if options.labels_A else root / LABELS_FILE
    if not options.labels_A and not os.path.lexists(table):
        return [UNKNOWN] * len(domain.files), classes or {}
    if options.labels_A and not os.path.lexists(table):
        raise DataError(f"--labels_A {printable(table)}: no such file")
    known = read_labels(table)
    labels, names = labels_from_table(domain.files, root, known, classes)
    if options.labels_A and all(label == UNKNOWN for label in labels):
        raise DataError(
            f"--labels_A {table}: labels none of the {len(labels)} images of {domain.folder}; its column file must "
            f"hold paths relative to {root}, for example {printable(domain.files[0].relative_to(root).as_posix())}"
        )
    if ranks.is_first() and (lost := rows_without_files(known, domain.files, root)):
        warn(lost)
    if classes and (other := renamed(classes, names)):
        if ranks.is_first():
            warn(f"{printable(table)}: {other}; its numbers count, so correct the table where they mean something else")
        return labels, {**names, **classes}
    return labels, {**(classes or {}), **names}


def labels_of_split(
    domain: Domain, run: RunOptions, classes: Mapping[int, str] | None
) -> tuple[list[int], Mapping[int, str]]:
    """Labels of images that a trained run translates; -1 where the run's own label options do not fit them.

    What is given with the command replaces what the run was trained with, and must fit.

    Raises:
        DataError: labels that were asked for with this command are missing.
    """
    root, options = Path(run.data.dataroot), run.dataset
    assert isinstance(options, FolderOptions)
    asked = {name: getattr(options, name) for name in fields_of(FolderOptions) if name in run.given}
    if asked:
        return labels_for(domain, root, FolderOptions(**asked), classes)
    try:
        return labels_for(domain, root, options, classes)
    except DataError as error:
        if options == FolderOptions():  # the table in the data folder: the split's own
            raise
        print(f"the labels of the training do not fit these images and are left out: {error}")
        return [UNKNOWN] * len(domain.files), classes or {}


def check_classes(
    run: RunOptions, labels: Sequence[int], files: Sequence[Path], names: Mapping[int, str] | None = None
) -> None:
    """Raise a DataError where a label is no class of the model's head, if the model has one.

    Args:
        names: of the classes by id, for the message.
    """
    num_classes = getattr(run.model, "num_classes", None)
    if num_classes is not None:
        trained = bool(run.extra) or run.experiment.continue_train
        check_labels(labels, files, num_classes, trained=trained, names=names)


def open_domains(
    run: RunOptions,
    phase: str = "train",
    kept: Mapping[str, Sequence[str]] | None = None,
    most: float | None = None,
) -> tuple[Domain, Domain, list[str]]:
    """Source (with its labels) and target of a run, with the formats the run has kept if it has any.

    Args:
        kept: names below the data root of "source" and "target" files that the run counts, to be kept as they are.
        most: files of each domain that are looked at; None: --max_dataset_size.

    Returns:
        The domains, and a line for each file that cannot be used.

    Raises:
        DataError, ImageError: a folder or its files cannot be used.
    """
    data, nets, root = run.data, run.networks, Path(run.data.dataroot)
    sides = "AB" if data.direction == "AtoB" else "BA"
    windows = {"A": data.window_A, "B": data.window_B}
    again, skip = run.experiment.continue_train, data.on_bad_image == "skip"
    formats, classes = (load_formats(run.folder), load_classes(run.folder)) if again else (None, None)
    if again and formats is None:  # to choose windows anew would silently change what counts mean
        raise DataError(f"{run.folder}: holds no {DOMAINS_FILE}; restore it from a copy of the run")
    known = formats or (None, None)
    places = [place_of(root, phase, side, data.dataset_mode) for side in sides]
    found = _look(run, [place.folder for place in places], known, kept, data.max_dataset_size if most is None else most)
    channels = nets.input_nc, nets.output_nc
    source, target = (
        open_domain(one, count, windows[side], seed=run.experiment.seed, known=fmt, skip_bad=skip, half=place.half)
        for one, side, count, fmt, place in zip(found, sides, channels, known, places, strict=True)
    )
    labels, names = labels_for(source, root, run.dataset, classes)  # type: ignore[arg-type]
    check_classes(run, labels, source.files, names)
    bad = list(dict.fromkeys(line for one in found for line in one.lines)) if skip else []
    source, target = cached(run, replace(source, labels=labels, class_names=names), target)
    return source, target, bad


def _look(
    run: RunOptions,
    folders: Sequence[Path],
    known: Sequence[DomainFormat | None],
    kept: Mapping[str, Sequence[str]] | None,
    most: float,
) -> list[Checkup]:
    """A look at every file of the folders, one for each domain; the console says what is skipped."""
    if folders[0] == folders[1]:  # both domains in each file
        one = _look_at(run, folders[:1], known[:1], kept, most)[0]
        return [one, one]
    return _look_at(run, folders, known, kept, most)


def _look_at(
    run: RunOptions,
    folders: Sequence[Path],
    known: Sequence[DomainFormat | None],
    kept: Mapping[str, Sequence[str]] | None,
    most: float,
) -> list[Checkup]:
    quiet, skip = run.log.quiet or not ranks.is_first(), run.data.on_bad_image == "skip"
    depths = [fmt.depth if fmt else "" for fmt in known]
    if kept is None:
        found = [
            check_up(folder, most=most, depth=depth, quiet=quiet) for folder, depth in zip(folders, depths, strict=True)
        ]
        require_usable(found, skip)
    else:
        root = Path(run.data.dataroot)
        lists = [[root / name for name in kept[domain]] for domain in ("source", "target")[: len(folders)]]
        found = [
            check_kept(folder, files, depth=depth, quiet=quiet)
            for folder, files, depth in zip(folders, lists, depths, strict=True)
        ]
        require_usable(found, skip, remedy=_REMEDY_INSIDE)
    if ranks.is_first():
        if skip:
            say_skipped([line for one in found for line in one.lines])
        for one in found:
            say_other_channels(one)
            if one.new and not quiet:
                print(f"{printable(one.folder)}: {one.new} new files wait for a start at the end of an epoch")
    return found


def preprocess_from(run: RunOptions, size_multiple: int) -> Preprocess:
    """The training geometry of a run.

    Raises:
        OptionError: a bad --preprocess, --load_size or --crop_size.
    """
    data = run.data
    try:
        return Preprocess.parse(
            data.preprocess, data.load_size, data.crop_size, flip=not data.no_flip, multiple=size_multiple
        )
    except ValueError as error:
        raise OptionError(str(error)) from error


def save_formats(
    folder: Path, source: DomainFormat, target: DomainFormat, classes: Mapping[int, str] | None = None
) -> None:
    """Keep with the run how each domain's intensities are read, so that translations can be written back.

    Args:
        classes: names by class id, kept too: a split in which a class is missing has the same numbers.
    """
    content = {"source": source.to_dict(), "target": target.to_dict(), "classes": dict(classes or {})}
    write_atomic(folder / DOMAINS_FILE, json.dumps(content, indent=2).encode())


def load_formats(folder: Path) -> tuple[DomainFormat, DomainFormat] | None:
    """Source and target format of a run, or None where it has none yet.

    Raises:
        DataError: the file is damaged.
    """
    return _read_domains(
        folder,
        lambda kept: (DomainFormat.from_dict(kept["source"]), DomainFormat.from_dict(kept["target"])),
    )


def load_classes(folder: Path) -> dict[int, str] | None:
    """Names of the classes a run was trained with, by id, or None where it has none.

    Raises:
        DataError: the file is damaged.
    """
    names = _read_domains(folder, lambda kept: {int(key): str(name) for key, name in kept.get("classes", {}).items()})
    return names or None


def _read_domains(folder: Path, make: Callable[[dict[str, Any]], T]) -> T | None:
    path = folder / DOMAINS_FILE
    if not path.is_file():
        return None
    try:
        return make(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({shorten(str(error))}); restore it from a copy of the run") from error
