"""Small valid image files of every kind that is read, made in code: what `scripts.faults.fuzz` damages."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Order = Literal["<", ">"]

PNG_START = b"\x89PNG\r\n\x1a\n"
H, W = 23, 30


@dataclass(frozen=True)
class Specimen:
    """One valid file.

    Attributes:
        name: unique; what follows its last slash is the file's.
        family: what kind of damage it can have (see `scripts.faults.mutants`).
        data: its content.
    """

    name: str
    family: str
    data: bytes


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its length and checksum (PNG specification, section 5.3)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(array: Array, colour: int, interlaced: bool = False, idats: int = 1) -> bytes:
    """A PNG of 8 or 16 bits a sample.

    Args:
        array: (H, W) or (H, W, C), uint8 or uint16.
        colour: 0 gray, 2 RGB, 4 gray with alpha, 6 RGBA.
        interlaced: in the seven passes of Adam7.
        idats: pieces that the compressed rows are cut into.
    """
    # Adam7, section 8.2: first row, first column, row step and column step of each pass.
    adam7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [array[top::down, left::right] for top, left, down, right in adam7] if interlaced else [array]
    wide = array.dtype.newbyteorder(">")
    rows = b"".join(b"\0" + row.astype(wide).tobytes() for part in passes if part.size for row in part)
    packed = zlib.compress(rows)
    step = -(-len(packed) // idats)
    body = b"".join(png_chunk(b"IDAT", packed[i : i + step]) for i in range(0, len(packed), step))
    header = struct.pack(">IIBBBBB", *array.shape[1::-1], array.itemsize * 8, colour, 0, 0, interlaced)
    return PNG_START + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def packbits(data: bytes) -> bytes:
    """PackBits (TIFF 6.0, section 9): runs of equal bytes, everything else literally."""
    out, place = bytearray(), 0
    while place < len(data):
        run = 1
        while run < 128 and data[place + run : place + run + 1] == data[place : place + 1]:
            run += 1
        if run > 1:
            out += bytes([257 - run, data[place]])
        else:
            out += bytes([0, data[place]])
        place += run
    return bytes(out)


def tiff(
    array: Array,
    order: Order = "<",
    compression: int = 1,
    rows: int = 0,
    tile: int = 0,
    colour: int | None = None,
    pages: int = 1,
    big: bool = False,
    first: bool = False,
) -> bytes:
    """A TIFF (6.0) or BigTIFF.

    Args:
        array: (H, W) or (H, W, C) of any width of unsigned, signed or float samples.
        order: "<" little-endian, ">" big-endian.
        compression: 1 none, 8 deflate, 32773 PackBits.
        rows: rows in a strip; 0 for all.
        tile: side of square tiles instead of strips; a multiple of 16.
        colour: photometric interpretation; None for gray or RGB.
        pages: the same image so often.
        first: the directory stands before the pixels, as it does in most cameras' files.
    """
    height, width = array.shape[:2]
    samples = array.shape[2] if array.ndim == 3 else 1
    pieces = (
        _tiles(array, tile) if tile else [array[i : i + (rows or height)] for i in range(0, height, rows or height)]
    )
    packers: dict[int, Callable[[bytes], bytes]] = {1: bytes, 8: zlib.compress, 32773: packbits}
    pack = packers[compression]
    strips = [pack(piece.astype(array.dtype.newbyteorder(order)).tobytes()) for piece in pieces]
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (array.itemsize * 8,) * samples,
        259: (compression,),
        262: (colour if colour is not None else 2 if samples == 3 else 1,),
        277: (samples,),
        **({322: (tile,), 323: (tile,)} if tile else {278: (rows or height,)}),
        339: ({"u": 1, "i": 2, "f": 3}[array.dtype.kind],) * samples,
    }
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    out = head + (struct.pack(order + "HHQ", 8, 0, 0) if big else bytes(4))
    link = len(out) - (8 if big else 4)  # where the offset of the next directory is written
    for _ in range(pages):
        out, link = _tiff_page(out, link, order, big, tags, strips, bool(tile), first)
    return out


def _tiles(array: Array, side: int) -> list[Array]:
    pad = [(0, -size % side) for size in array.shape[:2]] + [(0, 0)] * (array.ndim - 2)
    full = np.pad(array, pad, mode="edge")
    corners = [(i, j) for i in range(0, full.shape[0], side) for j in range(0, full.shape[1], side)]
    return [full[i : i + side, j : j + side] for i, j in corners]


def _tiff_page(
    out: bytes, link: int, order: Order, big: bool, tags: dict[int, tuple[int, ...]], strips: Sequence[bytes],
    tiled: bool, first: bool,
) -> tuple[bytes, int]:  # fmt: skip
    """The file with one page more, and where it keeps the offset of the next directory."""
    room, offset = (8, "Q") if big else (4, "I")
    where, sizes = (324, 325) if tiled else (273, 279)
    pixels = b"".join(strips)

    def directory(place: int, start: int) -> bytes:
        starts = tuple(start + sum(map(len, strips[:i])) for i in range(len(strips)))
        full = sorted({**tags, where: starts, sizes: tuple(map(len, strips))}.items())
        after = place + struct.calcsize("<Q" if big else "<H") + len(full) * (12 + 2 * (room - 4) + 0) + room
        entries, blob = b"", b""
        for tag, values in full:
            raw = struct.pack(f"{order}{len(values)}I", *values)
            if len(raw) > room:
                raw, blob = struct.pack(order + offset, after + len(blob)), blob + raw
            entries += struct.pack(order + "HH" + offset, tag, 4, len(values)) + raw.ljust(room, b"\0")
        return struct.pack(order + ("Q" if big else "H"), len(full)) + entries + bytes(room) + blob

    out += bytes(len(out) % 2)
    if first:
        place = len(out)
        out += directory(place, place + len(directory(place, 0))) + pixels
    else:
        place = len(out) + len(pixels) + len(pixels) % 2
        out += pixels + bytes(len(pixels) % 2) + directory(place, len(out))
    out = out[:link] + struct.pack(order + offset, place) + out[link + room :]
    entries = len(tags) + 2
    return out, place + (8 if big else 2) + entries * (20 if big else 12)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """What Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@cache
