"""What a dataset returns, and the small tools every dataset needs: collation, folders of a phase, label files."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from data.bad_images import write_list
from data.images import DomainFormat
from data.on_device import Waiting, WaitingBatch
from data.sampler import SampleKey
from options.schema import Group
from util.errors import UserError, printable
from util.registry import Registry

if TYPE_CHECKING:
    from options.parse import RunOptions

UNKNOWN = -1


class DataError(UserError, ValueError):
    """A folder or file that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class Sample:
    """One source image with a target image drawn for it. `A` is the source, `B` the target, in either direction.

    With --on_bad_image skip, a file that cannot be read is replaced by the next one that can: then paths and label are
    the replacement's, and `skipped` names the files that were passed over, with the reasons.
    """

    A: Tensor  # (C, H, W), [-1, 1]
    B: Tensor | None  # (C, H, W), [-1, 1]; None where only the source is read
    path_A: str
    path_B: str
    label_A: int  # class id of the source image, -1 unknown
    file_A: int  # number of the source file that was asked for, in `source_files`
    index: int  # place of this draw in its epoch's order over all ranks: with the step it keys random draws
    skipped: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()  # A, and B where there is one: A and B are empty and the device makes them


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
    skipped: tuple[str, ...] = ()
    waiting: tuple[WaitingBatch, ...] = ()  # as in Sample

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device, which makes the images that wait; raises as `collate` does.

        `index` stays where it is: it names random draws, which the host makes, and reading it from a GPU would wait.
        """
        moved: dict[str, Any] = {
            item.name: value.to(device, non_blocking=True)
            for item in fields(self)
            if item.name != "index" and isinstance(value := getattr(self, item.name), Tensor)
        }
        moved |= {side: _stacked(side, one.images(device)) for side, one in zip("AB", self.waiting, strict=False)}
        if len(self.waiting) == 2:
            _check_pair(self.path_A[0], moved["A"], self.path_B[0], moved["B"])
        return replace(self, **moved, waiting=())

    def parts(self, count: int) -> list[Batch]:
        """As many batches of equal size, in order; which files were skipped stays with the first.

        Raises:
            ValueError: the samples cannot be shared out evenly.
        """
        total = len(self.path_A)
        if count == 1:
            return [self]
        if total % count:
            raise ValueError(f"a batch of {total} samples has no {count} equal parts")
        size = total // count
        cut = [
            {item.name: _cut(getattr(self, item.name), n * size, size) for item in fields(self)} for n in range(count)
        ]
        return [replace(self, **{**part, "skipped": self.skipped if n == 0 else ()}) for n, part in enumerate(cut)]

    @property
    def target(self) -> Tensor:
        """B, for models that need it.

        Raises:
            DataError: the batch was read from the source domain alone.
        """
        if self.B is None:
            raise DataError(
                "this batch holds the source domain only; training needs --dataset_mode unaligned or aligned"
            )
        return self.B

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader calls it."""
        pinned: dict[str, Any] = {
            item.name: value.pin_memory()
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **pinned, waiting=tuple(images.pin_memory() for images in self.waiting))


