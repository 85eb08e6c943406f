"""Every kind of file gives its own numbers, or one sentence. The files are made by hand or by Pillow."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageOps

from data import decoders
from data.images import ImageError, image_size, read_raw
from tests.data.image_files import (
    BITS,
    COLOURS,
    EXIF6,
    FLOAT,
    GRAY8,
    GRAY16,
    PALETTE,
    RGB8,
    RGB16,
    RGBA16,
    Array,
    H,
    W,
    chunk,
    pillow,
    png,
    read_bytes,
    same,
    tiff,
)

EXACT: dict[str, tuple[bytes, Array]] = {
    "png gray 8": (png(GRAY8, 0), GRAY8),
    "png rgb 8": (png(RGB8, 2), RGB8),
    "png gray 16": (png(GRAY16, 0), GRAY16),
    "png rgb 16": (png(RGB16, 2), RGB16),
    "png rgba 8": (png(RGBA16.astype(np.uint8), 6), RGB16.astype(np.uint8)),
    "png rgba 16": (png(RGBA16, 6), RGB16),
    "png gray alpha 8": (png(RGB8[..., :2], 4), RGB8[..., 0]),
    "png gray alpha 16": (png(RGB16[..., :2], 4), RGB16[..., 0]),
    "png transparent colour": (png(RGB16, 2, chunk(b"tRNS", struct.pack(">HHH", *RGB16[0, 0]))), RGB16),
    "png with gamma": (png(RGB16, 2, chunk(b"gAMA", struct.pack(">I", 100000))), RGB16),
    "png palette": (pillow(PALETTE, "png"), COLOURS),
    "png palette transparent": (pillow(PALETTE, "png", transparency=1), COLOURS),
    "png 1 bit": (pillow(Image.fromarray(BITS), "png"), BITS * np.uint8(255)),
    "png turned": (png(GRAY16, 0, chunk(b"eXIf", EXIF6.tobytes()[6:])), np.rot90(GRAY16, -1)),
    "png turned, said late": (png(GRAY16, 0, b"", chunk(b"eXIf", EXIF6.tobytes()[6:])), np.rot90(GRAY16, -1)),
    "png bad exif": (png(GRAY16, 0, chunk(b"eXIf", b"nonsense")), GRAY16),
    "tiff palette": (pillow(PALETTE, "tiff"), COLOURS),
    "tiff 1 bit": (pillow(Image.fromarray(BITS), "tiff", compression="group4"), BITS * np.uint8(255)),
    "tiff white is zero": (tiff(GRAY8, colour=0), 255 - GRAY8),
    "tiff rgb planes 8": (tiff(RGB8.transpose(2, 0, 1), planes=True), RGB8),
    "tiff rgba 16": (tiff(RGBA16, extra=(2,)), RGB16),
    "tiff gray alpha 8": (tiff(RGB8[..., :2], extra=(2,)), RGB8[..., 0]),
    "tiff two pages": (
        pillow(Image.fromarray(GRAY16), "tiff", save_all=True, append_images=[Image.fromarray(GRAY16.T.copy())]),
        GRAY16,
    ),
    "tiff lzw": (pillow(Image.fromarray(RGB8), "tiff", compression="tiff_lzw"), RGB8),
    "bmp rgb": (pillow(Image.fromarray(RGB8), "bmp"), RGB8),
    "bmp gray": (pillow(Image.fromarray(GRAY8), "bmp"), GRAY8),
    "bmp palette": (pillow(PALETTE, "bmp"), COLOURS),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact(case: str, tmp_path: Path) -> None:
    data, want = EXACT[case]
    assert same(read_bytes(tmp_path, data), np.ascontiguousarray(want))
    assert image_size(tmp_path / "x.png") == want.shape[:2]


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize(
    ("order", "big"), [("<", False), (">", False), ("<", True)], ids=["little", "big-endian", "bigtiff"]
)
@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (GRAY8, "uint8"),
        (RGB8, "uint8"),
        (GRAY16, "uint16"),
        (RGB16, "uint16"),
        (GRAY8.view(np.int8), "float32"),
        (GRAY16.view(np.int16), "float32"),
        (RGB16.view(np.int16), "float32"),
        (GRAY16.astype(np.int32) * -200, "float32"),
        (GRAY16.astype(np.uint32) << 16, "float32"),
        (FLOAT, "float32"),
        (np.dstack([FLOAT, FLOAT + 1, FLOAT - 1]), "float32"),
        (FLOAT.astype(np.float64) / 3, "float32"),
    ],
    ids=["u8", "rgb8", "u16", "rgb16", "i8", "i16", "rgb i16", "i32", "u32", "f32", "rgb f32", "f64"],
)
def test_tiff(array: Array, dtype: str, order: Literal["<", ">"], deflate: bool, big: bool, tmp_path: Path) -> None:
    got = read_bytes(tmp_path, tiff(array, order, deflate, big=big), "x.tif")
    assert same(got, array.astype(dtype))
    assert decoders.describe(tmp_path / "x.tif") == (H, W, dtype)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, tmp_path: Path) -> None:
    """All eight, for each way an orientation can be stored, against Pillow's own turning."""
    exif = Image.Exif()
    exif[274] = orientation
    source = pillow(Image.fromarray(RGB8), "png", exif=exif)
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(source))))
    assert same(read_bytes(tmp_path, source), want)
    assert same(read_bytes(tmp_path, tiff(RGB8, orientation=orientation)), want)
    deep = tiff(RGB8.astype(np.uint16) * 257, ">", orientation=orientation)
    assert same(read_bytes(tmp_path, deep), want.astype(np.uint16) * 257)
    assert image_size(tmp_path / "x.png") == want.shape[:2]
    jpeg = pillow(Image.fromarray(RGB8), "jpeg", quality=95, exif=exif)
    assert same(read_bytes(tmp_path, jpeg), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))))
    assert image_size(tmp_path / "x.png") == want.shape[:2]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(mode: str, tmp_path: Path) -> None:
    """Smooth colours survive the compression, so a swapped channel or an inverted CMYK would show."""
    ramp = np.linspace(0, 200, 32, dtype=np.uint8)
    smooth = np.dstack(
        [np.broadcast_to(ramp, (32, 32)), np.broadcast_to(ramp[:, None], (32, 32)), np.full((32, 32), 40)]
    )
    image = Image.fromarray(smooth.astype(np.uint8)).convert(mode)
    got = read_bytes(tmp_path, pillow(image, "jpeg", quality=98), "x.jpg")
    want = np.asarray(image.convert("RGB") if mode == "CMYK" else image)
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= 8


