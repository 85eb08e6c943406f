"""Pictures of a translated or explained split: files that mirror the input's folders, and a page of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from data.images import DomainFormat, encode, unit_to_uint8
from util.files import write_atomic
from util.visual.files import png_bytes
from util.visual.html import Row, write_results_page

Stored = tuple[Tensor, DomainFormat]  # (C, H, W) in [0, 1], and the format it is written in
PREVIEWS = "page"


class Results:
    """Collects the pictures of each input and writes them at their own depth.

    Args:
        folder: where everything goes.
        pattern: path of a picture below it, without suffix, from `{kind}` and `{stem}` (the input's path below its
            folder, without suffix).
    """

    def __init__(self, folder: Path, pattern: str) -> None:
        self.folder, self._pattern = folder, pattern
        self._rows: list[Row] = []
        self._stems: dict[Path, str] = {}
        self._taken: set[str] = set()

    def add(self, file: Path, pictures: Mapping[str, Stored | np.ndarray], caption: str = "") -> None:
        """Write one input's pictures.

        Args:
            file: the input, relative to its folder.
            pictures: by kind: pixels to store with their format, or an (H, W, 3) uint8 drawing.
            caption: heading of the row on the page; the file's name without one.
        """
        stem = self.stem_of(file)
        cells = []
        for kind, picture in pictures.items():
            target = self.path(kind, stem)
            if isinstance(picture, np.ndarray):
                write_atomic(target, png_bytes(picture))
            else:
                target = self._store(target, kind, stem, picture)
            cells.append((kind, target.relative_to(self.folder).as_posix()))
        self._rows.append(Row(caption or file.as_posix(), cells))

    def path(self, kind: str, stem: str, suffix: str = ".png") -> Path:
        """Where a picture of that kind is written."""
        return self.folder / (self._pattern.format(kind=kind, stem=stem) + suffix)

    def shown(self, kind: str, stem: str, fmt: DomainFormat) -> Path:
        """The file a browser should show for a picture stored in a format: a preview of 8 bits for 16-bit counts."""
        deep = fmt.depth == "uint16"
        return self.folder / PREVIEWS / kind / f"{stem}.png" if deep else self.path(kind, stem)

    def stem_of(self, file: Path) -> str:
        """The input's path without suffix; with it where an earlier input has taken that stem.

        Raises:
            ValueError: the path leads out of the results folder.
        """
        pure = PurePosixPath(file.as_posix())
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError(f"{file}: a result may not be written outside {self.folder}")
        if file not in self._stems:
            stem = pure.with_suffix("").as_posix()
            while stem in self._taken:
                stem += f"_{pure.suffix.lstrip('.')}"
            self._taken.add(stem)
            self._stems[file] = stem
        return self._stems[file]

    def write_page(self, title: str, text: str = "", facts: Mapping[str, str] | None = None) -> Path:
        """Write `index.html` over everything that was added; returns its path."""
        path = self.folder / "index.html"
        write_results_page(path, title, self._rows, text, facts=facts)
        return path

    def _store(self, target: Path, kind: str, stem: str, picture: Stored) -> Path:
        """Write pixels in their format; returns the file a browser should show."""
        pixels, fmt = picture
        written = encode(target, pixels, fmt)[0]
        if fmt.depth != "uint16":
            return written
        # Browsers show 16-bit counts over the whole range of the type, where an infrared image is almost black.
        preview = self.shown(kind, stem, fmt)
        write_atomic(preview, png_bytes(unit_to_uint8(pixels)))
        return preview
