"""Localisation scores as wsol-done-right defines them (Choe et al., CVPR 2020), of any maps.

MaxBoxAcc: share of images whose box from the map's largest contour fits a true one with IoU 50 %, at the best of all
thresholds of the data set. MaxBoxAccV2: of all contours, the mean over IoU 30, 50 and 70 %, each at its own best
threshold. PxAP: area under the pixels' precision-recall curve, all images pooled. Beside these *oracle* thresholds
stands a *fixed* one, which needs no true boxes. All values are in percent.

Top-1 (top-5) localisation counts an image only where its class is (among the five) most probable, as F-CAM does
(Belharbi et al., WACV 2022). The map is that of the true class, unless maps of the predicted class are given beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from util.errors import counted
from util.metrics.base import MetricError, Scores, Value
from util.metrics.wsol_boxes import ALL, LARGEST, Boxes, Map, resized_boxes
from util.metrics.wsol_curves import SIGMAS, STEP, BoxCurve, Counts, Mask, PixelCurve
from util.metrics.wsol_maps import checked, map_files, read_map, resized_map, unit_map

FIXED = 0.5  # the threshold that no truth has chosen
SIDE = 224  # maps and truth are compared at this size
_END = object()

__all__ = [
    "FIXED",
    "SIDE",
    "SIGMAS",
    "STEP",
    "Localiser",
    "Truth",
    "checked",
    "folder_scores",
    "localisation_scores",
    "map_files",
    "read_map",
    "truth_from",
    "unit_map",
]


@dataclass(frozen=True)
class Truth:
    """Where the target is in one image.

    Attributes:
        size: (height, width) that boxes are in pixels of.
        boxes: (n, 4) x0, y0, x1, y1 with both corners inside; none: no box is known.
        masks: of the target's instances, each (h, w) of any size; none: no mask is known.
        ignore: (h, w), pixels that count neither way, but for those that are target.
    """

    size: tuple[int, int]
    boxes: Boxes
    masks: tuple[Mask, ...] = ()
    ignore: Mask | None = None

    def at(self, size: tuple[int, int]) -> Truth:
        """The same for the image resized to (height, width): corners are cut off to whole pixels, masks take the
        nearest pixel, and the instances' masks become one."""
        masks = (np.logical_or.reduce([_nearest(mask, size) for mask in self.masks]),) if self.masks else ()
        ignore = _nearest(self.ignore, size) if self.ignore is not None else None
        return Truth(size, resized_boxes(self.boxes, self.size, size), masks, ignore)

    def region(self, size: tuple[int, int]) -> Mask | None:
        """(height, width), the target's pixels: the masks, else the boxes filled; None where neither is known."""
        there = self.at(size)
        if there.masks:
            return there.masks[0]
        if not len(there.boxes):
            return None
        region = np.zeros(size, np.bool_)
        for x0, y0, x1, y1 in there.boxes:
            region[y0 : y1 + 1, x0 : x1 + 1] = True
        return region


def truth_from(
    rectangles: Sequence[tuple[float, float, float, float]], size: tuple[int, int], mask: Mask | None = None
) -> Truth:
    """Truth from rectangles whose x1 and y1 lie outside, as boxes.csv holds them, of an image of `size` (h, w)."""
    limits = np.array([size[1] - 1, size[0] - 1] * 2)
    outer = [[np.floor(x0), np.floor(y0), np.ceil(x1) - 1, np.ceil(y1) - 1] for x0, y0, x1, y1 in rectangles]
    boxes = np.minimum(np.array(outer, np.int64).reshape(-1, 4), limits)
    return Truth(size, boxes, () if mask is None else (mask,))


def _nearest(mask: Mask, size: tuple[int, int]) -> Mask:
    if mask.shape == size:
        return mask
    found: Mask = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return found


# --- counting


