"""The data sets of a stage: what is trained on, what is measured on, and that the screen never sees the test split."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
JUDGED = 900  # generated scenes per domain that the classifiers of the unmatched suite learn from
_DONE = "prepared.json"
_SEED = 7  # of the split
DOMAINS = "AB"


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
    matched = not suite.prior_B
    ready = Prepared(out / "train", out / "unlabelled", out / ("train" if matched else "measure"))
    if (out / _DONE).is_file():
        return ready
    shutil.rmtree(out, ignore_errors=True)
    if suite.scenes:
        _generate(suite, stage, budget, ready, launch)
    else:
        assert source is not None
        _take(suite, stage, budget, source, ready.train)
    ready.unlabelled.mkdir()
    for domain in DOMAINS:
        shutil.copytree(ready.train / f"train{domain}", ready.unlabelled / f"train{domain}")
    note = {"stage": stage, "source": str(source or "generated"), "suite": asdict(suite), "size": budget.size}
    write_atomic(out / _DONE, (json.dumps(note, indent=1) + "\n").encode())
    return ready


def _generate(suite: Suite, stage: str, budget: Budget, ready: Prepared, launch: Launch) -> None:
    """Scenes for training, and where B's classes are shared unevenly, others with even shares to measure by."""
    common = ["--size", budget.size, "--classes", ",".join(suite.scenes), "--seed", SCENE_SEEDS[stage]]
    counts = ["--train", budget.train or JUDGED, "--test", budget.test or 300]
    prior = ["--prior_B", suite.prior_B] if suite.prior_B else []
    launch("datasets/make_infrared.py", "--out", ready.train, *common, *counts, *prior)
    if ready.measure != ready.train:
        launch("datasets/make_infrared.py", "--out", ready.measure, *common, *counts)


# --- a folder of the user's


def _take(suite: Suite, stage: str, budget: Budget, source: Path, out: Path) -> None:
    """Images of a folder at the size of the budget, with their tables.

    The screen's test images are held-out training images, whole scenes where labels.csv has the column `scene`.
    """
    rows = _labels(source, suite.labelled)
    kept: dict[str, str] = {}
    for domain in DOMAINS:
        train = _files(source, "train", domain)
        if stage == "screen":
            train, test = held_out(train, rows)
        else:
            test = _files(source, "test", domain)
        for phase, files, most in (("train", train, budget.train), ("test", test, budget.test)):
            place = f"{phase}{domain}"
            kept |= {name: f"{place}/{Path(name).stem}.png" for name in spread(files, rows, most)}
    sizes = {name: _write(source / name, out / new, suite, budget.size) for name, new in kept.items()}
    _write_tables(source, out, kept, rows)
    _write_boxes(source, out, kept, suite, budget.size, sizes)


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


def _write(file: Path, new: Path, suite: Suite, size: int) -> tuple[int, int]:
    """Write an image at the size of the budget; returns the size (H, W) it had."""
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{file}: is no image that can be read")
    height, width = image.shape[:2]
    if suite.channels == 1 and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    elif suite.channels == 3 and image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if suite.fit == "crop":
        if min(height, width) < size:
            raise DataError(
                f"{file}: is {width} x {height}, smaller than --size {size}; chips are cropped, not resized"
            )
        top, left = (height - size) // 2, (width - size) // 2
        image = image[top : top + size, left : left + size]
    elif (height, width) != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if new.exists():
        raise DataError(f"{file}: another image of its folder has the same name but for the kind of file")
    new.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(new), image):
        raise DataError(f"{new}: cannot be written")
    return height, width


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


def _write_boxes(
    source: Path, out: Path, kept: Mapping[str, str], suite: Suite, size: int, sizes: Mapping[str, tuple[int, int]]
) -> None:
    table = source / "boxes.csv"
    if not table.is_file():
        return
    corners = ("x0", "y0", "x1", "y1")
    moved = []
    for row in read_table(table, ["file", *corners]):
        name = row.cells["file"]
        if name in kept:
            box = fitted([float(row.cells[key]) for key in corners], sizes[name], suite.fit, size)
            if box:
                moved.append((kept[name], *box))
    if any(name.startswith("test") for name, *_ in moved):
        write_table(out / "boxes.csv", ("file", *corners), moved)


def fitted(box: Sequence[float], was: tuple[int, int], fit: str, size: int) -> tuple[float, ...] | None:
    """A rectangle (x0, y0, x1, y1) in the image as it is written; None where nothing of it is left."""
    height, width = was
    if fit == "crop":
        left, top = (width - size) // 2, (height - size) // 2
        moved = [box[0] - left, box[1] - top, box[2] - left, box[3] - top]
    else:
        moved = [value * size / side for value, side in zip(box, (width, height) * 2, strict=True)]
    x0, y0, x1, y1 = (min(max(value, 0.0), float(size)) for value in moved)
    return (round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)) if x1 > x0 and y1 > y0 else None


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file with a heading."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)
