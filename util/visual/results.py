"""Pictures of a translated or explained split: files that mirror the input's folders, and a page of them."""

from __future__ import annotations

import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np
from torch import Tensor

from data.images import DomainFormat, encode, unit_to_uint8
from util import sharing
from util.background import Background
from util.errors import UserError, printable
from util.files import check_writable, inside, write_atomic
from util.visual.files import png_bytes
from util.visual.html import Row, write_results_page

Stored = tuple[Tensor, DomainFormat]  # (C, H, W) in [0, 1], and the format it is written in
PREVIEWS = "page"
SUFFIXES = (".png", ".tif")  # of pictures that are written here
LONGEST_FILE = 255  # bytes of a file's name, on the usual file systems
LONGEST_KIND = 24  # bytes set aside for the kind of a picture


class ResultsError(UserError, ValueError):
    """A place that results may not be written to; the message names it."""


class Results:
    """Collects the pictures of each input and writes them at their own depth, inside one folder.

    Args:
        folder: where everything goes; it may be a link itself, but no link in it may lead out of it.
        pattern: path of a picture below it, without suffix, from `{kind}` and `{stem}` (the input's path below its
            folder, without suffix).
        longest_kind: bytes of the longest kind; what is left is for the names of the inputs.
        threads: encode and write pictures beside the caller. Then an error may be raised by a later call, and files are
            certain to be there after `write_page`, or at the end of a `with` block of this object.
        files: all inputs that are to come, as `add` is given them: the names of their results then do not depend on
            which process reads them, nor on whether it can.

    Raises:
        UserError: nothing can be written there, or a file leads out of it.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str,
        longest_kind: int = LONGEST_KIND,
        threads: int = 0,
        files: Iterable[Path] = (),
    ) -> None:
        check_writable(folder, "--results_dir")
        self._background = Background(threads)
        self.folder, self._pattern = folder, pattern
        self._rows: list[Row] = []
        self._stems: dict[Path, str] = {}
        self._taken: set[str] = set()
        self._shortened = 0
        self._of_the_page: set[str] = set()  # kinds that no file is named after
        self._inside: set[Path] = set()  # folders that are known to lie in the results folder
        fixed = PurePosixPath(pattern).name.format(kind="k" * longest_kind, stem="")
        self._longest_stem = LONGEST_FILE - len(f"{fixed}.png")
        for file in files:
            self.stem_of(file)

    def add(
        self,
        file: Path,
        pictures: Mapping[str, Stored | np.ndarray | Callable[[], np.ndarray]],
        caption: str = "",
        hidden: Collection[str] = (),
        first: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write one input's pictures.

        Args:
            file: the input, relative to its folder.
            pictures: by kind: pixels to store with their format, or an (H, W, 3) uint8 drawing, or what draws it.
            caption: heading of the row on the page; the file's name without one.
            hidden: kinds that are written and not shown on the page.
            first: drawings by kind that the page alone needs, before the others: they are written beside it.

        Raises:
            ResultsError: the file, or a link in the results folder, leads out of that folder.
            OSError: a picture cannot be written, with `threads` perhaps one of an input before.
        """
        stem = self.stem_of(file)
        cells = []
        for kind, drawing in (first or {}).items():
            target = self._checked(self.folder / PREVIEWS / kind / f"{stem}.png")
            self._background.do(str(target), partial(_draw, target, drawing))
            cells.append((kind, target.relative_to(self.folder).as_posix()))
            self._of_the_page.add(kind)
        for kind, picture in pictures.items():
            target = self._checked(self.path(kind, stem))
            if isinstance(picture, tuple):
                pixels, fmt = picture
                preview = self._checked(self.shown(kind, stem, fmt))
                self._background.do(str(target), partial(_store, target, preview, pixels, fmt))
                target = preview
            else:
                self._background.do(str(target), partial(_draw, target, picture))
            if kind not in hidden:
                cells.append((kind, target.relative_to(self.folder).as_posix()))
        self._rows.append(Row(caption or file.as_posix(), cells))

    def add_array(self, file: Path, kind: str, values: np.ndarray) -> None:
        """Write an input's values as they are, as `.npy`; the page does not show them.

        Raises:
            ResultsError: as for `add`.
        """
        content = io.BytesIO()
        np.save(content, values)
        target = self._checked(self.path(kind, self.stem_of(file), ".npy"))
        self._background.do(str(target), partial(write_atomic, target, content.getvalue()))

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._background.__exit__(kind, error, at)

    def gather(self, numbers: Sequence[int]) -> None:
        """Wait for this process's files, and put the rows of all processes that share the work into one page's order.

        Args:
            numbers: of the inputs added here, one by one.
        """
        self.wait()
        self._rows = sharing.in_order(numbers, self._rows)

    def wait(self) -> None:
        """Until every file is written; raises the first error of any."""
        self._background.wait()

    def store(self, file: Path, kind: str, pixels: Tensor, fmt: DomainFormat) -> list[Path]:
        """Write one picture of an input in its format, without a row on the page; returns the files.

        Raises:
            ResultsError: as for `add`.
        """
        return encode(self._checked(self.path(kind, self.stem_of(file))), pixels, fmt)

    def path(self, kind: str, stem: str, suffix: str = ".png") -> Path:
        """Where a picture of that kind is written."""
        return self.folder / (self._pattern.format(kind=kind, stem=stem) + suffix)

    def shown(self, kind: str, stem: str, fmt: DomainFormat) -> Path:
        """The file a browser should show for a picture stored in a format: a preview of 8 bits for 16-bit counts."""
        deep = fmt.depth == "uint16"
        return self.folder / PREVIEWS / kind / f"{stem}.png" if deep else self.path(kind, stem)

    def stem_of(self, file: Path) -> str:
        """The input's path without suffix; with it where an earlier input has taken that stem, and cut where too long.

        Two stems also count as one where they differ in case only, or in how accents are encoded: some systems make
        one file of them.

        Raises:
            ResultsError: the path leads out of the results folder.
        """
        # A name in another encoding than the system's has no text; a page and a table are text.
        pure = PurePosixPath(os.fsencode(file.as_posix()).decode(errors="replace"))
        if pure.is_absolute() or ".." in pure.parts:
            raise ResultsError(f"{printable(file)}: a result may not be written outside {self.folder}")
        if file not in self._stems:
            name, stem = pure.with_suffix("").as_posix(), self._short(pure.with_suffix(""))
            self._shortened += stem != name
            while _alike(stem) in self._taken:
                name += f"_{pure.suffix.lstrip('.')}"
                stem = self._short(PurePosixPath(name))
            self._taken.add(_alike(stem))
            self._stems[file] = stem
        return self._stems[file]

    def write_page(self, title: str, text: str = "", facts: Mapping[str, str] | None = None) -> Path:
        """Write `index.html` over everything that was added, once that is written; returns its path."""
        self.wait()
        path = self.folder / "index.html"
        if self._shortened:
            long = f"{self._shortened} names are too long for files made from them: they are cut and end in a checksum."
            text = f"{text}\n\n{long}" if text else long
        write_results_page(path, title, self._rows, text, facts=facts)
        return path

    def left_over(self) -> str:
        """What is to be said of pictures of other inputs that an earlier command has left in the folder; or nothing.

        They stay: what lies there may have been put there by somebody. The page does not show them.
        """
        kinds = sorted(
            {re.escape(kind) for row in self._rows for kind, _ in row.cells if kind not in self._of_the_page}
        )
        pattern = re.escape(self._pattern).replace(r"\{kind\}", f"(?:{'|'.join(kinds)})")
        shape, known = re.compile(pattern.replace(r"\{stem\}", "(?P<stem>.+)")), set(self._stems.values())
        found = 0
        for file in self.folder.rglob("*"):
            name = shape.fullmatch(file.relative_to(self.folder).with_suffix("").as_posix())
            found += name is not None and name["stem"] not in known and file.suffix in SUFFIXES
        if not found:
            return ""
        return (
            f"{found} pictures of other inputs, which an earlier command has left, are still in "
            f"{printable(self.folder)}; the page does not show them: remove them, or give another --results_dir"
        )

    def _short(self, stem: PurePosixPath) -> str:
        """The stem with a last part that leaves room for kind and suffix: cut, and told apart by a checksum."""
        whole = os.fsencode(stem.name)
        if len(whole) <= self._longest_stem:
            return stem.as_posix()
        checksum = hashlib.sha256(whole).hexdigest()[:8]
        kept = whole[: self._longest_stem - len(checksum) - 1].decode(errors="ignore")
        return stem.with_name(f"{kept}-{checksum}").as_posix()

    def _checked(self, target: Path) -> Path:
        """The path as it is, its folder being one inside the results folder, wherever links lead.

        Raises:
            ResultsError: it is not.
        """
        place = target.parent
        if place not in self._inside:
            if not inside(place, self.folder):
                raise ResultsError(
                    f"{printable(place)}: leads out of the results folder by a link; remove it, or give another "
                    "--results_dir"
                )
            self._inside.add(place)
        return target


def _store(target: Path, preview: Path, pixels: Tensor, fmt: DomainFormat) -> None:
    """Write pixels in their format, and the file a browser should show where that is another one."""
    encode(target, pixels, fmt)
    if preview != target:
        # Browsers show 16-bit counts over the whole range of the type, where an infrared image is almost black.
        write_atomic(preview, png_bytes(unit_to_uint8(pixels)))


def _draw(target: Path, picture: np.ndarray | Callable[[], np.ndarray]) -> None:
    write_atomic(target, png_bytes(picture if isinstance(picture, np.ndarray) else picture()))


def _alike(stem: str) -> str:
    """One text for all stems that some file systems take for one."""
    return unicodedata.normalize("NFC", stem).casefold()
