"""Labelled images of one domain, for classifiers: `<dataroot>/trainA` or `trainB`, or `<dataroot>/train/<class>/`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from data.base import (
    DATASETS,
    UNKNOWN,
    DataError,
    Dataset,
    Sample,
    domain_folder,
    histogram,
)
from data.checkup import (
    at_equal_distances,
    check_kept,
    check_up,
    require_usable,
    say_other_channels,
    say_skipped,
    scan_folder,
)
from data.domain import (
    LABELS_FILE,
    Domain,
    FolderOptions,
    augmented,
    cached,
    check_classes,
    load_classes,
    load_formats,
    open_domain,
    part_of,
    preprocess_from,
    without,
)
from data.imagenette import IMAGENETTE, has_training, how_to_get, imagenette_root
from data.labels import labels_from_folders, labels_from_table, read_labels
from data.sampler import SampleKey
from data.transforms import Preprocess
from options.schema import Group, OptionError, option
from util import ranks
from util.errors import counted, printable
from util.seeding import generator, key

if TYPE_CHECKING:
    from data.images import DomainFormat
    from options.parse import RunOptions

Kind = TypeVar("Kind", bound="ClassesDataset")

MOST_HELD = 0.9  # of the training images
_CODES = {name: code for code, name in IMAGENETTE.items()}


@dataclass(frozen=True)
class ClassesOptions(FolderOptions):
    """images of one domain and their labels"""

    domain: str | None = option(
        None, "domain whose images are read; none: the folder train where there is one, else A", choices=("A", "B")
    )
    val_share: float = option(
        0.15,
        "share of each class held out for validation where there is no folder val, valA, valB",
        low=0,
        high=MOST_HELD,
    )
    val_size: int = option(
        0, "held-out images: at most so many of the folder val, else so many instead of val_share; 0: as said", low=0
    )

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        # What reads the run's source later must read this domain.
        return {"direction": "BtoA"} if str(given.get("domain")).upper() == "B" else {}

    @staticmethod
    def how_to_get(root: Path) -> str:
        """What to do where a data root has nothing to train on, for a message that says so."""
        return how_to_get(root)


@DATASETS.register("classes")
class ClassesDataset(Dataset):
    """Images with their classes; source and target are the same domain.

    Args:
        domain: files and labels, none of them unknown.
        root: the folder that paths are relative to.
        preprocess: geometry of training images.
        seed: keys every crop and flip, together with epoch and position.
        validation: held-out images of the same classes.
        bad_images: lines for files that were left out.
        on_device: leave what follows decoding to the device.
    """

    Options: ClassVar[type[Group]] = ClassesOptions

    def __init__(
        self,
        domain: Domain,
        root: Path,
        preprocess: Preprocess,
        *,
        seed: int = 0,
        validation: ClassesDataset | None = None,
        bad_images: Sequence[str] = (),
        on_device: bool = False,
    ) -> None:
        self._domain, self.root = domain, root
        self.source = self.target = domain.format
        self.source_files, self.labels, self.class_names = domain.files, domain.labels, domain.class_names
        self._preprocess, self._seed = preprocess, seed
        self.validation = validation
        self.bad_images, self._on_device = list(bad_images), on_device

    @classmethod
    def settled(cls, run: RunOptions) -> RunOptions:
        """The options with the domain, the number of classes and the folder of Imagenette filled in.

        With --download Imagenette is fetched where the data root has no training images.

        Raises:
            DataError: the folder or its labels cannot be used, or Imagenette could not be fetched.
        """
        options = _options_of(run)
        if options.domain is None:
            found = imagenette_root(Path(run.data.dataroot), getattr(run.model, "download", False))
            run = replace(run, data=replace(run.data, dataroot=str(found))) if found else run
        if options.domain is None and not (Path(run.data.dataroot) / "train").is_dir():
            run = replace(run, dataset=replace(options, domain=run.data.direction[0]))
        if getattr(run.model, "num_classes", None) == 0:
            folder = training_folder(run)
            files = scan_folder(folder)
            labels, _ = labels_of(files, folder, Path(run.data.dataroot), _options_of(run))
            require_classes(labels, folder)
            derived: Any = {"num_classes": max(labels) + 1}
            run = replace(run, model=replace(run.model, **derived))
        return run

    @classmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> ClassesDataset:
        """The training images of a run, with its held-out ones in `validation`.

        Raises:
            DataError, ImageError: fewer than two classes, or a folder, its files or labels cannot be used.
            OptionError: --domain and --direction contradict each other.
        """
        run = cls.settled(run)
        options, seed, root = _options_of(run), run.experiment.seed, Path(run.data.dataroot)
        if options.domain and options.domain != run.data.direction[0]:
            raise OptionError(
                f"--domain {options.domain} --direction {run.data.direction}: leave --direction out, it follows"
            )
        folder, again = training_folder(run), run.experiment.continue_train
        formats, classes = (load_formats(run.folder), load_classes(run.folder)) if again else (None, None)
        everything, bad = _read_domain(run, folder, formats[0] if formats else None, classes)
        everything = part_of(everything, at_equal_distances(len(everything.files), run.data.max_dataset_size))
        held, more = _read_validation(run, folder, everything)
        if held is None:
            names = [file.name for file in everything.files]
            share = min(options.val_size / len(names), MOST_HELD) if options.val_size else options.val_share
            numbers = hold_out(names, everything.labels, share, seed)
            held = part_of(everything, numbers)
            train = part_of(everything, sorted(set(range(len(names))) - set(numbers)))
        else:
            train = everything
        if kept:
            train = _kept_domain(run, folder, everything, [root / name for name in kept["source"]])
            held = without(held, train.files)
        if ranks.is_first():
            which = histogram(held.labels, held.class_names) or "--val_share of each class is less than one"
            print(f"held out for validation: {counted(len(held.files), 'image')} ({which})")
        return cls._of_domains(run, train, held, [*bad, *more], size_multiple)

    @classmethod
    def _of_domains(
        cls: type[Kind], run: RunOptions, train: Domain, held: Domain, bad_images: Sequence[str], size_multiple: int
    ) -> Kind:
        """Both with the run's cache, the held-out ones in `validation` where there are any."""
        train, held = cached(run, train, held)
        root, seed, preprocess = Path(run.data.dataroot), run.experiment.seed, preprocess_from(run, size_multiple)
        return cls(
            train,
            root,
            preprocess,
            seed=seed,
            validation=cls(held, root, preprocess, seed=seed) if held.files else None,
            bad_images=bad_images,
            on_device=run.data.augment_on_device,
        )

    @classmethod
    def for_phase(cls, run: RunOptions, phase: str, size_multiple: int = 1) -> ClassesDataset:
        """The labelled images of a split, read as a run was trained: of `<phase>`, `<phase>A` or `<phase>B`.

        Phase test falls back to val. Where there is no such folder, val is what training has held out.

        Raises:
            DataError, ImageError: there is no such split, or its files cannot be used.
        """
        run = cls.settled(run)
        options, root = _options_of(run), Path(run.data.dataroot)
        try:
            folder = domain_folder(root, phase, options.domain or "")
        except DataError:
            held = cls.from_options(run, size_multiple).validation if phase == "val" else None
            if not isinstance(held, ClassesDataset):
                raise
            return held
        formats, classes = load_formats(run.folder), load_classes(run.folder)
        domain, bad = _read_domain(run, folder, formats[0] if formats else None, classes)
        if not domain.files:
            raise DataError(
                f"{printable(folder)}: none of its images has a label; give them rows in {LABELS_FILE}, or name "
                "another phase or domain"
            )
        return cls(domain, root, preprocess_from(run, size_multiple), seed=run.experiment.seed, bad_images=bad)

    def __len__(self) -> int:
        return len(self.source_files)

    def __getitem__(self, key: SampleKey) -> Sample:
        counts, read, skipped = self._domain.counts_from(key.index)
        draw = generator(self._seed, "A", key.epoch, key.position)
        taken, waiting = augmented(counts, self._domain.channels, self._preprocess, draw, key.index, self._on_device)
        sample = self._sample(taken, key.index, read, key.position, skipped)
        return replace(sample, waiting=(waiting,)) if waiting else sample

    def whole_source(self, file: int) -> Sample:
        image, read, skipped = self._domain.read_from(file)
        taken = self._preprocess.for_inference()(image, generator(self._seed, "whole", file))
        return self._sample(taken * 2 - 1, file, read, file, skipped)

    def _sample(self, image: Tensor, file: int, read: int, index: int, skipped: tuple[str, ...]) -> Sample:
        """File number `read`, in [-1, 1], which was read for number `file`."""
        path = self.source_files[read].relative_to(self.root).as_posix()
        return Sample(image, None, path, "", self.labels[read], file, index, skipped)


