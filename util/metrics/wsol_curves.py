"""What is counted of localisation maps, threshold by threshold: hits of boxes, and pixels by score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from util.metrics.base import MetricError
from util.metrics.wsol_boxes import Boxes, Map, best_ious, thresholds

SIGMAS = (30, 50, 70)  # IoU in percent
STEP = 0.001  # between thresholds, of the published test scores

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


class BoxCurve:
    """How many images are hit at each threshold: a few numbers a threshold, however many images there are.

    Attributes:
        hits, top1, top5: (2, 3, T) images hit, by kind of box (LARGEST, ALL), IoU of SIGMAS and threshold; of `top1`
            and `top5` only those whose class was predicted.
        images: (2,) how many there were, and how many of them came with predicted classes.
    """

    def __init__(self, step: float = STEP) -> None:
        self.at = thresholds(step)
        shape = (2, len(SIGMAS), len(self.at))
        self.hits, self.top1, self.top5 = (np.zeros(shape, np.int64) for _ in range(3))
        self.images = np.zeros(2, np.int64)

    def add(self, one: Map, boxes: Boxes, rank: int | None = None) -> NDArray[np.float64]:
        """Count an image.

        Args:
            one: (H, W) in [0, 1].
            boxes: true ones, in pixels of the map.
            rank: place of the true class among the predicted ones, 0 first; None: no classes were predicted.

        Returns:
            (2, T), the best IoU by kind of box and threshold.
        """
        found = best_ious(one, boxes, self.at)
        hit = found[:, None] >= np.array(SIGMAS)[:, None] / 100
        self.hits += hit
        self.images += (1, rank is not None)
        if rank is not None:
            self.top1 += hit & (rank < 1)
            self.top5 += hit & (rank < 5)
        return found

    def arrays(self) -> list[Counts]:
        """All counts, which add up over processes."""
        return [self.hits, self.top1, self.top5, self.images]


class PixelCurve:
    """Histograms of the scores of all target and all other pixels.

    Attributes:
        true, false: (T + 2,) pixels by score.
    """

    def __init__(self, step: float = STEP) -> None:
        self.at = thresholds(step)
        self._edges = np.append(self.at, (1.0, 2.0, 3.0))
        self.true, self.false = (np.zeros(len(self._edges) - 1, np.int64) for _ in range(2))

    def add(self, one: Map, target: Mask, ignore: Mask | None = None) -> None:
        """Count an image's pixels, (H, W); those to ignore do not count unless they are target."""
        others = ~target if ignore is None else ~(target | ignore)
        self.true += np.histogram(one[target], self._edges)[0]
        self.false += np.histogram(one[others], self._edges)[0]

    def arrays(self) -> list[Counts]:
        """All counts, which add up over processes."""
        return [self.true, self.false]

    def average_precision(self) -> float:
        """PxAP in [0, 1]: the sum of precision times growth of recall, from the highest threshold down.

        Raises:
            MetricError: no pixel is target.
        """
        true, false = self._above()
        if not true[0]:
            raise MetricError("no pixel of any mask is target, so that there is no precision")
        counted = (true + false) > 0
        precision = true[counted] / (true + false)[counted]
        growth = -np.diff(true[counted] / true[0], append=0.0)
        return float((precision * growth).sum())

    def ious(self) -> NDArray[np.float64]:
        """(T,) intersection over union of all pixels of the set above each threshold with all target pixels."""
        true, false = self._above()
        found: NDArray[np.float64] = (true / np.maximum(true[0] + false, 1))[: len(self.at)]
        return found

    def _above(self) -> tuple[Counts, Counts]:
        """Target and other pixels at or above each edge."""
        true, false = (np.cumsum(counts[::-1])[::-1] for counts in (self.true, self.false))
        return true, false
