"""What an evaluation may know about images beside their classes: pairs, boxes and masks of the target."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.base import DataError
from data.images import read_raw
from util.errors import printable

Rectangle = tuple[float, float, float, float]
TARGET_LEVEL = 128  # a mask's pixels above it are target: 255 is, and a shadow drawn at 128 is not


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int
    cells: Mapping[str, str]


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """A CSV file with a heading, in UTF-8.

    Raises:
        DataError: it cannot be read, lacks one of `columns`, or has a line without one of their cells.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}: lacks the column {' and '.join(missing)}; its first line should hold {','.join(columns)}"
                )
            rows = [Row(reader.line_num, dict(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table (UTF-8 CSV): {error}") from error
    for row in rows:
        if empty := [name for name in columns if not row.cells[name]]:
            raise DataError(f"{path}, line {row.line}: has nothing under {empty[0]}")
    return rows


def read_pairs(path: Path, source: Sequence[str], target: Sequence[str], direction: str) -> list[tuple[int, int]]:
    """Numbers of the images that show the same scene, from a table with the columns A and B.

    Args:
        source, target: paths of the images below the data root, in the order that numbers count them.
        direction: AtoB or BtoA.

    Raises:
        DataError: the table is damaged, or none of its rows names an image of each side.
    """
    places = [{name: number for number, name in enumerate(names)} for names in (source, target)]
    columns = ("A", "B") if direction == "AtoB" else ("B", "A")
    pairs = []
    for row in read_table(path, ("A", "B")):
        found = [place.get(row.cells[column]) for place, column in zip(places, columns, strict=True)]
        if found[0] is not None and found[1] is not None:
            pairs.append((found[0], found[1]))
    if not pairs:
        first = source[0] if source else "no image"
        raise DataError(
            f"{path}: pairs none of the images that were read; its columns A and B hold paths below the data root, "
            f"for example {printable(first)}"
        )
    return sorted(pairs)


def read_boxes(path: Path, files: Sequence[str]) -> list[list[Rectangle]]:
    """Rectangles (x0, y0, x1, y1) in pixels around the target of each image, x1 and y1 exclusive; none: not known.

    Args:
        path: a table with the columns file, x0, y0, x1, y1.
        files: paths of the images below the data root.

    Raises:
        DataError: the table is damaged, a corner is no number, or a rectangle is empty.
    """
    boxes: dict[str, list[Rectangle]] = {name: [] for name in files}
    for row in read_table(path, ("file", "x0", "y0", "x1", "y1")):
        if row.cells["file"] in boxes:
            boxes[row.cells["file"]].append(_rectangle(path, row))
    return [boxes[name] for name in files]


def _rectangle(path: Path, row: Row) -> Rectangle:
    words = [row.cells[name] for name in ("x0", "y0", "x1", "y1")]
    try:
        x0, y0, x1, y1 = (float(word) for word in words)
    except ValueError:
        raise DataError(f"{path}, line {row.line}: {','.join(words)} are not four numbers") from None
    if not (0 <= x0 < x1 and 0 <= y0 < y1 and max(x1, y1) < np.inf):
        raise DataError(f"{path}, line {row.line}: x0,y0,x1,y1 = {','.join(words)} is no rectangle inside an image")
    return x0, y0, x1, y1


def read_masks(folder: Path, files: Sequence[str]) -> list[NDArray[np.bool_] | None]:
    """Masks (H, W) of the target, by the images' bare names (of any image format); None where there is no file.

    Raises:
        DataError: there is no such folder, or no mask fits an image.
    """
    return [None if raw is None else target_of(raw) for raw in read_mask_files(folder, files)]


def read_mask_files(folder: Path, files: Sequence[str]) -> list[NDArray[Any] | None]:
    """What the files of masks hold, (H, W) or (H, W, 3), by the images' bare names; None where there is no file.

    Raises:
        DataError: there is no such folder, or no mask fits an image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of masks")
    known = {file.stem: file for file in sorted(folder.iterdir()) if file.is_file()}
    masks = [read_raw(known[stem]) if (stem := Path(name).stem) in known else None for name in files]
    if all(mask is None for mask in masks):
        raise DataError(f"{folder}: holds no mask named like an image, for example {printable(Path(files[0]).name)}")
    return masks


def target_of(raw: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W): the target in a mask."""
    level: NDArray[np.bool_] = (raw if raw.ndim == 2 else raw.max(axis=2)) > TARGET_LEVEL
    return level


def label_map_of(raw: NDArray[Any]) -> NDArray[np.int64] | None:
    """(H, W) class numbers of pixels; None where the file is a mask of the target.

    A label map has one channel of whole numbers, some of them between 0 and TARGET_LEVEL, as no mask needs.
    """
    if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.integer) or not ((raw > 0) & (raw < TARGET_LEVEL)).any():
        return None
    return raw.astype(np.int64)
