"""Registries that find what can be added by its file name and import only the file asked for."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from util.errors import UserError

T = TypeVar("T")


class UnknownNameError(UserError, ValueError):
    """A name that no file in the registry's folder provides."""


def did_you_mean(name: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


class Registry(Generic[T]):
    """Classes of one kind, one file each: `<package>/<NAME><suffix>.py` registers itself under NAME.

    `++` in a name is `_pp` in the file's: `gradcam++` is registered by `gradcam_pp_explainer.py`.

    Args:
        kind: the word used in messages and the flag that chooses, for example `model`.
        package: the package that holds the files, for example `models`.
        suffix: what follows the name in the file name, for example `_model`.
    """

    def __init__(self, kind: str, package: str, suffix: str) -> None:
        self.kind, self.package, self.suffix = kind, package, suffix
        self._known: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; the name must be the file's own, so that the registry can find the file."""

        def add(cls: type[T]) -> type[T]:
            expected = self._module(name)
            if cls.__module__ != expected:
                raise ValueError(f"{self.kind} '{name}' must be defined in {expected}, not in {cls.__module__}")
            self._known[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """Every name a file exists for, without importing any of them."""
        spec = importlib.util.find_spec(self.package)
        folders = (spec.submodule_search_locations or []) if spec else []
        files = [file for folder in folders for file in Path(folder).glob(f"*{self.suffix}.py")]
        stems = [file.stem[: len(file.stem) - len(self.suffix)] for file in files]
        return sorted(f"{stem[:-3]}++" if stem.endswith("_pp") else stem for stem in stems)

    def get(self, name: str) -> type[T]:
        """The class registered under `name`; imports its file only.

        Raises:
            UnknownNameError: no such file; the message lists the known names.
        """
        known = self.names()
        if name not in known:
            raise UnknownNameError(
                f"--{self.kind} {name}: unknown{did_you_mean(name, known)}; known: {', '.join(known)}"
            )
        importlib.import_module(self._module(name))
        return self._known[name]

    def _module(self, name: str) -> str:
        stem = f"{name[:-2]}_pp" if name.endswith("++") else name
        return f"{self.package}.{stem}{self.suffix}"
