"""Files of every kind, good and bad, made by hand or by Pillow, and the folders and data sets they are read through."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.base import Sample
from data.sampler import SampleKey
from data.unaligned_dataset import UnalignedDataset
from options.parse import train_options
from tests.data.image_files import chunk, pillow

H, W = 24, 28
RNG = np.random.default_rng(5)
GRAY8 = RNG.integers(0, 256, (H, W)).astype(np.uint8)
RGB8 = RNG.integers(0, 256, (H, W, 3)).astype(np.uint8)
GRAY16 = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
FLOAT = RNG.uniform(280, 310, (H, W)).astype(np.float32)
# Smooth colours and inks survive the compression of a JPEG.
RAMP = np.linspace(0, 200, W, dtype=np.uint8)
SMOOTH = np.dstack([np.tile(RAMP, (H, 1)), np.tile(RAMP[:H, None], (1, W)), np.full((H, W), 40)]).astype(np.uint8)
INKS = np.dstack([SMOOTH, np.full((H, W), 30)]).astype(np.uint8)
TABLE = np.array([[10, 20, 30], [200, 50, 60], [70, 180, 90], [100, 110, 255]], np.uint8)
BITS = GRAY8 > 99
WINDOWS = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (270.0, 320.0)}

Write = Callable[[Path], object]
Array = NDArray[Any]


# --- files of every kind


def big_endian_tiff(array: Array) -> bytes:
    """Motorola byte order, one strip, the tags after the standard."""
    kind = {"u": 1, "f": 3}[array.dtype.kind]
    tags = {256: W, 257: H, 258: array.itemsize * 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: H, 279: array.nbytes}
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in (tags | {339: kind}).items())
    body = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return struct.pack(">2sHI", b"MM", 42, 8 + len(body)) + body + struct.pack(">H", len(tags) + 1) + entries + bytes(4)


def palette() -> Image.Image:
    image = Image.fromarray(GRAY8 % 4)
    image.putpalette(TABLE.tobytes())
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6  # the camera lay on its side: shown after a quarter turn clockwise
    return exif


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def unlit(inks: Array) -> Array:
    """CMYK to RGB: what cyan and black leave of red, and so on."""
    left: Array = 255 - inks.astype(np.float64)
    return left[..., :3] * left[..., 3:] / 255


def png_bomb(side: int) -> bytes:
    """A few hundred bytes that promise side x side grey pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(2**16), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Kind:
    """A file, and the pixels it must give (None: it must be named); `off` is what compression may change."""

    name: str
    make: bytes | Write
    want: Array | None = None
    off: float = 0.0
    depth: str = "uint8"

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        if isinstance(self.make, bytes):
            path.write_bytes(self.make)
        else:
            self.make(path)
        return path


def linked(path: Path) -> None:
    target = path.parent.parent / "elsewhere.png"
    target.write_bytes(GOOD["uint8"])
    path.symlink_to(target)


PICTURE = Image.fromarray(RGB8)
GOOD = {"uint8": pillow(PICTURE, "png"), "uint16": big_endian_tiff(GRAY16), "float32": npy(FLOAT)}
NAN, INF = FLOAT.copy(), FLOAT.copy()
NAN[3, 4], INF[5, 6] = np.nan, -np.inf

