"""The split files of wsol-done-right (Choe et al., CVPR 2020), which F-CAM reads too.

A split is a folder with `image_ids.txt` (a path below the data root a line), `class_labels.txt` (path,class),
`image_sizes.txt` (path,width,height; where there are boxes) and `localization.txt`: path,x0,y0,x1,y1 for each box, both
corners inside, or path,mask,ignore for each instance, the last on an image's first line only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from data.base import DataError
from data.images import EXTENSIONS, image_size, read_raw
from util.errors import printable
from util.metrics.wsol import Truth

IDS, LABELS, SIZES, PLACES = "image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt"
# Our names of splits, and those that the papers use.
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "train-weaksup"),
    "val": ("val", "train-fullsup"),
    "test": ("test",),
}
LARGEST_CLASS = 10**6
# Data sets whose splits are published, and where their images are to be had.
PAGES: Mapping[str, str] = {
    "CUB": "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "ILSVRC": "https://image-net.org/download.php",
    "OpenImages": "https://github.com/clovaai/wsolevaluation#openimages30k",
}
CUB_IMAGES = Path("CUB_200_2011", "images")  # where its archive has them


@dataclass(frozen=True)
class Places:
    """What `localization.txt` says of images: boxes (x0, y0, x1, y1), files of masks, the file of what to ignore."""

    boxes: dict[str, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=dict)
    ignore: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.boxes or self.masks)


@dataclass(frozen=True)
class Split:
    """The images of a split and their classes, in the order of `image_ids.txt`.

    Attributes:
        folder: of the files.
        labels: class by path.
    """

    folder: Path
    names: list[str]
    labels: dict[str, int]


def split_folder(splits: Path, phase: str) -> Path | None:
    """The folder of a split under our name or the papers'; None where there is none."""
    tried = [splits / name for name in FOLDERS.get(phase, (phase,))]
    return next((folder for folder in tried if (folder / IDS).is_file()), None)


def how_to_prepare(root: Path) -> str:
    """What to do where a data root has neither split files nor plain folders, for a message that says so."""
    of_cub = root.parts[-2:] == CUB_IMAGES.parts
    name = "CUB" if of_cub else root.name
    if name not in PAGES:
        known = ", ".join(PAGES)
        return f"; give train/<class>/ or trainA, or split files, which scripts/prepare_wsol.py makes for {known}"
    if root.is_dir():
        return f"; python scripts/prepare_wsol.py {name} --dataroot {printable(root)} makes its split files"
    above = root.parent.parent if of_cub else root.parent
    place = above / CUB_IMAGES if name == "CUB" else root
    return (
        f"; get {name} from {PAGES[name]}, unpack it as {printable(place)}, and give "
        f"python scripts/prepare_wsol.py {name} --dataroot {printable(place)}"
    )


def read_split(folder: Path) -> Split:
    """The images of a split and their classes.

    Raises:
        DataError: a file is missing or damaged, an image is named twice or has no class.
    """
    names: dict[str, int] = {}
    for line, cells in _rows(folder / IDS, 1):
        name = _name(folder / IDS, line, cells[0])
        if name in names:
            raise DataError(f"{folder / IDS}, line {line}: {name} is there twice, first in line {names[name]}")
        names[name] = line
    if not names:
        raise DataError(f"{folder / IDS}: names no image")
    labels: dict[str, int] = {}
    for line, (name, text) in _rows(folder / LABELS, 2):
        label = _whole(folder / LABELS, line, text)
        if not 0 <= label < LARGEST_CLASS:
            raise DataError(f"{folder / LABELS}, line {line}: class {label} is to lie in 0..{LARGEST_CLASS - 1}")
        if labels.setdefault(name, label) != label:
            raise DataError(f"{folder / LABELS}, line {line}: {name} has class {label} here and {labels[name]} before")
    if lost := [name for name in names if name not in labels]:
        raise DataError(f"{folder / LABELS}: {len(lost)} of {len(names)} images have no class, the first is {lost[0]}")
    return Split(folder, list(names), {name: labels[name] for name in names})