def _cut(value: Any, start: int, size: int) -> Any:
    return None if value is None else value[start : start + size]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; all images of a domain must have one size, and so must source and target.

    Raises:
        DataError: sizes differ (only possible where --preprocess fixes none).
    """
    targets = [s.B for s in samples if s.B is not None]
    first, stacked_a = samples[0], _stacked("A", [s.A for s in samples])
    stacked_b = _stacked("B", targets) if targets else None
    if first.B is not None:
        _check_pair(first.path_A, first.A, first.path_B, first.B)
    return Batch(
        A=stacked_a,
        B=stacked_b,
        path_A=tuple(s.path_A for s in samples),
        path_B=tuple(s.path_B for s in samples),
        label_A=torch.tensor([s.label_A for s in samples]),
        file_A=torch.tensor([s.file_A for s in samples]),
        index=torch.tensor([s.index for s in samples]),
        skipped=tuple(line for s in samples for line in s.skipped),
        waiting=tuple(WaitingBatch.of(side) for side in zip(*(s.waiting for s in samples), strict=True)),
    )


def _stacked(side: str, images: Sequence[Tensor]) -> Tensor:
    """Images of A or B as a batch; raise where they differ in size."""
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise DataError(
            f"images of {side} in one batch differ in size ({' and '.join(map(str, sorted(sizes)[:2]))}); "
            "use --batch_size 1, or a --preprocess with crop or resize"
        )
    return torch.stack(list(images))


def _check_pair(path_A: str, A: Tensor, path_B: str, B: Tensor) -> None:
    """Raise where source and target differ in size: models run both through G as one batch."""
    if A.shape[-2:] != B.shape[-2:]:
        sizes = [f"{image.shape[-2]} x {image.shape[-1]}" for image in (A, B)]
        raise DataError(
            f"{printable(path_A)} is {sizes[0]} and {printable(path_B)} is {sizes[1]} (height x width): "
            "in training A and B need one height and one width; use a --preprocess with crop or resize"
        )


class Dataset(ABC, torch.utils.data.Dataset[Sample]):
    """A training set of source and target images.

    Attributes:
        source, target: how each domain's files map to intensities (saved with the run).
        source_files: the source's files in the order `file_A` counts them.
        labels: class id of each source file, -1 unknown.
        class_names: name of each class id, where known.
        root: the folder that all paths are relative to.
        bad_images: a line for each file that --on_bad_image skip has left out so far: its path and the reason.
        validation: images that are not trained on, for the model to be measured by after every epoch.
    """

    root: Path
    source: DomainFormat
    target: DomainFormat
    source_files: list[Path]
    labels: list[int]
    class_names: Mapping[int, str]
    bad_images: list[str]
    validation: Dataset | None = None
    Options: ClassVar[type[Group]]

    @classmethod
    def settled(cls, run: RunOptions) -> RunOptions:
        """The options of a training with what follows from the data filled in, before anything is built from them."""
        return run

    @classmethod
    @abstractmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> Dataset:
        """The training set of a run; sides of its images are multiples of `size_multiple`.

        Args:
            kept: `file_names` of a run that goes on inside an epoch, whose order of samples counts these files.
        """

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

    def whole_batches(self, size: int, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """Source files `first`, `first + every` and so on, whole, at most `size` of one height and width a batch."""
        held: list[Sample] = []
        for file in range(first, len(self.source_files), every):
            sample = self.whole_source(file)
            if held and (len(held) == size or held[0].A.shape != sample.A.shape):
                yield self.collate(held)
                held = []
            held.append(sample)
        if held:
            yield self.collate(held)

    @cached_property
    def file_names(self) -> dict[str, list[str]]:
        """Paths below `root` of each domain's files, in the order that the numbers of samples count them."""
        return {
            domain: [file.relative_to(self.root).as_posix() for file in files]
            for domain, files in self._files_by_domain().items()
        }

    def _files_by_domain(self) -> dict[str, list[Path]]:
        return {"source": self.source_files}

    def changes_since(self, earlier: Mapping[str, Sequence[str]]) -> str:
        """`source: 2 new, 1 gone` against an earlier `file_names`; empty where nothing has changed."""
        found = []
        for domain, names in self.file_names.items():
            new, gone = len(set(names) - set(earlier[domain])), len(set(earlier[domain]) - set(names))
            if new or gone:
                found.append(f"{domain}: {new} new, {gone} gone")
        return "; ".join(found)

    def list_bad_images(self, folder: Path, found: Iterable[str] = (), say: bool = True) -> None:
        """Write `bad_images.txt`, or remove it where there is nothing to list.

        Args:
            found: lines to add to `bad_images`: what was found since.
            say: tell the console where it is.
        """
        write_list(folder, [*self.bad_images, *found], say)


DATASETS: Registry[Dataset] = Registry("dataset_mode", "data", "_dataset")


def domain_folder(root: Path, phase: str, domain: str, alone: bool = False) -> Path:
    """`<root>/<phase><domain>`; phase test falls back to val.

    Args:
        alone: the root may itself be the folder of images; it is, where it has no such sub-folder.

    Raises:
        DataError: there is none.
    """
    if not root.is_dir():
        raise DataError(f"--dataroot {printable(root)}: no such folder")
    tried = [root / f"{prefix}{domain}" for prefix in ([phase, "val"] if phase == "test" else [phase])]
    for folder in tried:
        if folder.is_dir():
            return folder
    if alone:
        return root
    raise DataError(f"--dataroot {printable(root)}: has no folder {' or '.join(folder.name for folder in tried)}")


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
        rows = self.rows.get(_name(name), ())
        if len(rows) > 1:
            first, second = rows[0].line, rows[1].line
            raise DataError(
                f"{self.path}, line {second}: {printable(name)} appears twice, first in line {first}; keep one of them"
            )
        return rows[0] if rows else None

    def class_id(self, row: LabelRow) -> int:
        """The class id of a row, -1 where it has none.

        Raises:
            DataError: it is no whole number.
        """
        text = row.label_id.strip()
        if re.fullmatch("[+-]?[0-9]{1,18}", text):
            return int(text)
        if text:
            raise DataError(
                f"{self.path}, line {row.line}: label_id {text[:40]!r} is no whole number; write 0, 1, 2 and so on, or "
                "-1 where the class is unknown"
            )
        return UNKNOWN


