"""Damaged copies of valid files: every one follows from a seed and a number."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.faults.specimens import PNG_START, Specimen

Draws = np.random.Generator


@dataclass(frozen=True)
class Mutant:
    """A file to be read.

    Attributes:
        number: the mutant follows from a seed and this number alone.
        specimen, family: what it was made from.
        strategies: what was done to it, in order.
        name: its file name; the extension may lie.
        data: its content.
        allowed: what a reader may do beside refusing it: "nothing", return what the specimen holds ("same"),
            or return something else ("any"), because nothing in the file tells the damage.
    """

    number: int
    specimen: str
    family: str
    strategies: tuple[str, ...]
    name: str
    data: bytes
    allowed: str


def mutant(specimens: Sequence[Specimen], foreign: Sequence[bytes], seed: int, number: int) -> Mutant:
    """Mutant `number` of a run: one kind of damage, or two in a quarter of the files.

    Args:
        specimens: the valid files.
        foreign: contents that are no such file at all.
    """
    draws = np.random.default_rng([seed, number])
    specimen = specimens[int(draws.integers(len(specimens)))]
    extensions = sorted({Path(one.name).suffix for one in specimens})
    name = Path(specimen.name).name
    renamed = f"renamed{extensions[int(draws.integers(len(extensions)))]}" if len(extensions) > 1 else name
    if draws.random() < 0.04:
        content = foreign[int(draws.integers(len(foreign)))]
        allowed = "any" if specimen.family in TEXTS else "nothing"
        return Mutant(number, specimen.name, specimen.family, ("foreign",), renamed, content, allowed)
    kinds = [kind for kind in STRATEGIES if _fits(kind, specimen.family, extensions)]
    steps = tuple(kinds[int(i)] for i in draws.integers(len(kinds), size=2 if draws.random() < 0.25 else 1))
    data = specimen.data
    for step in steps:
        if step == "splice":
            data = _splice(data, specimens[int(draws.integers(len(specimens)))].data, draws)
        else:
            data = STRATEGIES[step](data, specimen.family, draws)
    name = renamed if "rename" in steps else name
    return Mutant(number, specimen.name, specimen.family, steps, name, data, _allowed(specimen, steps, data))


def _fits(kind: str, family: str, extensions: Sequence[str]) -> bool:
    limits = {"checksum": family in CHECKSUMS, "words": family in TEXTS, "rename": len(extensions) > 1}
    return limits.get(kind, True)


def _allowed(specimen: Specimen, steps: Sequence[str], data: bytes) -> str:
    """See `Mutant.allowed`. A truncated file of most kinds, and all that a checksum covers, can be told."""
    family = specimen.family
    if data == specimen.data:
        return "same"
    if family in TEXTS or "checksum" in steps:
        return "any"
    if family in SEALED:
        # Two valid files can be spliced to a third; only then do all checksums fit that nobody computed anew.
        return "any" if "splice" in steps and SEALED[family](data) else "same"
    # In a JPEG whose end is zeros the end marker is missing.
    return "same" if steps == ("cut",) or (family, *steps) == ("jpeg", "zero tail") else "any"


# --- without knowledge of the format


def _place(data: bytes, draws: Draws) -> int:
    """Any place, and every second time one of the first 200, where headers are."""
    most = len(data) if draws.random() < 0.5 else min(len(data), 200)
    return int(draws.integers(max(most, 1)))


def _length(data: bytes, draws: Draws) -> int:
    """Of a block: mostly short, at times up to the whole file."""
    return int(min(2 ** draws.uniform(0, 12), max(len(data), 1)))


def _flip(data: bytes, family: str, draws: Draws) -> bytes:
    changed = bytearray(data)
    for _ in range(int(draws.choice([1, 1, 1, 2, 4, 16]))):
        if changed:
            changed[_place(data, draws)] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def _set(data: bytes, family: str, draws: Draws) -> bytes:
    place, count = _place(data, draws), int(draws.choice([1, 1, 2, 4]))
    value = bytes([int(draws.choice([0, 1, 0x7F, 0x80, 0xFF, int(draws.integers(256))]))])
    return (data[:place] + value * count + data[place + count :])[: len(data)]


def _cut(data: bytes, family: str, draws: Draws) -> bytes:
    """At any place, in the header, just before the end, or at a multiple of a block of a disk."""
    ends = [_place(data, draws), len(data) - 1 - int(draws.integers(min(20, len(data) or 1))), len(data) // 512 * 512]
    return data[: max(0, min(int(draws.choice(ends)), len(data) - 1))]


def _insert(data: bytes, family: str, draws: Draws) -> bytes:
    place, count = _place(data, draws), _length(data, draws)
    block = bytes(count) if draws.random() < 0.3 else draws.bytes(count)
    return data[:place] + block + data[place:]


def _delete(data: bytes, family: str, draws: Draws) -> bytes:
    place = _place(data, draws)
    return data[:place] + data[place + _length(data, draws) :]


def _repeat(data: bytes, family: str, draws: Draws) -> bytes:
    """A block a second time, elsewhere, inserted or written over what is there."""
    source, target, count = _place(data, draws), _place(data, draws), _length(data, draws)
    block = data[source : source + count]
    return data[:target] + block + data[target + (len(block) if draws.random() < 0.5 else 0) :]


def _zero_tail(data: bytes, family: str, draws: Draws) -> bytes:
    """What a crash leaves of a file whose size was already written down."""
    place = _place(data, draws)
    return data[:place] + bytes(len(data) - place)


def _splice(data: bytes, other: bytes, draws: Draws) -> bytes:
    """The beginning of one file and the end of another, cut at one place or at two."""
    place = _place(data, draws)
    return data[:place] + other[place if draws.random() < 0.5 else _place(other, draws) :]


# --- with it


def _size(data: bytes, family: str, draws: Draws) -> bytes:
    """A size, length, count or offset that is zero, negative, huge or a little off."""
    fields = list(FIELDS[family](data)) if family in FIELDS else []
    places = [(place, kind) for place, kind in fields if place + struct.calcsize(kind) <= len(data)]
    if not places:
        return _set(data, family, draws)
    place, kind = places[int(draws.integers(len(places)))]
    top = 256 ** struct.calcsize(kind)
    old = int(struct.unpack_from(kind, data, place)[0])
    values = [0, 1, 3, top - 1, top // 2, top // 2 - 1, 16_000, 2**16 - 1, 2**24, old + 1, old - 1, old * 2, old * 256]
    new = struct.pack(kind, int(draws.choice(np.array(values, dtype=object))) % top)
    return data[:place] + new + data[place + len(new) :]


def _checksum(data: bytes, family: str, draws: Draws) -> bytes:
    """Damage whose checksums are computed anew: what an attacker, not a disk, writes."""
    step = [_flip, _set, _size, _zero_tail][int(draws.choice([0, 1, 2, 2, 3]))]
    return CHECKSUMS[family](step(data, family, draws))


def _words(data: bytes, family: str, draws: Draws) -> bytes:
    """A word or number of a text, replaced by what its reader may not expect there."""
    words = list(re.finditer(rb"[\w.+-]+", data))
    if not words:
        return data
    word = words[int(draws.integers(len(words)))]
    return data[: word.start()] + WORDS[int(draws.integers(len(WORDS)))] + data[word.end() :]


def state_with_checksum(data: bytes) -> bytes:
    """A training state with the right checksum behind its magic number."""
    return data[:8] + hashlib.sha256(data[40:]).digest() + data[40:]


def _png_fields(data: bytes) -> Iterator[tuple[int, str]]:
    yield from ((16, ">I"), (20, ">I"))
    for place, _ in _png_chunks(data):
        yield place, ">I"


def _png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    place = len(PNG_START)
    while place + 12 <= len(data):
        length = int(struct.unpack_from(">I", data, place)[0])
        if place + 12 + length > len(data):
            return
        yield place, length
        place += 12 + length


def png_with_checksums(data: bytes) -> bytes:
    """The same PNG with the right checksum behind each whole chunk."""
    changed = bytearray(data)
    for place, length in _png_chunks(data):
        end = place + 8 + length
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
    return bytes(changed)


def _jpeg_fields(data: bytes) -> Iterator[tuple[int, str]]:
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        yield place + 2, ">H"
        if data[place + 1] in (0xC0, 0xC1, 0xC2):
            yield from ((place + 5, ">H"), (place + 7, ">H"))
        if data[place + 1] == 0xDA:
            return
        place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])


def _tiff_fields(data: bytes) -> Iterator[tuple[int, str]]:
    """Count, value and type of each entry of the first directory, and where that directory is."""
    if len(data) < 16 or data[:2] not in (b"II", b"MM"):
        return
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    number, short = ("Q", "Q") if big else ("I", "H")
    start = 8 if big else 4
    yield start, order + number
    place = int(struct.unpack_from(order + number, data, start)[0])
    if place + 8 > len(data):
        return
    yield place, order + short
    count = int(struct.unpack_from(order + short, data, place)[0])
    place += struct.calcsize("<" + short)
    for _ in range(min(count, 64)):
        width = struct.calcsize("<" + number)
        yield from ((place + 2, order + "H"), (place + 4, order + number), (place + 4 + width, order + number))
        place += 4 + 2 * width


def _bmp_fields(data: bytes) -> Iterator[tuple[int, str]]:
    """File size, start of the pixels, header size, width, height, bits, compression, size, colours."""
    yield from ((place, "<I") for place in (2, 10, 14, 18, 22, 30, 34, 46))
    yield from ((26, "<H"), (28, "<H"))


def _npy_fields(data: bytes) -> Iterator[tuple[int, str]]:
    """The header's length and the digits of the header, which are text."""
    yield 8, "<H"
    yield from ((place, "B") for place in range(10, min(128, len(data))) if data[place : place + 1].isdigit())