def image_specimens() -> tuple[Specimen, ...]:
    """About forty files; all but the animated ones show one scene of a ramp, a block and some noise."""
    rgb16 = _scene()
    gray16 = rgb16[..., 0].copy()
    rgb8, gray8 = (rgb16 >> 8).astype(np.uint8), (gray16 >> 8).astype(np.uint8)
    files = {
        **_pngs(rgb16, gray16, rgb8, gray8),
        **_jpegs(rgb8, gray8),
        **_tiffs(rgb16, gray16, rgb8, gray8),
        **_others(rgb16, gray16, rgb8, gray8),
    }
    families = {"png": "png", "jpg": "jpeg", "tif": "tiff", "bmp": "bmp", "npy": "npy"}
    return tuple(Specimen(name, families[name[-3:]], data) for name, data in files.items())


def _scene() -> Array:
    draws = np.random.default_rng(7)
    rows, columns = np.mgrid[:H, :W]
    scene = np.stack([900 * rows + 600 * columns, 1500 * columns, 40000 - 1000 * rows], -1).astype(np.int64)
    scene[5:12, 8:20] += 20000
    scene += draws.integers(0, 3000, scene.shape)
    return scene.clip(0, 65535).astype(np.uint16)


def _pngs(rgb16: Array, gray16: Array, rgb8: Array, gray8: Array) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[274] = 6
    colours = Image.fromarray(rgb8)
    palette = colours.quantize(16)
    frames = [Image.fromarray(np.roll(rgb8, shift, 1)) for shift in (3, 6)]
    return {
        "gray8.png": png(gray8, 0),
        "gray16.png": png(gray16, 0),
        "rgb8.png": png(rgb8, 2, idats=4),
        "rgb16.png": png(rgb16, 2),
        "gray_alpha16.png": png(np.dstack([gray16, gray16[::-1]]), 4),
        "rgba8.png": png(np.dstack([rgb8, gray8]), 6),
        "rgb8_interlaced.png": png(rgb8, 2, interlaced=True),
        "gray16_interlaced.png": png(gray16, 0, interlaced=True),
        "palette.png": saved(palette, "png"),
        "palette_transparent.png": saved(palette, "png", transparency=1),
        "1bit.png": saved(Image.fromarray(gray8 > 99), "png"),
        "turned.png": saved(colours, "png", exif=exif, dpi=(72, 72)),
        "animated.png": saved(colours, "png", save_all=True, append_images=frames, duration=50),
    }


