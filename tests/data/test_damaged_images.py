"""What is damaged, cut off or no image costs one sentence."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data import decoders
from data.images import ImageError, image_size, read_raw
from tests.data.image_files import (
    BITS_TAG,
    FLOAT,
    GRAY8,
    GRAY16,
    NAN,
    PALETTE,
    RGB8,
    RGB16,
    RGBA16,
    SHORT,
    Array,
    H,
    W,
    chunk,
    pillow,
    png,
    read_bytes,
    same,
    tiff,
    width_tag,
)

TAGS_LAST = cv2.imencode(".tif", GRAY16)[1].tobytes()
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "bigtiff, big-endian": (tiff(GRAY16, ">", big=True), "is no PNG, TIFF, JPEG or BMP"),
    "html": (b"<html><body>404 not found</body></html>", "is no PNG, TIFF, JPEG or BMP"),
    "gif": (pillow(PALETTE, "gif"), "is no PNG, TIFF, JPEG or BMP"),
    "nan": (tiff(NAN), f"3 of its {H * W} values"),
    "beyond float32": (tiff(np.full((H, W), 1e300)), "values are NaN, infinite or beyond"),
    "png cut": (png(RGB16, 2)[:-200], "truncated"),
    "png without end": (png(RGB16, 2)[:-12], "truncated"),
    "png flipped bit": (png(GRAY16, 0).replace(b"IDAT\x78", b"IDAT\x79"), "checksum"),
    "png rows missing": (
        b"\x89PNG\r\n\x1a\n" + png(GRAY16, 0)[8:33] + SHORT + chunk(b"IEND", b""),
        "the decoder gave no image",
    ),
    "jpeg cut": (pillow(Image.fromarray(RGB8), "jpeg")[:-60], "truncated"),
    "bmp cut": (pillow(Image.fromarray(RGB8), "bmp")[:-60], "truncated"),
    "tiff 8 cut": (pillow(Image.fromarray(RGB8), "tiff")[:-60], "truncated"),
    "tiff with its tags at the end cut": (TAGS_LAST[:-60], r"it is truncated \(its tags"),
    "tiff cut in half": (TAGS_LAST[:300], r"it is truncated \(its tags"),
    "tiff 16 cut": (pillow(Image.fromarray(GRAY16), "tiff")[:-60], "truncated"),
    "two bands": (tiff(RGB8[..., :2], extra=(0,)), "2 bands"),
    "two float planes": (tiff(np.stack([FLOAT, FLOAT]), planes=True, extra=(0,)), "2 bands"),
    "five bands": (tiff(np.dstack([RGB8, RGB8[..., :2]]), colour=1, extra=(0, 0)), "5 bands"),
    "planes 16": (tiff(RGB16.transpose(2, 0, 1), planes=True), "separate planes"),
    "gray alpha 16": (tiff(RGB16[..., :2], extra=(2,)), "without alpha"),
    "cmyk 16": (tiff(RGBA16, colour=5), "up to 8 bits only"),
    "float16": (tiff(FLOAT.astype(np.float16)), "the decoder gave no image"),
    "bomb": (tiff(GRAY8).replace(width_tag(W), width_tag(2**25)), "limit"),
    "tiff tag outside": (tiff(RGB16).replace(BITS_TAG, BITS_TAG[:6] + b"\1\0"), "truncated or damaged|Truncated File"),
    "png bomb": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**20, 2**20, 8, 0, 0, 0, 0))
                 + chunk(b"IEND", b""), "limit"),
    "png no header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "no PNG header"),
    "tiff no page": (b"II*\0\0\0\0\0", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_file(case: str, tmp_path: Path) -> None:
    data, words = BAD[case]
    with pytest.raises(ImageError, match=words) as caught:
        read_bytes(tmp_path, data, "bad one.png")
    assert "bad one.png' cannot be read as an image" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5, 2)), np.zeros(9), np.zeros((2, 3, 4, 3)), np.zeros((4, 4), complex), np.zeros((0, 4))],
    ids=["two channels", "vector", "batch", "complex", "no rows"],
)
def test_bad_npy(array: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ImageError, match=r"x\.npy"):
        read_raw(tmp_path / "x.npy")


def test_npy_never_unpickles(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"x\.npy"):
        read_raw(tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", a=GRAY8)
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    with pytest.raises(ImageError, match="not one array"):
        read_raw(tmp_path / "y.npy")


def test_npy_cut(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GRAY16)
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-9])
    with pytest.raises(ImageError, match=r"x\.npy"):
        read_raw(tmp_path / "x.npy")


def test_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "loop.png", tmp_path / "pipe.png"):
        with pytest.raises(ImageError, match=path.name):
            read_raw(path)
        with pytest.raises(ImageError, match=path.name):
            image_size(path)


def test_content_decides_the_kind(tmp_path: Path) -> None:
    assert same(read_bytes(tmp_path, tiff(GRAY16), "really a tiff é.jpg"), GRAY16)


def test_size_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a.png": png(RGB16, 2), "b.tif": tiff(FLOAT), "c.jpg": pillow(Image.fromarray(RGB8), "jpeg")}
    monkeypatch.setattr(decoders, "_decode_cv2", None)
    monkeypatch.setattr(decoders, "_decode_pillow", None)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert image_size(tmp_path / name) == (H, W)


def test_damage_is_an_error_or_an_image(tmp_path: Path) -> None:
    """Flipped bytes and cuts: an ImageError or an image of a known kind; a PNG never changes."""
    draws = np.random.default_rng(1)
    sources = {
        "png": png(RGB16, 2),
        "tiff": tiff(RGB16, deflate=True),
        "jpeg": pillow(Image.fromarray(RGB8), "jpeg"),
    }
    for kind, source in sources.items():
        errors = 0
        for _ in range(60):
            data = bytearray(source)
            data[draws.integers(len(data))] ^= 1 << int(draws.integers(8))
            if draws.random() < 0.3:
                data = data[: draws.integers(len(data))]
            try:
                got = read_bytes(tmp_path, bytes(data))
            except ImageError:
                errors += 1
                continue
            assert got.dtype in (np.uint8, np.uint16, np.float32)
            assert kind != "png" or np.array_equal(got, RGB16)
        assert errors > 10
