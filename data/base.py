"""What a dataset returns, and the small tools every dataset needs: folder scan, label files, collation."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from data.images import EXTENSIONS, DomainFormat
from data.sampler import SampleKey
from options.schema import Group
from util.errors import UserError
from util.registry import Registry

if TYPE_CHECKING:
    from options.parse import RunOptions

UNKNOWN = -1


class DataError(UserError, ValueError):
    """A folder or file that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class Sample:
    """One source image with a target image drawn for it. `A` is the source, `B` the target, in either direction."""

    A: Tensor  # (C, H, W), [-1, 1]
    B: Tensor | None  # (C, H, W), [-1, 1]; None where only the source is read
    path_A: str
    path_B: str
    label_A: int  # class id of the source image, -1 unknown
    file_A: int  # number of the source file in its sorted folder
    index: int  # place of this draw in its epoch's order over all ranks: with the step it keys random draws


@dataclass(frozen=True)
class Batch:
    """N samples stacked. `A` (N, C, H, W) and `B` in [-1, 1]; `label_A`, `file_A`, `index` int64 (N,)."""

    A: Tensor
    B: Tensor | None
    path_A: tuple[str, ...]
    path_B: tuple[str, ...]
    label_A: Tensor
    file_A: Tensor
    index: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device."""
        moved: dict[str, Any] = {
            item.name: value.to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    @property
    def target(self) -> Tensor:
        """B, for models that need it.

        Raises:
            DataError: the batch was read from the source domain alone.
        """
        if self.B is None:
            raise DataError("this batch holds the source domain only; training needs --dataset_mode unaligned")
        return self.B

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader calls it."""
        pinned: dict[str, Any] = {
            item.name: value.pin_memory()
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **pinned)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; all images of a domain must have one size, and so must source and target.

    Raises:
        DataError: sizes differ (only possible where --preprocess fixes none).
    """
    for side in ("A", "B"):
        sizes = {tuple(image.shape) for s in samples if (image := getattr(s, side)) is not None}
        if len(sizes) > 1:
            raise DataError(
                f"images of {side} in one batch differ in size ({' and '.join(map(str, sorted(sizes)[:2]))}); "
                "use --batch_size 1, or a --preprocess with crop or resize"
            )
    _check_pair(samples[0])
    targets = [s.B for s in samples if s.B is not None]
    return Batch(
        A=torch.stack([s.A for s in samples]),
        B=torch.stack(targets) if targets else None,
        path_A=tuple(s.path_A for s in samples),
        path_B=tuple(s.path_B for s in samples),
        label_A=torch.tensor([s.label_A for s in samples]),
        file_A=torch.tensor([s.file_A for s in samples]),
        index=torch.tensor([s.index for s in samples]),
    )


def _check_pair(sample: Sample) -> None:
    """Raise where source and target differ in size: models run both through G as one batch."""
    if sample.B is not None and sample.A.shape[-2:] != sample.B.shape[-2:]:
        sizes = [f"{image.shape[-2]} x {image.shape[-1]}" for image in (sample.A, sample.B)]
        raise DataError(
            f"{sample.path_A} is {sizes[0]} and {sample.path_B} is {sizes[1]} (height x width): in training A and B "
            "need one height and one width; use a --preprocess with crop or resize"
        )


class Dataset(ABC, torch.utils.data.Dataset[Sample]):
    """A training set of source and target images.

    Attributes:
        source, target: how each domain's files map to intensities (saved with the run).
        source_files: the source's files in the order `file_A` counts them.
        labels: class id of each source file, -1 unknown.
        class_names: name of each class id, where known.
        root: the folder that all paths are relative to.
    """

    root: Path
    source: DomainFormat
    target: DomainFormat
    source_files: list[Path]
    labels: list[int]
    class_names: Mapping[int, str]
    Options: ClassVar[type[Group]]

    @classmethod
    @abstractmethod
    def from_options(cls, run: RunOptions, size_multiple: int = 4) -> Dataset:
        """The training set of a run; sides of its images are multiples of `size_multiple`."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples in one epoch."""

    @abstractmethod
    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample at `key.index` (an epoch's order is the sampler's), drawn for `key.epoch`."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of this data set as a batch."""
        return collate(samples)

    @abstractmethod
    def whole_source(self, file: int) -> Sample:
        """Source file `file`, whole and without random changes, without a target."""


DATASETS: Registry[Dataset] = Registry("dataset_mode", "data", "_dataset")


def scan_folder(folder: Path) -> list[Path]:
    """Every image file under `folder`, sub-folders and linked folders included, sorted by path.

    Files and folders whose names begin with a dot are no images: systems and editors leave copies in them.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --dataroot must hold it")
    files = sorted(file for file in _visible_files(folder) if file.suffix.lower() in EXTENSIONS)
    if not files:
        raise DataError(f"{folder}: holds no image (looked for *{', *'.join(sorted(EXTENSIONS))})")
    return files


def _visible_files(folder: Path) -> Iterator[Path]:
    """Files below a folder; one that links lead to twice, or in a circle, is entered once."""
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        true_place = os.path.realpath(place)
        if true_place in entered:
            folders.clear()
            continue
        entered.add(true_place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(place, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def domain_folder(root: Path, phase: str, domain: str, alone: bool = False) -> Path:
    """`<root>/<phase><domain>`; phase test falls back to val.

    Args:
        alone: the root may itself be the folder of images; it is, where it has no such sub-folder.

    Raises:
        DataError: there is none.
    """
    if not root.is_dir():
        raise DataError(f"--dataroot {root}: no such folder")
    tried = [root / f"{prefix}{domain}" for prefix in ([phase, "val"] if phase == "test" else [phase])]
    for folder in tried:
        if folder.is_dir():
            return folder
    if alone:
        return root
    raise DataError(f"--dataroot {root}: has no folder {' or '.join(folder.name for folder in tried)}")


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file, as it is written."""

    line: int
    label_id: str
    label: str


