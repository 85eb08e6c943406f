"""One domain alone, whole images in the order of their names: what translating and explaining read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from data.base import DATASETS, DataError, Dataset, Sample, domain_folder
from data.domain import (
    DOMAINS_FILE,
    Domain,
    FolderOptions,
    labels_for,
    load_classes,
    load_formats,
    open_domain,
    preprocess_from,
)
from data.images import DomainFormat
from data.sampler import SampleKey
from data.transforms import Preprocess
from options.schema import Group
from util.seeding import generator

if TYPE_CHECKING:
    from options.parse import RunOptions


@dataclass(frozen=True)
class WholeImage:
    """An image as stored and as the network takes it."""

    image: Tensor  # (C, H, W) in [0, 1], at the file's own size
    sample: Sample  # preprocessed without random changes, [-1, 1]
    file: Path  # relative to its folder

    @property
    def size(self) -> tuple[int, int]:
        """The file's own height and width."""
        return self.image.shape[-2], self.image.shape[-1]


@DATASETS.register("single")
class SingleDataset(Dataset):
    """The source domain of one phase, without a target.

    Args:
        domain: files and labels.
        root: the folder that paths are relative to.
        preprocess: geometry before the network; random words are dropped.
        target: format that translations are written in.
    """

    Options: ClassVar[type[Group]] = FolderOptions

    def __init__(self, domain: Domain, root: Path, preprocess: Preprocess, target: DomainFormat) -> None:
        self._domain, self.root = domain, root
        self._preprocess = preprocess.for_inference()
        self.source, self.target = domain.format, target
        self.source_files, self.labels, self.class_names = domain.files, domain.labels, domain.class_names

    @classmethod
    def from_options(cls, run: RunOptions, size_multiple: int = 4) -> SingleDataset:
        return cls._open(run, "train", run.data.max_dataset_size, size_multiple, load_formats(run.folder))

    @classmethod
    def for_phase(cls, run: RunOptions, phase: str, most: float, size_multiple: int = 4) -> SingleDataset:
        """The source domain of a phase (test falls back to val), read as the run was trained.

        Raises:
            DataError: the folder is missing, or the run kept no formats.
        """
        formats = load_formats(run.folder)
        if formats is None:
            raise DataError(f"{run.folder}: holds no {DOMAINS_FILE}; train.py writes it when a run starts")
        return cls._open(run, phase, most, size_multiple, formats)

    @classmethod
    def _open(
        cls,
        run: RunOptions,
        phase: str,
        most: float,
        size_multiple: int,
        formats: tuple[DomainFormat, DomainFormat] | None,
    ) -> SingleDataset:
        data, root = run.data, Path(run.data.dataroot)
        side = data.direction[0]
        domain = open_domain(
            domain_folder(root, phase, side),
            run.networks.input_nc,
            data.window_A if side == "A" else data.window_B,
            most=most,
            seed=run.experiment.seed,
            known=formats[0] if formats else None,
        )
        classes = load_classes(run.folder)
        labels, names = labels_for(domain, root, run.dataset, classes)  # type: ignore[arg-type]
        domain = replace(domain, labels=labels, class_names=names)
        target = formats[1] if formats else domain.format
        return cls(domain, root, preprocess_from(run, size_multiple), target)

    def __len__(self) -> int:
        return len(self.source_files)

    def __getitem__(self, key: SampleKey) -> Sample:
        return self.whole_source(key.index)

    def whole_source(self, file: int) -> Sample:
        return self.whole(file).sample

    def whole(self, file: int) -> WholeImage:
        """File number `file`, as stored and as the network takes it."""
        image = self._domain.read(file)
        taken = self._preprocess(image, generator(0, "whole", file))
        path = self.source_files[file]
        sample = Sample(taken * 2 - 1, None, path.relative_to(self.root).as_posix(), "", self.labels[file], file, file)
        return WholeImage(image, sample, path.relative_to(self._domain.folder))