def _jpegs(rgb8: Array, gray8: Array) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[274], exif[306] = 8, "2020:01:01 00:00:00"
    colours = Image.fromarray(rgb8)
    return {
        "baseline.jpg": saved(colours, "jpeg", quality=90),
        "gray.jpg": saved(Image.fromarray(gray8), "jpeg", quality=80),
        "progressive.jpg": saved(colours, "jpeg", quality=85, progressive=True),
        "restarts.jpg": saved(colours, "jpeg", quality=85, restart_marker_rows=1, subsampling=0),
        "cmyk.jpg": saved(colours.convert("CMYK"), "jpeg", quality=85),
        "turned.jpg": saved(colours, "jpeg", quality=85, exif=exif),
    }


def _tiffs(rgb16: Array, gray16: Array, rgb8: Array, gray8: Array) -> dict[str, bytes]:
    real = gray16.astype(np.float32) / 7
    colours = Image.fromarray(rgb8)
    cmyk = np.dstack([255 - rgb8, np.full_like(gray8, 20)])
    _, lzw_float = cv2.imencode(".tif", real, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    return {
        "gray8.tif": tiff(gray8),
        "rgb8_strips.tif": tiff(rgb8, rows=4, first=True),
        "rgb8_deflate.tif": tiff(rgb8, compression=8, rows=8),
        "rgb8_packbits.tif": tiff(rgb8, ">", compression=32773),
        "rgb8_lzw.tif": saved(colours, "tiff", compression="tiff_lzw"),
        "rgb8_jpeg.tif": saved(colours, "tiff", compression="jpeg"),
        "gray16.tif": tiff(gray16, first=True),
        "gray16_big_endian.tif": tiff(gray16, ">", rows=5),
        "rgb16_deflate.tif": tiff(rgb16, ">", compression=8, rows=8),
        "gray16_lzw.tif": saved(Image.fromarray(gray16), "tiff", compression="tiff_lzw"),
        "gray16_packbits.tif": tiff(gray16, compression=32773, rows=9),
        "gray16_pages.tif": tiff(gray16, pages=3),
        "gray16_tiles.tif": tiff(gray16, ">", tile=16),
        "rgb8_tiles.tif": tiff(rgb8, compression=8, tile=16, first=True),
        "gray16_bigtiff.tif": tiff(gray16, rows=6, big=True),
        "int16.tif": tiff(gray16.astype(np.int16), compression=8),
        "float32.tif": tiff(real, rows=8),
        "float32_big_endian.tif": tiff(real, ">", compression=8, first=True),
        "float32_lzw.tif": lzw_float.tobytes(),
        "float64.tif": tiff(real.astype(np.float64) * np.pi, rows=8),
        "float64_rgb.tif": tiff(rgb16.astype(np.float64) / 3, ">", compression=8),
        "cmyk.tif": tiff(cmyk, colour=5),
        "palette.tif": saved(colours.quantize(16), "tiff"),
        "1bit.tif": saved(Image.fromarray(gray8 > 99), "tiff", compression="group4"),
    }


def _others(rgb16: Array, gray16: Array, rgb8: Array, gray8: Array) -> dict[str, bytes]:
    return {
        "rgb8.bmp": saved(Image.fromarray(rgb8), "bmp"),
        "gray8.bmp": saved(Image.fromarray(gray8), "bmp"),
        "palette.bmp": saved(Image.fromarray(rgb8).quantize(16), "bmp"),
        "gray8.npy": _npy(gray8),
        "rgb16.npy": _npy(rgb16),
        "float32_planes.npy": _npy((rgb16.transpose(2, 0, 1) / 9).astype(np.float32)),
        "float64.npy": _npy(np.asfortranarray(gray16 / 3.0)),
        "bool.npy": _npy(gray8 > 99),
    }
