"""What lies in the data folders: files, sizes, depths, channels, windows, labels; and which flags follow from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.base import UNKNOWN, domain_folder, histogram
from data.checkup import (
    SHOWN,
    Checkup,
    about_other_channels,
    at_equal_distances,
    check_up,
    other_channels,
    shortlist,
)
from data.domain import LABELS_FILE, FolderOptions, labels_for, open_domain, preprocess_from
from data.images import DomainFormat, ImageError, image_size, read_raw
from data.labels import without_images
from data.shapes import about_stretched, ragged
from data.transforms import RESIZERS
from models import MODELS
from options.parse import RunOptions
from scripts.doctoring.report import Report
from util.errors import UserError, counted, printable
from util.visual.progress import with_bar

FEW = 20  # images of a domain
FEW_OF_CLASS = 5
LOOKED_AT = 12  # files whose pixels are read
_FOLDERS = "see `Your own data` in README.md for the folders"
_TOP = {"uint8": 255, "uint16": 65535}


@dataclass
class Advice:
    """Flags that the data ask for, by name; None: the flag stands alone."""

    flags: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A folder as it was found.

    Attributes:
        sizes: (height, width) and how often.
        channels: numbers of channels among the files read, without the few whose channels are not the folder's.
        lows, highs: least and greatest count of each of these files.
    """

    found: Checkup
    sizes: Mapping[tuple[int, int], int]
    channels: frozenset[int]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def examine(report: Report, run: RunOptions, quiet: bool = False) -> Advice:
    """Look at trainA and trainB, at the test folder and at the labels; returns the flags that follow."""
    advice, seen, root = Advice(), dict[str, Seen](), Path(run.data.dataroot)
    if not root.is_dir():  # said once, and not of each folder in it
        report.fault("data", f"--dataroot {printable(root)}: no such folder", _FOLDERS)
        return advice
    for side, window in (("A", run.data.window_A), ("B", run.data.window_B)):
        one = _folder(report, run, root, side, advice, quiet)
        if one:
            seen[side] = one
            _window(report, one, window, run)
    if seen:
        _geometry(report, run, seen, advice)
        _channels(report, run, seen, advice)
    source = "A" if run.data.direction == "AtoB" else "B"
    if source in seen:
        _labels(report, run, root, seen[source], advice)
    try:
        test = domain_folder(root, "test", source)
        report.ok("data", f"{test.name}: there for test.py and cam_infer.py")
    except UserError:
        report.warn("data", f"no test{source}", f"put images that are not trained on into {root / f'test{source}'}")
    return advice


def _folder(report: Report, run: RunOptions, root: Path, side: str, advice: Advice, quiet: bool) -> Seen | None:
    try:
        found = check_up(domain_folder(root, "train", side), most=run.data.max_dataset_size, quiet=quiet)
    except UserError as error:
        report.fault("data", str(error), _FOLDERS)
        return None
    name = found.folder.name
    if found.bad:
        shown = [found.bad[i].line(found.folder) for i in range(min(SHOWN, len(found.bad)))]
        more = [f"... and {len(found.bad) - SHOWN} more"] if len(found.bad) > SHOWN else []
        text = "\n".join([f"{name}: {len(found.bad)} of {found.examined} files cannot be used", *shown, *more])
        if run.data.on_bad_image == "skip" and found.files:
            report.warn("data", text, "they are left out")
        elif found.files:
            report.warn("data", text, "repair or remove them; the command below leaves them out")
            advice.flags["on_bad_image"] = "skip"
        else:
            report.fault("data", text, "repair them: none is left")
    if not found.files:
        return None
    sizes = Counter(image_size(file) for file in with_bar(found.files, f"sizes of {name}", "file", quiet=quiet))
    common, times = sizes.most_common(1)[0]
    others = f", and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
    seen = _pixels(report, found, sizes)
    depth = {"uint8": "8 bits", "uint16": "16 bits", "float32": "float"}[found.depth]
    kinds = " or ".join(str(count) for count in sorted(seen.channels))
    images = counted(len(found.files), "image")
    text = f"{name}: {images}, {common[0]} x {common[1]} (height x width; {times} of them{others})"
    text += f", {depth}, {kinds} channel{'' if kinds == '1' else 's'}"
    if len(found.files) < FEW:
        helps = _help_for_few(run, found.depth)
        report.warn("data", text, f"fewer than {FEW} images: expect D to learn them by heart; {helps}")
    else:
        report.ok("data", text)
    return seen


def _help_for_few(run: RunOptions, depth: str) -> str:
    """What keeps D from learning few images by heart, of what the run's options allow."""
    if getattr(run.model, "diffaug", None) != ():  # chosen already, or not an option of this model
        return "more images help"
    bytes_ = depth == "uint8"  # in counts that measure something, brightness is what `color` would change
    if getattr(run.model, "cam_weight_adv", False):  # weighs D's places, which the other changes move
        return "--diffaug color helps" if bytes_ else "--lambda_R1 1 helps"
    return "--diffaug color,cutout helps" if bytes_ else "--diffaug translation,cutout helps"


