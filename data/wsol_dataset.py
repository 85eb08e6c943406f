"""Labelled images for weakly supervised localisation: wsol-done-right's splits, or plain folders.

Training needs classes alone. Boxes and masks, where there are any, are for those who measure: of held-out and test
images, and of training images only where --train_truth asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from data.annotations import TARGET_LEVEL, Rectangle, read_boxes
from data.base import DATASETS, Batch, DataError, Sample
from data.checkup import BadImage, Checkup, at_equal_distances, look_at, require_usable, say_skipped
from data.classes_dataset import MOST_HELD, ClassesDataset, ClassesOptions, hold_out
from data.domain import (
    Domain,
    check_classes,
    load_classes,
    load_formats,
    open_domain,
    part_of,
    preprocess_from,
    without,
)
from data.images import DomainFormat, image_size, read_raw
from data.sampler import SampleKey
from data.wsol_splits import FOLDERS, IDS, LABELS, SplitTruth, how_to_prepare, read_split, split_folder
from data.wsol_truth import Ask, WsolBatch, WsolSample, with_truth
from options.schema import Group, OptionError, fields_of, option, spec_of
from util import ranks
from util.errors import counted, printable
from util.metrics.wsol import Truth, truth_from
from util.seeding import generator

if TYPE_CHECKING:
    from options.parse import RunOptions

SPLITS_FOLDER = "splits"  # in the data root
BOXES_FILE = "boxes.csv"
_TRIED = 50  # images of a split that are looked for before it is said that the data root is another's

Truths = Callable[[str], Truth | None]  # path below the data root -> truth at the file's own size


@dataclass(frozen=True)
class WsolOptions(ClassesOptions):
    """images, their classes, and boxes or masks for those who measure"""

    wsol_splits: str | None = option(
        None,
        f"folder of wsol-done-right's split files; none: <dataroot>/{SPLITS_FOLDER} if there, else plain folders",
    )
    target_boxes: str | None = option(
        None, f"plain folders: table of targets (file,x0,y0,x1,y1); none: <dataroot>/{BOXES_FILE} if there"
    )
    target_masks: str | None = option(
        None, "plain folders: folder of target masks; none: <dataroot>/masks_train, _val and _test, or masks, if there"
    )
    train_truth: bool = option(False, "read boxes or masks of training images too, to watch by; nothing learns them")

    how_to_get = staticmethod(how_to_prepare)


@DATASETS.register("wsol")
class WsolDataset(ClassesDataset):
    """Images with their classes, as `ClassesDataset`, and with truth where it is known.

    Attributes:
        truths: path of an image below the root -> truth, for whole images; None: nobody asks.
        train_truth: training crops get theirs too, cut and mirrored with them.
    """

    Options: ClassVar[type[Group]] = WsolOptions
    truths: Truths | None = None
    train_truth: bool = False

    @classmethod
    def settled(cls, run: RunOptions) -> RunOptions:
        splits = splits_of(run)
        if splits is None:
            return super().settled(run)
        if getattr(run.model, "num_classes", None) == 0:
            labels = read_split(_split(splits, "train")).labels.values()
            derived: Any = {"num_classes": max(labels) + 1}
            run = replace(run, model=replace(run.model, **derived))
        return run

    @classmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> WsolDataset:
        """The training images of a run, with its held-out ones, and their truth, in `validation`.

        Raises:
            DataError, ImageError: fewer than two classes, or a folder, its files or its tables cannot be used; or
                --select best_loc, and no held-out image has a box or mask.
            OptionError: --domain and --direction contradict each other.
        """
        splits, options = splits_of(run), _options_of(run)
        if splits is None:
            made = super().from_options(run, size_multiple, kept)
            assert isinstance(made, WsolDataset)
            own: FolderTruth | SplitTruth | None = _folder_truth(run, made)
            held = own
        else:
            made = cls._of_splits(run, splits, size_multiple, kept)
            folders = [_split(splits, "train"), split_folder(splits, "val") or _split(splits, "train")]
            own, held = (SplitTruth(folder, made.root) for folder in folders)
        if options.train_truth and run.data.augment_on_device:
            raise OptionError(
                "--augment_on_device: the truth of --train_truth is cut where images are read; leave one out"
            )
        made.train_truth = options.train_truth
        made.truths = own if made.train_truth and own else None
        if isinstance(made.validation, WsolDataset):
            made.validation.truths = held
        if getattr(run.model, "select", "") == "best_loc" and not (made.validation and held):
            others = [name for name in spec_of(fields_of(type(run.model))["select"][1]).choices if name != "best_loc"]
            raise DataError(
                "--select best_loc: no held-out image has a box or a mask; give a split val with them, or take "
                f"--select {' or '.join(others)}"
            )
        return made

    @classmethod
    def _of_splits(
        cls, run: RunOptions, splits: Path, size_multiple: int, kept: Mapping[str, Sequence[str]] | None
    ) -> WsolDataset:
        run = cls.settled(run)
        options, seed, again = _options_of(run), run.experiment.seed, run.experiment.continue_train
        formats = load_formats(run.folder) if again else None
        folder, val = _split(splits, "train"), split_folder(splits, "val")
        train, bad = _read_domain(run, folder, formats[0] if formats else None, kept["source"] if kept else None)
        if len(set(train.labels)) < 2:
            raise DataError(f"{folder / LABELS}: has one class, and a classifier needs two")
        if val is not None:
            held, more = _read_domain(run, val, train.format, None)
            held = part_of(held, at_equal_distances(len(held.files), options.val_size or np.inf))
        else:
            whole, more = _read_domain(run, folder, train.format, None) if kept else (train, [])
            names = [file.name for file in whole.files]
            share = min(options.val_size / len(names), MOST_HELD) if options.val_size else options.val_share
            held = part_of(whole, hold_out(names, whole.labels, share, seed))
            if kept:
                held = without(held, train.files)
            else:
                train = without(train, held.files)
        if ranks.is_first():
            print(f"held out for validation: {counted(len(held.files), 'image')} of {val or folder}")
        return cls._of_domains(run, train, held, [*bad, *more], size_multiple)

    @classmethod
    def for_phase(cls, run: RunOptions, phase: str, size_multiple: int = 1) -> WsolDataset:
        """The labelled images of a split with their truth, read as a run was trained; phase test falls back to val.

        Raises:
            DataError, ImageError: there is no such split, or its files cannot be used.
        """
        splits = splits_of(run)
        if splits is None:
            made = super().for_phase(run, phase, size_multiple)
            assert isinstance(made, WsolDataset)
            made.truths = _folder_truth(run, made)
            return made
        run, root = cls.settled(run), Path(run.data.dataroot)
        there = phase != "test" or split_folder(splits, "test") is not None
        folder, formats = _split(splits, phase if there else "val"), load_formats(run.folder)
        domain, bad = _read_domain(run, folder, formats[0] if formats else None, None)
        made = cls(domain, root, preprocess_from(run, size_multiple), seed=run.experiment.seed, bad_images=bad)
        made.truths = SplitTruth(folder, root)
        return made

    def __getitem__(self, key: SampleKey) -> Sample:
        if not self.train_truth or self.truths is None:
            return super().__getitem__(key)
        image, read, skipped = self._domain.read_from(key.index)
        truth = self.truths(self.source_files[read].relative_to(self.root).as_posix())
        size = (image.shape[-2], image.shape[-1])
        region = None if truth is None else truth.region(size)
        # As one more channel it goes the image's way, whatever that is.
        there = torch.zeros(1, *size) if region is None else torch.from_numpy(region)[None].float()
        draws = generator(self._seed, "A", key.epoch, key.position)
        taken = self._preprocess(torch.cat([image, there]), draws, key.index)
        sample = self._sample(taken[:-1] * 2 - 1, key.index, read, key.position, skipped)
        return _with(sample, None if region is None else partial(_as_truth, (taken[-1] > 0.5).numpy()))

    def whole_source(self, file: int) -> Sample:
        sample = super().whole_source(file)
        size = (sample.A.shape[-2], sample.A.shape[-1])
        return _with(sample, None if self.truths is None else partial(_at, self.truths, sample.path_A, size))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return with_truth(super().collate(samples), samples)


def _with(sample: Sample, truth: Ask | None) -> WsolSample:
    return WsolSample(**{item.name: getattr(sample, item.name) for item in fields(sample)}, truth=truth)


def _at(truths: Truths, name: str, size: tuple[int, int]) -> Truth | None:
    truth = truths(name)
    return None if truth is None else truth.at(size)


def _as_truth(mask: NDArray[np.bool_]) -> Truth:
    return Truth((mask.shape[0], mask.shape[1]), np.zeros((0, 4), np.int64), (mask,))


# --- split files


def splits_of(run: RunOptions) -> Path | None:
    """The folder of the split files; None: the data root has plain folders.

    Raises:
        DataError: --wsol_splits names a folder that has none.
    """
    options = _options_of(run)
    given = options.wsol_splits
    splits = Path(given) if given else Path(run.data.dataroot) / SPLITS_FOLDER
    if any(split_folder(splits, phase) for phase in FOLDERS):
        return splits
    if given:
        raise DataError(f"--wsol_splits {given}: has no train/{IDS}; scripts/prepare_wsol.py makes such a folder")
    return None


def _split(splits: Path, phase: str) -> Path:
    folder = split_folder(splits, phase)
    if folder is None:
        tried = " or ".join(f"{name}/{IDS}" for name in FOLDERS.get(phase, (phase,)))
        raise DataError(f"{printable(splits)}: has no {tried}; scripts/prepare_wsol.py makes the split files")
    return folder


def _read_domain(
    run: RunOptions, folder: Path, known: DomainFormat | None, names: Sequence[str] | None
) -> tuple[Domain, list[str]]:
    """The images of a split, and a line for each file that cannot be used.

    Args:
        names: the images to read, in this order; None: those of the split, at most --max_dataset_size.
    """
    data, root, split = run.data, Path(run.data.dataroot), read_split(folder)
    if names is None:
        names = [split.names[n] for n in at_equal_distances(len(split.names), data.max_dataset_size)]
    elif lost := [name for name in names if name not in split.labels]:
        raise DataError(f"{folder / IDS}: has lost {printable(lost[0])} since this epoch began; give it back")
    found = _check_up(run, folder, root, names, known.depth if known else "")
    domain = open_domain(
        found,
        run.networks.input_nc,
        data.window_B if _options_of(run).domain == "B" else data.window_A,
        seed=run.experiment.seed,
        known=known,
        skip_bad=data.on_bad_image == "skip",
    )
    place = {root / name: name for name in names}
    labels = [split.labels[place[file]] for file in found.files]
    check_classes(run, labels, found.files)
    known_names = (load_classes(run.folder) if run.experiment.continue_train else None) or _class_names(split.labels)
    if ranks.is_first():
        print(f"{printable(folder)}: {counted(len(labels), 'image')} of {counted(len(set(labels)), 'class')}")
    skipped = found.lines if data.on_bad_image == "skip" else []
    return replace(domain, labels=labels, class_names=known_names), skipped


def _check_up(run: RunOptions, folder: Path, root: Path, names: Sequence[str], depth: str) -> Checkup:
    """A look at the header of every image of a list."""
    files = [root / name for name in names]
    if not any(file.is_file() for file in files[:_TRIED]):
        raise DataError(
            f"--dataroot {printable(root)}: has none of the first images of {folder / IDS}, for example "
            f"{printable(names[0])}; give the folder that these paths are below"
        )
    seen = look_at(files, run.log.quiet or not ranks.is_first())
    depths = [what for what in seen if isinstance(what, str)]
    depth = depth or max(sorted(set(depths)), key=depths.count, default="")
    numbers = [number for number, what in enumerate(seen) if what == depth]
    bad = [
        what if isinstance(what, BadImage) else BadImage(file, f"it is {what} and its domain {depth}")
        for file, what in zip(files, seen, strict=True)
        if what != depth
    ]
    found = Checkup(root, [files[number] for number in numbers], numbers, bad, len(files), depth)
    skip = run.data.on_bad_image == "skip"
    require_usable([found], skip)
    if skip and ranks.is_first():
        say_skipped(found.lines)
    return found


def _class_names(labels: Mapping[str, int]) -> dict[int, str]:
    """A class is named by the folder of its images where they all lie in one that is no other class's."""
    folders: dict[int, set[str]] = {}
    for name, label in labels.items():
        folders.setdefault(label, set()).add(name.rpartition("/")[0].rpartition("/")[2])
    single = {label: next(iter(found)) for label, found in folders.items() if len(found) == 1}
    own = len(set(single.values())) == len(folders) and all(single.values())
    return {label: single[label] if own else str(label) for label in sorted(folders)}


