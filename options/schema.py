"""Options as frozen dataclasses: a field made by `option()` is at once a flag, a YAML key and a log column."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from util.errors import UserError, printable

Size = tuple[int, int]  # (height, width) in pixels; one number on the command line means a square
LONGEST_NAME = 200  # bytes; file systems end at 255, and names of files are made from those of runs


class OptionError(UserError, ValueError):
    """A value that cannot be used; the message names the flag, the value and the remedy."""


@dataclass(frozen=True)
class Spec:
    """What a flag says about itself beside its type and default."""

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    aliases: Sequence[str] = (),
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: the default value; its meaning must be the published code's where the option is published.
        help: one line: what it does, its unit, what a special value means.
        low, high: inclusive bounds of a number (of each number in a list).
        choices: the allowed words; compared without regard to case and stored as spelled here.
        aliases: older spellings of the same flag.
    """
    return field(default=default, metadata={"spec": Spec(help, low, high, tuple(choices), tuple(aliases))})


@dataclass(frozen=True)
class Group:
    """Base of every group of options. The first line of the docstring is its title in `--help`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Options that shape weights or give them their meaning: a run that goes on keeps them.
    SHAPES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check(item.name, getattr(self, item.name), spec_of(item))

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults that follow from what was given (a mode that sets several options), by option name."""
        return {}


G = TypeVar("G", bound=Group)


def spec_of(item: dataclasses.Field[Any]) -> Spec:
    """What `option()` noted about a field."""
    spec = item.metadata.get("spec")
    if not isinstance(spec, Spec):
        raise TypeError(f"the field {item.name} of a group of options must be made by option()")
    return spec


def fields_of(group: type[Group]) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Name -> (resolved type, field), in the order of declaration."""
    hints = typing.get_type_hints(group)
    return {item.name: (hints[item.name], item) for item in dataclasses.fields(group)}


def check(name: str, value: Any, spec: Spec) -> None:
    """Raise OptionError where a value is out of its bounds or not among its choices."""
    values = value if isinstance(value, tuple) else (value,)
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int | float):
            continue
        if math.isnan(one):
            raise OptionError(f"--{name} nan: is no number")
        if (spec.low is not None and one < spec.low) or (spec.high is not None and one > spec.high):
            raise OptionError(f"--{name} {show(value)}: must be {describe_range(spec)}")
    for one in values:
        if spec.choices and one is not None and one not in spec.choices:
            raise OptionError(f"--{name} {shorten(str(one)) or repr(one)}: choose one of {', '.join(spec.choices)}")


def check_given(group: Group) -> None:
    """Raise OptionError where a number is infinite, unless the option's default is, or a text takes several lines."""
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        if isinstance(value, float) and math.isinf(value) and item.default != value:
            raise OptionError(f"--{item.name} {value}: must be a finite number")
        if isinstance(value, str):
            check_line(item.name, value)


def check_line(flag: str, text: str) -> None:
    """Raise OptionError where a text cannot be shown on a line, as messages, YAML and logs show it."""
    if not text.isprintable():
        raise OptionError(f"--{flag} {shorten(text)}: holds a line break or another character that cannot be printed")


def check_name(flag: str, name: str, folders: bool = False) -> None:
    """Raise OptionError where a value cannot be, or leads out of, the folder or file that it is to name.

    Args:
        folders: sub-folders may be named, as in `group/run`.
    """
    check_line(flag, name)
    parts = re.split(r"[/\\]", name)
    if not name.strip():
        reason = "is empty"
    elif Path(name).is_absolute() or not all(parts) or {".", ".."} & set(parts):
        reason = "leads into another folder"
    elif len(parts) > 1 and not folders:
        reason = "is to be one word, without / and \\"
    elif max(len(part.encode()) for part in parts) > LONGEST_NAME:
        reason = f"is longer than {LONGEST_NAME} bytes"
    else:
        return
    raise OptionError(f"--{flag} {shorten(name) or repr(name)}: {reason}; give a plain name")


def check_place(flag: str, path: str) -> None:
    """Raise OptionError where a path is empty, or cannot be shown on a line."""
    if not path.strip():
        raise OptionError(f"--{flag} {path!r}: is empty; give a path")
    check_line(flag, path)


def shorten(text: str, most: int = 100) -> str:
    """A given text as a message shows it: on one line, and cut where it is long."""
    line = printable(text)
    return line if len(line) <= most else f"{line[:most]}..."


def describe_range(spec: Spec) -> str:
    """`at least 1`, `between 0 and 1`, or nothing for an option without bounds."""
    low, high = (f"{bound:.12g}" if bound is not None else "" for bound in (spec.low, spec.high))
    if low and high:
        return f"between {low} and {high}"
    return f"at least {low}" if low else f"at most {high}" if high else ""


def show(value: Any) -> str:
    """A value as it would be typed."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def convert(name: str, kind: Any, spec: Spec, value: Any) -> Any:
    """Turn what a flag or a YAML key gave into the field's type.

    Raises:
        OptionError: the text is no value of that type.
    """
    optional = isinstance(kind, types.UnionType) and type(None) in typing.get_args(kind)
    if optional:
        if value is None or str(value).lower() in ("none", "null"):
            return None
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    if value is None:  # a YAML key without a value
        raise OptionError(f"--{name}: has no value; expected {type_name(kind)}")
    text = show(value).strip()
    if not text and kind in (bool, int, float, Size):
        raise OptionError(f"--{name}: has no value; expected {type_name(kind)}")
    try:
        if kind == Size:
            numbers = [int(part) for part in text.replace(" ", ",").split(",") if part]
            if len(numbers) not in (1, 2):
                raise ValueError
            return (numbers[0], numbers[-1])
        if typing.get_origin(kind) is tuple:
            parse = typing.get_args(kind)[0]
            return tuple(parse(part) for part in text.replace(" ", ",").split(",") if part)
        return _scalar(kind, text, spec)
    except ValueError:
        raise OptionError(f"--{name} {shorten(text)}: expected {type_name(kind)}") from None


def _scalar(kind: Any, text: str, spec: Spec) -> Any:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]
    if kind is str and spec.choices:
        return next((choice for choice in spec.choices if choice.lower() == text.lower()), text)
    return kind(text)


_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "words"}


def type_name(kind: Any) -> str:
    """The type of a flag in words, for messages and help."""
    if isinstance(kind, types.UnionType):
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    if kind == Size:
        return "one size in pixels, or height and width"
    if typing.get_origin(kind) is tuple:
        return f"a comma list of {_PLURALS[typing.get_args(kind)[0]]}"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[kind]


def build(group: type[G], values: Mapping[str, Any]) -> G:
    """A group from given values (texts or typed); names that are not its own are left alone."""
    known = fields_of(group)
    return group(
        **{
            name: convert(name, kind, spec_of(item), values[name])
            for name, (kind, item) in known.items()
            if name in values
        }
    )