KINDS: dict[str, Kind] = {
    # accepted
    "wrong extension": Kind("png.jpg", GOOD["uint8"], RGB8),
    "tiff named png": Kind("tiff.png", big_endian_tiff(GRAY16), GRAY16, depth="uint16"),
    "cmyk jpeg": Kind("x.jpg", pillow(Image.fromarray(INKS, "CMYK"), "jpeg", quality=98), unlit(INKS), off=6),
    "cmyk tiff": Kind("x.tif", pillow(Image.fromarray(INKS, "CMYK"), "tiff"), unlit(INKS), off=1),
    "palette png": Kind("x.png", pillow(palette(), "png"), TABLE[GRAY8 % 4]),
    "palette bmp": Kind("x.bmp", pillow(palette(), "bmp"), TABLE[GRAY8 % 4]),
    "colour and alpha": Kind("x.png", pillow(Image.fromarray(np.dstack([RGB8, GRAY8])), "png"), RGB8),
    "grey and alpha": Kind("x.png", pillow(Image.fromarray(RGB8[..., :2].copy(), "LA"), "png"), RGB8[..., 0]),
    "jpeg on its side": Kind(
        "x.jpeg", pillow(Image.fromarray(SMOOTH), "jpeg", quality=98, exif=turned()), np.rot90(SMOOTH, -1), off=6
    ),
    "png on its side": Kind("x.png", pillow(PICTURE, "png", exif=turned()), np.rot90(RGB8, -1)),
    "animated png": Kind(
        "x.png", pillow(PICTURE, "png", save_all=True, append_images=[Image.fromarray(255 - RGB8)] * 2), RGB8
    ),
    "1 bit png": Kind("x.png", pillow(Image.fromarray(BITS), "png"), BITS * np.uint8(255)),
    "1 bit tiff": Kind("x.tif", pillow(Image.fromarray(BITS), "tiff"), BITS * np.uint8(255)),
    "16 bit png": Kind("x.png", pillow(Image.fromarray(GRAY16), "png"), GRAY16, depth="uint16"),
    "16 bit big-endian tiff": Kind("x.tiff", big_endian_tiff(GRAY16), GRAY16, depth="uint16"),
    "16 bit npy": Kind("x.npy", npy(GRAY16), GRAY16, depth="uint16"),
    "several pages": Kind(
        "x.tif",
        pillow(PICTURE, "tiff", save_all=True, append_images=[Image.fromarray(255 - RGB8)]),
        RGB8,
    ),
    "float tiff": Kind("x.tif", big_endian_tiff(FLOAT), FLOAT, depth="float32"),
    "spaces": Kind(" a  b .png", GOOD["uint8"], RGB8),
    "unicode": Kind("zażółć 目标 é.PNG", GOOD["uint8"], RGB8),
    "line break": Kind("two\nlines\r\x1b[31m.png", GOOD["uint8"], RGB8),
    "quotes": Kind('it\'s "so" \\ <b>&.png', GOOD["uint8"], RGB8),
    "no utf-8": Kind(os.fsdecode(b"\xff\xfe.png"), GOOD["uint8"], RGB8),
    "link": Kind("x.png", linked, RGB8),
    # refused
    "empty": Kind("x.png", b""),
    "html": Kind("x.png", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "animated gif": Kind("x.png", pillow(palette(), "gif", save_all=True, append_images=[PICTURE])),
    "png cut": Kind("x.png", GOOD["uint8"][:-300]),
    "png damaged": Kind("x.png", GOOD["uint8"][:300] + b"?" + GOOD["uint8"][301:]),
    "jpeg cut": Kind("x.jpg", pillow(PICTURE, "jpeg")[:-300]),
    "bmp cut": Kind("x.bmp", pillow(PICTURE, "bmp")[:-300]),
    "tiff cut": Kind("x.tif", pillow(PICTURE, "tiff")[:-300]),
    "16 bit tiff cut": Kind("x.tif", pillow(Image.fromarray(GRAY16), "tiff")[:-300], depth="uint16"),
    "npy cut": Kind("x.npy", npy(GRAY16)[:-300], depth="uint16"),
    "header alone": Kind("x.png", GOOD["uint8"][:33]),
    "nan": Kind("x.tif", big_endian_tiff(NAN), depth="float32"),
    "infinity": Kind("x.tif", big_endian_tiff(INF), depth="float32"),
    "png bomb": Kind("x.png", png_bomb(50_000)),
    "npy bomb": Kind("x.npy", npy(GRAY8).replace(b"(24, 28)", b"(50000, 50000)")),
    "bmp bomb": Kind("x.bmp", (bmp := pillow(PICTURE, "bmp"))[:18] + struct.pack("<ii", 50_000, 50_000) + bmp[26:]),
    "tiff bomb": Kind(
        "x.tif",
        big_endian_tiff(GRAY16)
        .replace(struct.pack(">HHII", 256, 4, 1, W), struct.pack(">HHII", 256, 4, 1, 50_000))
        .replace(struct.pack(">HHII", 257, 4, 1, H), struct.pack(">HHII", 257, 4, 1, 50_000)),
        depth="uint16",
    ),
    "pickle": Kind("x.npy", npy(np.array([{}, None], object))),
    "link to nothing": Kind("x.png", lambda path: path.symlink_to("absent.png")),
    "link to itself": Kind("x.png", lambda path: path.symlink_to("x.png")),
    "folder that is not mounted": Kind("session3", lambda path: path.symlink_to("/absent/disk")),
    "empty folder": Kind("x.png", lambda path: path.mkdir()),
    "pipe": Kind("x.png", lambda path: os.mkfifo(path)),
    "other depth": Kind("x.png", pillow(Image.fromarray(GRAY16), "png")),
    "bad with a line break": Kind("two\nlines\x1b.png", b"nothing"),
}


# --- through the data sets


def flags_for(root: Path, *flags: object, depth: str = "uint8") -> list[str]:
    low, high = WINDOWS[depth]
    window = ("--window_A", f"{low},{high}", "--window_B", f"{low},{high}")
    places = ("--dataroot", root, "--checkpoints_dir", root / "runs", "--num_threads", 0)
    plain = ("--preprocess", "none", "--no_flip", "--serial_batches")
    return [str(flag) for flag in (*places, *window, *plain, *flags)]


def open_set(root: Path, *flags: object, depth: str = "uint8", kept: Any = None) -> UnalignedDataset:
    run = train_options(flags_for(root, *flags, depth=depth))
    return UnalignedDataset.from_options(run, kept=kept)


def fill(root: Path, kind: Kind | None = None, good: int = 3) -> Path:
    """Good images in trainA and trainB, and the file in question in trainA."""
    for side in "AB":
        (root / f"train{side}").mkdir()
        for number in range(good):
            depth = kind.depth if kind else "uint8"
            suffix = {"uint8": "png", "uint16": "tif", "float32": "npy"}[depth]
            (root / f"train{side}/good{number}.{suffix}").write_bytes(GOOD[depth])
    if kind:
        try:
            kind.write(root / "trainA")
        except (OSError, UnicodeEncodeError) as error:
            pytest.skip(f"this file system has no such file: {error}")
    return root


def read_all(dataset: UnalignedDataset) -> list[Sample]:
    return [dataset[SampleKey(1, number, number)] for number in range(len(dataset))]


def one_line(text: str) -> bool:
    return all(c.isprintable() for c in text)


def short_png(level: int = 0) -> bytes:
    """A PNG whose header and checksums are good, with two rows of pixels."""
    head = struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes([0, *[level] * 3 * W]) * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def put(root: Path, names: str, content: bytes = b"") -> None:
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def with_holes(root: Path, bad: str = "trainA/2.png trainA/3.png trainA/5.png trainB/0.png") -> Path:
    """Six images of A and four of B; those named have a good header and two rows of pixels."""
    for side, count in (("A", 6), ("B", 4)):
        for number in range(count):
            put(root, f"train{side}/{number}.png", pillow(Image.fromarray(RGB8 // 9 * (number + 1)), "png"))
    put(root, bad, short_png())
    (root / "labels.csv").write_text("file,label_id\n" + "".join(f"trainA/{n}.png,{n}\n" for n in range(6)))
    return root


SKIP = ("--on_bad_image", "skip")
