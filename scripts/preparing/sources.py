"""Splits made of the data sets' own files: CUB's tables, ImageNet's folders and annotations, OpenImages' folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from data.base import DataError
from scripts.preparing.splits import SplitText, images_in
from util.errors import printable

IMAGES = (".jpg", ".jpeg", ".png")
CUB_TABLES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")


def cub(root: Path, extra: Path | None, phase: str) -> SplitText | None:
    """Train and test from the tables of CUB_200_2011; its boxes are (x, y, width, height).

    Args:
        root: holds the class folders.
        extra: holds the tables; none: the folder above.

    Raises:
        DataError: a table is missing or damaged.
    """
    if phase == "val":
        return None  # CUBV2 is another's, and its boxes are in the published split files alone
    place = extra or root.parent
    images, labels, in_train, boxes = (dict(_table(place / name)) for name in CUB_TABLES)
    text = SplitText(str(place))
    for number, (name,) in images.items():
        try:
            (train,), (label,) = in_train[number], labels[number]
            x, y, width, height = (float(cell) for cell in boxes[number])
            if (train == "1") == (phase == "train"):
                text.add(name, int(label) - 1)
                text.add_boxes(root, name, [[int(x), int(y), int(x + width), int(y + height)]])
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{place}: image {printable(number)} lacks a cell, or holds a wrong one ({error})"
            ) from error
    return text


def _table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Number and cells of each line of a table of CUB, which separates by spaces."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); --tables names the folder CUB_200_2011") from error
    for line in lines:
        if cells := line.split():
            yield cells[0], cells[1:]


def ilsvrc(root: Path, extra: Path | None, phase: str) -> SplitText | None:
    """Train from `train/<synset>`, test from `val` with the boxes of its annotations, val from `val2/<class>`.

    Classes are numbered by their synsets in order, as ImageNetV2's folders (val2) are.

    Args:
        extra: folder of the validation annotations, XML files such as ILSVRC2012_val_00000001.xml.

    Raises:
        DataError: a folder or an annotation is missing or damaged.
    """
    synsets = {folder.name: n for n, folder in enumerate(_folders(root / "train"))}
    if phase == "train":
        return _of_folders(root, "train", synsets)
    if phase == "val":
        return _of_folders(root, "val2", {str(n): n for n in range(len(synsets))}) if (root / "val2").is_dir() else None
    if not (root / "val").is_dir():
        return None
    if extra is None:
        raise DataError("--tables: give the folder of the validation annotations (XML), which hold classes and boxes")
    text = SplitText(str(root / "val"))
    for image in images_in(root / "val"):
        if image.suffix.lower() in IMAGES:
            label, boxes = _annotation(extra / f"{image.stem}.xml", synsets)
            name = image.relative_to(root).as_posix()
            text.add(name, label)
            text.add_boxes(root, name, boxes)
    return text


def _annotation(path: Path, synsets: Mapping[str, int]) -> tuple[int, list[list[int]]]:
    """Class and boxes of an image of ImageNet's validation set."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
        names = [found.findtext("name", "") for found in objects]
        corners = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[int(found.findtext(f"bndbox/{corner}", "")) for corner in corners] for found in objects]
        return synsets[names[0]], boxes
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
        raise DataError(f"{path}: cannot be read as an annotation ({reason})") from error


def openimages(root: Path, extra: Path | None, phase: str) -> SplitText | None:
    """Each split from `<split>/<class>/<image>.jpg` with `<image>_m<class>_<id>.png` and `<image>_ignore.png`."""
    if not (root / phase).is_dir():
        return None
    classes = {folder.name: n for n, folder in enumerate(_folders(root / "train"))}
    text = SplitText(str(root / phase))
    for folder in _folders(root / phase):
        if folder.name not in classes:
            raise DataError(f"{printable(folder)}: is a class that {root / 'train'} has not")
        files = [file.name for file in images_in(folder)]
        known = set(files)
        for file in files:
            if not file.lower().endswith(".jpg"):
                continue
            place, stem = folder.relative_to(root).as_posix(), file[: -len(".jpg")]
            text.add(f"{place}/{file}", classes[folder.name])
            masks = [name for name in files if name.startswith(f"{stem}_m") and name.endswith(".png")]
            ignore = f"{stem}_ignore.png" if f"{stem}_ignore.png" in known else ""
            for number, mask in enumerate(masks):
                hidden = f"{place}/{ignore}" if ignore and not number else ""
                text.places.append(f"{place}/{file},{place}/{mask},{hidden}")
    return text


def _of_folders(root: Path, name: str, classes: Mapping[str, int]) -> SplitText:
    text = SplitText(str(root / name))
    for folder in _folders(root / name):
        if folder.name not in classes:
            raise DataError(f"{printable(folder)}: is none of the {len(classes)} classes")
        for image in images_in(folder):
            if image.suffix.lower() in IMAGES:
                text.add(image.relative_to(root).as_posix(), classes[folder.name])
    return text


def _folders(folder: Path) -> list[Path]:
    return [path for path in images_in(folder) if path.is_dir()]


SOURCES: Mapping[str, Callable[[Path, Path | None, str], SplitText | None]] = {
    "CUB": cub,
    "ILSVRC": ilsvrc,
    "OpenImages": openimages,
}
