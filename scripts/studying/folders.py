"""Folders of pictures of the same inputs, as test.py writes them, read side by side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from data.images import EXTENSIONS, DomainFormat, WindowRule, decode, estimate_format, image_size, parse_window
from options.schema import OptionError
from util.errors import printable


class PictureFolders:
    """Pictures that several folders have in common.

    Args:
        methods: name -> folder of a method's translations.
        context: name -> folder of what stands beside them: `input`, `reference`.
        window: how counts above 8 bits are shown, as --window_B: one window for all methods.
        seed: of the images that a window is estimated from.

    Attributes:
        files: name -> path without suffix -> file.
        common: those paths that every folder has, in order.

    Raises:
        OptionError: no such folder, or no image in it.
    """

    def __init__(
        self, methods: Mapping[str, Path], context: Mapping[str, Path], window: str = "auto", seed: int = 0
    ) -> None:
        self._methods, self._context, self._seed = tuple(methods), tuple(context), seed
        self._window = window
        self.files = {name: files_below(folder) for name, folder in {**methods, **context}.items()}
        self.common = sorted(set.intersection(*(set(files) for files in self.files.values())))

    def counts(self) -> str:
        """How many pictures each folder has, for a message."""
        return ", ".join(f"{printable(name)} {len(files)}" for name, files in self.files.items())

    def pixels(self, name: str, stem: str) -> Tensor:
        """(3, H, W) in [0, 1].

        Raises:
            ImageError: the file cannot be read.
        """
        return decode(self.files[name][stem], 3, self._formats[name])

    def size(self, name: str, stem: str) -> tuple[int, int]:
        """As the file's header says."""
        return image_size(self.files[name][stem])

    @cached_property
    def _formats(self) -> dict[str, DomainFormat]:
        """One window for all methods: a method may not look better for its contrast alone. The reference is of the
        same domain, and shares it where it has the same depth."""
        of_methods = [file for name in self._methods for file in self.files[name].values()]
        shared = estimate_format(sorted(of_methods), _window_rule(self._window), self._seed)
        formats = dict.fromkeys(self._methods, shared)
        for name in self._context:
            own = estimate_format(sorted(self.files[name].values()), parse_window("auto"), self._seed)
            formats[name] = shared if name == "reference" and own.depth == shared.depth else own
        return formats


def files_below(folder: Path) -> dict[str, Path]:
    """Images below a folder by their path without suffix; of several suffixes the PNG, which test.py writes as preview.

    Raises:
        OptionError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise OptionError(f"{printable(folder)}: no such folder of images")
    found = [file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
    if not found:
        raise OptionError(f"{printable(folder)}: holds no image")
    found.sort(key=lambda file: (file.suffix.lower() == ".png", file))  # the last of equal stems counts
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}


def _window_rule(text: str) -> WindowRule:
    try:
        return parse_window(text)
    except ValueError as error:
        raise OptionError(f"--window: {error}") from None