# --- files


def kind_of(run: RunOptions) -> type[ClassesDataset]:
    """The data set that reads a run's labelled images, by its --dataset_mode."""
    kind = DATASETS.get(run.data.dataset_mode)
    assert issubclass(kind, ClassesDataset)
    return kind


def training_folder(run: RunOptions) -> Path:
    """Where a run's training images lie: `trainA` or `trainB`, or without a domain `train`.

    Raises:
        DataError: there is no such folder.
    """
    domain, root = _options_of(run).domain, Path(run.data.dataroot)
    if domain is None and (root / "train").is_dir():
        return root / "train"
    try:
        return domain_folder(root, "train", domain or run.data.direction[0])
    except DataError as error:
        remedy = "" if has_training(root) else _options_of(run).how_to_get(root)
        raise DataError(f"{error}{remedy}") from error


def _read_validation(run: RunOptions, folder: Path, train: Domain) -> tuple[Domain | None, list[str]]:
    """The labelled images of the folder val, valA or valB beside the training folder; None where there are none."""
    place = folder.with_name(folder.name.replace("train", "val"))
    if not place.is_dir():
        return None, []
    held, bad = _read_domain(run, place, train.format, train.class_names)
    if not held.files:
        return None, []
    return part_of(held, at_equal_distances(len(held.files), _options_of(run).val_size or math.inf)), bad