class Localiser:
    """Scores of maps against truth, image by image; its size does not grow with their number.

    Args:
        step: between thresholds.
        fixed: the threshold beside the oracle's, as a share of the map's maximum for boxes, and as a score for pixels.

    Attributes:
        left_out: images without truth.
    """

    def __init__(self, step: float = STEP, fixed: float = FIXED) -> None:
        self.boxes, self.pixels = BoxCurve(step), PixelCurve(step)
        self._boxes_predicted, self._pixels_predicted = BoxCurve(step), PixelCurve(step)
        self._classified = np.zeros(3, np.int64)  # images, right ones, those with the class among the first five
        self._left_out = np.zeros(1, np.int64)
        self._fixed = int(np.argmin(abs(self.boxes.at - fixed)))

    def add(
        self,
        one: NDArray[Any],
        truth: Truth | None,
        *,
        label: int | None = None,
        ranking: Sequence[int] = (),
        predicted: NDArray[Any] | None = None,
    ) -> float | None:
        """Count an image.

        Args:
            one: (H, W) in [0, 1], the map of the true class.
            truth: of any size; None, or without a box and a mask: the image is left out.
            label, ranking: its class, and classes from the most probable one on.
            predicted: the map of the class predicted, for scores that know no class.

        Returns:
            In percent, the IoU of the largest contour's box at the fixed threshold, or without boxes of the pixels.

        Raises:
            MetricError: a map is not (H, W), or not in [0, 1].
        """
        self._count_class(label, ranking)
        if truth is None or not (len(truth.boxes) or truth.masks):
            self._left_out += 1
            return None
        own = checked(one)
        there = truth.at((own.shape[0], own.shape[1]))
        rank = _place(label, ranking)
        if predicted is not None:
            other = checked(predicted)
            self._add_to(self._boxes_predicted, self._pixels_predicted, other, truth.at((len(other), other.shape[1])))
        return self._add_to(self.boxes, self.pixels, own, there, rank)

    def _add_to(
        self, boxes: BoxCurve, pixels: PixelCurve, one: Map, truth: Truth, rank: int | None = None
    ) -> float | None:
        found = None
        if truth.masks:
            pixels.add(one, truth.masks[0], truth.ignore)
            found = 100 * _pixel_iou(one >= pixels.at[self._fixed], truth)
        if len(truth.boxes):
            found = 100 * float(boxes.add(one, truth.boxes, rank)[LARGEST, self._fixed])
        return found

    def _count_class(self, label: int | None, ranking: Sequence[int]) -> None:
        rank = _place(label, ranking)
        if rank is not None:
            self._classified += (1, rank < 1, rank < 5)

    @property
    def left_out(self) -> int:
        return int(self._left_out[0])

    def _arrays(self) -> list[Counts]:
        curves = (self.boxes, self.pixels, self._boxes_predicted, self._pixels_predicted)
        return [*chain.from_iterable(curve.arrays() for curve in curves), self._classified, self._left_out]

    @property
    def counts(self) -> Counts:
        """Everything that was counted, (n,): the sum over processes, put back, gives the scores of all images."""
        return np.concatenate([array.ravel() for array in self._arrays()])

    @counts.setter
    def counts(self, total: Counts) -> None:
        place = 0
        for array in self._arrays():
            array[...] = total[place : place + array.size].reshape(array.shape)
            place += array.size

    def scores(self) -> Scores:
        """All scores that there is truth for, in percent, with the thresholds and curves behind them.

        Raises:
            MetricError: no image had a box or mask, or no mask has a target.
        """
        curves = (("", self.boxes, self.pixels), ("_predicted", self._boxes_predicted, self._pixels_predicted))
        total = Scores({})
        for suffix, boxes, pixels in curves:
            if boxes.images[0]:
                total = total.and_also(_box_scores(boxes, self._fixed, suffix))
            if pixels.true.any() or pixels.false.any():
                total = total.and_also(_pixel_scores(pixels, self._fixed, suffix))
        if not total.values:
            raise MetricError(f"none of {counted(self.left_out, 'image')} has a box or a mask")
        images, *right = self._classified.tolist()
        if images:
            more = {f"top{k}_cls": Value(100 * n / images, better="higher") for k, n in zip((1, 5), right, strict=True)}
            total = total.and_also(Scores(more))
        if self.left_out:
            note = f"{counted(self.left_out, 'image')} without a box or a mask left out"
            noted = {name: replace(value, note=f"{value.note}; {note}") for name, value in total.values.items()}
            total = Scores(noted, tables=total.tables)
        return total


