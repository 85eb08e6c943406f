"""Images beside their translations, one row an image, with headings: for papers and for looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from util.errors import printable
from util.visual.curves import thinned
from util.visual.grid import panel

Picture = NDArray[np.uint8]
Row = Mapping[str, np.ndarray]  # heading -> picture, uint8 (H, W, 3), (H, W, 1) or (H, W)

LONGEST = 28  # characters of a label beside a row
_NOTHING = np.full((1, 1, 3), 255, np.uint8)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, at equal distances, the first and the last among them.

    A choice that nobody made by looking: what a figure of "random" examples should be.
    """
    return [int(number) for number in thinned(np.arange(count), most)]


def montage(rows: Sequence[Row], names: Sequence[str] | None = None) -> Picture:
    """Rows of pictures under common headings, for example input, translation, target and difference.

    Args:
        rows: the pictures of one image each. Headings stand in the order in which they first appear; a picture that a
            row does not have leaves its place empty.
        names: written beside the rows, long ones shortened in the middle; None: no names.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: no picture at all, or a number of names that does not fit.
    """
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    cells = [[row.get(heading, _NOTHING) for heading in headings] for row in rows]
    labels = None if names is None else [shortened(printable(name)) for name in names]
    return panel(cells, [printable(heading) for heading in headings], labels)


def epoch_grid(
    rows: Sequence[Mapping[str, np.ndarray]], names: Sequence[str] | None = None, first: Sequence[Row] | None = None
) -> Picture:
    """One input a row, one epoch a column: how translations or maps develop.

    Args:
        rows: epoch, as in a checkpoint's name, -> picture. Columns are sorted by `epoch_order`.
        first: of each row, pictures before those of the epochs, by heading: the input, for example.
        names, returns, raises: as `montage`.
    """
    epochs = sorted({epoch for row in rows for epoch in row}, key=epoch_order)
    headings = {epoch: f"epoch {epoch}" if epoch.isdecimal() else epoch for epoch in epochs}
    made = [{headings[epoch]: row.get(epoch, _NOTHING) for epoch in epochs} for row in rows]
    before = [{} for _ in rows] if first is None else first
    return montage([{**start, **row} for start, row in zip(before, made, strict=True)], names)


def epoch_order(epoch: str) -> tuple[int, int, str]:
    """Sort key of epochs as in checkpoints' names: numbers, then iterations (`iter_5000`), then words (`latest`)."""
    number = epoch.removeprefix("iter_")
    return (int(number != epoch), int(number), epoch) if number.isdecimal() else (2, 0, epoch)


def shortened(text: str, most: int = LONGEST) -> str:
    """A name of at most `most` characters: of longer ones both ends, which is where names differ."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
