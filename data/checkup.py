"""The files of a folder and whether they can be used: every header is read before a run starts.

What only the pixels show (a body cut short, NaN) is met later, when the file is read; see `data.domain.Domain`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.base import DataError
from data.decoders import EXTENSIONS, ImageError, describe_all, read_raw
from util import ranks
from util.errors import counted, printable
from util.visual.progress import with_bar

SHOWN = 10  # bad files named on the console; all are in bad_images.txt
_READ = 10  # files whose pixels tell whether three channels are colours
_AHEAD = 8  # threads that touch files before they are read, for disks across a network
_REMEDY = "repair or remove them, or leave them out with --on_bad_image skip"


@dataclass(frozen=True)
class BadImage:
    """A file that cannot be used."""

    path: Path
    reason: str

    def line(self, folder: Path) -> str:
        """`trainA/sub/x.png: it is empty (0 bytes)`, for a file below the domain's folder."""
        return f"{printable(self.path.relative_to(folder.parent).as_posix())}: {self.reason}"


class Kind(NamedTuple):
    """What the header of a good file says."""

    height: int
    width: int
    depth: str
    channels: int
    pages: bool  # there are further ones, which nobody reads


@dataclass(frozen=True)
class Checkup:
    """What a look at a folder has found.

    Attributes:
        files: those to read, in order.
        numbers: the place of each among all files of the folder, bad ones counted.
        bad: what cannot be used, among the files `examined`.
        depth: "uint8", "uint16" or "float32" of `files`; empty where there are none.
        other_depth: the one depth that all files have where it is not the one asked for; else empty.
        new, bad_others: how many good files, and which bad ones, are not on the list of a run that goes on.
        channels: 1 or 3, of the good ones among the files examined.
        sizes: height and width of the same files.
        listed: how many files the folder holds, where not all need be examined.
    """

    folder: Path
    files: list[Path]
    numbers: list[int]
    bad: list[BadImage]
    examined: int
    depth: str = ""
    other_depth: str = ""
    new: int = 0
    bad_others: Sequence[BadImage] = ()
    channels: Mapping[Path, int] = field(default_factory=dict)
    sizes: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    listed: int = 0

    @property
    def good(self) -> list[Path]:
        """Those of `files` that are not bad."""
        bad = {file.path for file in self.bad}
        return [file for file in self.files if file not in bad]

    @property
    def lines(self) -> list[str]:
        """One for each bad file."""
        return [file.line(self.folder) for file in (*self.bad, *self.bad_others)]


# --- finding files


def scan_folder(folder: Path) -> list[Path]:
    """Every image file under `folder`, sub-folders and linked folders included, sorted by path.

    Among them is what should be an image, or may hold some, and cannot be read, so that nothing is missing without a
    word: links that lead nowhere, folders that cannot be listed, empty folders and pipes with an image's name.
    `look_at` says what is wrong with them. Names that begin with a dot are no images: systems and editors leave
    copies there.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)}: no such folder; --dataroot must hold it")
    files = sorted(_candidates(folder))
    if not files:
        raise DataError(f"{printable(folder)}: holds no image (looked for *{', *'.join(sorted(EXTENSIONS))})")
    return files


def _candidates(folder: Path) -> Iterator[Path]:
    """A folder that links lead to twice, or in a circle, is entered once."""
    entered: set[str] = set()
    closed: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: closed.append(Path(e.filename))):
        true_place = os.path.realpath(place)
        if true_place in entered:
            folders.clear()
            continue
        entered.add(true_place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        if not folders and not paths and _is_named_as_image(Path(place)):
            yield Path(place)
        yield from (path for path in paths if _is_named_as_image(path) or _is_lost_folder(path))
    yield from closed


def _is_named_as_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _is_lost_folder(path: Path) -> bool:
    """A link that leads nowhere, under a name that a folder could have: its disk may not be mounted."""
    return not path.suffix and os.path.islink(path) and not os.path.exists(path)


# --- looking at them


def check_up(folder: Path, *, most: float, depth: str = "", quiet: bool = False, spread: bool = False) -> Checkup:
    """The first `most` files of a folder that can be used: those whose header is good and of the domain's depth.

    Leaving out the bad ones gives what the folder without them would give.

    Args:
        depth: of the domain; none: the one that most files have.
        quiet: no progress bar.
        spread: not the first ones but some at equal distances, which files named after their class make a sample of
            all classes.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    listed, found, kinds = scan_folder(folder), list[str | BadImage](), list[Kind | BadImage]()
    order: Sequence[int] = range(len(listed))
    if spread and most < len(listed):
        chosen = at_equal_distances(len(listed), most)
        order = [*chosen, *sorted(set(order) - set(chosen))]  # the rest, to take the place of bad ones
        listed = [listed[number] for number in order]
    wanted, good, expected = int(min(most, len(listed))), 0, depth
    while good < wanted and len(found) < len(listed):
        kinds += _kinds_of(listed[len(found) : len(found) + wanted - good], quiet)
        found = _depths(kinds)
        expected = depth or _most_common(found)
        good = found.count(expected)
    good_ones = sorted((order[place], listed[place]) for place, what in enumerate(found) if what == expected)
    numbers = [number for number, _ in good_ones]
    return Checkup(
        folder,
        [file for _, file in good_ones],
        numbers,
        _bad_ones(listed, found, expected),
        len(found),
        expected,
        _only_one(found) if not numbers else "",
        **_shapes(listed, kinds),
        listed=len(listed),
    )


