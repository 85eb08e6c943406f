"""Said once a command: at which size the networks take images that do not go through them at their own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
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
    """Says it for the first image that --preprocess resizes; what rounding to `multiple` does is not worth a line.

    Args:
        run: whose geometry is used.
        multiple: sides of what the network takes are multiples of it.
    """

    def __init__(self, run: RunOptions, multiple: int) -> None:
        self._run, self._plain, self._said = run, preprocess_from(run, multiple), False

    def see(self, own: Size, taken: Size) -> None:
        """Look at an image: its file's size, and the size at which the network takes it."""
        rounded = tuple(map(self._plain.round_side, own))
        if self._said or taken == rounded:
            return
        self._said = True
        words = self._run.data.preprocess
        asked = "preprocess" in self._run.given or self._run.published
        why = f"by --preprocess {words}" if asked else f"as the run was trained with --preprocess {words}"
        line = (
            f"images of {own[0]} x {own[1]} are translated at {taken[0]} x {taken[1]} (height x width), {why}; "
            "--preprocess none translates them at their own size"
        )
        tqdm.write(line, file=sys.stderr)


def say_sizes(images: Iterable[Image], run: RunOptions, multiple: int) -> Iterator[Image]:
    """The same images, looked at in passing."""
    note = SizeNote(run, multiple)
    for image in images:
        taken = image.sample if isinstance(image.sample, Tensor) else image.sample.A
        note.see(image.size, (taken.shape[-2], taken.shape[-1]))
        yield image
