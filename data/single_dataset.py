"""One domain alone, whole images in the order of their names: what translating and explaining read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from data.base import DATASETS, UNKNOWN, DataError, Dataset, Sample
from data.checkup import (
    BadImage,
    at_equal_distances,
    check_up,
    reason_of,
    require_usable,
    say_skipped,
    scan_folder,
    shortlist,
)
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
from data.images import DomainFormat, ImageError, image_size
from data.pairing import HALVES, pairs_of_files, place_of
from data.sampler import SampleKey
from data.transforms import Preprocess, small
from options.schema import Group, OptionError
from util import sharing
from util.engine.loading import Loader
from util.errors import counted, printable
from util.seeding import generator

if TYPE_CHECKING:
    from options.parse import RunOptions


_SHARED = Path("/dev/shm")  # where Linux keeps what processes share
_LOOKED_AT = 200  # headers, for the largest size

Beside = Callable[[int], Tensor | None]


@dataclass(frozen=True)
class WholeImage:
    """An image as stored and as the network takes it."""

    image: Tensor  # (C, H, W) in [0, 1], at the file's own size
    sample: Sample  # preprocessed without random changes, [-1, 1]
    file: Path  # relative to its folder
    number: int  # its place among all files of the folder, those counted that cannot be read
    beside: Tensor | ImageError | None = None  # what was asked for beside it, see `SingleDataset.images`

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
        bad: files of the domain's folder that were left out.
        smallest: pixels of a side that the network needs; a smaller image is a bad one.
        beyond: how many further files the folder holds, which --num_test leaves.
    """

    Options: ClassVar[type[Group]] = FolderOptions

    def __init__(
        self,
        domain: Domain,
        root: Path,
        preprocess: Preprocess,
        target: DomainFormat,
        bad: Sequence[BadImage] = (),
        smallest: int = 1,
        beyond: int = 0,
    ) -> None:
        self._domain, self.root, self._bad = domain, root, list(bad)
        self._smallest, self._beyond = smallest, beyond
        self._known = len(self._bad)  # from the start
        self._met: dict[int, BadImage] = {}  # by the file's number: found unreadable while images were given out
        self.bad_images = [one.line(domain.folder) for one in bad]
        self._preprocess = preprocess.for_inference()
        self.source, self.target = domain.format, target
        self.source_files, self.labels, self.class_names = domain.files, domain.labels, domain.class_names

    @classmethod
    def from_options(
        cls, run: RunOptions, size_multiple: int = 4, kept: Mapping[str, Sequence[str]] | None = None
    ) -> SingleDataset:
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
        cls,
        run: RunOptions,
        phase: str,
        most: float,
        size_multiple: int = 4,
        labelled: bool = True,
        spread: bool = False,
        smallest: int = 1,
    ) -> SingleDataset:
        """The source domain of a phase (test falls back to val), read as the run was trained.

        With --dataset_mode single the data root itself is read where it has no such folder. Weights without a run
        bring no formats: then these files and the flags settle them.

        Args:
            labelled: labels are wanted; without them all are -1.
            spread: take `most` files at equal distances instead of the first ones.
            smallest: pixels of a side that the network needs.

        Raises:
            DataError: the folder is missing, files cannot be used, or the run kept no formats.
        """
        data, root = run.data, Path(run.data.dataroot)
        formats = load_formats(run.folder)
        if formats and run.turned:
            formats = formats[1], formats[0]
        if formats is None and not run.published:
            raise DataError(f"{run.folder}: holds no {DOMAINS_FILE}; train.py writes it when a run starts")
        windows = (data.window_A, data.window_B) if data.direction == "AtoB" else (data.window_B, data.window_A)
        place = place_of(root, phase, data.direction[0], data.dataset_mode)
        known, skip = formats[0] if formats else None, data.on_bad_image == "skip"
        depth = known.depth if known else ""
        found = check_up(place.folder, most=most, depth=depth, quiet=run.log.quiet, spread=spread)
        require_usable([found], skip)
        say_skipped(found.lines)
        seed, channels = run.experiment.seed, run.channels[0]
        domain = open_domain(found, channels, windows[0], seed=seed, known=known, skip_bad=skip, half=place.half)
        target = formats[1] if formats else target_format(windows[1], domain.format)
        if formats is None:
            print(f"{run.folder}: weights without windows; source read as {domain.format}, target written as {target}")
        domain = replace(domain, labels=[UNKNOWN] * len(domain.files))
        if labelled:
            labels, names = labels_of_split(domain, run, load_classes(run.folder))
            domain = replace(domain, labels=labels, class_names=names)
        beyond = found.listed - found.examined
        return cls(domain, root, preprocess_from(run, size_multiple), target, found.bad, smallest, beyond)

    @property
    def folder(self) -> Path:
        """The folder that holds the files."""
        return self._domain.folder

    @property
    def names(self) -> list[Path]:
        """The files, relative to their folder."""
        return [file.relative_to(self.folder) for file in self.source_files]

    def partners(self, direction: str, paired: bool) -> dict[int, tuple[Path, str]]:
        """Target images of the same split to show beside the inputs: number of an input -> file, and half of it.

        Args:
            paired: those of the same scene; else those of the same number. None are needed, and none are found where
                nothing pairs them.
        """
        if self._domain.half:
            other = HALVES[direction[-1]]
            return {n: (file, other) for n, file in zip(self._domain.numbers, self.source_files, strict=True)}
        if self.folder == self.root:
            return {}
        name = self.folder.name.removesuffix(direction[0]) + direction[-1]
        try:
            files = scan_folder(self.folder.with_name(name))
            pairs = pairs_of_files(self.root, self.source_files, files, direction) if paired else []
        except DataError:
            return {}
        if paired:
            return {self._domain.numbers[a]: (files[b], "") for a, b in pairs}
        return {number: (file, "") for number, file in enumerate(files)}

    def __len__(self) -> int:
        return len(self.source_files)

    def __getitem__(self, key: SampleKey) -> Sample:
        return self.whole_source(key.index)

    def whole_source(self, file: int) -> Sample:
        image, read, skipped = self._domain.read_from(file)
        return self._sample(image, file, read, skipped)

    def whole(self, file: int) -> WholeImage:
        """File number `file`, as stored and as the network takes it.

        Raises:
            ImageError: it cannot be read, or is too small, also with --on_bad_image skip.
        """
        image, path = self._domain.read(file), self.source_files[file]
        place, sample = self._domain.numbers[file] if self._domain.numbers else file, self._sample(image, file, file)
        if too_small := small(sample.A, self._smallest):
            own = " x ".join(str(side) for side in image.shape[-2:])
            advice = "" if self._domain.skip_bad else " (--on_bad_image skip goes on without it)"
            raise ImageError(f"{str(path)!r} is {own} pixels and {too_small}{advice}")
        return WholeImage(image, sample, path.relative_to(self._domain.folder), place)

    def taken(self, image: Tensor) -> Tensor:
        """An image (C, H, W) in [0, 1] at its file's size, as the network takes it: in [-1, 1], not yet padded."""
        return self._preprocess(image, generator(0, "whole")) * 2 - 1  # nothing is drawn in inference

    def images(
        self, processes: int = 0, beside: Beside | None = None, share: range | None = None
    ) -> Iterator[WholeImage]:
        """All files, in order; with --on_bad_image skip without those that turn out to be unreadable, which are named.

        Args:
            processes: read ahead; 0: files are read as they are asked for. None read ahead where images are too large
                for the memory in which processes hand them over.
            beside: reads another image for one of these, by its number, or returns None.
            share: only the files of these numbers, rising; whoever asks for a share calls `gather` in the end.

        Raises:
            ImageError: one cannot be read; those before it have been given out.
            DataError: with skip, none can.
        """
        numbers = range(len(self)) if share is None else share
        given, reading = 0, _Reading(self, beside, numbers)
        ahead: Iterable[WholeImage | ImageError] = map(reading.__getitem__, range(len(numbers)))
        if processes and len(numbers) > 1 and self._can_hand_over(processes):
            ahead = Loader(
                reading,
                batch_size=None,
                num_workers=min(processes, len(numbers)),
                collate_fn=_as_it_is,  # without batches it is given one image
            )
        for file, whole in sharing.watched(zip(numbers, ahead, strict=True)):
            if isinstance(whole, ImageError):
                if not self._domain.skip_bad:
                    raise whole
                bad = BadImage(self.source_files[file], reason_of(whole, self.source_files[file]))
                self._leave_out(file, bad)
            else:
                given += 1
                yield whole
        if not given and len(numbers) == len(self):
            self._refuse()

    def gather(self) -> None:
        """What any process has found unreadable in its share is known to all; all must call it.

        Raises:
            DataError: none of all files could be read.
        """
        own = dict(self._met)
        self._bad, self.bad_images, self._met = self._bad[: self._known], self.bad_images[: self._known], {}
        for number, bad in sharing.in_order(list(own), list(own.items())):
            self._leave_out(number, bad, say=number not in own)
        if len(self._met) == len(self):
            self._refuse()

    def _refuse(self) -> None:
        raise DataError(f"{printable(self.folder)}: none of its files can be read; the last: {self.bad_images[-1]}")

    def _can_hand_over(self, processes: int) -> bool:
        """Whether the images that are on their way fit twice into the shared memory of the system."""
        if not _SHARED.is_dir():
            return True
        some = [self.source_files[n] for n in at_equal_distances(len(self), _LOOKED_AT)]
        sizes = [image_size(file) for file in some]
        largest = max(height * width for height, width in sizes) * self._domain.channels * 4  # float32
        return 2 * largest * 3 * (2 * processes + 1) < shutil.disk_usage(_SHARED).free

    def outcome(self, what: str) -> str:
        """`48 images translated, 2 skipped: a.png, b.png`, once all have been given out.

        Or `50 of 60 images translated (--num_test 50)`.
        """
        left_out = len(set(self.source_files) & {one.path for one in self._bad})
        names = [printable(one.path.relative_to(self.folder).as_posix()) for one in self._bad]
        note = f", {len(names)} skipped: {shortlist(names)}" if names else ""
        done, why = len(self) - left_out, f" (--num_test {len(self)})" if self._beyond else ""
        images = f"{done} of {counted(len(self) + self._beyond, 'image')}" if self._beyond else counted(done, "image")
        return f"{images} {what}{why}{note}"

    def _leave_out(self, number: int, bad: BadImage, say: bool = True) -> None:
        if number in self._met:  # by the weights of an earlier epoch
            return
        line = bad.line(self.folder)
        self._met[number] = bad
        self._bad.append(bad)
        self.bad_images.append(line)
        if say:
            tqdm.write(f"WARNING: {line}; it is left out (--on_bad_image skip)", file=sys.stderr)

    def _sample(self, image: Tensor, file: int, read: int, skipped: tuple[str, ...] = ()) -> Sample:
        """Number `read`, which was read for number `file`."""
        taken = self._preprocess(image, generator(0, "whole", file))
        path = self.source_files[read].relative_to(self.root).as_posix()
        return Sample(taken * 2 - 1, None, path, "", self.labels[read], file, file, skipped)


class _Reading(TorchDataset[WholeImage | ImageError]):
    """What processes that read ahead do: errors come back in their place."""

    def __init__(self, dataset: SingleDataset, beside: Beside | None, numbers: range) -> None:
        self._dataset, self._beside, self._numbers = dataset, beside, numbers

    def __getitem__(self, place: int) -> WholeImage | ImageError:
        try:
            whole = self._dataset.whole(self._numbers[place])
        except ImageError as error:
            return error
        if self._beside is None:
            return whole
        try:
            return replace(whole, beside=self._beside(whole.number))
        except ImageError as error:
            return replace(whole, beside=error)

    def __len__(self) -> int:
        return len(self._numbers)


def _as_it_is(image: WholeImage | ImageError) -> WholeImage | ImageError:
    return image
