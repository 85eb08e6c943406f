"""Split files of wsol-done-right, written from what there is on the disk, and checked by who will read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.base import DataError
from data.images import image_size
from data.wsol_splits import IDS, LABELS, PLACES, SIZES, read_places, read_sizes, read_split, split_folder
from util.errors import printable
from util.files import write_atomic

SHOWN = 3
# Images of each split as published (Choe et al., CVPR 2020, table 1).
PUBLISHED = {
    "CUB": {"train": 5994, "val": 1000, "test": 5794},
    "ILSVRC": {"train": 1281167, "val": 10000, "test": 50000},
    "OpenImages": {"train": 29819, "val": 2500, "test": 5000},
}
FILES = (IDS, LABELS, SIZES, PLACES)


@dataclass
class SplitText:
    """The lines of a split's files, without line ends.

    Attributes:
        source: where they come from, for the report.
    """

    source: str
    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, name: str, label: int) -> None:
        self.ids.append(name)
        self.labels.append(f"{name},{label}")

    def add_boxes(self, root: Path, name: str, boxes: Iterable[Sequence[int]]) -> None:
        """Boxes (x0, y0, x1, y1), both corners inside, and the size of the image that they are in."""
        height, width = image_size(root / name)
        self.sizes.append(f"{name},{width},{height}")
        self.places += [f"{name},{','.join(map(str, box))}" for box in boxes]

    def files(self) -> dict[str, bytes]:
        """Content by name; a file that would be empty is left out."""
        lines = zip(FILES, (self.ids, self.labels, self.sizes, self.places), strict=True)
        return {name: ("\n".join(found) + "\n").encode() for name, found in lines if found}


def copied(metadata: Path, phase: str) -> SplitText | None:
    """A published split, as it is; None where there is none.

    Raises:
        DataError: its files are damaged.
    """
    folder = split_folder(metadata, phase)
    if folder is None:
        return None
    read_split(folder), read_places(folder), read_sizes(folder)
    return SplitText(str(folder), *(_lines(folder / name) for name in FILES))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text("utf-8-sig").split("\n") if line.strip()]


def write(out: Path, phase: str, text: SplitText, force: bool) -> Path:
    """Write a split's files and read them again.

    Raises:
        DataError: other files are there already, and `force` is not given; or they cannot be read back.
    """
    folder = out / phase
    for name, content in text.files().items():
        path = folder / name
        if path.exists() and path.read_bytes() != content and not force:
            raise DataError(f"{path}: is there already and says something else; --force writes over it")
        write_atomic(path, content)
    if not text.places:
        (folder / PLACES).unlink(missing_ok=True)
    read_split(folder), read_places(folder), read_sizes(folder)
    return folder


def check_images(root: Path, text: SplitText, phase: str) -> None:
    """Raise a DataError where images or masks of a split are not below the data root."""
    masks = [part for line in text.places for part in _masks_of(line)]
    for what, names in (("images", text.ids), ("masks", masks)):
        lost = [name for name in names if not (root / name).is_file()]
        if lost:
            shown = ", ".join(printable(name) for name in lost[:SHOWN])
            raise DataError(
                f"--dataroot {printable(root)}: {len(lost)} of {len(names)} {what} of the split {phase} "
                f"({text.source}) are missing: {shown}{', ...' if len(lost) > SHOWN else ''}"
            )


def _masks_of(line: str) -> list[str]:
    cells = line.rsplit(",", 4)
    if len(cells) == 5 and all(cell.lstrip("-").replace(".", "").isdigit() for cell in cells[1:]):
        return []
    return [cell for cell in line.rsplit(",", 2)[1:] if cell]


def report(dataset: str, phase: str, text: SplitText) -> str:
    """One line on a split, with what is published where it differs."""
    classes = len({line.rpartition(",")[2] for line in text.labels})
    kind = "no boxes or masks" if not text.places else "masks" if any(map(_masks_of, text.places[:1])) else "boxes"
    published = PUBLISHED[dataset][phase]
    other = "" if len(text.ids) == published else f" (published: {published})"
    return f"{phase}: {len(text.ids)} images{other}, {classes} classes, {kind}; from {text.source}"


def images_in(folder: Path) -> list[Path]:
    """Files of a folder in order, without those whose names begin with a dot.

    Raises:
        DataError: there is no such folder, or it cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be listed: {error.strerror}") from error
