"""Images in and out at their own bit depth: the only place that knows what a raw count means.

Inside the project an image is float32 (C, H, W) in [0, 1]. A `Window` says which raw counts are 0 and 1; a
`DomainFormat` (window and depth) is chosen once for a domain, saved with the run, and undone when a
translation is written. `data.decoders` reads the files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.decoders import EXTENSIONS, MAX_PIXELS, ImageError, Raw, describe, image_size, read_raw
from util.files import write_atomic

__all__ = [
    "AUTO_PERCENTILES",
    "EXTENSIONS",
    "MAX_PIXELS",
    "Counts",
    "DomainFormat",
    "ImageError",
    "Window",
    "WindowRule",
    "as_unit",
    "decode",
    "encode",
    "estimate_format",
    "image_size",
    "parse_window",
    "read_counts",
    "read_raw",
    "to_counts",
    "unit_to_uint8",
    "windowed",
]

AUTO_PERCENTILES = (0.1, 99.9)
_DEPTHS = {"uint8": 255, "uint16": 65535, "float32": 1}  # depth -> what a relative value of 1 is written as
_SURVEY_FILES = 200
_SURVEY_VALUES = 2**22  # float values kept for a percentile
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Window:
    """Raw counts shown as 0 (`low`) and 1 (`high`); values outside are clipped.

    Raises:
        ValueError: unless low < high, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a window needs finite LO < HI, not {self.low:g},{self.high:g}")


@dataclass(frozen=True)
class DomainFormat:
    """How one domain's files are stored: the window of the run, and "uint8", "uint16" or "float32".

    `window` None: every image has its own window (its percentiles 0.1 and 99.9), and outputs are relative.
    """

    window: Window | None
    depth: str

    def __post_init__(self) -> None:
        if self.depth not in _DEPTHS:
            raise ValueError(f"unknown depth {self.depth!r}; known: {', '.join(_DEPTHS)}")

    def __str__(self) -> str:
        window = self.window
        shown = "a window of each image's own" if window is None else f"window {window.low:g} to {window.high:g}"
        return f"{self.depth}, {shown}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form, read back by `from_dict`."""
        window = None if self.window is None else [float(self.window.low), float(self.window.high)]
        return {"window": window, "depth": self.depth}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> DomainFormat:
        """The inverse of `to_dict`."""
        window = None if saved["window"] is None else Window(*map(float, saved["window"]))
        return cls(window, str(saved["depth"]))


@dataclass(frozen=True)
class WindowRule:
    """What was asked for: kind "auto", "counts", "percent" or "image"; low and high for the middle two."""

    kind: str
    low: float = 0.0
    high: float = 0.0


