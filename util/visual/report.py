"""The report of an evaluation: numbers, figures and every image on one page that needs nothing but a browser.

All is inside the file: it opens from the disk, without a server or a network, and can be sent to someone. Pictures of
the gallery lie in the page as text and become images only when they are scrolled to, so that hundreds open at once.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from util.errors import counted, printable
from util.files import write_atomic
from util.visual.embedded import PREVIEW_SIDE, data_uri, preview
from util.visual.html import render
from util.visual.montage import evenly_spaced

UNKNOWN = -1
GROUPS: Mapping[str, str] = {
    "Distribution": r"^(fid|kid|isc|precision|recall|f_score|density|coverage)(_|$)",
    "Pairs": r"^(ssim|ms_ssim|psnr|lpips|cc)(_|$)",
    "Semantics": r"^(acc|flip|class)_",
    "Explanations": r"^(CAM|box_area|deletion|insertion)(_|$)",
    "Segmentation": r"^(mIoU|iou)(_|$)",
}
OTHERS = "Others"
_ARROWS = {"lower": "↓", "higher": "↑"}
_ROUNDING = 1e-6  # of a value: what float32 leaves between values that should be equal
_SIZE = "\0 bytes"  # stands for the file's size until that is known; no text of a page holds this character


@dataclass(frozen=True)
class ReportRow:
    """One image of the gallery.

    Args:
        file: its name, as in the evaluation's `per_image`, which its scores come from.
        pictures: heading -> uint8 (H, W, 3), (H, W, 1) or (H, W): input, translation, target, overlays, difference.
        label: class id, -1 unknown.
        note: one more line under the name.
        annotated: for headings of `pictures` the same picture with boxes or masks drawn in, which a box on the page
            shows in its place.
    """

    file: str
    pictures: Mapping[str, np.ndarray]
    label: int = UNKNOWN
    note: str = ""
    annotated: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Which images a gallery shows: their numbers, ascending, and a sentence on how they were chosen."""

    numbers: Sequence[int]
    statement: str