def at_equal_distances(count: int, most: float) -> list[int]:
    """At most so many of the numbers below `count`, at equal distances: files sorted by class lose none whole."""
    wanted = int(min(most, count))
    return [n * count // wanted for n in range(wanted)]


def check_kept(folder: Path, files: Sequence[Path], *, depth: str, quiet: bool = False) -> Checkup:
    """The same for a list of files that a run counts on and that stays as it is: bad ones keep their places."""
    counted = set(files)
    others = [file for file in scan_folder(folder) if file not in counted]
    kinds = _kinds_of([*files, *others], quiet)
    found = _depths(kinds)
    depth = depth or _most_common(found)
    bad, bad_others = _bad_ones(files, found, depth), _bad_ones(others, found[len(files) :], depth)
    usable = list(files) if len(bad) < len(files) else []
    new = len(others) - len(bad_others)
    numbers, shapes = list(range(len(usable))), _shapes(files, kinds)
    return Checkup(folder, usable, numbers, bad, len(files), depth, "", new, bad_others, **shapes)


def look_at(files: Sequence[Path], quiet: bool = False) -> list[str | BadImage]:
    """Each file's depth, from its header, or what is wrong with it."""
    return _depths(_kinds_of(files, quiet))


def _kinds_of(files: Sequence[Path], quiet: bool) -> list[Kind | BadImage]:
    """What each file's header says, or what is wrong with it.

    Headers are read by this thread alone: reading one takes 60 microseconds of Python, so that threads would only
    wait for each other, and Pillow's warnings go by a setting of the whole process. Threads that run ahead and open
    the files hide the waiting for a disk.
    """
    folder = printable(files[0].parent.name) if files else ""
    with ThreadPoolExecutor(_AHEAD) as pool:
        touched = zip(files, pool.map(_touch, files), strict=True)
        shown = with_bar(touched, f"headers of {folder}", "file", total=len(files), quiet=quiet)
        kinds = [_look_at_one(file) for file, _ in shown]
    _say_pages([file for file, what in zip(files, kinds, strict=True) if isinstance(what, Kind) and what.pages])
    return kinds


def _say_pages(files: Sequence[Path]) -> None:
    """Warn on the console of files of several pages."""
    if files and ranks.is_first():
        names = shortlist([printable(f"{file.parent.name}/{file.name}") for file in files])
        print(
            f"WARNING: of several pages only the first is read; split these files to use all: {names}", file=sys.stderr
        )


def _touch(file: Path) -> None:
    try:
        if file.is_file():  # a pipe would keep whoever opens it waiting
            with file.open("rb") as stream:
                stream.read(1)
    except OSError:
        pass  # said by who reads the header


def _look_at_one(file: Path) -> Kind | BadImage:
    try:
        return Kind(*describe_all(file))
    except ImageError as error:
        return BadImage(file, reason_of(error, file))


def reason_of(error: ImageError, file: Path) -> str:
    """What is wrong with a file, in a few words on one line."""
    if os.path.islink(file) and not os.path.exists(file):
        return printable(f"it is a link that leads nowhere ({os.readlink(file)})")
    if os.path.isdir(file):
        return _reason_of_folder(file)
    reason = str(error).removeprefix(f"{str(file)!r} ").removeprefix("cannot be read as an image: ")
    return printable(" ".join(reason.removesuffix("; replace, convert or remove it").split()))


def _reason_of_folder(folder: Path) -> str:
    try:
        os.listdir(folder)
    except OSError as error:
        return f"it is a folder that cannot be listed ({error.strerror})"
    return "it is a folder without files, with the name of an image"


def _depths(kinds: Sequence[Kind | BadImage]) -> list[str | BadImage]:
    return [what.depth if isinstance(what, Kind) else what for what in kinds]


def _shapes(files: Sequence[Path], kinds: Sequence[Kind | BadImage]) -> dict[str, Any]:
    """The attributes `channels` and `sizes` of a check-up."""
    pairs = zip(files, kinds, strict=False)  # as in `_bad_ones`
    good = {file: what for file, what in pairs if isinstance(what, Kind)}
    return {
        "channels": {file: kind.channels for file, kind in good.items()},
        "sizes": {file: (kind.height, kind.width) for file, kind in good.items()},
    }


def _most_common(found: Sequence[str | BadImage]) -> str:
    """The depth that most files have, the first one's if there are two; empty where no file has any."""
    depths = Counter(what for what in found if isinstance(what, str))
    return depths.most_common(1)[0][0] if depths else ""


def _only_one(found: Sequence[str | BadImage]) -> str:
    kinds = {what if isinstance(what, str) else "" for what in found}
    return kinds.pop() if len(kinds) == 1 else ""


def _bad_ones(files: Sequence[Path], found: Sequence[str | BadImage], depth: str) -> list[BadImage]:
    bad = []
    for file, what in zip(files, found, strict=False):  # not all files need have been looked at
        if isinstance(what, BadImage):
            bad.append(what)
        elif what != depth:
            bad.append(BadImage(file, f"it is {what} and its domain {depth}; a window fits one depth only"))
    return bad


# --- and what follows


def require_usable(checkups: Sequence[Checkup], skip: bool, remedy: str = _REMEDY) -> None:
    """Raise a DataError that names every bad file of all folders; with `skip`, only where a folder has no good one."""
    for one in checkups:
        if one.other_depth:
            raise DataError(
                f"{printable(one.folder)}: its {len(one.bad)} files are {one.other_depth} and the run's window is for "
                f"{one.depth}; a window fits one depth only: convert them, or train a run for them"
            )
    wrong = [one for one in checkups if (not one.files if skip else one.bad)]
    if not wrong:
        return
    counts = " and ".join(f"{len(one.bad)} of {one.examined} files of {printable(one.folder)}" for one in wrong)
    if skip:
        remedy = "none is left: repair them, or give another --dataroot"
    lines = sorted(bad.line(one.folder) for one in wrong for bad in one.bad)
    raise DataError("\n  ".join([f"{counts} cannot be used; {remedy}:", *lines]))


def say_skipped(lines: Sequence[str]) -> None:
    """Warn on the console of files that --on_bad_image skip leaves out."""
    if not lines:
        return
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    verb = "is" if len(lines) == 1 else "are"
    first = f"WARNING: {counted(len(lines), 'bad image')} {verb} left out (--on_bad_image skip):"
    print("\n  ".join([first, *lines[:SHOWN], *more]), file=sys.stderr)


def other_channels(found: Checkup) -> list[Path]:
    """The few files of a folder that have colours where the others are grey, or are grey where these have colours.

    Few are less than half of them. Three channels that are equal are grey, which some of the files tell.
    """
    grey, colour = ([file for file in found.files if found.channels.get(file) == count] for count in (1, 3))
    if len(grey) == len(colour):
        return []
    few = min(grey, colour, key=len)
    return few if few and any(_has_colours(colour[n]) for n in at_equal_distances(len(colour), _READ)) else []


def _has_colours(file: Path) -> bool:
    try:
        raw = read_raw(file)
    except ImageError:
        return False  # said by who reads it next
    return raw.ndim == 3 and bool((raw != raw[:, :, :1]).any())


def about_other_channels(found: Checkup, few: Sequence[Path]) -> tuple[str, str]:
    """What to say about `other_channels`, and what to do.

    Args:
        few: some of them, at least one.
    """
    count = found.channels[few[0]]
    names = shortlist([printable(file.relative_to(found.folder).as_posix()) for file in few])
    have = f"{len(few)} of {len(found.files)} images {'has' if len(few) == 1 else 'have'}"
    them = "it" if len(few) == 1 else "them"
    channels = {1: "1 channel", 3: "3 channels"}
    remedy = f"convert {them} to {channels[4 - count]} or take {them} out of the folder"
    if found.depth != "uint8":  # 8-bit images have the window 0 to 255, whatever they hold
        remedy += "; a window that is chosen from the images is chosen from all of them"
    return f"{printable(found.folder.name)}: {have} {channels[count]} and the others {4 - count}: {names}", remedy


def say_other_channels(found: Checkup) -> None:
    """Warn on the console of `other_channels`, before a training learns from them in silence."""
    if few := other_channels(found):
        print("WARNING: {}; {}".format(*about_other_channels(found, few)), file=sys.stderr)


def shortlist(names: Sequence[str]) -> str:
    """`a.png, b.png`, cut after ten names."""
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])
