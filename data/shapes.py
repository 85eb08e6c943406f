"""What --preprocess makes of the sizes of a data set's files, known from their headers before a run starts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data.base import DataError
from data.checkup import shortlist
from data.domain import Domain
from data.transforms import Preprocess
from util import ranks
from util.errors import printable

if TYPE_CHECKING:
    from options.parse import RunOptions

Size = tuple[int, int]  # height and width


def check_shapes(run: RunOptions, preprocess: Preprocess, source: Domain, target: Domain, paired: bool = False) -> None:
    """Refuse files that cannot come to one size where a step needs one; warn of images that are stretched.

    Args:
        paired: the images of number n are of one scene and go together; else any may.

    Raises:
        DataError: names the files that would stop the run in its middle.
    """
    sizes = _of(source) | _of(target)
    by_number = paired or run.data.serial_batches  # two images go together that may fit each other alone
    alone = by_number and run.data.batch_size * run.optim.accumulate == 1
    if not alone and (fault := ragged(preprocess, sizes, run)):
        raise DataError(fault)
    if ranks.is_first() and (text := about_stretched(preprocess, sizes)):
        print("WARNING: {}; {}".format(*text), file=sys.stderr)


def _of(domain: Domain) -> dict[Path, Size]:
    """Sizes of a domain's images; those of two halves side by side are of half the width."""
    known = {file: domain.sizes[file] for file in domain.files if file in domain.sizes}
    return {file: (height, width // 2 if domain.half else width) for file, (height, width) in known.items()}


def ragged(preprocess: Preprocess, sizes: Mapping[Path, Size], run: RunOptions) -> str:
    """Which files do not come to the size of the others, and the remedy; empty where all come to one.

    Args:
        sizes: of the files of both domains.
    """
    becomes = {file: preprocess.size_of(*size) for file, size in sizes.items()}
    counted = Counter(size for size in becomes.values() if size is not None)
    if len(counted) < 2:
        return ""
    common = counted.most_common(1)[0][0]
    odd = [file for file, size in becomes.items() if size != common]
    names = shortlist([f"{printable(f'{file.parent.name}/{file.name}')} ({_shown(sizes[file])})" for file in odd])
    return (
        f"{len(odd)} of {len(sizes)} images would not be {_shown(common)} (height x width) as the others: {names}; "
        f"A and B, and all images of a batch, need one size: --preprocess {run.data.preprocess} gives none, one with "
        "crop or resize does"
    )


def about_stretched(preprocess: Preprocess, sizes: Mapping[Path, Size]) -> tuple[str, str] | None:
    """What is to be said, and done, about images that `scale_width` stretches; None where it stretches none."""
    found = [size for size in sizes.values() if preprocess.stretched(*size)]
    if not found:
        return None
    own = Counter(found).most_common(1)[0][0]
    made = preprocess.stretched(*own)
    assert made is not None
    text = (
        f"{len(found)} of {len(sizes)} images are stretched by --preprocess {'_and_'.join(preprocess.words)}: those of "
        f"{_shown(own)} to {_shown(made)} (height x width), since none may be lower than --crop_size"
    )
    return text, "--preprocess scale_shortside_and_crop keeps their shape"


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
