"""Windows, depths and round trips of data.images, against numpy and against other readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data import images
from data.images import (
    EXTENSIONS,
    DomainFormat,
    ImageError,
    Window,
    WindowRule,
    decode,
    encode,
    estimate_format,
    parse_window,
    read_raw,
    unit_to_uint8,
)

RNG = np.random.default_rng(3)
GRAY8 = RNG.integers(0, 256, (16, 20)).astype(np.uint8)
RGB8 = RNG.integers(0, 256, (16, 20, 3)).astype(np.uint8)
BYTES = DomainFormat(Window(0, 255), "uint8")


def save(path: Path, array: NDArray[Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


def test_extensions_are_lower_case_with_a_dot() -> None:
    assert {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy"} == EXTENSIONS


# --- decode


def test_decode_values_and_clipping(tmp_path: Path) -> None:
    counts = np.array([[6000, 7000, 8000], [10500, 14000, 20000]], np.uint16)
    got = decode(save(tmp_path / "x.png", counts), 1, DomainFormat(Window(7000, 14000), "uint16"))
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    torch.testing.assert_close(got, torch.tensor([[[0.0, 0.0, 1 / 7], [0.5, 1.0, 1.0]]]))


def test_decode_channels(tmp_path: Path) -> None:
    gray, colour = save(tmp_path / "g.png", GRAY8), save(tmp_path / "c.png", RGB8)
    torch.testing.assert_close(decode(colour, 3, BYTES), torch.from_numpy(RGB8 / 255).permute(2, 0, 1).float())
    three = decode(gray, 3, BYTES)
    assert three.shape == (3, 16, 20)
    assert all(torch.equal(three[i], decode(gray, 1, BYTES)[0]) for i in range(3))
    pillow = np.asarray(Image.open(colour).convert("L"))  # ITU-R 601 in integers
    got = decode(colour, 1, BYTES)
    assert got.shape == (1, 16, 20)
    assert np.abs(got[0].numpy() * 255 - pillow).max() < 1.01
    white = save(tmp_path / "w.png", np.full((4, 4, 3), 255, np.uint8))
    assert decode(white, 1, BYTES).max() <= 1
    with pytest.raises(ImageError, match=r"c\.png.* 2 channels"):
        decode(colour, 2, BYTES)


def test_decode_refuses_another_depth(tmp_path: Path) -> None:
    path = save(tmp_path / "deep.png", GRAY8.astype(np.uint16))
    with pytest.raises(ImageError, match=r"deep\.png.* uint16 but .* uint8"):
        decode(path, 1, BYTES)


def test_window_of_each_image(tmp_path: Path) -> None:
    fmt = DomainFormat(None, "uint16")
    counts = RNG.integers(7000, 9000, (40, 50)).astype(np.uint16)
    got = decode(save(tmp_path / "a.png", counts), 1, fmt)
    low, high = np.percentile(counts, (0.1, 99.9))
    np.testing.assert_allclose(got[0].numpy(), np.clip((counts - low) / (high - low), 0, 1), atol=1e-6)
    shifted = decode(save(tmp_path / "b.png", counts * np.uint16(3) + np.uint16(500)), 1, fmt)
    torch.testing.assert_close(got, shifted, atol=1e-5, rtol=0)
    with pytest.raises(ImageError, match=r"flat\.png.* coincide at 7"):
        decode(save(tmp_path / "flat.png", np.full((8, 8), 7, np.uint16)), 1, fmt)


# --- rules and estimates


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("auto", WindowRule("auto")),
        (" image ", WindowRule("image")),
        ("7000,14000", WindowRule("counts", 7000, 14000)),
        ("-10.5, 1e3", WindowRule("counts", -10.5, 1000)),
        ("1%,99.5%", WindowRule("percent", 1, 99.5)),
        ("0 %, 100 %", WindowRule("percent", 0, 100)),
    ],
)
def test_parse_window(text: str, rule: WindowRule) -> None:
    assert parse_window(text) == rule


@pytest.mark.parametrize(
    "text",
    ["", "full", "5", "1,2,3", "2,1", "3,3", "nan,1", "0,inf", "1%,99", "5%,101%", "-1%,50%", "90%,10%"],
)
def test_parse_window_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="window"):
        parse_window(text)


def test_a_format_is_said_in_words() -> None:
    assert str(DomainFormat(Window(7995.25, 13995), "uint16")) == "uint16, window 7995.25 to 13995"
    assert str(DomainFormat(None, "float32")) == "float32, a window of each image's own"


def test_format_survives_json() -> None:
    for fmt in (BYTES, DomainFormat(None, "float32"), DomainFormat(Window(7995.25, 13995), "uint16")):
        assert DomainFormat.from_dict(json.loads(json.dumps(fmt.to_dict()))) == fmt
    with pytest.raises(ValueError, match="uint32"):
        DomainFormat.from_dict({"window": None, "depth": "uint32"})
    with pytest.raises(ValueError, match="LO < HI"):
        Window(5, 5)


@pytest.mark.parametrize("suffix", [".png", ".npy"])
@pytest.mark.parametrize(("low", "high"), [(0.1, 99.9), (2.0, 97.5), (0.0, 100.0)])
def test_percentiles_equal_numpy(suffix: str, low: float, high: float, tmp_path: Path) -> None:
    """Over all values of all files together: 16-bit by histogram, float by sorting; sizes differ."""
    arrays = [RNG.gamma(3, 900, (10 + i, 30)) for i in range(5)]
    arrays = [a.astype(np.uint16 if suffix == ".png" else np.float32) for a in arrays]
    files = [save(tmp_path / f"{i}{suffix}", a) for i, a in enumerate(arrays)]
    fmt = estimate_format(files, WindowRule("percent", low, high), seed=0)
    assert fmt.window is not None
    want = np.percentile(np.concatenate([a.ravel() for a in arrays]).astype(np.float64), (low, high))
    np.testing.assert_allclose((fmt.window.low, fmt.window.high), want, rtol=1e-6)
    assert fmt.depth == ("uint16" if suffix == ".png" else "float32")


def test_auto_rule(tmp_path: Path) -> None:
    auto = parse_window("auto")
    dark = save(tmp_path / "dark.bmp", GRAY8 // 4)
    assert estimate_format([dark], auto, 0) == BYTES
    counts = RNG.integers(8000, 9000, (64, 64)).astype(np.uint16)
    counts[0, 0] = 65535  # one dead pixel does not stretch the window
    fmt = estimate_format([save(tmp_path / "a.tif", counts)], auto, 0)
    assert fmt.depth == "uint16"
    assert fmt.window is not None
    assert 8000 <= fmt.window.low < 8010
    assert 8990 < fmt.window.high < 9000


def test_fixed_rules_need_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", GRAY8.astype(np.uint16) * np.uint16(200))
    monkeypatch.setattr(images, "read_raw", None)
    assert estimate_format([path], parse_window("7,900"), 0) == DomainFormat(Window(7, 900), "uint16")
    assert estimate_format([path], parse_window("image"), 0) == DomainFormat(None, "uint16")


def test_large_float_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_SURVEY_VALUES", 40_000)
    arrays = [RNG.normal(300 + i, 10, (200, 200)).astype(np.float32) for i in range(4)]
    files = [save(tmp_path / f"{i}.npy", a) for i, a in enumerate(arrays)]
    rule = WindowRule("percent", 5, 95)
    first, again, other = (estimate_format(files, rule, seed).window for seed in (0, 0, 1))
    assert first is not None
    assert first == again
    assert first != other
    want = np.percentile(np.stack(arrays), (5, 95))
    np.testing.assert_allclose((first.low, first.high), want, atol=0.5)


def test_survey_is_even_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{i}.png" for i in range(1000)]
    seen: list[Path] = []

    def describe(path: Path) -> tuple[int, int, str]:
        seen.append(path)
        return 1, 1, "uint8"

    monkeypatch.setattr(images, "describe", describe)
    assert estimate_format(files, parse_window("auto"), 0) == BYTES
    numbers = [int(path.stem) for path in seen]
    assert len(numbers) == 200
    assert (numbers[0], numbers[-1]) == (0, 999)
    assert set(np.diff(numbers)) <= {5, 6}


def test_estimate_errors(tmp_path: Path) -> None:
    eight, deep = save(tmp_path / "eight.png", GRAY8), save(tmp_path / "deep.png", GRAY8.astype(np.uint16))
    flat = save(tmp_path / "flat.png", np.full((8, 8), 4000, np.uint16))
    with pytest.raises(ImageError, match=r"eight\.png' is uint8 but .*deep\.png' is uint16"):
        estimate_format([eight, eight, deep], parse_window("auto"), 0)
    with pytest.raises(ImageError, match=r"coincide at 4000 .*LO,HI"):
        estimate_format([flat], parse_window("auto"), 0)
    with pytest.raises(ImageError, match="no image files"):
        estimate_format([], parse_window("auto"), 0)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad\.png"):
        estimate_format([eight, tmp_path / "bad.png"], parse_window("auto"), 0)


# --- encode


@pytest.mark.parametrize("array", [GRAY8, RGB8], ids=["gray", "rgb"])
def test_round_trip_8(array: NDArray[np.uint8], tmp_path: Path) -> None:
    source = save(tmp_path / "in.png", array)
    pixels = decode(source, 3 if array.ndim == 3 else 1, BYTES)
    assert encode(tmp_path / "out.png", pixels, BYTES) == [tmp_path / "out.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), array)


@pytest.mark.parametrize("window", [(0, 65535), (7995.37, 60001.9), (-3, 70000)])
def test_round_trip_16(window: tuple[float, float], tmp_path: Path) -> None:
    """Every count there is, through the network's range [-1, 1] in float32 and back."""
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    fmt = DomainFormat(Window(*window), "uint16")
    pixels = decode(save(tmp_path / "in.png", every), 1, fmt)
    (out,) = encode(tmp_path / "out", (pixels * 2 - 1) / 2 + 0.5, fmt)
    got = np.asarray(Image.open(out))
    inside = (every > window[0]) & (every < window[1])
    assert np.array_equal(got[inside], every[inside])
    assert np.array_equal(got, np.rint(every.astype(float).clip(*window)).clip(0, 65535))