def decode(path: str | os.PathLike[str], channels: int, fmt: DomainFormat) -> Tensor:
    """Read, window and clip one image: float32 (channels, H, W) in [0, 1].

    Raises:
        ImageError: see `read_counts`; or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ImageError(f"{str(path)!r} cannot be read as {channels} channels; ask for 1 or 3")
    return read_counts(path, fmt).image(channels)


def windowed(raw: Raw, channels: int, fmt: DomainFormat, name: str) -> Tensor:
    """Window and clip what a file holds: float32 (channels, H, W) in [0, 1].

    Args:
        raw: (H, W) or (H, W, 3), as `read_raw` gives it.
        channels: 1 or 3.
        name: of the image, for messages.

    Raises:
        ImageError: the depth is not that of the domain; the image is constant and has a window of its own.
    """
    return _counts(raw, fmt, name).image(channels)


@dataclass(frozen=True)
class Counts:
    """An image as its file stores it, and the window that gives it a meaning.

    Args:
        values: (H, W, 1) or (H, W, 3), uint8, uint16 or float32; not to be written to.
    """

    values: Raw
    window: Window

    def image(self, channels: int) -> Tensor:
        """Windowed and clipped, (channels, H, W) in [0, 1]."""
        return as_unit(torch.from_numpy(self.values.astype(np.float32)), self.window.low, self.window.high, channels)


def read_counts(path: str | os.PathLike[str], fmt: DomainFormat, read: Callable[[Any], Raw] = read_raw) -> Counts:
    """Read one image of a domain.

    Args:
        read: `read_raw`, or what has its results at hand.

    Raises:
        ImageError: see `read_raw`; or the file's depth is not that of its domain; the image is constant and has a
            window of its own.
    """
    return _counts(read(path), fmt, repr(str(path)))


def _counts(raw: Raw, fmt: DomainFormat, name: str) -> Counts:
    if raw.dtype != fmt.depth:
        raise ImageError(
            f"{name} is {raw.dtype} but its domain was set up as {fmt.depth}; "
            "a window fits one depth only: convert the file or keep it apart"
        )
    window = fmt.window or _window_between(_percentiles([raw], AUTO_PERCENTILES), name)
    return Counts(raw[:, :, None] if raw.ndim == 2 else raw, window)


def as_unit(counts: Tensor, low: float | Tensor, high: float | Tensor, channels: int) -> Tensor:
    """Counts (..., H, W, 1 or 3) float32 as (..., channels, H, W) in [0, 1], on their device.

    Three channels become one by luminance (ITU-R BT.601), one becomes three by repetition.

    Args:
        low, high: counts that are 0 and 1: numbers, or tensors that broadcast with `counts`.
    """
    values = ((counts - low) / (high - low)).clamp_(0, 1).movedim(-1, -3)
    if channels == 1 and values.shape[-3] == 3:
        weights = torch.tensor(_LUMINANCE, device=values.device).view(3, 1, 1)
        values = (values * weights).sum(-3, keepdim=True).clamp_(0, 1)
    return values.expand(*values.shape[:-3], channels, -1, -1).contiguous()


# --- choosing a window


def parse_window(text: str) -> WindowRule:
    """The rule behind an option's value.

    `auto`: 0..255 for 8-bit files, else the percentiles 0.1 and 99.9 of the domain; `LO,HI`: raw counts;
    `LO%,HI%`: percentiles of the domain; `image`: every image by its own percentiles 0.1 and 99.9.

    Raises:
        ValueError: anything else, or not LO < HI.
    """
    text = text.strip()
    if text in ("auto", "image"):
        return WindowRule(text)
    parts = [part.strip() for part in text.split(",")]
    percent = all(part.endswith("%") for part in parts)
    try:
        low, high = (float(part.removesuffix("%") if percent else part) for part in parts)
    except ValueError:
        raise ValueError(f"window {text!r} is none of auto, image, LO,HI (counts) and LO%,HI%") from None
    Window(low, high)
    if percent and not 0 <= low < high <= 100:
        raise ValueError(f"window {text!r}: percentiles lie between 0% and 100%")
    return WindowRule("percent" if percent else "counts", low, high)


def estimate_format(
    paths: Sequence[str | os.PathLike[str]], rule: WindowRule, seed: int, skip_bad: bool = False
) -> DomainFormat:
    """The format of a domain, from at most 200 of its files, evenly spaced.

    Percentiles of integer files are exact over these files (by histogram). Of float files at most 2^22 values
    are kept, equally many from every large file, drawn with `seed`.

    Args:
        skip_bad: do without those of the files whose pixels cannot be read; their headers must be good.

    Raises:
        ImageError: no files, files of different depths (two are named), a file that cannot be read (`skip_bad`: not
            one that can), percentiles that coincide.
    """
    if not paths:
        raise ImageError("there are no image files to choose a window from; check the folder")
    picks = np.linspace(0, len(paths) - 1, min(len(paths), _SURVEY_FILES)).round().astype(int)
    files = [Path(paths[i]) for i in picks]
    depths = [describe(file)[2] for file in files]
    for file, depth in zip(files, depths, strict=True):
        if depth != depths[0]:
            raise ImageError(
                f"{str(files[0])!r} is {depths[0]} but {str(file)!r} is {depth}; "
                "a domain has one depth: convert one kind or keep it apart"
            )
    return DomainFormat(_domain_window(files, depths[0], rule, seed, skip_bad), depths[0])


def _domain_window(files: list[Path], depth: str, rule: WindowRule, seed: int, skip_bad: bool) -> Window | None:
    if rule.kind == "image":
        return None
    if rule.kind == "counts":
        return Window(rule.low, rule.high)
    if rule.kind == "auto" and depth == "uint8":
        return Window(0.0, 255.0)
    wanted = (rule.low, rule.high) if rule.kind == "percent" else AUTO_PERCENTILES
    kept = _survey(files, max(1, _SURVEY_VALUES // len(files)), seed, skip_bad)
    what = f"the {len(files)} files examined in {str(files[0].parent)!r}"
    return _window_between(_percentiles(kept, wanted), what)


def _survey(files: list[Path], quota: int, seed: int, skip_bad: bool) -> Iterator[Raw]:
    unread: list[ImageError] = []
    for i, file in enumerate(files):
        try:
            yield _thinned(read_raw(file), quota, seed, i)
        except ImageError as error:
            unread.append(error)
            if not skip_bad:
                raise ImageError(f"{error} (--on_bad_image skip goes on without it)") from error
            if len(unread) == len(files):
                raise


def _window_between(values: tuple[float, float], what: str) -> Window:
    if not values[0] < values[1]:
        raise ImageError(
            f"{what}: the percentiles that should set the window coincide at {values[0]:g} "
            "(constant or nearly constant images); give the window in raw counts, LO,HI"
        )
    return Window(*values)


def _thinned(raw: Raw, quota: int, seed: int, index: int) -> Raw:
    if raw.dtype != np.float32 or raw.size <= quota:
        return raw
    return raw.reshape(-1)[np.random.default_rng([seed, index]).integers(raw.size, size=quota)]


def _percentiles(arrays: Iterable[Raw], wanted: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles of all values together, linearly interpolated; integer arrays are not held at once."""
    counts, floats = np.zeros(65536, np.int64), []
    for array in arrays:
        if array.dtype == np.float32:
            floats.append(array.reshape(-1))
        else:
            counts += np.bincount(array.reshape(-1), minlength=65536)
    if floats:
        low, high = np.percentile(np.concatenate(floats), wanted)
        return float(low), float(high)
    cumulative = counts.cumsum()
    return _histogram_percentile(cumulative, wanted[0]), _histogram_percentile(cumulative, wanted[1])


