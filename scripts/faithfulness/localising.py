"""Localisation scores of saved maps, by the protocol of wsol-done-right (see `util.metrics.wsol`), a row a method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.comparing.tables import Cell, Table
from scripts.faithfulness.measures import Where
from scripts.faithfulness.saved import Saved
from util.metrics.base import MetricError, Scores
from util.metrics.wsol import FIXED, SIDE, STEP, Truth, localisation_scores, truth_from

PREDICTED = "_predicted"
# Name of a score -> heading of its column.
COLUMNS: Mapping[str, str] = {
    "MaxBoxAcc": "MaxBoxAcc",
    "MaxBoxAccV2": "V2",
    "BoxAcc_fixed": "fixed",
    "BoxAccV2_fixed": "V2 fixed",
    "top1_loc": "top-1",
    "top5_loc": "top-5",
    "top1_locV2": "V2 top-1",
    "top5_locV2": "V2 top-5",
    "PxAP": "PxAP",
    "pIoU": "pIoU",
    "IoU_fixed": "IoU fixed",
}
Truths = Mapping[Path, Truth | None]


@dataclass(frozen=True)
class Protocol:
    """How maps are held against boxes and masks.

    Attributes:
        fixed: the threshold that no truth has chosen.
        side: maps and truth are compared at so many pixels a side; 0: at the maps' own size.
        step: between the thresholds that the oracle tries.
        stretched: each map's minimum becomes 0 and its maximum 1, but of those that say they are probabilities.
    """

    fixed: float = FIXED
    side: int = SIDE
    step: float = STEP
    stretched: bool = True


@dataclass(frozen=True)
class Localised:
    """What was found of one method.

    Attributes:
        scores: none where there is no truth for any of its images.
        other_class: images whose map is of another class than their label, so that the map of the predicted class is
            all there is.
    """

    method: str
    scores: Scores
    other_class: int = 0


def truths_by_file(where: Where, files: Sequence[Path]) -> Truths:
    """The truth of each image as boxes and masks give it; None where neither is known."""
    found: dict[Path, Truth | None] = {}
    for number, file in enumerate(files):
        rectangles, mask = where.boxes.rectangles[number], where.boxes.masks[number]
        found[file] = truth_from(rectangles, where.sizes[number], mask) if rectangles or mask is not None else None
    return found


def localise(maps: Sequence[Saved], truths: Truths, protocol: Protocol = Protocol()) -> list[Localised]:
    """The scores of each method's maps.

    Top-1 and top-5 localisation need the label and the ranking of classes that `cam_infer.py` writes; scores of the
    true class need its map (`cam_infer.py --explained both`). Where an image has a map of the predicted class as well,
    the scores of these stand beside them, their names ending in `_predicted`.

    Raises:
        DataError, MetricError: a map cannot be read, or is none.
    """
    methods: dict[str, dict[Path, list[Saved]]] = {}
    for one in maps:
        methods.setdefault(one.method, {}).setdefault(one.image, []).append(one)
    return [_localised(name, list(images.values()), truths, protocol) for name, images in methods.items()]


def _localised(name: str, images: Sequence[Sequence[Saved]], truths: Truths, protocol: Protocol) -> Localised:
    own, predicted = [_own(found) for found in images], [_predicted(found) for found in images]
    other = sum(one is None for one in own)
    guesses = [one for one in predicted if one is not None]
    whole = len(guesses) == len(images)
    if not other:
        rankings = [found[0].ranking for found in images] if all(found[0].ranking for found in images) else []
        more: dict[str, Any] = {
            "rankings": rankings,
            "labels": [found[0].label for found in images] if rankings else [],
        }
        scores = _scores([one for one in own if one], truths, protocol, guesses if whole else (), **more)
        return Localised(name, scores)
    if not whole:
        return Localised(name, Scores({}), other)
    found = _scores(guesses, truths, protocol)
    return Localised(name, Scores({key + PREDICTED: value for key, value in found.values.items()}), other)


def _own(found: Sequence[Saved]) -> Saved | None:
    """The map of the image's own class; of an unknown one, or where a method knows no classes, the first."""
    return next((one for one in found if one.label is None or one.explained in (None, one.label)), None)