def select_images(
    count: int, most: int, scores: Sequence[float | None] | None = None, name: str = "", better: str = ""
) -> Selection:
    """Images for a gallery: all, or half of them the worst by a score and the rest at equal distances.

    Args:
        count: how many there are.
        most: how many may be shown, at least 2.
        scores: one for each image, None where there is none; no scores: all at equal distances.
        name: of the score.
        better: `lower`, `higher`; otherwise the lowest count as the worst.

    Raises:
        ValueError: as many scores as images are needed, and at least two images.
    """
    if most < 2 or (scores is not None and len(scores) != count):
        raise ValueError(f"A choice needs room for 2 images and a score for each, got {most} and {count} images.")
    if count <= most:
        return Selection(range(count), f"all {count} images" if count != 1 else "the only image")
    sign = -1 if better == "lower" else 1
    known = [(sign * score, number) for number, score in enumerate(scores or ()) if score is not None]
    worst = {number for _, number in sorted(known)[: most // 2]}
    rest = [number for number in range(count) if number not in worst]
    spread = [rest[place] for place in evenly_spaced(len(rest), most - len(worst))]
    numbers = sorted([*worst, *spread])
    how = "at equal distances"
    if worst:
        ends = "worst" if better else "lowest"
        how = f"the {len(worst)} {ends} by {printable(name)} and {len(spread)} of the others {how}"
    return Selection(numbers, f"{len(numbers)} of {count} images: {how}")


def write_report(
    path: str | Path,
    evaluation: Mapping[str, Any],
    rows: Sequence[ReportRow],
    figures: Mapping[str, bytes | str],
    title: str = "",
    *,
    chosen: str = "",
    class_names: Mapping[int, str] | None = None,
    protocol: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    annotations: str = "",
    preview_side: int = PREVIEW_SIDE,
) -> int:
    """Write the report of one evaluation.

    The address may end in `#sort=lpips&order=worst&class=2,5&score=ssim&min=0.2&max=0.6&text=T72&annotations=on`; the
    page keeps it up to date, so that a view can be shared. `order` is worst, best, low or high; images without the
    score come last. Which end is worst is taken from `per_image_better`, else from the metric of the score's name.

    Args:
        path: the HTML file; folders are made, the file appears whole or not at all.
        evaluation: an evaluation file's content: run, model, seed, epoch, step, phase, direction, data, versions,
            options, features, metrics, per_image, per_image_better, seconds; what lacks is left out.
        rows: the gallery, in order.
        figures: title -> PNG as bytes, or SVG as text; shown in order.
        title: the heading; the run's name if empty.
        chosen: how the rows were chosen, from `select_images`.
        class_names: by class id.
        protocol: heading -> metrics as in the evaluation's `metrics`: columns beside the evaluation's own, for example
            `last (epoch 100)`, `best by kid (epoch 80)` and `mean of the last five`.
        annotations: what is drawn into annotated pictures, in which colours.
        preview_side: longest side of a picture of the gallery in pixels; larger ones are reduced.

    Returns:
        The file's size in bytes.

    Raises:
        ValueError: a picture that is not uint8, an annotated one without its plain one or of another size, or a figure
            that is neither PNG nor SVG.
        OSError: the file cannot be written.
    """
    metrics, per_image = evaluation.get("metrics", {}), evaluation.get("per_image", {})
    cards = _cards(rows, per_image, preview_side)
    page = render(
        "report.html",
        title=printable(title or evaluation.get("run", "Evaluation")),
        state=" · ".join([*_headline(evaluation), _SIZE]),
        facts=_facts(evaluation),
        details={name: _flat(evaluation[name]) for name in ("versions", "options") if evaluation.get(name)},
        columns=[f"epoch {evaluation.get('epoch', '')}".strip(), *(protocol or {})],
        groups=_groups([metrics, *(protocol or {}).values()]),
        figures=[_figure(name, content) for name, content in figures.items()],
        chosen=chosen or counted(len(rows), "image"),
        preview_side=preview_side,
        annotations=printable(annotations) if any(row.annotated for row in rows) else "",
        gallery={
            "scores": _score_columns(rows, _directions(evaluation), per_image),
            "classes": {str(row.label): _class_name(row.label, class_names or {}) for row in rows},
            "rows": [card.facts for card in cards],
        },
        pictures=[card.sources for card in cards],
    )
    page = page.replace(_SIZE.encode(), _size_text(len(page)).encode(), 1)
    write_atomic(Path(path), page)
    return len(page)


# --- facts


def _headline(evaluation: Mapping[str, Any]) -> list[str]:
    named = {"model": "", "epoch": "epoch ", "phase": "", "direction": ""}
    return [f"{before}{printable(evaluation[name])}" for name, before in named.items() if evaluation.get(name)]


def _facts(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers depend on, by name."""
    data = evaluation.get("data") or {}
    facts = {name: evaluation.get(name) for name in ("run", "model", "epoch", "step", "seed", "phase", "direction")}
    facts |= {"data": data.get("dataroot"), "features": evaluation.get("features")}
    for side in ("source", "target"):
        if images := data.get(side):
            facts[f"{side} images"] = f"{images.get('count')}, digest {str(images.get('digest'))[:12]}"
    seconds = {name: value for name, value in (evaluation.get("seconds") or {}).items() if value is not None}
    facts["time"] = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return {name: printable(value) for name, value in facts.items() if value not in (None, "")}


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {printable(name): printable(value) for name, value in values.items()}


def _size_text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


# --- metrics


@dataclass(frozen=True)
class _Line:
    """One metric: its value in each column, and what it is."""

    name: str
    arrow: str
    better: str
    values: Sequence[str]
    kind: str
    note: str
    measured: bool


def number_text(value: float | None, spread: float | None = None) -> str:
    """A number with its spread: two significant digits of the spread, or four of the value; `–` for none.

    A spread that only rounding has left, as of equal values, is none that digits could follow.
    """
    if value is None:
        return "–"
    known = spread is not None and spread > max(_ROUNDING * abs(value), 1e-8)
    size, digits = (spread, 2) if spread and known else (abs(value) or 1.0, 4)
    decimals = min(max(digits - 1 - math.floor(math.log10(size)), 0), 8)
    return f"{value:.{decimals}f}" + (f" ± {spread:.{decimals}f}" if spread is not None else "")


def _groups(columns: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, list[_Line]]:
    """The lines of each table; a metric of any column has one, in the order of the first column."""
    groups: dict[str, list[_Line]] = {name: [] for name in (*GROUPS, OTHERS)}
    for name in dict.fromkeys(name for column in columns for name in column):
        group = next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), OTHERS)
        groups[group].append(_line(name, [column.get(name) for column in columns]))
    return {name: lines for name, lines in groups.items() if lines}


def _line(name: str, found: Sequence[Mapping[str, Any] | None]) -> _Line:
    first = next(value for value in found if value is not None)
    return _Line(
        name=printable(name),
        arrow=_ARROWS.get(first.get("better", ""), ""),
        better=printable(first.get("better", "")),
        values=[number_text(value.get("value"), value.get("spread")) if value else "–" for value in found],
        kind=printable(first.get("kind", "")),
        note=printable(first.get("note", "")),
        measured=first.get("value") is not None,
    )


# --- figures


@dataclass(frozen=True)
class _Figure:
    title: str
    source: str
    width: int | None  # CSS pixels; None: the browser knows


def _figure(title: str, content: bytes | str) -> _Figure:
    if isinstance(content, str):
        # As an image, where no script of it runs and none of its identifiers clashes with another figure's.
        if "<svg" not in content:
            raise ValueError(f"The figure {title!r} is text but no SVG.")
        return _Figure(printable(title), data_uri("svg+xml", content.encode()), None)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            dots = float(image.info.get("dpi", (96, 96))[0])
            width = round(image.width * 96 / dots)
    except OSError as error:
        raise ValueError(f"The figure {title!r} is no PNG.") from error
    return _Figure(printable(title), data_uri("png", content), width)


# --- the gallery


@dataclass(frozen=True)
class _Card:
    """What the page knows of an image at once, and the pictures that it reads when they are looked at."""

    facts: Mapping[str, Any]
    sources: Sequence[str] = field(repr=False)


def _cards(rows: Sequence[ReportRow], per_image: Mapping[str, Sequence[Any]], side: int) -> list[_Card]:
    places = _places(per_image)
    names = _score_names(per_image)
    return [_card(row, [_score(per_image[name], places.get(row.file)) for name in names], side) for row in rows]


def _card(row: ReportRow, scores: Sequence[float | None], side: int) -> _Card:
    for name, picture in row.annotated.items():
        if name not in row.pictures or picture.shape[:2] != row.pictures[name].shape[:2]:
            raise ValueError(f"{row.file}: the annotated {name!r} has no plain picture of its size.")
    previews = {printable(name): preview(picture, side) for name, picture in row.pictures.items()}
    facts = {
        "file": printable(row.file),
        "label": row.label,
        "note": printable(row.note),
        "scores": scores,
        "pictures": [[name, *size] for name, (_, size) in previews.items()],
        "annotated": [list(row.pictures).index(name) for name in row.annotated],  # their sources follow the plain ones
    }
    sources = [source for source, _ in previews.values()]
    return _Card(facts, sources + [preview(picture, side)[0] for picture in row.annotated.values()])


def _places(per_image: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {file: place for place, file in enumerate(per_image.get("file", ()))}


def _score_names(per_image: Mapping[str, Sequence[Any]]) -> list[str]:
    return [name for name in per_image if name not in ("file", "label")]


def _score(column: Sequence[Any], place: int | None) -> float | None:
    value = None if place is None else column[place]
    return float(value) if value is not None and math.isfinite(value) else None


def _directions(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """`lower`, `higher` or nothing for each score of an image."""
    metrics, own = evaluation.get("metrics", {}), evaluation.get("per_image_better", {})
    names = _score_names(evaluation.get("per_image", {}))
    return {name: own.get(name, metrics.get(name, {}).get("better", "")) for name in names}


def _score_columns(
    rows: Iterable[ReportRow], better: Mapping[str, str], per_image: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """Name, direction and range over the rows of each score."""
    places = [_places(per_image).get(row.file) for row in rows]
    columns = []
    for name in _score_names(per_image):
        known = [value for place in places if (value := _score(per_image[name], place)) is not None]
        ends = {"low": min(known), "high": max(known)} if known else {"low": None, "high": None}
        columns.append({"name": printable(name), "better": better[name]} | ends)
    return columns


def _class_name(label: int, names: Mapping[int, str]) -> str:
    return "unlabelled" if label < 0 else printable(names.get(label, f"class {label}"))