def _pixels(report: Report, found: Checkup, sizes: Mapping[tuple[int, int], int]) -> Seen:
    """Read the pixels of some files, spread over the folder."""
    channels, lows, highs, flat = set[int](), list[float](), list[float](), list[str]()
    others = other_channels(found)
    if others:
        report.warn("data", *about_other_channels(found, others))
    files = sorted(set(found.files) - set(others))
    for number in at_equal_distances(len(files), LOOKED_AT):
        file = files[number]
        try:
            raw = read_raw(file)
        except ImageError as error:
            report.warn("data", str(error), "--on_bad_image skip goes on without such files")
            continue
        channels.add(1 if raw.ndim == 2 else raw.shape[2])
        grey = raw.ndim == 3 and bool((raw == raw[:, :, :1]).all())
        if grey:
            channels.discard(raw.shape[2])
            channels.add(1)
        low, high = float(np.min(raw)), float(np.max(raw))
        lows.append(low)
        highs.append(high)
        if low == high:
            flat.append(printable(file.name))
    if flat:
        report.warn("data", f"{found.folder.name}: constant images: {shortlist(flat)}", "remove them")
    return Seen(found, sizes, frozenset(channels), tuple(lows), tuple(highs))


def _window(report: Report, seen: Seen, rule: str, run: RunOptions) -> None:
    """The window that the run would use, and how much of the depth the counts fill."""
    name, depth = seen.found.folder.name, seen.found.depth
    try:
        fmt: DomainFormat = open_domain(seen.found, 1, rule, seed=run.experiment.seed, skip_bad=True).format
    except UserError as error:
        report.fault("data", str(error), f"--window_{name[-1]} LO,HI in counts")
        return
    if not seen.lows:
        return
    low, high = min(seen.lows), max(seen.highs)
    text = f"{name}: counts from {low:g} to {high:g}"
    top = _TOP.get(depth)
    text += f", {(high - low) / top:.0%} of what {depth[4:]} bits hold" if top else ""
    if fmt.window is None:
        report.ok("data", f"{text}; each image has a window of its own, and outputs are relative")
        return
    text += f"; {fmt.window.low:g} becomes black and {fmt.window.high:g} white (--window_{name[-1]} {rule})"
    used = min(high, fmt.window.high) - max(low, fmt.window.low)
    if used <= 0:
        report.fault("data", text, "the window holds none of the counts: give another, or auto")
    elif used < 0.1 * (fmt.window.high - fmt.window.low):
        remedy = f"images will be almost flat: --window_{name[-1]} 0.1%,99.9% or auto" if rule != "auto" else ""
        saved = "; 16-bit data saved at 8 bits?" if depth == "uint8" else ":"
        remedy = remedy or f"images are nearly flat{saved} --window_{name[-1]} {low:g},{high:g}"
        report.warn("data", text, remedy)
    else:
        report.ok("data", text)


def _geometry(report: Report, run: RunOptions, seen: Mapping[str, Seen], advice: Advice) -> None:
    sizes = [size for one in seen.values() for size in one.sizes]
    words = run.data.preprocess
    stretched = max(max(h / w, w / h) for h, w in sizes)
    if "resize" in words and run.data.load_size[0] == run.data.load_size[1] and stretched > 1.15:
        text = f"images are up to {stretched:.2f} times as long as wide and would be squeezed to a square"
        if "preprocess" in run.given:
            report.warn("data", text, "--preprocess scale_shortside_and_crop keeps their shape")
        else:
            report.ok("data", f"{text}; the command below keeps their shape")
            advice.flags["preprocess"] = "scale_shortside_and_crop"
    _one_size(report, run, seen)
    least = min(min(size) for size in sizes)
    if least < min(run.data.crop_size) and words.startswith("crop"):
        text = f"the smallest image has a side of {least} pixels, and --crop_size is {run.data.crop_size[0]}"
        report.fault("data", text, f"--crop_size {max(16, least // 4 * 4)}")
    elif set(words.split("_and_")) & set(RESIZERS):
        _enlarged(report, run, seen, advice)