def read_labels(table: Path) -> LabelTable:
    """A label file with the columns file and label_id, and optionally label, the class's name.

    Raises:
        DataError: the file is missing, is no UTF-8 text, is no table with commas, or lacks a column.
    """
    try:
        reader = csv.DictReader(io.StringIO(_text_of(table), newline=""), strict=True)
        _check_columns(reader.fieldnames or (), table)
        return _table_of(reader, table)
    except OSError as error:
        raise DataError(f"{table}: cannot be read as a label file (UTF-8 CSV): {error.strerror}") from error
    except csv.Error as error:
        raise DataError(
            f"{table}: cannot be read as a label file (UTF-8 CSV): {error}; a quotation mark may be left open in or "
            f"after line {reader.line_num}"
        ) from error


def _text_of(table: Path) -> str:
    """The text of a label file; the encodings of other programs are named rather than guessed at."""
    content, reason = table.read_bytes(), ""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        reason = "it is UTF-16 or UTF-32"
    elif b"\0" in content:
        reason = "it holds NUL bytes, as UTF-16 does and no table should"
    else:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            reason = f"byte 0x{content[error.start]:02x} in line {line} is no UTF-8 but perhaps Windows-1252 or Latin-1"
    raise DataError(f"{table}: cannot be read as a label file (UTF-8 CSV): {reason}; save it as CSV in UTF-8")


def _check_columns(found: Sequence[str], table: Path) -> None:
    """Raise unless a label file's first line names the columns, once each and with commas between them."""
    columns = ("file", "label_id")
    if missing := [name for name in columns if name not in found]:
        shown = ", ".join(map(repr, found))[:200] or "nothing"
        marks = {";": "semicolons, as Excel does where the comma is the decimal sign", "\t": "tabs", "|": "bars"}
        used = next((word for mark, word in marks.items() if len(found) == 1 and mark in found[0]), "")
        raise DataError(
            f"{table}: lacks the column {' and '.join(missing)}; its first line has {shown} and should be "
            "file,label,label_id" + (f"; it separates by {used}: save it with commas" if used else "")
        )
    if doubled := [name for name in columns if found.count(name) > 1]:
        raise DataError(f"{table}: names the column {doubled[0]} twice; rename one of them")


def _table_of(reader: csv.DictReader[str], table: Path) -> LabelTable:
    rows: dict[str, list[LabelRow]] = {}
    for row in reader:
        if any(row.pop(None, ())):  # what goes beyond the first line's columns
            raise DataError(
                f"{table}, line {reader.line_num}: has more fields than the first line; a name with a comma needs "
                "quotation marks"
            )
        if any(row.values()):
            line = LabelRow(reader.line_num, row["label_id"] or "", row.get("label") or "")
            rows.setdefault(_name(row["file"] or ""), []).append(line)
    return LabelTable(table, rows)


def _name(path: str) -> str:
    """A path as rows and files are compared by: forward slashes, no `./`, accents as one character (macOS has two)."""
    return unicodedata.normalize("NFC", Path(path.replace("\\", "/")).as_posix())


def rows_without_files(known: LabelTable, files: Sequence[Path], root: Path) -> str:
    """`labels.csv: 2 of 9 rows name no file below data, the first in line 3: trainA/x.png`; empty where all do.

    Args:
        files: those of the source, wherever links lead to them.
        root: the folder that rows are relative to; a row's path is looked for, and never opened.
    """
    there = {_name(path) for file in files for path in (file.relative_to(root).as_posix(), file.name)}
    if set(known.rows) - there:
        found = (Path(place, name) for place, _, names in os.walk(root) for name in names)
        there |= {_name(path) for file in found for path in (file.relative_to(root).as_posix(), file.name)}
    lost = {name: rows for name, rows in known.rows.items() if name not in there}
    if not lost:
        return ""
    count, total = (sum(map(len, some.values())) for some in (lost, known.rows))
    name, rows = min(lost.items(), key=lambda item: item[1][0].line)
    return (
        f"{printable(known.path)}: {count} of {total} rows name no file below {printable(root)}, the first in line "
        f"{rows[0].line}: {printable(name)[:200]}"
    )


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
        place, names_known = printable(folder / strange[0]), printable(", ".join(known.values()))
        raise DataError(f"{place}: is no class of this run, which knows {names_known}")
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
                f"{printable(file)}: label_id {label} is not in 0..{num_classes - 1} (-1: unknown); raise "
                "--num_classes above the largest id, or correct the labels"
            )


def histogram(labels: Sequence[int], names: Mapping[int, str] | None = None) -> str:
    """`0: 240, 1: 240, unknown: 12`, for the start of a run."""
    counts = Counter(labels)
    words = {label: (names or {}).get(label, str(label)) for label in counts}
    words[UNKNOWN] = "unknown"
    order = sorted(counts, key=lambda label: (label == UNKNOWN, label))
    return printable(", ".join(f"{words[label]}: {counts[label]}" for label in order))
