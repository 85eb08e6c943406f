"""Whether a map lies on the target: pointing game, energy, and the box around what is above a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from util.metrics.maps import Array

Rectangle = tuple[float, float, float, float]
Target = NDArray[np.float64]  # (H, W), share of each pixel that is target
THRESHOLD = 0.2  # of the greatest value: what the box of a map is drawn around


def heat_of(one: Tensor) -> Array:
    """A map (H, W) as an array, its negative evidence as none."""
    heat: Array = one.clamp_min(0).float().cpu().numpy()
    return heat


def energy(heat: Array, target: Target) -> float:
    """Share of the map's sum inside the target (Wang et al., Score-CAM, CVPR workshop 2020, section 4.3); 0 of a map of
    zeros."""
    total = float(heat.sum(dtype=np.float64))
    return float((heat * target).sum()) / total if total > 0 else 0.0


def pointing(heat: Array, target: Target, tolerance: float = 0.0) -> float:
    """Whether the strongest point is in the target (Zhang et al., IJCV 126, 2018, section 4.2).

    Of several equally strong points each counts by its share, so that a flat map reaches what the target covers; a map
    of zeros has no point.

    Args:
        tolerance: in pixels; a point no farther than this from the target counts as in it. 15 in the paper.
    """
    if not heat.max() > 0:
        return 0.0
    return float(grown(target, tolerance)[heat == heat.max()].mean())


def grown(target: Target, tolerance: float) -> Target:
    """The target with all pixels that are, centre to centre, no farther than `tolerance` from it; 0: as it is."""
    if tolerance <= 0 or not target.any():
        return target
    away = cv2.distanceTransform((target <= 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(away <= tolerance, 1.0, 0.0)


def box_of(heat: Array, threshold: float = THRESHOLD) -> Rectangle | None:
    """(x0, y0, x1, y1) around the largest connected part above a share of the greatest value; None of a map of zeros.

    Zhou et al., CVPR 2016, section 3.2; neighbours across a corner are connected. x1 and y1 are exclusive.
    """
    if not heat.max() > 0:
        return None
    strong = (heat >= threshold * heat.max()).astype(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(strong, connectivity=8)
    x, y, width, height, _ = max(parts[1:].tolist(), key=lambda part: part[4])
    return float(x), float(y), float(x + width), float(y + height)


def iou(a: Rectangle, b: Rectangle) -> float:
    """Intersection over union of two rectangles."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (_area(a) + _area(b) - both)


def _area(box: Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def box_iou(heat: Array, rectangles: Sequence[Rectangle], threshold: float = THRESHOLD) -> float:
    """IoU of the map's box with the rectangle that fits it best; 0 of a map of zeros.

    Raises:
        ValueError: there is no rectangle.
    """
    if not rectangles:
        raise ValueError("no rectangle is given: there is nothing to compare with")
    found = box_of(heat, threshold)
    return 0.0 if found is None else max(iou(found, box) for box in rectangles)


def box_around(target: Target) -> Rectangle:
    """The smallest rectangle around a target that is not empty."""
    rows, columns = (np.flatnonzero(target.any(axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