# --- plain folders


class FolderTruth:
    """Truth of images of plain folders, by path; files are read when they are asked for.

    Args:
        root: the data root.
        names: paths of the images below it.
        table: of boxes, or None.
        masks: folders of masks by phase.

    Raises:
        DataError, ImageError: when asked: the table, or a mask, is damaged.
    """

    def __init__(self, root: Path, names: Sequence[str], table: Path | None, masks: Mapping[str, Path]) -> None:
        self._root, self._names, self._table, self._folders = root, names, table, masks

    @cached_property
    def _boxes(self) -> dict[str, list[Rectangle]]:
        if self._table is None:
            return {}
        found = zip(self._names, read_boxes(self._table, self._names), strict=True)
        return {name: boxes for name, boxes in found if boxes}

    @cached_property
    def _masks(self) -> dict[str, Path]:
        """Files by `phase:path` without suffix, and by `phase:bare name`."""
        found: dict[str, Path] = {}
        for phase, folder in self._folders.items():
            for place, _, files in os.walk(folder):
                for file in sorted(files):
                    path = Path(place, file)
                    found[f"{phase}:{path.relative_to(folder).with_suffix('').as_posix()}"] = path
                    found.setdefault(f"{phase}:{path.stem}", path)
        return found

    def __bool__(self) -> bool:
        return bool(self._boxes or self._masks)

    def __call__(self, name: str) -> Truth | None:
        rectangles, file = self._boxes.get(name, ()), self._mask_of(Path(name))
        if not rectangles and file is None:
            return None
        raw = None if file is None else read_raw(file)
        mask = None if raw is None else (raw if raw.ndim == 2 else raw.max(axis=2)) > TARGET_LEVEL
        return truth_from(rectangles, image_size(self._root / name), mask)

    def _mask_of(self, path: Path) -> Path | None:
        phase, below = _phase_of(path.parts[0]), Path(*path.parts[1:]).with_suffix("").as_posix()
        return self._masks.get(f"{phase}:{below}") or self._masks.get(f"{phase}:{path.stem}")