def read_places(folder: Path) -> Places:
    """Boxes or masks of a split; nothing where it has no such file.

    Raises:
        DataError: the file is damaged.
    """
    path, found = folder / PLACES, Places()
    if not path.is_file():
        return found
    for number, text in _lines(path):
        cells = text.rsplit(",", 4)
        if len(cells) == 5 and all(_is_number(cell) for cell in cells[1:]):
            box = _box(path, number, cells[1:])
            found.boxes.setdefault(_name(path, number, cells[0]), []).append(box)
            continue
        cells = text.rsplit(",", 2)
        if len(cells) != 3 or not cells[1] or not all(_is_image(cell) for cell in cells if cell):
            raise DataError(f"{path}, line {number}: is neither path,x0,y0,x1,y1 nor path,mask,ignore")
        name = _name(path, number, cells[0])
        found.masks.setdefault(name, []).append(_name(path, number, cells[1]))
        if cells[2]:
            found.ignore.setdefault(name, _name(path, number, cells[2]))
    return found


def read_sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """(height, width) by image that boxes are in pixels of; empty where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / SIZES
    if not path.is_file():
        return {}
    found = {}
    for line, (name, width, height) in _rows(path, 3):
        size = (_whole(path, line, height), _whole(path, line, width))
        if min(size) < 1:
            raise DataError(f"{path}, line {line}: an image of {size[1]} x {size[0]} pixels is none")
        found[name] = size
    return found


class SplitTruth:
    """Truth of a split's images, by path; files are read when they are asked for.

    Args:
        folder: of the split.
        root: of the images and masks.

    Raises:
        DataError, ImageError: when asked: a file of the split, or a mask, is damaged.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root

    @cached_property
    def _places(self) -> Places:
        return read_places(self._folder)

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        return read_sizes(self._folder)

    def __bool__(self) -> bool:
        return bool(self._places)

    def __call__(self, name: str) -> Truth | None:
        boxes = np.array(self._places.boxes.get(name, ()), np.int64).reshape(-1, 4)
        files = self._places.masks.get(name, ())
        if not len(boxes) and not files:
            return None
        masks = tuple(_mask(self._root / file) for file in files)
        ignore = self._places.ignore.get(name)
        size = self._sizes.get(name) or image_size(self._root / name)
        return Truth(size, boxes, masks, _mask(self._root / ignore) if ignore else None)


def _mask(file: Path) -> NDArray[np.bool_]:
    raw = read_raw(file)
    there: NDArray[np.bool_] = (raw if raw.ndim == 2 else raw.max(axis=2)) > 0
    return there


# --- lines


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8 (byte {error.start}); restore it") from error
    if "\0" in content:
        raise DataError(f"{path}: holds NUL bytes, as no text does; restore it")
    for number, line in enumerate(content.split("\n"), 1):
        if text := line.strip():
            yield number, text


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line; a comma in the first cell, a path, is a part of it."""
    for number, text in _lines(path):
        cells = text.rsplit(",", columns - 1) if columns > 1 else [text]
        if len(cells) != columns:
            raise DataError(f"{path}, line {number}: has {len(cells)} of {columns} cells: {printable(text)[:100]}")
        yield number, cells


def _name(path: Path, line: int, name: str) -> str:
    """A path below the data root as it is written, or an error where it leads out of it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not name or not name.isprintable() or not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise DataError(f"{path}, line {line}: '{printable(name)[:100]}' is no path below the data root")
    return name


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_image(text: str) -> bool:
    return Path(text).suffix.lower() in EXTENSIONS


def _whole(path: Path, line: int, text: str) -> int:
    text = text.strip()
    if not text.lstrip("-").isdecimal() or len(text) > 9:
        raise DataError(f"{path}, line {line}: {printable(text)[:40]!r} is no whole number")
    return int(text)


def _box(path: Path, line: int, cells: list[str]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (int(float(cell)) for cell in cells)
    if not (0 <= x0 <= x1 < 10**6 and 0 <= y0 <= y1 < 10**6):
        raise DataError(f"{path}, line {line}: x0,y0,x1,y1 = {','.join(cells)} is no box inside an image")
    return x0, y0, x1, y1
