"""One domain alone, whole images in the order of their names: what translating and explaining read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from data.base import DATASETS, UNKNOWN, DataError, Dataset, Sample, domain_folder
from data.domain import (
    DOMAINS_FILE,
    Domain,
    FolderOptions,
    labels_of_split,
    load_classes,
    load_formats,
    open_domain,
    preprocess_from,
    target_format,
)
from data.images import DomainFormat
from data.sampler import SampleKey
from data.transforms import Preprocess
from options.schema import Group, OptionError
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
        """There is no target to train on.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            "--dataset_mode single: reads one domain, for test.py and cam_infer.py; train.py needs source and target, "
            "as --dataset_mode unaligned reads them"
        )

    @classmethod
    def for_phase(
        cls, run: RunOptions, phase: str, most: float, size_multiple: int = 4, labelled: bool = True
    ) -> SingleDataset:
        """The source domain of a phase (test falls back to val), read as the run was trained.

        With --dataset_mode single the data root itself is read where it has no such folder. Weights without a run
        bring no formats: then these files and the flags settle them.

        Args:
            labelled: labels are wanted; without them all are -1.

        Raises:
            DataError: the folder is missing, or the run kept no formats.
        """
        data, root = run.data, Path(run.data.dataroot)
        formats = load_formats(run.folder)
        if formats is None and not run.published:
            raise DataError(f"{run.folder}: holds no {DOMAINS_FILE}; train.py writes it when a run starts")
        windows = (data.window_A, data.window_B) if data.direction == "AtoB" else (data.window_B, data.window_A)
        domain = open_domain(
            domain_folder(root, phase, data.direction[0], alone=data.dataset_mode == "single"),
            run.networks.input_nc,
            windows[0],
            most=most,
            seed=run.experiment.seed,
            known=formats[0] if formats else None,
        )
        target = formats[1] if formats else target_format(windows[1], domain.format)
        if formats is None:
            print(f"{run.folder}: weights without windows; source read as {domain.format}, target written as {target}")
        domain = replace(domain, labels=[UNKNOWN] * len(domain.files))
        if labelled:
            labels, names = labels_of_split(domain, run, load_classes(run.folder))
            domain = replace(domain, labels=labels, class_names=names)
        return cls(domain, root, preprocess_from(run, size_multiple), target)

    @property
    def folder(self) -> Path:
        """The folder that holds the files."""
        return self._domain.folder

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