def _read_domain(
    run: RunOptions, folder: Path, known: DomainFormat | None, classes: Mapping[int, str] | None
) -> tuple[Domain, list[str]]:
    """The labelled images of a folder, and a line for each file that cannot be used."""
    data, options, root = run.data, _options_of(run), Path(run.data.dataroot)
    skip, quiet = data.on_bad_image == "skip", run.log.quiet or not ranks.is_first()
    found = check_up(folder, most=math.inf, depth=known.depth if known else "", quiet=quiet)
    require_usable([found], skip)
    window = data.window_B if options.domain == "B" else data.window_A
    domain = open_domain(found, run.networks.input_nc, window, seed=run.experiment.seed, known=known, skip_bad=skip)
    labels, names = labels_of(found.files, folder, root, options, classes)
    check_classes(run, labels, found.files, names)
    if folder == training_folder(run):
        require_classes(labels, folder)
    labelled = [number for number, label in enumerate(labels) if label != UNKNOWN]
    if ranks.is_first():
        say_other_channels(found)
        if skip:
            say_skipped(found.lines)
        if len(labelled) < len(labels):
            bare = len(labels) - len(labelled)
            print(f"{printable(folder)}: {bare} of {len(labels)} images have no label and are left out")
    return part_of(replace(domain, labels=labels, class_names=names), labelled), found.lines if skip else []


def _kept_domain(run: RunOptions, folder: Path, like: Domain, files: list[Path]) -> Domain:
    """The files that an epoch already counts, in its order, read like others of their folder."""
    found = check_kept(folder, files, depth=like.format.depth, quiet=run.log.quiet or not ranks.is_first())
    require_usable([found], like.skip_bad)
    labels, _ = labels_of(files, folder, Path(run.data.dataroot), _options_of(run), like.class_names)
    if UNKNOWN in labels:
        lost = printable(files[labels.index(UNKNOWN)])
        raise DataError(f"{lost}: has lost its label since this epoch began; give it back, or go on with all labels")
    check_classes(run, labels, files)
    return replace(like, files=files, labels=labels, numbers=found.numbers)


def hold_out(names: Sequence[str], labels: Sequence[int], share: float, seed: int) -> list[int]:
    """Numbers of the images that are kept from training: a share of each class, rounded, but never all of it.

    Which ones follows from their names, so that new images of a class hardly move the others.

    Args:
        names: file names; of equal ones in a class, the order decides.
        labels: class ids.
    """
    held: list[int] = []
    for label in sorted(set(labels)):
        own = [number for number, other in enumerate(labels) if other == label]
        own.sort(key=lambda number: key(seed, f"held out {names[number]}"))
        held += own[: min(int(share * len(own) + 0.5), len(own) - 1)]
    return sorted(held)


# --- labels


def labels_of(
    files: Sequence[Path],
    folder: Path,
    root: Path,
    options: FolderOptions,
    classes: Mapping[int, str] | None = None,
) -> tuple[list[int], Mapping[int, str]]:
    """Class ids of the files of a folder, -1 unknown, and the classes' names.

    From the table of `--labels_A`, else `labels.csv` of the data root where there is one, else from sub-folders;
    `--labels_from_folders` does without a table. Imagenette's folders get readable names.

    Args:
        classes: names by id that are known already, and keep their ids.

    Raises:
        DataError: the table is missing or damaged, or a sub-folder is none of `classes`.
        OptionError: --labels_A and --labels_from_folders together.
    """
    if options.labels_from_folders and options.labels_A:
        raise OptionError("--labels_from_folders and --labels_A: use one of them")
    table = Path(options.labels_A) if options.labels_A else root / LABELS_FILE
    if not options.labels_from_folders and (options.labels_A or table.is_file()):
        labels, names = labels_from_table(files, root, read_labels(table), classes)
        return labels, {**(classes or {}), **names}
    if not any(len(file.relative_to(folder).parts) > 1 for file in files):
        return [UNKNOWN] * len(files), classes or {}
    known = {label: _folder_name(name, folder) for label, name in (classes or {}).items()}
    labels, names = labels_from_folders(files, folder, known)
    return labels, {label: IMAGENETTE.get(name, name) for label, name in names.items()}


def _folder_name(class_name: str, folder: Path) -> str:
    code = _CODES.get(class_name, class_name)
    return code if (folder / code).is_dir() else class_name


def require_classes(labels: Sequence[int], folder: Path) -> None:
    """Raise a DataError where fewer than two classes have an image."""
    known = [label for label in labels if label != UNKNOWN]
    if len(set(known)) < 2:
        raise DataError(
            f"{printable(folder)}: {len(known)} of {len(labels)} images have a label, number of classes "
            f"{len(set(known))}; a classifier needs two: in {LABELS_FILE}, by --labels_A FILE, or by sub-folders"
        )


def _options_of(run: RunOptions) -> ClassesOptions:
    assert isinstance(run.dataset, ClassesOptions)
    return run.dataset
