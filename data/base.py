"""What a dataset returns, and the small tools every dataset needs: collation, folders of a phase, counts."""

from __future__ import annotations

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


def histogram(labels: Sequence[int], names: Mapping[int, str] | None = None) -> str:
    """`0: 240, 1: 240, unknown: 12`, for the start of a run."""
    counts = Counter(labels)
    words = {label: (names or {}).get(label, str(label)) for label in counts}
    words[UNKNOWN] = "unknown"
    order = sorted(counts, key=lambda label: (label == UNKNOWN, label))
    return printable(", ".join(f"{words[label]}: {counts[label]}" for label in order))
