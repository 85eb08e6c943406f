"""Class activation maps as colours, and laid over the picture they explain."""

from __future__ import annotations

import cv2
import numpy as np

from util.visual.files import as_rgb

ROUNDING = 1e-6  # relative differences below it are float32's own


def _rainbow() -> np.ndarray:
    """Violet to red, as matplotlib's (gnuplot's formulas 33, 13, 10); OpenCV's runs the other way. BGR, (256, 1, 3)."""
    x = np.linspace(0, 1, 256)
    channels = (np.cos(np.pi * x / 2), np.sin(np.pi * x), np.abs(2 * x - 0.5))
    table: np.ndarray = np.rint(255 * np.stack(channels, -1).clip(0, 1)).astype(np.uint8)[:, None]
    return table


COLORMAPS: dict[str, int | np.ndarray] = {
    "jet": cv2.COLORMAP_JET,
    "rainbow": _rainbow(),
    "turbo": cv2.COLORMAP_TURBO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "hot": cv2.COLORMAP_HOT,
}


def colormap(values: np.ndarray, name: str = "jet") -> np.ndarray:
    """Colours of a map.

    Args:
        values: (H, W) float; values outside [0, 1] are clipped, NaN counts as 0.
        name: one of `COLORMAPS`, or `gray`.

    Returns:
        uint8 (H, W, 3) in RGB order.

    Raises:
        ValueError: an unknown name, or an array that is not two-dimensional.
    """
    if values.ndim != 2:
        raise ValueError(f"A map must be (H, W), got the shape {values.shape}.")
    levels = np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    if name == "gray":
        return as_rgb(levels)
    if name not in COLORMAPS:
        raise ValueError(f"Unknown colour map {name!r}; choose one of {', '.join([*COLORMAPS, 'gray'])}.")
    coloured: np.ndarray = cv2.applyColorMap(levels, COLORMAPS[name])
    return np.ascontiguousarray(coloured[:, :, ::-1])


def overlay(image: np.ndarray, values: np.ndarray, strength: float = 0.5, name: str = "jet") -> np.ndarray:
    """A map over its picture: `(1 - strength) * image + strength * colormap(map / max(map))`.

    Args:
        image: uint8 (H, W, 3), (H, W, 1) or (H, W), RGB order.
        values: (h, w) float, at least 0, any scale: it is divided by its maximum after resizing to (H, W)
            with bilinear interpolation (pixel centres at half-integers, as `align_corners=False`). A map of
            zeros stays a map of zeros.
        strength: weight of the colours, 0 (the picture alone) to 1 (the colours alone).
        name: the colour map.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: a strength outside [0, 1], a negative value in the map, an unknown colour map or shape.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"The overlay's strength must lie in [0, 1], got {strength}.")
    if values.ndim != 2 or (values < 0).any():
        raise ValueError(f"A map must be (h, w) and at least 0 (apply ReLU first), got the shape {values.shape}.")
    image = as_rgb(image)
    height, width = image.shape[:2]
    resized = cv2.resize(np.nan_to_num(values).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    peak = float(resized.max())
    colours = colormap(resized / peak if peak > 0 else resized, name)
    blended = (1 - strength) * image.astype(np.float32) + strength * colours.astype(np.float32)
    return np.rint(blended).astype(np.uint8)


def heat_map(values: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """A map scaled for a picture: resized bilinearly to `size`, then its minimum to 0 and its maximum to 1.

    Args:
        values: (h, w) float, any scale; negative evidence, NaN and infinities count as none.
        size: (H, W) of the picture; None keeps (h, w).

    Returns:
        float32 (H, W) in [0, 1]; a map that is constant up to rounding becomes 0: it points nowhere.
    """
    finite = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    heat: np.ndarray = np.maximum(finite, 0)
    if size is not None:
        heat = cv2.resize(heat, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high - low > ROUNDING * high else np.zeros_like(heat)