def _place(label: int | None, ranking: Sequence[int]) -> int | None:
    if label is None or len(ranking) == 0:
        return None
    places = [place for place, other in enumerate(ranking) if int(other) == label]
    return places[0] if places else len(ranking) + 5


def _pixel_iou(above: Mask, truth: Truth) -> float:
    target = truth.masks[0]
    if truth.ignore is not None:
        above = above & ~(truth.ignore & ~target)
    return float((above & target).sum() / max(1, (above | target).sum()))


# --- from counts to scores


def _box_scores(curve: BoxCurve, fixed: int, suffix: str) -> Scores:
    share = 100 * curve.hits / curve.images[0]
    note = f"{curve.images[0]} images"
    kinds = {LARGEST: ("MaxBoxAcc", "largest contour"), ALL: ("MaxBoxAccV2", "all contours")}
    values: dict[str, Value] = {}
    for which, (name, contours) in kinds.items():
        best = [int(np.argmax(row)) for row in share[which]]
        found = [float(row[place]) for row, place in zip(share[which], best, strict=True)]
        each = {
            f"{name}{suffix}_IoU{sigma}": Value(
                value, kind=f"{contours}, IoU {sigma} %, oracle threshold {curve.at[place]:.3f}", better="higher"
            )
            for sigma, value, place in zip(SIGMAS, found, best, strict=True)
        }
        middle = SIGMAS.index(50)
        if which == LARGEST:
            values[name + suffix] = each[f"{name}{suffix}_IoU50"]
            at_fixed = float(share[which, middle, fixed])
        else:
            kind = f"{contours}, mean over IoU {', '.join(map(str, SIGMAS))} %, each at its oracle threshold"
            values[name + suffix] = Value(float(np.mean(found)), kind=kind, better="higher")
            at_fixed = float(share[which, :, fixed].mean())
        kind = f"{contours}, fixed threshold {curve.at[fixed]:.3f}"
        values[f"{name.removeprefix('Max')}_fixed{suffix}"] = Value(at_fixed, kind=kind, better="higher")
        values |= each
        if curve.images[1]:
            values |= _top_scores(curve, which, name)
    table = {
        "threshold": curve.at.tolist(),
        **{
            f"{kinds[which][0]}_IoU{sigma}": share[which, number].tolist()
            for which in kinds
            for number, sigma in enumerate(SIGMAS)
        },
    }
    return Scores(
        {key: replace(value, note=note) for key, value in values.items()}, tables={f"box_curve{suffix}": table}
    )


def _top_scores(curve: BoxCurve, which: int, name: str) -> dict[str, Value]:
    """Top-1 and top-5 localisation, each at its own best threshold."""
    version, values = name.removeprefix("MaxBoxAcc"), {}
    for word, right in (("top1_loc", curve.top1), ("top5_loc", curve.top5)):
        best = (100 * right[which] / curve.images[1]).max(1)
        found = float(best.mean()) if which == ALL else float(best[SIGMAS.index(50)])
        values[word + version] = Value(found, kind=f"as {name}, where the class is right", better="higher")
        for sigma, value in zip(SIGMAS, best, strict=True):
            values[f"{word}{version}_IoU{sigma}"] = Value(float(value), kind=f"IoU {sigma} %", better="higher")
    return values


