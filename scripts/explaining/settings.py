"""Settings of single explainers, as `--method_settings scorecam.channels=64,sscam.samples=10` gives them."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from options.schema import OptionError, Spec, convert, shorten

FLAG = "method_settings"


def explainers(names: Iterable[str], words: Collection[str]) -> dict[str, Explainer]:
    """Explainers by name, each with its settings.

    Args:
        names: of EXPLAINERS, those asked for.
        words: METHOD.SETTING=VALUE.

    Raises:
        OptionError: a word that is none of that form, of a method that is not among the names, of a setting that the
            method has not, or of a value that it refuses or that is not finite.
        UnknownNameError: there is no such method.
    """
    names = list(names)
    given: dict[str, dict[str, Any]] = {}
    for word in words:
        method, setting, value = _parsed(word)
        if method not in names:
            raise OptionError(f"--{FLAG} {shorten(word)}: {_absent(method, names)}")
        given.setdefault(method, {})[setting] = value
    return {name: _built(name, given.get(name, {})) for name in names}


def _built(name: str, settings: Mapping[str, Any]) -> Explainer:
    try:
        return EXPLAINERS.get(name)(**settings)
    except ExplainError as error:
        if not settings:
            raise
        raise OptionError(f"--{FLAG}: {error}") from error


def _parsed(word: str) -> tuple[str, str, Any]:
    """Method, name and value of a setting."""
    left, equals, text = word.partition("=")
    method, dot, setting = left.strip().rpartition(".")
    if not equals or not dot:
        raise OptionError(f"--{FLAG} {shorten(word)}: write METHOD.SETTING=VALUE, for example scorecam.channels=64")
    known = settings_of(method)
    if setting not in known:
        have = f"{method} has {', '.join(known)}" if known else f"{method} has no settings"
        raise OptionError(f"--{FLAG} {shorten(word)}: no such setting; {have}")
    value = convert(f"{FLAG} {left.strip()}", known[setting], Spec(""), text)
    if isinstance(value, float) and not math.isfinite(value):  # a map of NaN alone would be called flat
        raise OptionError(f"--{FLAG} {shorten(word)}: give a finite number")
    return method, setting, value


def settings_of(method: str) -> dict[str, Any]:
    """The types of a method's settings by name.

    Raises:
        UnknownNameError: there is no such method.
    """
    start = EXPLAINERS.get(method).__init__
    if start is object.__init__:
        return {}
    kinds = typing.get_type_hints(start)
    return {name: kinds[name] for name in inspect.signature(start).parameters if name != "self"}


def _absent(method: str, names: Collection[str]) -> str:
    return f"{method} is not asked for ({', '.join(names)}); add it to --cam_method, or leave the setting out"