FIELDS: dict[str, Callable[[bytes], Iterator[tuple[int, str]]]] = {
    "png": _png_fields,
    "jpeg": _jpeg_fields,
    "tiff": _tiff_fields,
    "bmp": _bmp_fields,
    "npy": _npy_fields,
}
# Text without a checksum: what has been cut off, or changed to something else that is valid, cannot be told.
TEXTS = frozenset({"labels", "options", "domains", "log"})
# Families whose checksums can be computed anew.
CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {"png": png_with_checksums, "state": state_with_checksum}
# Families under checksums, and whether those of a file that is spliced from two can fit: an archive is read from
# its end, where its directory is.
SEALED: dict[str, Callable[[bytes], bool]] = {
    "png": lambda data: png_with_checksums(data) == data,
    "state": lambda data: state_with_checksum(data) == data,
    "weights": lambda data: True,
}

# fmt: off
WORDS = (
    b"", b"-1", b"0", b"0.5", b"1e999", b"nan", b"-inf", b"9" * 30, b"9" * 5000, b"true", b"null", b"~", b"[1, 2]",
    b"[]", b"{a: 1}", b'{"a": 1}', b'"', b"'", b",", b"\n", b"\t", b"\r", b"\0", b"\x1b[31m", b"\xff",
    "\u00e9\u2028".encode(), b"\\ud800", b"../../x", b"/", b"&a", b"*a", b"!!python/name:os.system", b"2020-01-01",
    b"%", b"{}", b"x" * 3000,
)
# fmt: on

STRATEGIES: dict[str, Callable[[bytes, str, Draws], bytes]] = {
    "flip": _flip,
    "set": _set,
    "cut": _cut,
    "insert": _insert,
    "delete": _delete,
    "repeat": _repeat,
    "zero tail": _zero_tail,
    "size": _size,
    "checksum": _checksum,
    "words": _words,
    "splice": lambda data, family, draws: data,
    "rename": lambda data, family, draws: data,
}