@pytest.mark.parametrize(
    ("saved", "want"),
    [
        (GRAY8, GRAY8),
        (GRAY16[..., None], GRAY16),
        (GRAY16[None], GRAY16),
        (RGB16, RGB16),
        (RGB16.transpose(2, 0, 1), RGB16),
        (np.asfortranarray(FLOAT), FLOAT),
        (FLOAT.astype(">f8"), FLOAT),
        (FLOAT.astype(np.float16), FLOAT.astype(np.float16).astype(np.float32)),
        (GRAY16.astype(">u2"), GRAY16),
        (GRAY16.astype(np.int64), GRAY16.astype(np.float32)),
        (BITS, BITS * np.uint8(255)),
        (RGB8[:3], RGB8[:3]),  # (3, W, 3): channels last wins
    ],
)
def test_npy(saved: Array, want: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", saved)
    assert same(read_raw(tmp_path / "x.npy"), want)
    channels = 1 if want.ndim == 2 else 3
    assert decoders.describe_all(tmp_path / "x.npy")[:4] == (*want.shape[:2], str(want.dtype), channels)


TAILED = pillow(Image.fromarray(RGB8), "jpeg")  # with a marker at its end
THUMBNAIL = TAILED[:2] + b"\xff\xe1" + struct.pack(">H", len(TAILED) + 2) + TAILED + TAILED[2:]
FLAT = np.zeros((64, 64), np.uint8)
LZW = pillow(Image.fromarray(FLAT), "tiff", compression="tiff_lzw")
FAX = pillow(Image.fromarray(FLAT > 0), "tiff", compression="group4")
BMP = pillow(Image.fromarray(GRAY8), "bmp")


def tall_jpeg(height: int, **options: Any) -> bytes:
    """A JPEG of 32 x 32 whose header says another height."""
    data = pillow(Image.fromarray(FLAT[:32, :32]), "jpeg", **options)
    place = data.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    return data[:place] + struct.pack(">H", height) + data[place + 2 :]


def tall_png(height: int, *more: bytes) -> bytes:
    """A PNG of 12 rows whose header says more, with the right checksum."""
    header = struct.pack(">IIBBBBB", W, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + png(GRAY16, 0)[33:]


def tiff_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag that has one."""
    place = struct.unpack("<I", data[4:8])[0] + 2
    while struct.unpack("<H", data[place : place + 2])[0] != tag:
        place += 12
    return data[: place + 8] + struct.pack("<I", value) + data[place + 12 :]


# Of the TIFFs made here a cut would remove the directory: instead, the directory says more than there is.
TRUNCATED: dict[str, bytes] = {
    "tiff strip beyond the end": tiff_tag(tiff(GRAY16), 273, 600),
    "tiff strip 8 beyond the end": tiff_tag(tiff(GRAY8), 273, 300),
    "tiff deflate strip beyond the end": tiff_tag(tiff(GRAY16, deflate=True), 279, 5000),
    "tiff taller than its strips": tiff_tag(tiff(GRAY16), 257, 1000),
    "tiff more rows than strips": tiff_tag(tiff_tag(tiff(GRAY16), 278, 4), 257, H),
    "tiff deflate, huge": tiff_tag(tiff_tag(tiff(GRAY8, deflate=True), 257, 100_000), 278, 100_000),
    "tiff lzw, huge": tiff_tag(tiff_tag(LZW, 257, 10**6), 278, 10**6),
    "tiff fax, huge": tiff_tag(tiff_tag(FAX, 257, 9999), 278, 9999),
    "png, huge": tall_png(100_000),
    "jpeg cut": TAILED[:-60],
    "jpeg cut, zeros": TAILED[:-60] + bytes(60),
    "jpeg cut behind its thumbnail": THUMBNAIL[:-60],
    "jpeg cut behind its thumbnail, fill bytes": THUMBNAIL[:2] + b"\xff\xff\xff" + THUMBNAIL[2:-60],
    "jpeg, huge": tall_jpeg(60_000),
    "jpeg progressive, huge": tall_jpeg(60_000, progressive=True),
    "bmp cut": BMP[:-60],
    "bmp taller than its rows": BMP[:22] + struct.pack("<i", 13) + BMP[26:],
    "bmp, huge": BMP[:18] + struct.pack("<ii", 1, 2**28) + BMP[26:],
}  # fmt: skip


@pytest.mark.parametrize("case", TRUNCATED)
def test_what_is_cut_off_is_noticed_without_decoding(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "_decode_cv2", None)
    monkeypatch.setattr(decoders, "_decode_pillow", None)
    (tmp_path / "x.png").write_bytes(TRUNCATED[case])
    for read in (decoders.describe, read_raw):
        with pytest.raises(ImageError, match=r"it is truncated"):
            read(tmp_path / "x.png")


WHOLE: dict[str, bytes] = {
    "jpeg, zeros behind": TAILED + bytes(10_000),
    "jpeg, data behind": TAILED + b"trailer" * 1000,
    "jpeg, another behind": TAILED + TAILED[: len(TAILED) // 2],
    "jpeg with a thumbnail": THUMBNAIL,
    "jpeg, fill bytes": TAILED[:2] + b"\xff\xff\xff" + TAILED[2:],
    "png, data behind": png(RGB8, 2) + b"trailer",
    "bmp, data behind": pillow(Image.fromarray(RGB8), "bmp") + b"trailer",
    "tiff, data behind": tiff(RGB8) + b"trailer",
    "tiff, strip said to be longer": tiff_tag(tiff(RGB8), 279, 10**6),
    "tiff, strip said to be shorter": tiff_tag(tiff(RGB8), 279, 1),
    "tiff, rows in a strip unlimited": tiff_tag(tiff(RGB8), 278, 2**32 - 1),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_whole_is_not_refused(case: str, tmp_path: Path) -> None:
    """What cameras and careless writers make: the pixels are there, and nothing but the pixels is odd."""
    want = np.asarray(Image.open(io.BytesIO(TAILED))) if "jpeg" in case else RGB8
    assert same(read_bytes(tmp_path, WHOLE[case]), want)
    assert decoders.describe(tmp_path / "x.png") == (H, W, "uint8")


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_the_best_compressed_image_is_not_refused(kind: str, tmp_path: Path) -> None:
    """One colour, as small as a file can be: the limits of what bytes can hold lie below."""
    black = Image.fromarray(np.zeros((3000, 2900), np.uint8))
    image = black.convert("1") if kind == "group4" else black
    options = {"quality": 1, "optimize": True} if kind == "jpeg" else {}
    is_tiff = kind not in ("jpeg", "png", "bmp")
    data = pillow(image, "tiff", compression=kind) if is_tiff else pillow(image, kind, **options)
    assert read_bytes(tmp_path, data).max() <= 1  # JPEG at its worst


def test_a_tile_larger_than_the_file_can_hold_is_refused(tmp_path: Path) -> None:
    """30 x 30 pixels in one tile of a gigabyte: libtiff makes room for the tile first."""
    data = tiff(GRAY8, deflate=True)
    for old, new in ((273, 324), (279, 325), (278, 323), (284, 322)):
        data = data.replace(struct.pack("<HHI", old, 4, 1), struct.pack("<HHI", new, 4, 1))
    small = tiff_tag(tiff_tag(data, 323, 32), 322, 32)
    huge = tiff_tag(tiff_tag(data, 323, 2**15), 322, 2**15)
    for name, content, words in (("small.tif", small, "decoder error"), ("huge.tif", huge, "promises more")):
        with pytest.raises(ImageError, match=words):
            read_bytes(tmp_path, content, name)


def test_no_chunk_beside_the_pixels_changes_them(tmp_path: Path) -> None:
    """An animation's first frame may be placed elsewhere, and a wrong checksum there is nobody's concern but ours."""
    animated = pillow(Image.fromarray(RGB8), "png", save_all=True, append_images=[Image.fromarray(RGB8[::-1])])
    place = animated.index(b"fcTL")
    frame = animated[place + 4 : place + 30]
    narrow = chunk(b"fcTL", frame[:4] + struct.pack(">I", 10) + frame[8:])
    for changed in (animated, animated.replace(chunk(b"fcTL", frame), narrow)):
        assert same(read_bytes(tmp_path, changed), RGB8)
    turn = chunk(b"eXIf", EXIF6.tobytes()[6:])
    for damaged in (turn[:-1] + bytes([turn[-1] ^ 1]), turn.replace(b"eXIf", b"eXIg")):
        (tmp_path / "x.png").write_bytes(png(GRAY16, 0, before=damaged))
        for read in (decoders.describe, read_raw):
            with pytest.raises(ImageError, match="checksum is wrong"):
                read(tmp_path / "x.png")


def test_a_transparent_gray_stays_gray(tmp_path: Path) -> None:
    assert same(read_bytes(tmp_path, png(GRAY16, 0, chunk(b"tRNS", GRAY16[:1, :1].astype(">u2").tobytes()))), GRAY16)


def test_a_decoders_message_is_one_short_line(tmp_path: Path) -> None:
    """OpenCV ends its messages with a line break; numpy quotes a header of eight thousand characters."""
    np.save(tmp_path / "x.npy", GRAY16)
    header = b"{" + b"x " * 4000 + b"}"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    (tmp_path / "x.tif").write_bytes(tiff_tag(tiff(np.zeros((1, 2**20 + 1), np.uint16)), 256, 2**20 + 1))
    bits = struct.pack("<HHI", 258, 4, 1)
    text = struct.pack("<HHI4s", 258, 2, 2, b"\x1b\0")  # the bits of a sample as a text
    data = tiff(GRAY16)
    (tmp_path / "y.tif").write_bytes(data.replace(bits + struct.pack("<I", 16), text))
    for name in ("x.npy", "x.tif", "y.tif"):
        with pytest.raises(ImageError, match=name) as caught:
            read_raw(tmp_path / name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300 + len(str(tmp_path)) + 100
