"""Two folders of unpaired images: `<dataroot>/trainA` and `<dataroot>/trainB`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from data.base import DATASETS, Dataset, Sample
from data.domain import Domain, FolderOptions, augmented, open_domains, preprocess_from
from data.sampler import SampleKey
from data.shapes import check_shapes
from data.transforms import Preprocess
from options.schema import Group
from util.seeding import generator

if TYPE_CHECKING:
    from options.parse import RunOptions


@DATASETS.register("unaligned")
class UnalignedDataset(Dataset):
    """Source images in the sampler's order, each with a target image drawn at random.

    An epoch is as long as the larger domain; the smaller one starts again.

    Args:
        source, target: the domains, whichever direction; the source carries the labels.
        root: the folder that paths are relative to.
        preprocess: geometry of training images; `late_preprocess` from epoch `late_epoch` on.
        serial: pair files by number instead of drawing the target.
        seed: keys the target's choice and every crop and flip, together with epoch and position.
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
        serial: bool = False,
        seed: int = 0,
        late_preprocess: Preprocess | None = None,
        late_epoch: int = 0,
        bad_images: Sequence[str] = (),
        on_device: bool = False,
    ) -> None:
        self._source, self._target, self.root = source, target, root
        self.source, self.target = source.format, target.format
        self.source_files, self.labels, self.class_names = source.files, source.labels, source.class_names
        self._preprocess, self._serial, self._seed = preprocess, serial, seed
        self._late, self._late_epoch = late_preprocess or preprocess, late_epoch
        self.bad_images, self._on_device = list(bad_images), on_device

    @classmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> UnalignedDataset:
        source, target, bad_images = open_domains(run, kept=kept)
        preprocess = preprocess_from(run, size_multiple)
        check_shapes(run, preprocess, source, target)
        return cls(
            source,
            target,
            Path(run.data.dataroot),
            preprocess,
            serial=run.data.serial_batches,
            seed=run.experiment.seed,
            # As in CUT: once the learning rate falls, images are seen at the scale of a test.
            late_preprocess=replace(preprocess, load_size=preprocess.test_size),
            late_epoch=run.schedule.n_epochs + 1,
            bad_images=bad_images,
            on_device=run.data.augment_on_device,
        )

    def _files_by_domain(self) -> dict[str, list[Path]]:
        return {"source": self._source.files, "target": self._target.files}

    def __len__(self) -> int:
        return max(len(self._source.files), len(self._target.files))

    def __getitem__(self, key: SampleKey) -> Sample:
        file_a = key.index % len(self._source.files)
        file_b = key.index % len(self._target.files)
        if not self._serial:
            draw = generator(self._seed, "target", key.epoch, key.position)
            file_b = int(torch.randint(len(self._target.files), (), generator=draw))
        late = key.epoch >= self._late_epoch > 0
        preprocess = self._late if late else self._preprocess
        stored_a, read_a, skipped_a = self._source.counts_from(file_a)
        stored_b, read_b, skipped_b = self._target.counts_from(file_b)
        (a, waiting_a), (b, waiting_b) = (
            augmented(
                stored,
                domain.channels,
                preprocess,
                generator(self._seed, side, key.epoch, key.position),
                key.index,
                self._on_device,
            )
            for side, domain, stored in (("A", self._source, stored_a), ("B", self._target, stored_b))
        )
        return Sample(
            A=a,
            B=b,
            path_A=self._source.files[read_a].relative_to(self.root).as_posix(),
            path_B=self._target.files[read_b].relative_to(self.root).as_posix(),
            label_A=self.labels[read_a],
            file_A=file_a,
            index=key.position,
            skipped=skipped_a + skipped_b,
            waiting=(waiting_a, waiting_b) if waiting_a and waiting_b else (),
        )

    def whole_source(self, file: int) -> Sample:
        image, read, skipped = self._source.read_from(file)
        taken = self._preprocess.for_inference()(image, generator(self._seed, "whole", file))
        path = self._source.files[read].relative_to(self.root).as_posix()
        return Sample(taken * 2 - 1, None, path, "", self.labels[read], file, file, skipped)
