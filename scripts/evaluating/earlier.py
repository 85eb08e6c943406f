"""What an evaluation does with an earlier one of the same epoch: adds to its numbers, or puts it elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from options.parse import RunOptions
from scripts.comparing.runs import OF_NO_EFFECT
from scripts.evaluating.bench import Bench
from scripts.evaluating.record import digest_of, digest_of_weights
from util.errors import UserError, printable
from util.evaluations import read_evaluation
from util.metrics.base import Boxes, Material
from util.strict_json import read_json

ASIDE = "earlier"  # below a run's evaluations; in a folder of its own, where no reader of evaluations looks
_JOINED = ("metrics", "tables", "per_image_better", "seconds")


def basis(run: RunOptions, bench: Bench, material: Material) -> dict[str, Any]:
    """What numbers come from beside the images and the run's options; None: nothing was measured by it.

    Digests rather than paths, since a file may change under its name.
    """
    with_judges = material.train_source is not None
    judges = {"source": bench.judge_source, "target": bench.judge_real} if with_judges else {}
    return {
        "weights": digest_of_weights(run),
        "eval": bench.inference.eval,
        "tile": bench.inference.tile,
        "pairs": None if material.pairs is None else digest_of(material.pairs),
        "boxes": None if material.boxes is None else digest_of(_plain(material.boxes)),
        "features": bench.extractor.identity if material.features is not None and bench.extractor else None,
        **{f"classifier of the {side}": judge.digest for side, judge in judges.items() if judge is not None},
    }


def with_earlier(path: Path, content: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """The content of an evaluation's file together with the numbers that an earlier one has left there.

    Where the two cannot stand in one file, the earlier one is moved away with its figures. Either is said.

    Args:
        path: the file, which this leaves as it is or moves.
        content: of the new evaluation, whose numbers count where both have some.
        asked: the metrics that were to be measured now.
    """
    if not any(place.exists() for place in _places(path)):
        return dict(content)
    earlier, reason = _read(path)
    reason = reason or _difference(earlier, content)
    if reason:
        print(f"{printable(path)}: an earlier evaluation {reason}; it is kept as {printable(_set_aside(path))}")
        return dict(content)
    found = _together(earlier, content, asked)
    numbers = {name: value for name, value in found["metrics"].items() if value["value"] is not None}
    if kept := [name for name, value in numbers.items() if value is not content["metrics"].get(name)]:
        print(f"kept of the earlier evaluation of the same weights and images: {', '.join(kept)}")
    return found


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """An earlier evaluation's content, or why there is none."""
    try:
        read_evaluation(path)
        content: dict[str, Any] = read_json(path)
    except UserError as error:
        return {}, f"cannot be read ({printable(error)})"
    whole = all(isinstance(content.get(name), dict) for name in (*_JOINED, "versions", "basis"))
    return content, "" if whole and "features" in content else "does not say what it measured by"


def _difference(earlier: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """What keeps two evaluations from standing in one file; nothing where they measured the same."""
    old, new = earlier["basis"], content["basis"]
    for name, value in new.items():
        if value is not None and old.get(name) is not None and old[name] != value:
            return f"measured by other {name}" if isinstance(value, str) else f"had --{name} {old[name]}, not {value}"
    for side in ("source", "target"):
        if earlier["data"].get(side) != content["data"][side]:
            return f"measured other images ({side})"
    for name in ("file", "label"):
        if earlier["per_image"].get(name) != content["per_image"][name]:
            return f"measured images of another {name}"
    for name in content["versions"]:
        if earlier["versions"].get(name) != content["versions"][name]:
            return f"was made with {name} {printable(earlier['versions'].get(name))}, not {content['versions'][name]}"
    for name in dict.fromkeys((*content["options"], *earlier["options"])):
        before, now = (json.dumps(one["options"].get(name)) for one in (earlier, content))
        if before != now and name not in OF_NO_EFFECT and name != "dataroot":  # of the data, digests are compared
            return f"had --{printable(name)} {printable(before)}, not {printable(now)}"
    return ""


def _together(earlier: Mapping[str, Any], content: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """Numbers of both; the new ones where both have some, and no earlier excuse for what has been tried again."""

    def stays(name: str, value: Mapping[str, Any]) -> bool:
        if value["value"] is None:
            return name not in asked and name not in content["metrics"]
        return content["metrics"].get(name, {"value": None})["value"] is None

    kept = {name: value for name, value in earlier["metrics"].items() if stays(name, value)}
    joined = {name: {**earlier[name], **content[name]} for name in _JOINED}
    order = dict.fromkeys((*earlier["metrics"], *content["metrics"]))
    metrics = {**content["metrics"], **kept}
    return {
        **content,
        **joined,
        "metrics": {name: metrics[name] for name in order if name in metrics},
        "per_image": {**earlier["per_image"], **content["per_image"]},
        "features": content["features"] or earlier["features"],
        "basis": {**earlier["basis"], **{name: value for name, value in content["basis"].items() if value is not None}},
    }


def _places(path: Path) -> tuple[Path, Path, Path]:
    """Features, figures and numbers: these last, since they say that the others are an evaluation's."""
    return path.with_name(f"{path.stem}_features.npz"), path.with_suffix(""), path


def _set_aside(path: Path) -> Path:
    """Move an evaluation into a new folder under its own name; returns where its numbers are."""
    number = 1
    while (folder := path.parent / ASIDE / str(number)).exists():
        number += 1
    folder.mkdir(parents=True)
    for place in _places(path):
        if place.exists():
            place.rename(folder / place.name)
    return folder / path.name


def _plain(boxes: Boxes) -> list[Any]:
    masks = [None if one is None else [*one.shape, hashlib.sha256(one.tobytes()).hexdigest()] for one in boxes.masks]
    plain = [list(boxes.rectangles), masks]
    # Only where there are some: those of earlier versions stay the same.
    maps = [None if one is None else hashlib.sha256(one.tobytes()).hexdigest() for one in boxes.label_maps]
    return [*plain, maps] if maps else plain
