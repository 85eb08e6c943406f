"""One image of each domain, `<dataroot>/trainA` and `<dataroot>/trainB`, seen in random crops at random scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from data.base import DATASETS, DataError, Dataset, Sample
from data.domain import Domain, FolderOptions, open_domains, preprocess_from
from data.sampler import SampleKey
from data.transforms import RESIZERS, Preprocess, resize_to
from options.schema import Group, OptionError, option
from util import ranks
from util.errors import printable
from util.seeding import generator

if TYPE_CHECKING:
    from options.parse import RunOptions


@dataclass(frozen=True)
class SingleImageOptions(FolderOptions):
    """one image of each domain, and the label of the source's"""

    random_scale_max: float = option(3.0, "the word zoom in --preprocess reduces each side by up to this", low=1)
    crops_per_epoch: int = option(100_000, "random crops that make an epoch", low=1)


class _Scaled(NamedTuple):
    """An image at the scale of one batch."""

    epoch: int
    batch: int
    image: Tensor  # (C, H, W) in [0, 1]
    places: Tensor  # (T,) numbers of its tiles in random order


@DATASETS.register("singleimage")
class SingleImageDataset(Dataset):
    """Random crops of one source and of one target image, by the words of --preprocess.

    All crops of a batch have one scale, so that they can be each other's negatives (SinCUT), and with `patch` no
    tile comes twice before all have come once. `zoom` takes each side times its own factor between
    1 / random_scale_max and 1, but to at least crop_size.

    Args:
        source, target: the domains, whichever direction, of one file each.
        root: the folder that paths are relative to.
        preprocess: geometry of training images.
        crops: samples in an epoch.
        scale_max: the most that a side is reduced by.
        batch_size: samples of one step, over all processes.
        seed: keys every draw, together with epoch and position.
        bad_images: lines for files that were left out.

    Raises:
        DataError: a domain has more than one file.
    """

    Options: ClassVar[type[Group]] = SingleImageOptions

    def __init__(
        self,
        source: Domain,
        target: Domain,
        root: Path,
        preprocess: Preprocess,
        *,
        crops: int = 100_000,
        scale_max: float = 3.0,
        batch_size: int = 1,
        seed: int = 0,
        bad_images: Sequence[str] = (),
    ) -> None:
        for domain in (source, target):
            if len(domain.files) != 1:
                raise DataError(
                    f"{printable(domain.folder)}: holds {len(domain.files)} images, and --dataset_mode singleimage "
                    "takes one; take the others away, or the first by --max_dataset_size 1, or all of them by "
                    "--dataset_mode unaligned"
                )
        self._domains, self.root = {"A": source, "B": target}, root
        self.source, self.target = source.format, target.format
        self.source_files, self.labels, self.class_names = source.files, source.labels, source.class_names
        self._crops, self._scale_max, self._batch_size, self._seed = crops, scale_max, batch_size, seed
        self._whole, self._zooms = preprocess.for_inference(), "zoom" in preprocess.words
        resizers = tuple(word for word in preprocess.words if word in RESIZERS)
        cuts = tuple(word for word in preprocess.words if word in ("crop", "patch", "trim"))
        self._resize = replace(preprocess, words=resizers or ("none",), flip=False, multiple=1)
        self._cut = replace(preprocess, words=cuts or ("none",))
        self._images: dict[str, Tensor] = {}
        self._scaled: dict[str, _Scaled] = {}  # the last batch's: workers make whole batches
        self.bad_images = list(bad_images)

    @classmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> SingleImageDataset:
        if run.data.augment_on_device:
            raise OptionError("--augment_on_device: one image is scaled once for a whole batch; leave it out")
        source, target, bad_images = open_domains(run, kept=kept)
        options = run.dataset
        assert isinstance(options, SingleImageOptions)
        return cls(
            source,
            target,
            Path(run.data.dataroot),
            preprocess_from(run, size_multiple),
            crops=options.crops_per_epoch,
            scale_max=options.random_scale_max,
            batch_size=run.data.batch_size * run.optim.accumulate * ranks.world_size(),
            seed=run.experiment.seed,
            bad_images=bad_images,
        )

    def _files_by_domain(self) -> dict[str, list[Path]]:
        return {"source": self._domains["A"].files, "target": self._domains["B"].files}

    def __len__(self) -> int:
        return self._crops

    def __getitem__(self, key: SampleKey) -> Sample:
        a, b = (self._crop(side, key) * 2 - 1 for side in "AB")
        return Sample(a, b, self._path("A"), self._path("B"), self.labels[0], 0, key.position)

    def whole_source(self, file: int) -> Sample:
        image = self._whole(self._image("A"), generator(self._seed, "whole", file))
        return Sample(image * 2 - 1, None, self._path("A"), "", self.labels[0], 0, file)

    def _path(self, side: str) -> str:
        return self._domains[side].files[0].relative_to(self.root).as_posix()

    def _image(self, side: str) -> Tensor:
        """The image of a domain, decoded once."""
        if side not in self._images:
            self._images[side] = self._domains[side].read(0)
        return self._images[side]

    def _crop(self, side: str, key: SampleKey) -> Tensor:
        """The crop (C, h, w) in [0, 1] at a position of an epoch."""
        batch, place = divmod(key.position, self._batch_size)
        scaled = self._scaled.get(side)
        if scaled is None or (scaled.epoch, scaled.batch) != (key.epoch, batch):
            scaled = self._scaled[side] = self._scale(side, key.epoch, batch)
        tile = int(scaled.places[place % len(scaled.places)])
        return self._cut(scaled.image, generator(self._seed, side, key.epoch, key.position), tile)

    def _scale(self, side: str, epoch: int, batch: int) -> _Scaled:
        """The image as all samples of a batch see it."""
        draws = generator(self._seed, f"scale {side}", epoch, batch)
        factors = 1 - (1 - 1 / self._scale_max) * torch.rand(2, generator=draws, dtype=torch.float64)
        image = self._resize(self._image(side), draws)
        least = self._cut.crop_size
        if self._zooms:
            sides = zip(image.shape[-2:], factors.tolist(), least, strict=True)
            height, width = (max(round(pixels * factor), crop) for pixels, factor, crop in sides)
            image = resize_to(image[None], (height, width), 0.0, 1.0)[0]
        tiles = [max(pixels // crop, 1) for pixels, crop in zip(image.shape[-2:], least, strict=True)]
        return _Scaled(epoch, batch, image, torch.randperm(tiles[0] * tiles[1], generator=draws))
