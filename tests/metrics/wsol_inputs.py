"""Maps, boxes and masks for the golden localisation scores, from numbers alone: the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 224
Blob = tuple[float, float, float, float]  # centre x, y and radii


@dataclass(frozen=True)
class BoxCase:
    """A map with true boxes (x0, y0, x1, y1) of an image (width, height), its class and its predicted ones."""

    size: tuple[int, int]
    boxes: list[list[int]]
    target: int
    ranking: list[int]
    score: NDArray[np.float64]


def score_map(seed: int) -> tuple[NDArray[np.float64], list[Blob]]:
    """(224, 224) in [0, 1] of multiples of 1/1024, which times 255 are exact, and the blobs in it."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    found, blobs = np.zeros((SIZE, SIZE)), []
    for _ in range(int(draw.integers(1, 5))):
        cx, cy = draw.random(2) * SIZE
        rx, ry = 10 + draw.random(2) * 50
        height = 0.3 + 0.7 * draw.random()
        q = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
        found = np.maximum(found, height / (1.0 + q * q))
        blobs.append((cx, cy, rx, ry))
    coarse = draw.random((14, 14))
    found = found + 0.15 * np.kron(coarse, np.ones((16, 16)))
    found = (found - found.min()) / (found.max() - found.min())
    return np.round(found * 1024) / 1024, blobs


def box_case(seed: int) -> BoxCase:
    score, blobs = score_map(seed)
    draw = np.random.default_rng(10_000 + seed)
    w, h = (int(v) for v in draw.integers(80, 600, 2))
    boxes = []
    for cx, cy, rx, ry in blobs[: int(draw.integers(1, 3))]:
        k = 0.6 + 0.8 * draw.random()
        j = (draw.random(2) - 0.5) * 16
        x0, x1 = sorted((max(0, cx + j[0] - k * rx), min(SIZE - 1, cx + j[0] + k * rx)))
        y0, y1 = sorted((max(0, cy + j[1] - k * ry), min(SIZE - 1, cy + j[1] + k * ry)))
        corners = (int(x0 * w / SIZE), int(y0 * h / SIZE), int(x1 * w / SIZE), int(y1 * h / SIZE))
        boxes.append([*corners[:2], min(w - 1, corners[2]), min(h - 1, corners[3])])
    ranking = [int(v) for v in draw.permutation(10)]
    target = int(draw.integers(0, 10))
    if draw.random() < 0.5:
        target = ranking[0]
    return BoxCase((w, h), boxes, target, ranking, score)


def mask_case(seed: int) -> tuple[tuple[NDArray[np.bool_], ...], NDArray[np.bool_], NDArray[np.float64]]:
    """Masks of instances, what to ignore, and a map; masks have the image's size and the map its own."""
    score, blobs = score_map(500 + seed)
    draw = np.random.default_rng(20_000 + seed)
    w, h = (int(v) for v in draw.integers(150, 400, 2))
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    masks = []
    for cx, cy, rx, ry in blobs[: int(draw.integers(1, 4))]:
        q = ((x * SIZE / w - cx) / (1.2 * rx)) ** 2 + ((y * SIZE / h - cy) / (1.2 * ry)) ** 2
        masks.append(q < 1)
    ignore = np.zeros((h, w), np.bool_)
    a, b = int(draw.integers(0, h - 20)), int(draw.integers(0, w - 20))
    if seed % 3:
        ignore[a : a + 20 + int(draw.integers(0, 60)), b : b + 20 + int(draw.integers(0, 60))] = True
    return tuple(masks), ignore, score
