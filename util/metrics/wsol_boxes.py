"""Boxes from a localisation map, and how they fit true ones, as wsol-done-right counts them (Choe et al., CVPR 2020).

Boxes are (x0, y0, x1, y1) in whole pixels with both corners inside, so that a side is x1 - x0 + 1 long.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from util.metrics.base import MetricError

Boxes = NDArray[np.int64]  # (n, 4)
Map = NDArray[np.float64]  # (H, W) in [0, 1]

LARGEST, ALL = 0, 1  # which boxes of a map count: the one of its largest contour, or each


def thresholds(step: float) -> NDArray[np.float64]:
    """0, step, 2 step, ... below 1.

    Raises:
        ValueError: step is not in (0, 1).
    """
    if not 0 < step < 1:
        raise ValueError(f"thresholds {step} apart: the step lies between 0 and 1")
    return np.arange(0, 1, step)


def box_iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """(n, m) intersection over union of n boxes with m boxes.

    Raises:
        MetricError: a box is negative, or its corners are the wrong way round.
    """
    for boxes in (first, second):
        if np.any(boxes < 0) or np.any(boxes[:, 2:] < boxes[:, :2]):
            raise MetricError("a box has a negative corner, or ends before it begins")
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low + 1, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(1) for boxes in (first, second)]
    found: NDArray[np.float64] = common / (areas[0][:, None] + areas[1][None] - common)
    return found


def resized_boxes(boxes: Boxes, size: tuple[int, int], to: tuple[int, int]) -> Boxes:
    """Boxes of an image of `size` (h, w) after it was resized `to` (H, W); fractions are cut off."""
    factors = (to[1], to[0], to[1], to[0])
    sides = (size[1], size[0], size[1], size[0])
    found: Boxes = np.asarray(boxes, np.int64) * factors // np.asarray(sides)
    return found


def boxes_above(quantised: NDArray[np.uint8], level: int) -> tuple[Boxes, int]:
    """Boxes around the contours of what lies above a level.

    Contours are 8-connected. Those of holes count too: their boxes lie on the object. A box ends one pixel after its
    contour, but for the border of the image.

    Returns:
        The boxes, one of a single pixel in the corner where nothing lies above, and the number of the largest contour.
    """
    above = (quantised > level).astype(np.uint8)
    contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros((1, 4), np.int64), 0
    height, width = quantised.shape
    corners = np.array([cv2.boundingRect(contour) for contour in contours], np.int64)
    corners[:, 2:] += corners[:, :2]
    corners[:, 2:] = np.minimum(corners[:, 2:], (width - 1, height - 1))
    areas = [cv2.contourArea(contour) for contour in contours]
    return corners, int(np.argmax(areas)) if len(areas) > 1 else 0


def best_ious(one: Map, true: Boxes, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, T): the best fit with any true box of the LARGEST contour's box, and of ALL boxes, at each threshold.

    A threshold is a share of the map's own maximum, in 8-bit levels: of all thresholds, at most 255 levels differ.

    Args:
        one: (H, W) in [0, 1].
        true: (n, 4), n >= 1, in pixels of the map.
        at: (T,) thresholds in [0, 1).
    """
    quantised = (one * 255).astype(np.uint8)
    levels = (at * int(quantised.max())).astype(np.int64)
    different, where = np.unique(levels, return_inverse=True)
    found = np.empty((2, len(different)))
    for number, level in enumerate(different):
        boxes, largest = boxes_above(quantised, int(level))
        fits = box_iou(boxes, true).max(1)
        found[:, number] = fits[largest], fits.max()
    return found[:, where]
