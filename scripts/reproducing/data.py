"""The data sets of a stage: what is trained on, what is measured on, and that the screen never sees the test split."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from data.annotations import read_table
from data.base import DataError, domain_folder
from scripts.reproducing.launching import Launch
from scripts.reproducing.plan import Budget, Suite
from util.files import write_atomic

HELD_OUT = 0.2  # of the training images, for the screen
SCENE_SEEDS = {"screen": 1001, "confirm": 2001}  # of the generated scenes: no scene is in both stages
JUDGED = 1000  # generated scenes of B, at least, that judges learn from: the more, the more they can tell apart
SCENES = (2000, 300)  # generated for training and test where the budget sets no limit
_DONE = "prepared.json"
_SEED = 7  # of the split
DOMAINS = "AB"
_CORNERS = ("x0", "y0", "x1", "y1")
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, the last two exclusive


@dataclass(frozen=True)
class Prepared:
    """Where the images of a stage lie.

    Args:
        train: trainA and trainB, and labels.csv with those of A and B.
        unlabelled: the same images without a table.
        measure: what evaluations read: the test split, and what their classifiers learn from.
    """

    train: Path
    unlabelled: Path
    measure: Path

    def for_training(self, labels: bool) -> Path:
        """The data root of an arm."""
        return self.train if labels else self.unlabelled


def prepare(suite: Suite, stage: str, budget: Budget, source: Path | None, out: Path, launch: Launch) -> Prepared:
    """Make the data sets of a stage below `out`, unless they are there.

    Args:
        source: --dataroot of a suite that is not generated.

    Raises:
        DataError: images or tables of `source` cannot be used.
    """
    ready = Prepared(out / "train", out / "unlabelled", out / ("measure" if suite.scenes else "train"))
    if (out / _DONE).is_file():
        return ready
    shutil.rmtree(out, ignore_errors=True)
    if suite.scenes:
        train = budget.train or SCENES[0]
        # What judges has seen many images, in even shares; A is the same in both, scene by scene.
        for folder, prior, count in ((ready.train, suite.prior_B, train), (ready.measure, "", max(train, JUDGED))):
            scenes = out / "scenes" / folder.name
            _generate(suite, stage, budget, prior, count, scenes, launch)
            _take(suite, replace(budget, train=0), scenes, folder, hold_out=False, first_A=train)
    else:
        assert source is not None
        _take(suite, budget, source, ready.train, hold_out=stage == "screen")
    ready.unlabelled.mkdir()
    for domain in DOMAINS:
        shutil.copytree(ready.train / f"train{domain}", ready.unlabelled / f"train{domain}")
    note = {"stage": stage, "source": str(source or "generated"), "suite": asdict(suite), "size": budget.size}
    write_atomic(out / _DONE, (json.dumps(note, indent=1) + "\n").encode())
    return ready


def _generate(suite: Suite, stage: str, budget: Budget, prior: str, train: int, out: Path, launch: Launch) -> None:
    """Scenes twice as wide as what is cut from them around their targets."""
    count = ["--train", train, "--test", budget.test or SCENES[1], "--seed", SCENE_SEEDS[stage]]
    weights = ["--prior_B", prior] if prior else []
    size = ["--size", 2 * budget.size, "--classes", ",".join(suite.scenes)]
    launch("datasets/make_infrared.py", "--out", out, *size, *count, *weights)


def _take(suite: Suite, budget: Budget, source: Path, out: Path, hold_out: bool, first_A: int = 0) -> None:
    """Images of a folder at the size of the budget, with their tables.

    Args:
        hold_out: the test images are held-out training images, whole scenes where labels.csv has the column `scene`.
        first_A: only so many training images of A; 0: all.
    """
    rows = _labels(source, suite.labelled)
    kept: dict[str, str] = {}
    for domain in DOMAINS:
        train = _files(source, "train", domain)
        train = train[: first_A or None] if domain == "A" else train
        if hold_out:
            train, test = held_out(train, rows)
        else:
            test = _files(source, "test", domain)
        for phase, files, most in (("train", train, budget.train), ("test", test, budget.test)):
            place = f"{phase}{domain}"
            kept |= {name: f"{place}/{Path(name).stem}.png" for name in spread(files, rows, most)}
    boxes = _boxes(source)
    windows = {
        name: _write(source / name, out / new, suite, budget.size, boxes.get(name, [])) for name, new in kept.items()
    }
    _write_tables(source, out, kept, rows)
    corners = [
        (new, *box)
        for name, new in kept.items()
        for one in boxes.get(name, ())
        if (box := fitted(one, windows[name], budget.size))
    ]
    if any(name.startswith("test") for name, *_ in corners):  # a set without them has no truth to measure maps by
        write_table(out / "boxes.csv", ("file", *_CORNERS), corners)


def _files(source: Path, phase: str, domain: str) -> list[str]:
    folder = domain_folder(source, phase, domain)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: has no image ({', '.join(SUFFIXES)})")
    return [file.relative_to(source).as_posix() for file in files]


SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def _labels(source: Path, needed: bool) -> dict[str, Mapping[str, str]]:
    table = source / "labels.csv"
    if not table.is_file():
        if needed:
            raise DataError(f"{table}: is missing; this suite measures by labels (columns file,label,label_id)")
        return {}
    return {row.cells["file"]: row.cells for row in read_table(table, ["file", "label_id"])}


def held_out(files: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """The files without a fifth of each class, and that fifth; images of one `scene` stay together."""
    label_of = {file: rows.get(file, {}).get("label_id", "") for file in files}
    scenes: dict[str, list[str]] = defaultdict(list)
    for file in files:
        scenes[rows.get(file, {}).get("scene") or file].append(file)
    wanted = {label: HELD_OUT * count for label, count in Counter(label_of.values()).items()}
    held: set[str] = set()
    names = sorted(scenes)
    for number in np.random.default_rng(_SEED).permutation(len(names)).tolist():
        counts = Counter(label_of[file] for file in scenes[names[number]])
        useful = sum(min(count, max(wanted[label], 0.0)) for label, count in counts.items())
        if useful >= counts.total() / 2:  # most of the scene is still wanted
            held.update(scenes[names[number]])
            for label, count in counts.items():
                wanted[label] -= count
    return [file for file in files if file not in held], [file for file in files if file in held]


def spread(files: Sequence[str], rows: Mapping[str, Mapping[str, str]], most: int) -> list[str]:
    """At most `most` of the files (0: all), at equal distances, so that each class keeps its share."""
    if not most or len(files) <= most:
        return list(files)
    ordered = sorted(files, key=lambda file: (rows.get(file, {}).get("label_id", ""), file))
    return [ordered[int((number + 0.5) * len(ordered) / most)] for number in range(most)]


def _boxes(source: Path) -> dict[str, list[Box]]:
    """The targets of each file, in the order of boxes.csv; none without that table."""
    found: dict[str, list[Box]] = defaultdict(list)
    table = source / "boxes.csv"
    for row in read_table(table, ["file", *_CORNERS]) if table.is_file() else ():
        x0, y0, x1, y1 = (float(row.cells[key]) for key in _CORNERS)
        found[row.cells["file"]].append((x0, y0, x1, y1))
    return found


def _write(file: Path, new: Path, suite: Suite, size: int, boxes: Sequence[Box]) -> Box:
    """Write an image at the size of the budget; returns the window of the image that it shows."""
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{file}: is no image that can be read")
    if suite.channels == 1 and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    elif suite.channels == 3 and image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = image.shape[:2]
    if suite.fit != "resize" and min(height, width) < size:
        raise DataError(f"{file}: is {width} x {height}, smaller than --size {size}; it is cut to that, not resized")
    window = window_of(suite.fit, (height, width), size, boxes)
    left, top, right, bottom = (int(value) for value in window)
    image = image[top:bottom, left:right]
    if image.shape[:2] != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if new.exists():
        raise DataError(f"{file}: another image of its folder has the same name but for the kind of file")
    new.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(new), image):
        raise DataError(f"{new}: cannot be written")
    return window


def window_of(fit: str, was: tuple[int, int], size: int, boxes: Sequence[Box]) -> Box:
    """What is shown of an image (H, W): all of it (`resize`), its middle (`crop`), or its first box (`target`).

    About a box the window lies up to an eighth of its side aside, by the box's own coordinates: the same in both
    images of a pair.
    """
    height, width = was
    if fit == "resize":
        return 0, 0, width, height
    x, y = width / 2, height / 2
    if fit == "target" and boxes:
        draws = np.random.default_rng([round(8 * abs(value)) for value in boxes[0]])
        aside = draws.uniform(-size / 8, size / 8, 2)
        x, y = (boxes[0][0] + boxes[0][2]) / 2 + aside[0], (boxes[0][1] + boxes[0][3]) / 2 + aside[1]
    left, top = (int(min(max(middle - size / 2, 0), side - size)) for middle, side in ((x, width), (y, height)))
    return left, top, left + size, top + size


def _write_tables(source: Path, out: Path, kept: Mapping[str, str], rows: Mapping[str, Mapping[str, str]]) -> None:
    if rows:
        labels = [
            (new, row.get("label", row["label_id"]), row["label_id"])
            for name, new in kept.items()
            if (row := rows.get(name))
        ]
        write_table(out / "labels.csv", ("file", "label", "label_id"), labels)
    table = source / "pairs_test.csv"
    if table.is_file():
        pairs = [(row.cells["A"], row.cells["B"]) for row in read_table(table, ["A", "B"])]
        there = [(kept[a], kept[b]) for a, b in pairs if a in kept and b in kept]
        if there:
            write_table(out / "pairs_test.csv", ("A", "B"), there)


def fitted(box: Box, window: Box, size: int) -> Box | None:
    """A box in the image that shows a window of another at `size`; None where nothing of it is left."""
    scale = [size / (window[2] - window[0]), size / (window[3] - window[1])] * 2
    moved = [(value - window[n % 2]) * scale[n] for n, value in enumerate(box)]
    x0, y0, x1, y1 = (round(min(max(value, 0.0), float(size)), 2) for value in moved)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file with a heading."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)
