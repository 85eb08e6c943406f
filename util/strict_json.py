"""JSON from elsewhere, read strictly: no NaN, no doubled keys, no surprise but one clear error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from util.errors import UserError, printable

MOST_BYTES = 2**28


class JsonError(UserError, ValueError):
    """A JSON file that is damaged or is not what it should be; the message names the file and the place in it."""


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        JsonError: it is missing, above `most_bytes`, no UTF-8, no JSON, or holds NaN, infinity or a key twice.
    """
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise JsonError(f"{printable(path)}: {size:,} bytes are more than such a file can have ({most_bytes:,})")
        return json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except JsonError:
        raise
    except OSError as error:
        raise JsonError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    except RecursionError:
        raise JsonError(f"{printable(path)}: is damaged: nested too deeply") from None
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise JsonError(f"{printable(path)}: is damaged: {printable(error)}") from error


class Fields:
    """The fields of one JSON object, each asked for by its type.

    Args:
        content: what should be an object.
        where: the file, and the place in it, for messages.

    Raises:
        JsonError: from every method: a field that lacks, or has another type.
    """

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise JsonError(f"{where}: should be an object, not {_shown(content)}")
        self.content: Mapping[str, Any] = content
        self._where = where

    def text(self, name: str) -> str:
        """A string."""
        value = self._get(name)
        return value if isinstance(value, str) else self.refuse(name, "text")

    def whole(self, name: str, low: int = 0) -> int:
        """A whole number of at least `low`."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            self.refuse(name, f"a whole number of at least {low}")
        return value

    def number(self, name: str) -> float | None:
        """A number, or None where it is null."""
        value: float | None = self._get(name)
        return value if is_number_or_none(value) else self.refuse(name, "a number or null")

    def items(self, name: str) -> Sequence[Any]:
        """A list."""
        value = self._get(name)
        return value if isinstance(value, list) else self.refuse(name, "a list")

    def object(self, name: str) -> Fields:
        """An object."""
        return Fields(self._get(name), f"{self._where}, {printable(name)}")

    def refuse(self, name: str, wanted: str) -> NoReturn:
        """Raise: the field is not what it should be."""
        raise JsonError(
            f"{self._where}: {printable(name)} should be {wanted}, not {_shown(self.content.get(name))}; write it anew"
        )

    def _get(self, name: str) -> Any:
        if name not in self.content:
            raise JsonError(f"{self._where}: lacks {printable(name)}; write it anew")
        return self.content[name]


def is_number_or_none(value: Any) -> bool:
    """Whether a JSON value is a number or null; true and false are neither."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 40 else text[:37] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond what a number can hold")
    return value
