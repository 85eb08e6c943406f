"""Said once a command: at which size the networks take images that do not go through them at their own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol, TypeVar

from torch import Tensor
from tqdm import tqdm

from data.base import Sample
from data.domain import preprocess_from
from options.parse import RunOptions

Size = tuple[int, int]  # height and width


class _Taken(Protocol):
    @property
    def size(self) -> Size: ...

    @property
    def sample(self) -> Sample | Tensor: ...


Image = TypeVar("Image", bound=_Taken)


class SizeNote:
    """Says it for the first image that --preprocess resizes, or that --tile keeps from it.

    What rounding to `multiple` does is not worth a line.

    Args:
        run: whose geometry is used.
        multiple: sides of what the network takes are multiples of it.
    """

    def __init__(self, run: RunOptions, multiple: int) -> None:
        self._run, self._plain, self._said = run, preprocess_from(run, multiple), False

    def see(self, own: Size, taken: Size) -> None:
        """Look at an image: its file's size, and the size at which the network takes it."""
        rounded = tuple(map(self._plain.round_side, own))
        if self._said or (taken == rounded and not self._run.untiled):
            return
        self._said = True
        data = self._run.data
        trained = replace(self._plain, words=tuple((self._run.untiled or data.preprocess).split("_and_")))
        file, network, asked_for = (f"{height} x {width}" for height, width in (own, taken, trained.test_size))
        if self._run.untiled:
            line = (
                f"images go at their own size, for --tile (--preprocess none), not brought to {asked_for} (height "
                f"x width) by --preprocess {self._run.untiled}"
            )
        else:
            asked = "preprocess" in self._run.given or self._run.published
            stretched = ", which changes their shape" if self._plain.stretched(*own) else ""
            why = "by" if asked else "as the run was trained with"
            line = (
                f"images of {file} are translated at {network} (height x width){stretched}, {why} "
                f"--preprocess {data.preprocess}; --preprocess none translates them at their own size"
            )
        tqdm.write(line, file=sys.stderr)


def say_sizes(images: Iterable[Image], run: RunOptions, multiple: int) -> Iterator[Image]:
    """The same images, looked at in passing."""
    note = SizeNote(run, multiple)
    for image in images:
        taken = image.sample if isinstance(image.sample, Tensor) else image.sample.A
        note.see(image.size, (taken.shape[-2], taken.shape[-1]))
        yield image
