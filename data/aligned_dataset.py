"""Pairs of images of the same scene: side by side in one file, or in the folders of two domains."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.base import DATASETS, DataError, Dataset, Sample
from data.checkup import BadImage, reason_of
from data.domain import Domain, FolderOptions, augmented, open_domains, part_of, preprocess_from
from data.images import Counts, ImageError
from data.pairing import pairs_of_files
from data.sampler import SampleKey
from data.shapes import check_shapes
from data.transforms import Preprocess
from options.schema import Group
from util import ranks
from util.errors import printable
from util.seeding import generator

if TYPE_CHECKING:
    from options.parse import RunOptions


@DATASETS.register("aligned")
class AlignedDataset(Dataset):
    """Source images, each with the target image of the same scene, cropped and mirrored alike.

    With --on_bad_image skip, the next pair takes the place of one that cannot be read whole.

    Args:
        source, target: the domains, whichever direction: their nth files are the nth pair. The source carries labels.
        root: the folder that paths are relative to.
        preprocess: geometry of training images.
        seed: keys every crop and flip, together with epoch and position.
        bad_images: lines for files that were left out.
        on_device: leave what follows decoding to the device.
    """

    Options: ClassVar[type[Group]] = FolderOptions

    def __init__(
        self,
        source: Domain,
        target: Domain,
        root: Path,
        preprocess: Preprocess,
        *,
        seed: int = 0,
        bad_images: Sequence[str] = (),
        on_device: bool = False,
    ) -> None:
        if len(source.files) != len(target.files):
            raise ValueError(f"{len(source.files)} source files and {len(target.files)} target files are no pairs")
        self._source, self._target, self.root = source, target, root
        self.source, self.target = source.format, target.format
        self.source_files, self.labels, self.class_names = source.files, source.labels, source.class_names
        self._preprocess, self._seed = preprocess, seed
        self.bad_images, self._on_device = list(bad_images), on_device

    @classmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> AlignedDataset:
        """The pairs of `train`, or of trainA and trainB by pairs_train.csv or by name.

        Raises:
            DataError, ImageError: a folder or its files cannot be used, or nothing pairs them.
        """
        root = Path(run.data.dataroot)
        source, target, bad_images = open_domains(run, kept=kept, most=math.inf)
        if not kept:  # else the lists are of pairs
            pairs = pairs_of_files(root, source.files, target.files, run.data.direction)
            _tell_alone(source, target, pairs)
            pairs = pairs[: int(min(run.data.max_dataset_size, len(pairs)))]
            source, target = part_of(source, [a for a, _ in pairs]), part_of(target, [b for _, b in pairs])
        preprocess = preprocess_from(run, size_multiple)
        check_shapes(run, preprocess, source, target, paired=True)
        return cls(
            source,
            target,
            root,
            preprocess,
            seed=run.experiment.seed,
            bad_images=bad_images,
            on_device=run.data.augment_on_device,
        )

    def _files_by_domain(self) -> dict[str, list[Path]]:
        return {"source": self._source.files, "target": self._target.files}

    def __len__(self) -> int:
        return len(self.source_files)

    def __getitem__(self, key: SampleKey) -> Sample:
        pair, read, skipped = self._read_pair(key.index)
        # One draw for both: what is cut out of one is cut out of the other.
        (a, waiting_a), (b, waiting_b) = (
            augmented(
                counts,
                domain.channels,
                self._preprocess,
                generator(self._seed, "pair", key.epoch, key.position),
                key.index,
                self._on_device,
            )
            for counts, domain in zip(pair, (self._source, self._target), strict=True)
        )
        return Sample(
            A=a,
            B=b,
            path_A=self._path(self._source, read),
            path_B=self._path(self._target, read),
            label_A=self.labels[read],
            file_A=key.index,
            index=key.position,
            skipped=skipped,
            waiting=(waiting_a, waiting_b) if waiting_a and waiting_b else (),
        )

    def whole_source(self, file: int) -> Sample:
        image, read, skipped = self._source.read_from(file)
        taken = self._preprocess.for_inference()(image, generator(self._seed, "whole", file))
        return Sample(taken * 2 - 1, None, self._path(self._source, read), "", self.labels[read], file, file, skipped)

    def _path(self, domain: Domain, number: int) -> str:
        return domain.files[number].relative_to(self.root).as_posix()

    def _read_pair(self, first: int) -> tuple[tuple[Counts, Counts], int, tuple[str, ...]]:
        """Both images of pair `first`, or of the first pair after it that can be read; its number; what was skipped."""
        skipped: list[str] = []
        for step in range(len(self)):
            number = (first + step) % len(self)
            images = []
            for domain in (self._source, self._target):
                try:
                    images.append(domain.counts(number))
                except ImageError as error:
                    if not domain.skip_bad:
                        raise
                    path = domain.files[number]
                    skipped.append(BadImage(path, reason_of(error, path)).line(domain.folder))
            if len(images) == 2:
                self._check_sizes(number, images)
                return (images[0], images[1]), number, tuple(dict.fromkeys(skipped))
        raise DataError(f"{printable(self._source.folder)}: no pair can be read, the first because {skipped[0]}")

    def _check_sizes(self, number: int, images: Sequence[Counts]) -> None:
        """Raise where crops of two sizes would show different parts of the scene."""
        sizes = [f"{image.values.shape[1]} x {image.values.shape[0]}" for image in images]
        if sizes[0] != sizes[1] and "resize" not in self._preprocess.words:
            names = [printable(self._path(domain, number)) for domain in (self._source, self._target)]
            raise DataError(
                f"{names[0]} is {sizes[0]} pixels and {names[1]} is {sizes[1]}: a pair of two sizes needs a "
                "--preprocess that begins with resize, for example resize_and_crop"
            )


def _tell_alone(source: Domain, target: Domain, pairs: Sequence[tuple[int, int]]) -> None:
    """Warn about files that belong to no pair."""
    for side, (domain, other) in enumerate(((source, target), (target, source))):
        paired = {pair[side] for pair in pairs}
        alone = [file for number, file in enumerate(domain.files) if number not in paired]
        if alone and ranks.is_first():
            print(
                f"WARNING: {printable(domain.folder)}: {len(alone)} of {len(domain.files)} images have no partner in "
                f"{printable(other.folder.name)} and are left out, the first: {printable(alone[0].name)}",
                file=sys.stderr,
            )
