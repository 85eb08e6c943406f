"""Pictures in rows and columns with readable labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util.visual.files import as_rgb

MARGIN = 4  # white pixels between pictures and around the whole
FONT_SIZE = 14
INK = (40, 40, 40)
GAP = 8  # pixels that a heading leaves free beside it, for its neighbour to stand apart
LARGEST = 256  # pixels of a side, up to which pictures narrower than their headings are enlarged


def text_image(text: str, size: int = FONT_SIZE) -> np.ndarray:
    """One line of dark text on white, uint8 (h, w, 3), as wide as the text; empty text has the width 1."""
    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    ascent_and_descent = font.getbbox("Ågjy|")
    width, height = max(1, round(right - left)), round(ascent_and_descent[3]) + 2
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).text((-left, 0), text, font=font, fill=INK)
    return np.array(picture, dtype=np.uint8)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """matplotlib's own, which has the letters of most names of files; Pillow's has those of English."""
    found = find_spec("matplotlib")  # importing it takes longer than drawing
    places = found.submodule_search_locations if found else None
    for place in places or ():
        file = Path(place, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _centred(canvas: np.ndarray, picture: np.ndarray, top: int, left: int, height: int, width: int) -> None:
    top += (height - picture.shape[0]) // 2
    left += (width - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def panel(
    rows: Sequence[Sequence[np.ndarray]],
    labels_top: Sequence[str] = (),
    labels_left: Sequence[str] | None = None,
) -> np.ndarray:
    """Pictures as a table on white, with a label above each column and, if given, left of each row.

    A column is as wide as its widest picture or label and a row as high as its highest picture; smaller ones
    are centred. Pictures that are narrower than the labels above them are enlarged, all of them by the same whole
    factor, up to LARGEST; where all pictures have one width, all columns have. Rows may differ in length.

    Args:
        rows: uint8 pictures (H, W, 3), (H, W, 1) or (H, W) in RGB order.
        labels_top: one label a column, or none at all.
        labels_left: one label a row.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: no picture, or a number of labels that does not fit.
    """
    cells = [[as_rgb(picture) for picture in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    if columns == 0:
        raise ValueError("A panel needs at least one picture.")
    if labels_top and len(labels_top) != columns:
        raise ValueError(f"The panel has {columns} columns and {len(labels_top)} labels above them.")
    if labels_left is not None and len(labels_left) != len(cells):
        raise ValueError(f"The panel has {len(cells)} rows and {len(labels_left)} labels beside them.")

    tops = [text_image(label) for label in labels_top]
    return _table(_enlarged(cells, tops), tops, labels_left)


def _table(
    cells: list[list[np.ndarray]], tops: Sequence[np.ndarray], labels_left: Sequence[str] | None = None
) -> np.ndarray:
    columns = len(_widths(cells))
    table: list[list[np.ndarray | None]] = [[*row, *[None] * (columns - len(row))] for row in cells]
    if labels_left is not None:
        table = [[text_image(label), *row] for label, row in zip(labels_left, table, strict=True)]
    if tops:
        corner: list[np.ndarray | None] = [None] if labels_left is not None else []
        table.insert(0, [*corner, *_set_apart(cells, tops)])
    return _draw(table)


def _enlarged(cells: list[list[np.ndarray]], tops: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Pictures as wide as the labels above them, as far as a whole factor and LARGEST let them."""
    room = LARGEST // max((max(cell.shape[:2]) for row in cells for cell in row), default=1)
    lacking = [-(-_needed(top) // width) for top, width in zip(tops, _widths(cells), strict=False)]
    factor = max(1, min(room, max(lacking, default=1)))
    return [[cell.repeat(factor, 0).repeat(factor, 1) for cell in row] for row in cells]


def _set_apart(cells: list[list[np.ndarray]], tops: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Labels with white on both sides, where they would else touch, or to make columns of equal pictures even."""
    pictures = _widths(cells)
    wanted = [max(_needed(top), width) for top, width in zip(tops, pictures, strict=True)]
    if len({cell.shape[1] for row in cells for cell in row}) == 1:
        wanted = [max(wanted)] * len(wanted)
    padded = []
    for top, width in zip(tops, wanted, strict=True):
        left = (width - top.shape[1]) // 2
        padded.append(np.pad(top, ((0, 0), (left, width - top.shape[1] - left), (0, 0)), constant_values=255))
    return padded


def _needed(label: np.ndarray) -> int:
    """Pixels from one heading to the next; an empty one has no neighbours to stand apart from."""
    return label.shape[1] + GAP if label.shape[1] > 1 else 1


def _widths(cells: list[list[np.ndarray]]) -> list[int]:
    """Of each column its widest picture's; rows may differ in length."""
    return [max(cell.shape[1] for cell in column if cell is not None) for column in zip_longest(*cells)]


def _draw(table: list[list[np.ndarray | None]]) -> np.ndarray:
    heights = [max((cell.shape[0] for cell in row if cell is not None), default=0) for row in table]
    widths = [max((c.shape[1] for c in column if c is not None), default=0) for column in zip(*table, strict=True)]
    shape = (sum(heights) + MARGIN * (len(heights) + 1), sum(widths) + MARGIN * (len(widths) + 1), 3)
    canvas = np.full(shape, 255, dtype=np.uint8)
    top = MARGIN
    for row, height in zip(table, heights, strict=True):
        left = MARGIN
        for cell, width in zip(row, widths, strict=True):
            if cell is not None:
                _centred(canvas, cell, top, left, height, width)
            left += width + MARGIN
        top += height + MARGIN
    return canvas


def captioned_grid(pictures: Mapping[str, np.ndarray], columns: int) -> np.ndarray:
    """Named pictures in reading order, `columns` in a row, each under its own name; uint8 (H, W, 3).

    Those narrower than their names are enlarged as in `panel`.

    Raises:
        ValueError: no picture, or fewer than one column.
    """
    if columns < 1:
        raise ValueError(f"A grid needs at least one column, got {columns}.")
    tops = [text_image(name) for name in pictures]
    (enlarged,) = _enlarged([[as_rgb(picture) for picture in pictures.values()]], tops)  # all by one factor
    cells = [_table([[picture]], [top]) for picture, top in zip(enlarged, tops, strict=True)]
    rows = list(zip_longest(*[iter(cells)] * columns))
    return panel([[cell for cell in row if cell is not None] for row in rows])
