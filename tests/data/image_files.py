"""Image files of every kind, made by hand or by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import decoders
from data.images import read_raw

Array = NDArray[Any]
RNG = np.random.default_rng(0)
H, W = 12, 17
GRAY8 = RNG.integers(0, 256, (H, W)).astype(np.uint8)
RGB8 = RNG.integers(0, 256, (H, W, 3)).astype(np.uint8)
GRAY16 = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
RGB16 = RNG.integers(0, 65536, (H, W, 3)).astype(np.uint16)
FLOAT = RNG.normal(8000, 900, (H, W)).astype(np.float32)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(array: Array, colour: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of 8 or 16 bits after the standard; colour 0 gray, 2 RGB, 4 gray+alpha, 6 RGBA."""
    bits = array.itemsize * 8
    rows = b"".join(b"\0" + row.astype(array.dtype.newbyteorder(">")).tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    array: Array,
    order: Literal["<", ">"] = "<",
    deflate: bool = False,
    orientation: int = 1,
    colour: int | None = None,
    extra: tuple[int, ...] = (),
    planes: bool = False,
    big: bool = False,
) -> bytes:
    """A TIFF (or BigTIFF) of one strip after the standard; planes: (C, H, W), a strip each."""
    shape = array.shape if not planes else (*array.shape[1:], array.shape[0])
    samples = shape[2] if len(shape) == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    strips = [part.astype(array.dtype.newbyteorder(order)).tobytes() for part in (array if planes else [array])]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    start = 16 if big else 8
    offsets = [start + sum(map(len, strips[:i])) for i in range(len(strips))]
    end = offsets[-1] + len(strips[-1])
    tags: dict[int, tuple[int, ...]] = {
        256: (shape[1],),
        257: (shape[0],),
        258: (array.itemsize * 8,) * samples,
        259: (8 if deflate else 1,),
        262: (colour if colour is not None else 2 if samples >= 3 else 1,),
        273: tuple(offsets),
        274: (orientation,),
        277: (samples,),
        278: (shape[0],),
        279: tuple(map(len, strips)),
        284: (2 if planes else 1,),
        338: extra,
        339: (kind,) * samples,
    }
    blob, entries, room = b"", b"", 8 if big else 4
    for tag, values in tags.items():
        if values:
            raw = struct.pack(f"{order}{len(values)}I", *values)
            if len(raw) > room:
                place, blob = end + len(blob), blob + raw
                raw = struct.pack(order + ("Q" if big else "I"), place)
            entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, 4, len(values)) + raw.ljust(room, b"\0")
    count = sum(1 for values in tags.values() if values)
    page = struct.pack(order + ("Q" if big else "H"), count) + entries + bytes(room)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    where = struct.pack(order + "HHQ", 8, 0, end + len(blob)) if big else struct.pack(order + "I", end + len(blob))
    return head + where + b"".join(strips) + blob + page


def pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def width_tag(width: int) -> bytes:
    return struct.pack("<HHII", 256, 4, 1, width)


def read_bytes(folder: Path, data: bytes, name: str = "x.png") -> Array:
    (folder / name).write_bytes(data)
    got = read_raw(folder / name)
    assert decoders.describe_all(folder / name)[3] == (1 if got.ndim == 2 else 3), "as the header says"
    return got


def same(got: Array, want: Array) -> bool:
    return got.dtype == want.dtype and got.shape == want.shape and np.array_equal(got, want)


EXIF6 = Image.Exif()
EXIF6[274] = 6
PALETTE = Image.fromarray(GRAY8 % 4)
PALETTE.putpalette([10, 20, 30, 200, 50, 60, 70, 180, 90, 100, 110, 255])
COLOURS = np.array([[10, 20, 30], [200, 50, 60], [70, 180, 90], [100, 110, 255]], np.uint8)[GRAY8 % 4]
RGBA16 = np.dstack([RGB16, GRAY16])
BITS = GRAY8 > 99

NAN = FLOAT.copy()
NAN[1, :3] = [np.nan, np.inf, -np.inf]
BITS_TAG = struct.pack("<HHI", 258, 4, 3)
SHORT = chunk(b"IDAT", zlib.compress(bytes(2 * (1 + 2 * W))))  # two rows of H