def test_round_trip_16_colour(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    fmt = DomainFormat(Window(0, 65535), "uint16")
    (out,) = encode(tmp_path / "out", decode(save(tmp_path / "in.png", rgb), 3, fmt), fmt)
    assert np.array_equal(read_raw(out), rgb)
    stored = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert np.array_equal(stored[..., ::-1], rgb)
    assert out.read_bytes()[24:26] == b"\x10\x02"  # PNG header: 16 bits, colour


def test_rounds_and_clips(tmp_path: Path) -> None:
    pixels = torch.tensor([[[-0.2, 99.6 / 255, 99.4 / 255, 1.3]]])
    (out,) = encode(tmp_path / "x", pixels, BYTES)
    assert read_raw(out).tolist() == [[0, 100, 99, 255]]
    assert unit_to_uint8(pixels)[0, :, 2].tolist() == [0, 100, 99, 255]
    (wide,) = encode(tmp_path / "x", torch.tensor([[[0.0, 1.0]]]), DomainFormat(Window(-50, 400), "uint8"))
    assert read_raw(wide).tolist() == [[0, 255]]


@pytest.mark.parametrize("channels", [1, 3])
def test_float_writes_values_and_preview(channels: int, tmp_path: Path) -> None:
    fmt = DomainFormat(Window(-12.5, 300), "float32")
    pixels = torch.rand(channels, 8, 10, generator=torch.Generator().manual_seed(0))
    png, tif = encode(tmp_path / "v1.2_fake", pixels, fmt)
    assert (png.name, tif.name) == ("v1.2_fake.png", "v1.2_fake.tif")
    torch.testing.assert_close(decode(tif, channels, fmt), pixels, atol=1e-6, rtol=0)
    want = (pixels.permute(1, 2, 0).numpy() * 312.5 - 12.5).squeeze()
    np.testing.assert_allclose(read_raw(tif), want, atol=1e-4)
    if channels == 1:
        assert np.array_equal(np.asarray(Image.open(tif)), read_raw(tif))
    preview = read_raw(png)
    assert preview.dtype == np.uint8
    assert np.array_equal(preview if channels == 3 else np.dstack([preview] * 3), unit_to_uint8(pixels))


@pytest.mark.parametrize(("depth", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_relative_values_without_a_window(depth: str, top: int, tmp_path: Path) -> None:
    files = encode(tmp_path / "x", torch.tensor([[[0.0, 0.2, 1.0]]]), DomainFormat(None, depth))
    np.testing.assert_allclose(read_raw(files[-1])[0], np.array([0, 0.2, 1]) * top, rtol=1e-6)


def test_encode_names_and_folders(tmp_path: Path) -> None:
    pixels = torch.zeros(1, 4, 4)
    assert encode(tmp_path / "new" / "deep" / "a.TIF", pixels, BYTES) == [tmp_path / "new" / "deep" / "a.png"]
    assert encode(tmp_path / "a.v2", pixels, BYTES) == [tmp_path / "a.v2.png"]
    assert encode(str(tmp_path / "b.npy"), pixels, BYTES) == [tmp_path / "b.png"]
    assert not list(tmp_path.rglob("*.part"))


def test_encode_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while writing leaves the old file and no rest."""
    (out,) = encode(tmp_path / "a", torch.zeros(1, 4, 4), BYTES)

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("util.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        encode(tmp_path / "a", torch.ones(1, 4, 4), BYTES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert read_raw(out).max() == 0


def test_encode_refuses(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"x.*\(2, 4, 4\)"):
        encode(tmp_path / "x", torch.zeros(2, 4, 4), BYTES)
    with pytest.raises(ImageError, match=r"x.*NaN"):
        encode(tmp_path / "x", torch.full((1, 4, 4), float("nan")), BYTES)
    assert not list(tmp_path.iterdir())


def test_unit_to_uint8() -> None:
    gray = torch.linspace(0, 1, 256).view(1, 16, 16).requires_grad_()
    got = unit_to_uint8(gray)
    assert got.dtype == np.uint8
    assert got.shape == (16, 16, 3)
    assert np.array_equal(got[..., 0].ravel(), np.arange(256))
    assert np.array_equal(got[..., 0], got[..., 2])
    assert got.flags.writeable
    assert np.array_equal(unit_to_uint8(torch.from_numpy(RGB8 / 255).permute(2, 0, 1)), RGB8)
