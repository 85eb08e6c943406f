"""Localisation maps from files and networks, brought to one size and scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from util.errors import printable
from util.metrics.base import MetricError
from util.metrics.wsol_boxes import Map


def checked(one: NDArray[Any]) -> Map:
    """A map in double precision.

    Raises:
        MetricError: it is not (H, W), or holds what is not in [0, 1].
    """
    if one.ndim != 2 or not one.size or one.dtype.kind not in "fiub":
        raise MetricError(f"a map is {one.dtype} {one.shape} instead of numbers (height, width)")
    found = one.astype(np.float64)
    if not (found.min() >= 0 and found.max() <= 1):  # NaN is neither
        raise MetricError("a map holds NaN or values outside [0, 1]; scale it first")
    return found


def unit_map(one: NDArray[Any], size: tuple[int, int] | None = None) -> Map:
    """A raw map (h, w) as (H, W) from 0 to 1, as wsol-done-right makes it of a CAM: resized, then its minimum 0 and its
    maximum 1. One that is constant, or not finite, is 0 everywhere.

    Raises:
        MetricError: it is not (h, w).
    """
    if one.ndim != 2 or not one.size or one.dtype.kind not in "fiub":
        raise MetricError(f"a map is {one.dtype} {one.shape} instead of numbers (height, width)")
    found = resized_map(one.astype(np.float64), size)
    low, high = found.min(), found.max()
    if not np.isfinite(high - low) or high <= low:
        return np.zeros_like(found)
    unit: Map = (found - low) / (high - low)
    return unit


def resized_map(one: Map, size: tuple[int, int] | None) -> Map:
    """(h, w) -> (H, W), bicubic."""
    if size is None or one.shape == size:
        return one
    return np.asarray(cv2.resize(one, size[::-1], interpolation=cv2.INTER_CUBIC), np.float64)


def map_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Where the saved maps of images lie.

    Raises:
        MetricError: some are not there; the message says how many.
    """
    if not folder.is_dir():
        raise MetricError(f"{printable(folder)}: no such folder of maps")
    files = [_map_file(folder, name) for name in names]
    lost = [name for name, file in zip(names, files, strict=True) if file is None]
    if lost:
        raise MetricError(
            f"{printable(folder)}: {len(lost)} of {len(names)} maps are missing, the first is "
            f"{printable(Path(lost[0]).with_suffix('.npy'))}"
        )
    return [file for file in files if file is not None]


def _map_file(folder: Path, name: str) -> Path | None:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise MetricError(f"{printable(name)[:200]}: leads out of the folder of maps")
    tried = (folder / path.with_suffix(".npy"), folder / f"{name}.npy", folder / f"{path.stem}.npy")
    return next((file for file in tried if file.is_file()), None)


def read_map(file: Path) -> NDArray[Any]:
    """A saved map, (h, w).

    Raises:
        MetricError: it cannot be read, or is none.
    """
    try:
        with file.open("rb") as stream:
            content = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, TypeError, SyntaxError) as error:
        reason = printable(" ".join(str(error).split()))[:200]
        raise MetricError(f"{printable(file)}: cannot be read as a map (.npy): {reason}") from error
    if content.ndim == 3 and len(content) == 1:
        content = content[0]
    if content.ndim != 2 or not content.size or content.dtype.kind not in "fiub":
        raise MetricError(f"{printable(file)}: is {content.dtype} {content.shape} instead of numbers (height, width)")
    return content
