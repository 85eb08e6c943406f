"""Images of the same scene in both domains: two halves of one file, files of one name, or rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data.annotations import read_pairs
from data.base import DataError, domain_folder
from data.decoders import EXTENSIONS, Raw
from data.images import ImageError
from util.errors import printable

HALVES: Mapping[str, str] = {"A": "left", "B": "right"}


@dataclass(frozen=True)
class Place:
    """Where images of a domain lie; `half` is the part of each that shows it: left, right, or all of it (empty)."""

    folder: Path
    half: str = ""

    @property
    def name(self) -> str:
        """`testB`, also where that is the right half of the images in `test`."""
        side = next((side for side, half in HALVES.items() if half == self.half), "")
        return self.folder.name + side


def place_of(root: Path, phase: str, domain: str, mode: str) -> Place:
    """Where a domain's images of a phase are; phase test falls back to val.

    Args:
        mode: --dataset_mode. With `aligned`, `<root>/<phase>` may hold images with A on the left and B on the right,
            where there is neither `<phase>A` nor `<phase>B`; with `single`, the root itself may hold the images.

    Raises:
        DataError: there is no such folder.
    """
    if mode == "aligned":
        for name in (phase, "val") if phase == "test" else (phase,):
            if any((root / f"{name}{side}").is_dir() for side in HALVES):
                break
            if (root / name).is_dir():
                return Place(root / name, HALVES[domain])
        else:
            if root.is_dir():
                raise DataError(
                    f"--dataroot {printable(root)}: has no folders {phase}A and {phase}B, nor {phase} with images of A "
                    "and B side by side"
                )
    try:
        return Place(domain_folder(root, phase, domain, alone=mode == "single"))
    except DataError as error:
        if not root.is_dir():
            raise
        here = printable(root)
        wanted = (
            f"put images of A into {here}/trainA, of B into {here}/trainB"
            if phase == "train"
            else _instead(root, domain)
        )
        raise DataError(f"{error}; {wanted}") from error


def _instead(root: Path, domain: str) -> str:
    """What a command can be given where a data root lacks a phase: those that are there, or the images of the root."""
    names = sorted(entry.name for entry in root.iterdir())
    folders = [name for name in names if name[:-1] and name.endswith(domain) and (root / name).is_dir()]
    ways = [f"{printable(name)} is there: --phase {printable(name[:-1])}" for name in folders]
    if any((root / name).is_file() and Path(name).suffix.lower() in EXTENSIONS for name in names):
        ways.append(f"test.py and cam_infer.py also take a plain folder: --input {printable(root)}")
    return "; ".join(["put images there", *ways])


def cut_half(image: Tensor, half: str, file: Path) -> Tensor:
    """The part (C, H, W) of an image that shows one domain; all of it where `half` is empty.

    Raises:
        ImageError: it has no halves of equal width.
    """
    return image[..., _columns(image.shape[-1], half, file)]


def half_of(counts: Raw, half: str, file: Path) -> Raw:
    """The same of counts (H, W, C)."""
    return counts[:, _columns(counts.shape[1], half, file)]


def _columns(width: int, half: str, file: Path) -> slice:
    if not half:
        return slice(None)
    if width % 2:
        raise ImageError(f"{str(file)!r} is {width} pixels wide; images of A and B side by side need an even width")
    return slice(width // 2) if half == HALVES["A"] else slice(width // 2, None)


def pairs_of_files(root: Path, source: Sequence[Path], target: Sequence[Path], direction: str) -> list[tuple[int, int]]:
    """Numbers of the files that belong together, by `pairs_<phase>.csv` where there is one, else by their names.

    Args:
        root: the data root, which holds the table.
        source, target: files of two folders of one phase below it, or of one folder of images side by side.
        direction: AtoB or BtoA.

    Raises:
        DataError: none do, or the table cannot be used.
    """
    if not source or not target:
        return []
    folder = source[0].relative_to(root).parts[0]
    table = root / f"pairs_{folder.removesuffix(direction[0])}.csv"
    if table.is_file():
        sources, targets = ([file.relative_to(root).as_posix() for file in files] for files in (source, target))
        return read_pairs(table, sources, targets, direction)
    pairs = pairs_by_name(root, source, target)
    if not pairs:
        other = target[0].relative_to(root).parts[0]
        raise DataError(
            f"{printable(root)}: no image of {printable(folder)} has the name of one of {printable(other)}; give equal "
            f"names to images of the same scene, or list them in {table.name} (columns A,B)"
        )
    return pairs


def pairs_by_name(root: Path, source: Sequence[Path], target: Sequence[Path]) -> list[tuple[int, int]]:
    """Numbers of the files of the same path below their own folders, without regard to the kind of file.

    Raises:
        DataError: two files of one folder differ in their kind alone.
    """
    targets = _by_name(root, target)
    return [(number, targets[name]) for name, number in _by_name(root, source).items() if name in targets]


def _by_name(root: Path, files: Sequence[Path]) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    for number, file in enumerate(files):
        name = file.relative_to(root).with_suffix("").parts[1:]
        if name in found:
            first = files[found[name]].relative_to(root).as_posix()
            raise DataError(f"{printable(file)}: has the name of {printable(first)}, so pairs by name are not certain")
        found[name] = number
    return found
