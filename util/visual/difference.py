"""Where two images differ, and by how much: blue is darker, red is brighter, grey-white is no difference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from util.visual.grid import MARGIN, panel, text_image

Map = NDArray[np.float32]
Picture = NDArray[np.uint8]

COLORMAP = (
    "RdBu_r"  # of matplotlib, after ColorBrewer: diverging, equally light on both sides, safe for the colour-blind
)
_HALF = 128  # levels on either side of zero, which has a level of its own
_ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_BAR_WIDTH = 12


def difference(one: ArrayLike, other: ArrayLike, span: float = 1.0) -> Map:
    """`(one - other) * span`, the mean over the channels.

    Args:
        one, other: (C, H, W) in the same scale: arrays, or tensors on the CPU; for example a translation and its input.
        span: the unit's size: 1 keeps the images' own, HIGH - LOW of their common window makes counts of [0, 1].

    Returns:
        (H, W) float32.

    Raises:
        ValueError: the shapes differ or are not (C, H, W).
    """
    a, b = np.asarray(one, np.float32), np.asarray(other, np.float32)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"A difference needs two images (C, H, W) of one shape, got {a.shape} and {b.shape}.")
    values: Map = (a - b).mean(axis=0) * np.float32(span)
    return values


def symmetric_limit(differences: Iterable[ArrayLike], percent: float = 99.5) -> float:
    """A round number L, so that [-L, L] holds `percent` of all differences: one range for every map of a report.

    Args:
        differences: maps (H, W) or their parts; NaN is left out.
        percent: 100: nothing is clipped.

    Returns:
        A positive number; 1 where nothing differs.
    """
    sizes = np.concatenate([np.zeros(0), *(np.abs(np.asarray(values, np.float64)).ravel() for values in differences)])
    sizes = sizes[np.isfinite(sizes)]
    size = float(np.percentile(sizes, percent)) if len(sizes) else 0.0
    if size == 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(size))
    factor = next((factor for factor in _ROUND if factor * scale >= size * (1 - 1e-6)), 10)
    return float(f"{factor * scale:.6g}")


def difference_map(values: ArrayLike, limit: float) -> Picture:
    """Colours of a signed difference.

    Args:
        values: (H, W); -limit is the darkest blue, 0 exactly the middle colour, limit the darkest red; what lies
            outside is clipped, NaN counts as 0.
        limit: positive, in the unit of the values; see `symmetric_limit`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: a limit that is not positive, or values that are not (H, W).
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not limit > 0:
        raise ValueError(f"A difference map needs values (H, W) and a positive limit, got {array.shape} and {limit}.")
    levels = np.rint(np.clip(np.nan_to_num(array) / limit, -1, 1) * _HALF).astype(np.intp) + _HALF
    picture: Picture = _colours()[levels]
    return picture


def colour_bar(limit: float, height: int, unit: str = "") -> Picture:
    """The legend of difference maps: the colours from limit (top) to -limit, with both and 0 written beside them.

    Args:
        height: in pixels; raised to what three lines of text need.
        unit: of the limit, for example `counts`; written beside the 0.

    Returns:
        uint8 (H, W, 3).
    """
    labels = [text_image(text) for text in (f"+{limit:g}", f"0 {unit}".rstrip(), f"-{limit:g}")]
    line = labels[0].shape[0]
    height = max(height, len(labels) * line)
    ramp = np.linspace(limit, -limit, height)[:, None].repeat(_BAR_WIDTH, axis=1)
    picture = np.full((height, _BAR_WIDTH + MARGIN + max(label.shape[1] for label in labels), 3), 255, np.uint8)
    picture[:, :_BAR_WIDTH] = difference_map(ramp, limit)
    for label, top in zip(labels, (0, (height - line) // 2, height - line), strict=True):
        picture[top : top + line, _BAR_WIDTH + MARGIN : _BAR_WIDTH + MARGIN + label.shape[1]] = label
    return picture


def with_colour_bar(values: ArrayLike, limit: float, unit: str = "") -> Picture:
    """A difference map and its legend on the right, uint8 (H, W, 3); arguments as of the two."""
    drawn = difference_map(values, limit)
    return panel([[drawn, colour_bar(limit, drawn.shape[0], unit)]])


@cache
def _colours() -> Picture:
    """(257, 3): an odd number, so that the middle one is zero's own."""
    from matplotlib import colormaps  # slow to load, and not needed by who draws no difference

    levels = np.linspace(0, 1, 2 * _HALF + 1)
    table: Picture = colormaps[COLORMAP].resampled(len(levels))(levels, bytes=True)[:, :3]
    return table