def _pixel_scores(curve: PixelCurve, fixed: int, suffix: str) -> Scores:
    ious = 100 * curve.ious()
    best, pixels = int(np.argmax(ious)), int(curve.true.sum() + curve.false.sum())
    values = {
        f"PxAP{suffix}": Value(100 * curve.average_precision(), kind="area under the precision-recall curve"),
        f"pIoU{suffix}": Value(float(ious[best]), kind=f"IoU of pixels, oracle threshold {curve.at[best]:.3f}"),
        f"IoU_fixed{suffix}": Value(float(ious[fixed]), kind=f"IoU of pixels, fixed threshold {curve.at[fixed]:.3f}"),
    }
    named = {key: replace(value, note=f"{pixels} pixels", better="higher") for key, value in values.items()}
    table = {"threshold": curve.at.tolist(), "true": curve.true.tolist(), "false": curve.false.tolist()}
    return Scores(named, tables={f"pixel_curve{suffix}": table})


# --- any maps


def localisation_scores(
    maps: Iterable[NDArray[Any]],
    truths: Iterable[Truth | None],
    *,
    labels: Iterable[int | None] = (),
    rankings: Iterable[Sequence[int]] = (),
    predicted: Iterable[NDArray[Any]] = (),
    scale: bool = True,
    side: int = SIDE,
    step: float = STEP,
    fixed: float = FIXED,
) -> Scores:
    """The scores of any maps, which are read one after the other.

    Args:
        maps: (h, w) of the true class, image by image.
        truths: one for each; None where there is none.
        labels, rankings: one for each, or none: classes, and predicted classes from the most probable one on.
        predicted: maps of the predicted class, one for each, or none.
        scale: each map's minimum becomes 0 and its maximum 1; otherwise all must be in [0, 1].
        side: maps are resized to so many pixels a side, bicubic; 0: they stay as they are.
        step, fixed: see `Localiser`.

    Returns:
        `per_image` has `loc_IoU`: see `Localiser.add`.

    Raises:
        MetricError: a map that is none, more or fewer maps than truths, or no truth at all.
    """
    counter, per_image = Localiser(step, fixed), list[float | None]()
    size = (side, side) if side else None

    def ready(one: NDArray[Any]) -> Map:
        return unit_map(one, size) if scale else resized_map(checked(one), size).clip(0, 1)

    columns = (_or_nothing(labels, None), _or_nothing(rankings, ()), _or_nothing(predicted, None))
    for number, (one, truth) in enumerate(_same_number(maps, truths)):
        row: list[Any] = [next(column, _END) for column in columns]
        if any(cell is _END for cell in row):
            raise MetricError(f"there are labels, rankings or predicted maps for {counted(number, 'image')} only")
        label, ranking, other = row
        try:
            guess = None if other is None else ready(other)
            found = counter.add(ready(one), truth, label=label, ranking=ranking, predicted=guess)
        except MetricError as error:
            raise MetricError(f"map {number}: {error}") from error
        per_image.append(found)
    kind = {"loc_IoU": "higher"}
    return counter.scores().and_also(Scores({}, {"loc_IoU": per_image}, better=kind))


def _same_number(
    maps: Iterable[NDArray[Any]], truths: Iterable[Truth | None]
) -> Iterator[tuple[NDArray[Any], Truth | None]]:
    try:
        yield from zip(maps, truths, strict=True)
    except ValueError as error:
        raise MetricError(f"there are not as many maps as images: {error}") from error


def _or_nothing(given: Iterable[Any], nothing: Any) -> Iterator[Any]:
    """What is given, or for ever nothing."""
    rest = iter(given)
    for first in rest:
        return chain((first,), rest)
    return repeat(nothing)


def folder_scores(folder: Path, names: Sequence[str], truths: Iterable[Truth | None], **more: Any) -> Scores:
    """The scores of saved maps: `<folder>/<name>.npy` for an image called `<name>.jpg`, sub-folders as in the name.

    Args:
        names: of the images, below their data root.
        truths, more: see `localisation_scores`.

    Raises:
        MetricError: a file is missing or holds no map, or as there.
    """
    return localisation_scores((read_map(file) for file in map_files(folder, names)), truths, **more)