def _folder_truth(run: RunOptions, made: WsolDataset) -> FolderTruth | None:
    """Truth of a data set's images and of its held-out ones; None where the data root has no table and no masks.

    Raises:
        DataError: a table or a folder that was asked for is not there.
    """
    options, root = _options_of(run), made.root
    table = Path(options.target_boxes) if options.target_boxes else root / BOXES_FILE
    given = Path(options.target_masks) if options.target_masks else None
    if options.target_boxes and not table.is_file():
        raise DataError(f"--target_boxes {table}: does not exist")
    if given is not None and not given.is_dir():
        raise DataError(f"--target_masks {given}: no such folder")
    if given is None and (root / "masks").is_dir() and not any((root / f"masks_{phase}").is_dir() for phase in FOLDERS):
        given = root / "masks"  # one folder for all, as the generated scenes have it
    masks = {phase: folder for phase in FOLDERS if (folder := given or root / f"masks_{phase}").is_dir()}
    if not masks and not table.is_file():
        return None
    parts = [made, *([made.validation] if made.validation else [])]
    names = [file.relative_to(root).as_posix() for one in parts for file in one.source_files]
    return FolderTruth(root, names, table if table.is_file() else None, masks)


def _phase_of(folder: str) -> str:
    return next((phase for phase in FOLDERS if folder.startswith(phase)), "")


def _options_of(run: RunOptions) -> WsolOptions:
    assert isinstance(run.dataset, WsolOptions)
    return run.dataset


__all__ = ["FolderTruth", "WsolBatch", "WsolDataset", "WsolOptions", "splits_of"]