def _enlarged(report: Report, run: RunOptions, seen: Mapping[str, Seen], advice: Advice) -> None:
    """Warn where most images would be made much larger: by the median, as one small image says little."""
    counted = Counter[tuple[int, int]]()
    for one in seen.values():
        counted.update(one.sizes)
    sides = sorted(min(size) for size in counted.elements())
    median = sides[len(sides) // 2]
    if median * 2 >= min(run.data.load_size):
        return
    size = max(16, math.ceil(median / 4) * 4)
    # A square of the whole image has to hold its longer side.
    of_short_side = (advice.flags.get("preprocess") or run.data.preprocess).startswith("scale_shortside")
    largest = max(map(min if of_short_side else max, counted))
    costs = "costs less and loses nothing" if largest <= size else f"costs less; images up to {largest} lose detail"
    text = f"images of {median} pixels (the median side) would be enlarged to {run.data.load_size[0]}"
    sizes = f"--load_size {size} --crop_size {size}"
    if {"load_size", "crop_size"} & run.given:
        report.warn("data", text, f"{sizes} {costs}")
    else:
        report.warn("data", text, f"{sizes}, as the command below has it, {costs}")
        advice.flags.update(load_size=str(size), crop_size=str(size))


def _one_size(report: Report, run: RunOptions, seen: Mapping[str, Seen]) -> None:
    """Whether the files come to one size, and keep their shape, as a training would ask before its start."""
    preprocess = preprocess_from(run, MODELS.get(run.experiment.model).size_multiple)
    found: dict[Path, tuple[int, int]] = {}
    for one in seen.values():
        found |= {file: one.found.sizes[file] for file in one.found.files}
    if (fault := ragged(preprocess, found, run)) and not (run.data.serial_batches and run.data.batch_size == 1):
        report.fault("data", fault)
    if text := about_stretched(preprocess, found):
        report.warn("data", *text)


def _channels(report: Report, run: RunOptions, seen: Mapping[str, Seen], advice: Advice) -> None:
    asked = {"A": run.networks.input_nc, "B": run.networks.output_nc}
    if run.data.direction == "BtoA":
        asked = {"A": asked["B"], "B": asked["A"]}
    if len(seen) == 2 and all(one.channels == {1} for one in seen.values()) and set(asked.values()) == {3}:
        if {"input_nc", "output_nc"} & run.given:
            report.warn("data", "all images are grey and the networks have 3 channels", "--input_nc 1 --output_nc 1")
        else:
            report.ok("data", "all images looked at are grey: the command below has one channel")
            advice.flags.update(input_nc="1", output_nc="1")
    for side, one in seen.items():
        if asked[side] == 1 and max(one.channels, default=1) > 1:
            report.warn("data", f"{one.found.folder.name} has colours, which one channel loses", "take 3 channels")


def _labels(report: Report, run: RunOptions, root: Path, seen: Seen, advice: Advice) -> None:
    options = run.dataset
    if not isinstance(options, FolderOptions):
        return
    headed = hasattr(run.model, "num_classes")
    folders = {
        file.relative_to(seen.found.folder).parts[0] for file in seen.found.files if file.parent != seen.found.folder
    }
    table = (root / LABELS_FILE).exists() or options.labels_A
    if headed and len(folders) > 1 and not table and not options.labels_from_folders:
        report.ok(
            "labels", f"no {LABELS_FILE}, but {len(folders)} sub-folders, which the command below takes for classes"
        )
        advice.flags["labels_from_folders"] = None
        options = FolderOptions(labels_from_folders=True)
    domain = open_domain(seen.found, 1, "0,1", seed=0)
    try:
        labels, names = labels_for(
            domain, root, options, warn=lambda text: report.warn("labels", text, "correct these rows or remove them")
        )
    except UserError as error:
        report.fault("labels", str(error))
        return
    known = [label for label in labels if label != UNKNOWN]
    if not known:
        if headed:
            text = "no labels: classes are made by clustering, and know nothing of yours"
            report.warn("labels", text, f"write {root / LABELS_FILE} (file,label,label_id) if you have some")
        else:
            report.ok("labels", "none, and none are needed")
        return
    _histogram(report, labels, known, names, run, advice)


def _histogram(
    report: Report,
    labels: Sequence[int],
    known: Sequence[int],
    names: Mapping[int, str],
    run: RunOptions,
    advice: Advice,
) -> None:
    counts, shown = Counter(known), histogram(labels, names)
    rare = [names.get(label, str(label)) for label, count in sorted(counts.items()) if count < FEW_OF_CLASS]
    if rare:
        report.warn(
            "labels", shown, f"fewer than {FEW_OF_CLASS} images of {', '.join(rare)}: the head can hardly learn these"
        )
    else:
        report.ok("labels", shown)
    if min(known) < 0:
        report.fault("labels", f"label_id {min(known)} is below 0", "count classes from 0; -1 is unknown")
    asked = getattr(run.model, "num_classes", None)
    if asked is None:
        return
    needed = max(2, max(known) + 1)
    if asked != needed and "num_classes" not in run.given:
        advice.flags["num_classes"] = str(needed)
    elif asked < needed:
        report.fault("labels", f"--num_classes {asked} and a label_id of {max(known)}", f"--num_classes {needed}")
    elif asked > needed and (unseen := without_images(labels, asked)):
        report.warn("labels", *unseen)
    unused = sorted(set(range(needed)) - set(counts))
    if unused:
        text = f"no image has the label_id {', '.join(map(str, unused[:SHOWN]))}"
        report.warn("labels", text, "number the classes without gaps, from 0")
    if math.isfinite(run.data.max_dataset_size):
        report.ok("labels", "of the first --max_dataset_size images only")