def _histogram_percentile(cumulative: NDArray[np.int64], percent: float) -> float:
    rank = percent / 100 * float(cumulative[-1] - 1)
    below, above = np.searchsorted(cumulative, [math.floor(rank), math.ceil(rank)], side="right")
    return float(below + (above - below) * (rank - math.floor(rank)))


# --- writing


def unit_to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] to (H, W, 3) uint8 for displays, rounded; one channel is repeated.

    Raises:
        ImageError: shape, NaN.
    """
    values = _channels_last(np.rint(_checked(pixels, "a picture") * 255).astype(np.uint8))
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def encode(path: str | os.PathLike[str], pixels: Tensor, fmt: DomainFormat) -> list[Path]:
    """Write (C, H, W) in [0, 1] at the domain's depth, its window undone, rounded to the nearest count.

    8 and 16 bits: STEM.png. float32: STEM.png, an 8-bit preview, and STEM.tif, the values. Without a window
    the values are relative: 0..1 over the whole range of the depth (float32: 0..1). Folders are made; each
    file appears whole or not at all. An image extension at the end of `path` is replaced.

    Returns:
        The files written, the PNG first.

    Raises:
        ImageError: shape, NaN.
        OSError: the file cannot be written.
    """
    path = Path(path)
    stem = path.name[: -len(path.suffix)] if path.suffix.lower() in EXTENSIONS else path.name
    png, tif = path.with_name(stem + ".png"), path.with_name(stem + ".tif")
    name = repr(str(path))
    counts = to_counts(pixels, fmt, name)
    if fmt.depth == "float32":
        _write(png, _channels_last(np.rint(_checked(pixels, name) * 255).astype(np.uint8)))
        _write(tif, counts)
        return [png, tif]
    _write(png, counts)
    return [png]


def to_counts(pixels: Tensor, fmt: DomainFormat, name: str = "a picture") -> Raw:
    """(C, H, W) in [0, 1] as (H, W, C) at the domain's depth, its window undone, rounded to the nearest count.

    Without a window the values are relative, as `encode` says.

    Raises:
        ImageError: shape, NaN; `name` says of which image.
    """
    top = _DEPTHS[fmt.depth]
    window = fmt.window or Window(0.0, float(top))
    counts = window.low + _checked(pixels, name) * (window.high - window.low)
    whole = counts.astype(np.float32) if fmt.depth == "float32" else np.rint(counts).clip(0, top).astype(fmt.depth)
    return _channels_last(whole)


def _channels_last(array: Raw) -> Raw:
    turned: Raw = array.transpose(1, 2, 0)
    return turned


def _checked(pixels: Tensor, what: str) -> NDArray[np.float64]:
    """(C, H, W) clipped; by numpy, since threads that write would each start a team of torch's own."""
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ImageError(f"{what} cannot be written: {tuple(pixels.shape)} is not (1, H, W) or (3, H, W)")
    values: NDArray[np.float64] = pixels.detach().cpu().numpy().astype(np.float64)
    if bool(np.isnan(values).any()):
        raise ImageError(f"{what} cannot be written: it holds NaN; use an earlier checkpoint")
    np.clip(values, 0, 1, out=values)
    return values


def _write(path: Path, array: Raw) -> None:
    # TIFF uncompressed: readers differ in how they undo compression on floats.
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix == ".tif" else []
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(array[:, :, ::-1]), options)
    if not done:
        raise ImageError(f"{str(path)!r} cannot be written: no encoder for {array.dtype} {array.shape}")
    write_atomic(path, data.tobytes())