def _predicted(found: Sequence[Saved]) -> Saved | None:
    """The map of the predicted class."""
    return next((one for one in found if one.predicted is not None and one.explained in (None, one.predicted)), None)


def _scores(
    maps: Sequence[Saved], truths: Truths, protocol: Protocol, predicted: Sequence[Saved] = (), **more: Any
) -> Scores:
    stretched = protocol.stretched and not all(one.unit for one in maps)
    try:
        return localisation_scores(
            _arrays(maps),
            (truths[one.image] for one in maps),
            predicted=_arrays(predicted),
            scale=stretched,
            side=protocol.side,
            step=protocol.step,
            fixed=protocol.fixed,
            **more,
        )
    except MetricError as error:
        if not any(truths[one.image] for one in maps):
            return Scores({})
        raise MetricError(f"{maps[0].method}: {error}") from error


def _arrays(maps: Sequence[Saved]) -> Iterator[NDArray[Any]]:
    for one in maps:
        yield np.asarray(one.read().numpy())


# --- what is shown


def tables(found: Sequence[Localised]) -> list[Table]:
    """Scores of the true class's maps, and of the predicted class's; without a column that nobody has."""
    made = [
        _table("Localisation, maps of the true class (%)", found, ""),
        _table("Localisation, maps of the predicted class (%)", found, PREDICTED),
    ]
    return [table for table in made if len(table.head) > 1]


def _table(title: str, found: Sequence[Localised], suffix: str) -> Table:
    shown = [name for name in COLUMNS if any(name + suffix in one.scores.values for one in found)]
    best = {name: _best(found, name + suffix) for name in shown}
    rows = [[Cell(one.method), *(_cell(one, name + suffix, best[name]) for name in shown)] for one in found]
    return Table(title, ["method", *(COLUMNS[name] for name in shown)], rows)


def _value(one: Localised, name: str) -> float | None:
    return one.scores.values[name].value if name in one.scores.values else None


def _best(found: Sequence[Localised], name: str) -> float | None:
    """The best value as far as it is shown; None where all are the same."""
    values = {round(value, 1) for one in found if (value := _value(one, name)) is not None}
    return max(values) if len(values) > 1 else None


def _cell(one: Localised, name: str, best: float | None) -> Cell:
    value = _value(one, name)
    return Cell("-") if value is None else Cell(f"{value:.1f}", best=best is not None and round(value, 1) == best)


def notes(found: Sequence[Localised], protocol: Protocol) -> list[str]:
    """What must be known to read these tables."""
    size = f"{protocol.side} x {protocol.side} pixels" if protocol.side else "the maps' own size"
    lines = [
        f"Localisation: wsol-done-right at {size}, oracle thresholds in steps of {protocol.step:g}; fixed: at "
        f"{protocol.fixed:g}, which no truth has chosen. MaxBoxAcc: largest contour, IoU 50 %; V2: all contours, mean "
        "over IoU 30, 50, 70 %; top-1, top-5: where the class is right, too. PxAP, pIoU, IoU: of masks."
    ]
    for one in found:
        if one.other_class:
            lines.append(
                f"{one.method}: {one.other_class} images have no map of their own class, so that nothing is said of "
                "the true class; cam_infer.py --explained both writes it"
            )
    return lines


def as_data(found: Sequence[Localised]) -> dict[str, dict[str, dict[str, Any]]]:
    """By method and name of the score: value, what it is, and of what."""
    return {
        one.method: {
            name: {"value": value.value, "kind": value.kind, "note": value.note}
            for name, value in one.scores.values.items()
        }
        for one in found
    }