@dataclass(frozen=True)
class LabelTable:
    """Rows of a label file by file (a posix path relative to the data root, or a bare name).

    They are checked when a file asks for them: what is wrong in the rows of the other domain is nobody's concern.
    """

    path: Path
    rows: Mapping[str, Sequence[LabelRow]]

    def row(self, name: str) -> LabelRow | None:
        """The row of that name, if there is one.

        Raises:
            DataError: there are several.
        """
        rows = self.rows.get(name, ())
        if len(rows) > 1:
            raise DataError(f"{self.path}, line {rows[1].line}: {name} appears twice")
        return rows[0] if rows else None

    def class_id(self, row: LabelRow) -> int:
        """The class id of a row, -1 where it has none.

        Raises:
            DataError: it is no whole number.
        """
        try:
            return int(row.label_id or UNKNOWN)
        except ValueError:
            raise DataError(f"{self.path}, line {row.line}: label_id '{row.label_id}' is no whole number") from None


def read_labels(table: Path) -> LabelTable:
    """A label file with the columns file and label_id, and optionally label, the class's name.

    Raises:
        DataError: the file is missing, cannot be read, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = {"file", "label_id"} - set(reader.fieldnames or ())
            if missing:
                found = ", ".join(map(repr, reader.fieldnames or ())) or "nothing"
                raise DataError(
                    f"{table}: lacks the column {' and '.join(sorted(missing))}; its first line has {found} "
                    "and should be file,label,label_id"
                )
            return _table_of(reader, table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a label file (UTF-8 CSV): {error}") from error


def _table_of(reader: csv.DictReader[str], table: Path) -> LabelTable:
    rows: dict[str, list[LabelRow]] = {}
    for row in reader:
        name = Path((row["file"] or "").replace("\\", "/")).as_posix()
        rows.setdefault(name, []).append(LabelRow(reader.line_num, row["label_id"] or "", row.get("label") or ""))
    return LabelTable(table, rows)


def labels_from_folders(
    files: Sequence[Path], folder: Path, classes: Mapping[int, str] | None = None
) -> tuple[list[int], dict[int, str]]:
    """Class ids from the first sub-folder of each file; files outside one get -1.

    Args:
        classes: names by id that a run was trained with, so that a split in which a class is missing has the
            same numbers; none: sub-folders are numbered by sorted name.

    Raises:
        DataError: there is no sub-folder, or one that is no class of the run.
    """
    parts = [file.relative_to(folder).parts for file in files]
    names = [part[0] if len(part) > 1 else "" for part in parts]
    found = sorted(set(names) - {""})
    if not found:
        raise DataError(f"{folder}: --labels_from_folders needs a sub-folder per class, and there is none")
    known = dict(classes or enumerate(found))
    ids = {"": UNKNOWN} | {name: class_id for class_id, name in known.items()}
    if strange := [name for name in found if name not in ids]:
        raise DataError(f"{folder / strange[0]}: is no class of this run, which knows {', '.join(known.values())}")
    return [ids[name] for name in names], known


def labels_from_table(files: Sequence[Path], root: Path, known: LabelTable) -> tuple[list[int], dict[int, str]]:
    """Class ids of `files` by their path relative to `root` (or by bare name), -1 where the table has none.

    Returns:
        The ids, and the names of the classes among them.

    Raises:
        DataError: a file's row appears twice, or its id is no whole number.
    """
    labels: list[int] = []
    names: dict[int, str] = {}
    for file in files:
        row = known.row(file.relative_to(root).as_posix()) or known.row(file.name)
        label = known.class_id(row) if row else UNKNOWN
        if row and label != UNKNOWN:
            names.setdefault(label, row.label or str(label))
        labels.append(label)
    return labels, names


def check_labels(labels: Sequence[int], files: Sequence[Path], num_classes: int) -> None:
    """Raise where an id is not below `num_classes`."""
    for label, file in zip(labels, files, strict=True):
        if label >= num_classes or label < UNKNOWN:
            raise DataError(
                f"{file}: label_id {label} is not in 0..{num_classes - 1} (-1: unknown); raise --num_classes "
                "above the largest id, or correct the labels"
            )


def histogram(labels: Sequence[int], names: Mapping[int, str] | None = None) -> str:
    """`0: 240, 1: 240, unknown: 12`, for the start of a run."""
    counts = Counter(labels)
    words = {label: (names or {}).get(label, str(label)) for label in counts}
    words[UNKNOWN] = "unknown"
    order = sorted(counts, key=lambda label: (label == UNKNOWN, label))
    return ", ".join(f"{words[label]}: {counts[label]}" for label in order)
