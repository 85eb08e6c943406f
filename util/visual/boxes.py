"""Boxes and masks as outlines over a picture.

An outline runs around what it marks, never over it: a hot target of three pixels stays visible inside its box.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from util.visual.files import as_rgb

Picture = NDArray[np.uint8]
Rectangle = tuple[float, float, float, float]

# Okabe and Ito's palette (2008), told apart with any colour vision; without black, which is lost on dark pictures.
CLASS_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
UNKNOWN_COLOUR = (255, 255, 255)
_SIDE_PER_PIXEL = 128  # shorter side of a picture for each pixel of an outline's thickness


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB of a class: seven colours, used again from class 7 on; white for an unknown class (below 0)."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)] if label >= 0 else UNKNOWN_COLOUR


def outline_thickness(picture: np.ndarray) -> int:
    """Thickness that suits a picture's size: 1 pixel up to 191 on the shorter side, 2 at 256."""
    return max(1, round(int(min(picture.shape[:2])) / _SIDE_PER_PIXEL))


def draw_boxes(
    picture: np.ndarray,
    rectangles: Sequence[Rectangle],
    labels: Sequence[int] | None = None,
    thickness: int | None = None,
) -> Picture:
    """Outlines around rectangles, cut at the picture's border; each pixel is coloured by the share the line covers.

    Args:
        picture: uint8 (H, W, 3), (H, W, 1) or (H, W).
        rectangles: (x0, y0, x1, y1) in pixels, fractions allowed, x1 and y1 exclusive.
        labels: a class for each, for its colour; None: all of class 0.
        thickness: of the line in pixels; None: `outline_thickness`.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        ValueError: a rectangle without area, or a number of labels that does not fit.
    """
    drawn = as_rgb(picture)
    line = outline_thickness(drawn) if thickness is None else thickness
    classes = [0] * len(rectangles) if labels is None else labels
    shares = [_box_outline(drawn.shape[:2], rectangle, line) for rectangle in rectangles]
    return _painted(drawn, shares, classes)


def draw_masks(
    picture: np.ndarray,
    masks: Sequence[np.ndarray],
    labels: Sequence[int] | None = None,
    thickness: int | None = None,
) -> Picture:
    """Outlines around segmentation masks, with soft outer edges.

    Args:
        masks: (H, W) bool each, of the picture's size; an empty one draws nothing.
        picture, labels, thickness, returns: as `draw_boxes`.

    Raises:
        ValueError: a mask of another shape or type, or a number of labels that does not fit.
    """
    drawn = as_rgb(picture)
    line = outline_thickness(drawn) if thickness is None else thickness
    classes = [0] * len(masks) if labels is None else labels
    return _painted(drawn, [_mask_outline(drawn.shape[:2], mask, line) for mask in masks], classes)


def _painted(picture: np.ndarray, shares: Sequence[NDArray[np.float64]], labels: Sequence[int]) -> Picture:
    """Colours over the picture, as far as each pixel's share reaches."""
    if len(labels) != len(shares):
        raise ValueError(f"There are {len(shares)} outlines and {len(labels)} labels.")
    values = picture.astype(np.float64)
    for share, label in zip(shares, labels, strict=True):
        values += share[:, :, None] * (np.array(class_colour(label)) - values)
    return np.rint(values).astype(np.uint8)


def _box_outline(size: tuple[int, int], rectangle: Rectangle, thickness: int) -> NDArray[np.float64]:
    """(H, W) in [0, 1]: the part of each pixel that lies in the rectangle grown by `thickness`, but not in it."""
    x0, y0, x1, y1 = rectangle
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"A box needs x0 < x1 and y0 < y1, got {rectangle}.")
    covered = [
        np.outer(_overlap(size[0], y0 - grown, y1 + grown), _overlap(size[1], x0 - grown, x1 + grown))
        for grown in (thickness, 0)
    ]
    outline: NDArray[np.float64] = covered[0] - covered[1]
    return outline


def _overlap(count: int, low: float, high: float) -> NDArray[np.float64]:
    """(count,): the part of each interval [i, i + 1] that lies in [low, high]."""
    starts = np.arange(count, dtype=np.float64)
    overlap: NDArray[np.float64] = np.clip(np.minimum(starts + 1, high) - np.maximum(starts, low), 0, 1)
    return overlap


def _mask_outline(size: tuple[int, int], mask: np.ndarray, thickness: int) -> NDArray[np.float64]:
    """(H, W) in [0, 1]: 1 up to `thickness` pixels outside the mask, falling to 0 over the next."""
    if mask.dtype != np.bool_ or mask.shape != size:
        raise ValueError(f"A mask must be bool {size}, as its picture, got {mask.dtype} {mask.shape}.")
    if not mask.any():
        return np.zeros(size)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share: NDArray[np.float64] = np.clip(thickness + 1 - distance.astype(np.float64), 0, 1) * ~mask
    return share
