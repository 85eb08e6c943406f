"""Full-resolution maps of an F-CAM run, of a split or of given pictures: of a classifier's images, or of inputs and
translations."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from data.bad_images import write_list
from data.domain import preprocess_from
from data.images import unit_to_uint8
from data.transforms import Preprocess
from models import load_trained
from models.base import Model
from models.fcam_model import FcamModel
from models.judge import with_channels
from options.groups import Explanation, Inference
from options.parse import OPTIONS_FILE, RunOptions, extra, inference_options
from options.schema import OptionError, shorten
from scripts.explaining.curves import curves_figure
from scripts.explaining.inputs import Input, say_one_by_one
from scripts.explaining.located import inputs_of
from scripts.explaining.maps import ranking_of
from scripts.explaining.sizes import say_sizes
from scripts.explaining.written import MANIFEST
from util.engine.inference import noise_key, translate_image
from util.errors import counted, printable
from util.files import write_atomic
from util.metrics.base import MetricError, Scores
from util.metrics.wsol import FIXED, SIDE, Localiser, Truth
from util.metrics.wsol_boxes import boxes_above
from util.metrics.wsol_maps import resized_map, unit_map
from util.seeding import generator
from util.visual.boxes import draw_boxes, draw_masks
from util.visual.figures import save_figure
from util.visual.overlay import colormap
from util.visual.results import Results

Picture = NDArray[np.uint8]
Array = NDArray[np.float32]

FOUND, TRUE = 0, 2  # classes whose colours are orange and green
COLUMNS = ("file", "side", "class", "class_name", "probability", "foreground", "x0", "y0", "x1", "y1", "IoU")
_LEGEND = (
    f"Orange: what the map holds for more probable than {FIXED} and, around its largest part above {FIXED} of the "
    "maximum, a box; green: the true box or mask, where it is known. Maps are probabilities, not stretched."
)


# What chooses among explainers, by the name of the option, as its flag.
NOT_HERE = {
    **{name: name for name in ("explain", "layer", "layers", "top_k", "score", "normalize", "patches", "grid")},
    "method_settings": "method_settings",
    "explain_with": "cam_method",
}


@dataclass(frozen=True)
class Mapped:
    """One picture and what is seen in it.

    Attributes:
        image: (C, H, W) in [0, 1] at its own size.
        full: (H, W) in [0, 1], the probability that a pixel is foreground.
        cam: (H, W) in [0, 1], the teacher's map of the class.
        label, probability: the class, and its probability.
        ranking: the classes the classifier sees, the likeliest first.
    """

    image: Tensor
    full: Array
    cam: Array
    label: int
    probability: float
    ranking: tuple[int, ...]


def map_split(run: RunOptions, device: torch.device, fcam: str | None = None) -> Path:
    """Write maps, overlays, thresholded masks, `maps.csv` and a page to `<results_dir>/<name>/<epoch>_fcam`; where
    boxes or masks are known also `scores.json` and curves of localisation.

    The images are those of the split, or what --image, --input, --random or --index choose.

    Args:
        run: of a translation model, a classifier or F-CAM itself, with the options of inference and explanation.
        fcam: the F-CAM run: its folder, or its name beside the run; None: `run` is one.

    Returns:
        The page.

    Raises:
        UserError: weights, images or labels cannot be used.
    """
    wanted, look = extra(run, Inference), extra(run, Explanation)
    _check(run, look)
    say_one_by_one(run)
    model = load_trained(run, device, tile=wanted.tile)
    translates = _translates(model)
    model.train(translates and not wanted.eval)  # as test.py translates
    mapper = Mapper(model, run) if fcam is None else load_mapper(run, fcam, device)
    mapper.check_class(look.class_idx)
    inputs, truths = inputs_of(run, model.size_multiple)
    sides = ("input", "output") if translates else ("input",)
    results = Results(Path(wanted.results_dir) / run.experiment.name / f"{run.experiment.epoch}_fcam", "{kind}/{stem}")
    about = {"run": run.experiment.name, "epoch": run.experiment.epoch, "explained": "fcam", "maps_by": mapper.name}
    book = Book(results, look, inputs.domain.class_names, {side: (Localiser(), Localiser()) for side in sides}, about)
    images = say_sizes(inputs, run, model.size_multiple) if translates else inputs
    for source in tqdm(images, total=len(inputs), unit="image", disable=None):
        chosen = look.class_idx if look.class_idx >= 0 else -1 if look.explained == "predicted" else source.label
        pictures = {"input": source.image}
        if "output" in sides:
            noise = noise_key(run.experiment.seed, source.file)
            pictures["output"] = translate_image(model, source.sample, source.size, noise)
        book.add(source, {side: mapper(image, chosen) for side, image in pictures.items()}, truths(source))
    write_list(results.folder, inputs.bad)
    page = book.close(f"{run.experiment.name}, {run.experiment.epoch}: maps by {mapper.name}")
    left_out = f", {len(inputs.bad)} skipped" if inputs.bad else ""
    print(f"{counted(book.count, 'image')} mapped{left_out}; table: {results.folder / 'maps.csv'}; page: {page}")
    return page


def _check(run: RunOptions, look: Explanation) -> None:
    """Raise an OptionError for an option that full-resolution maps have nothing to do with."""
    for name in NOT_HERE:
        if name in run.given:
            raise OptionError(
                f"--{NOT_HERE[name]}: changes nothing in the maps of --model fcam, whose teacher was chosen in its "
                "training; leave it out"
            )
    if look.explained == "both":
        raise OptionError("--explained both: an F-CAM run has one map of an image, whatever its class; leave it out")


def _translates(model: Model[Any]) -> bool:
    try:
        model.check_translates()
    except OptionError:
        return False
    return True


# --- maps


class Mapper:
    """Maps images of any size and channels by an F-CAM run, as it was trained to see them.

    Args:
        model: an F-CAM model in evaluation mode, on its device.
        run: its options.

    Raises:
        OptionError: it is another model.
    """

    def __init__(self, model: Model[Any], run: RunOptions) -> None:
        if not isinstance(model, FcamModel):
            raise OptionError(f"--fcam {run.experiment.name}: is a run of --model {run.experiment.model}, not of fcam")
        self.name, self._model, self._channels = run.experiment.name, model, run.networks.input_nc
        self._preprocess: Preprocess = preprocess_from(run, model.size_multiple).for_inference()

    def check_class(self, class_id: int) -> None:
        """Raise an OptionError where the classifier that is explained knows no such class."""
        known = self._model.num_classes
        if class_id >= known:
            raise OptionError(f"--class_idx {class_id}: the classifier of {self.name} has the classes 0 to {known - 1}")

    @torch.no_grad()
    def __call__(self, image: Tensor, label: int = -1) -> Mapped:
        """Of an image (C, H, W) in [0, 1] and a class, -1 for the one the classifier sees."""
        taken = self._preprocess(with_channels(image[None], self._channels)[0], generator(0, "whole")) * 2 - 1
        batch = taken[None].to(self._model.device)
        full, seen = self._model.maps_and_cams(batch, torch.tensor([label], device=batch.device))
        own = (image.shape[-2], image.shape[-1])
        maps = [_at(one, own) for one in (full, seen.cam)]
        label = int(seen.classes[0])
        shares = seen.logits.float().softmax(1)[0].cpu()
        return Mapped(image, maps[0], maps[1], label, float(shares[label]), ranking_of(shares))


def load_mapper(run: RunOptions, fcam: str, device: torch.device) -> Mapper:
    """The F-CAM run of that folder, or of that name beside `run`.

    Raises:
        UserError: there is none, or it is a run of another model.
    """
    places = (Path(fcam), run.folder.parent / fcam)
    folder = next((place for place in places if (place / OPTIONS_FILE).is_file()), None)
    if folder is None:
        raise OptionError(f"--fcam {shorten(fcam)}: neither {places[0]} nor {places[1]} is a run")
    other = inference_options((), ["--checkpoints_dir", str(folder.parent), "--name", folder.name])
    return Mapper(load_trained(other, device), other)


def _at(one: Tensor, own: tuple[int, int]) -> Array:
    """A map (1, h, w) in [0, 1] as (H, W) of the image."""
    found = torch.nn.functional.interpolate(one[:, None].float().cpu(), own, mode="bilinear", align_corners=False)
    values: Array = found[0, 0].clamp(0, 1).numpy()
    return values


# --- what is written


class Book:
    """Writes what is seen of each image, and in the end the table, the scores and the page.

    Args:
        names: of the classes, by id.
        counters: by side, of the full maps and of the teacher's.
        about: facts of the run for the manifest.
    """

    def __init__(
        self,
        results: Results,
        look: Explanation,
        names: Mapping[int, str],
        counters: Mapping[str, tuple[Localiser, Localiser]],
        about: Mapping[str, str],
    ) -> None:
        self._results, self._look, self._names, self._counters = results, look, names, counters
        self._about, self._images = about, list[dict[str, Any]]()
        self._rows: list[tuple[str, ...]] = []

    @property
    def count(self) -> int:
        """Of the images so far."""
        return len(self._images)

    def add(self, source: Input, mapped: Mapping[str, Mapped], truth: Truth | None) -> None:
        """Write the pictures and maps of an image."""
        pictures: dict[str, Picture] = {}
        for side, one in mapped.items():
            fit = self._count(side, one, truth, source.label)
            self._results.add_array(source.file, f"map_{side}", one.full)
            pictures |= {} if self._look.maps_only else self._drawn(side, one, truth)
            self._rows.append(self._row(source, side, one, fit))
        first = next(iter(mapped.values()))
        caption = f"{source.file.as_posix()}: {self._name(first.label)}, {first.probability:.2f}"
        self._results.add(source.file, pictures, printable(caption))
        self._images.append(self._entry(source, mapped))

    def close(self, title: str) -> Path:
        """Write the rest; returns the page."""
        folder, text = self._results.folder, io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([COLUMNS, *self._rows])
        write_atomic(folder / "maps.csv", text.getvalue().encode(errors="surrogateescape"))
        names = {str(number): name for number, name in sorted(self._names.items())}
        manifest = {**self._about, "classes": names, "images": self._images}
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False).encode())
        scores = dict(self._scores())
        if scores:
            values = {
                side: {name: value.value for name, value in found.values.items()} for side, found in scores.items()
            }
            write_atomic(folder / "scores.json", json.dumps(values, indent=1).encode())
            save_figure(curves_figure({side: found.tables for side, found in scores.items()}), folder / "curves")
        lines = [_LEGEND, *(_summary(side, found) for side, found in scores.items())]
        for line in lines[1:]:
            print(line)
        return self._results.write_page(title, "\n\n".join(lines))

    def _scores(self) -> Iterator[tuple[str, Scores]]:
        for side, counters in self._counters.items():
            for name, counter in zip((side, f"{side} by CAM"), counters, strict=True):
                try:
                    yield name, counter.scores()
                except MetricError:  # nobody knows where the targets are
                    continue

    def _count(self, side: str, one: Mapped, truth: Truth | None, label: int) -> float | None:
        ours, teachers = self._counters[side]
        known = label if label >= 0 else None
        size, ranking = (SIDE, SIDE), one.ranking
        fit = ours.add(resized_map(one.full.astype(np.float64), size).clip(0, 1), truth, label=known, ranking=ranking)
        teachers.add(unit_map(one.cam, size), truth, label=known, ranking=ranking)
        return fit

    def _drawn(self, side: str, one: Mapped, truth: Truth | None) -> dict[str, Picture]:
        plain = unit_to_uint8(one.image)
        strength = self._look.overlay_strength
        heat = (1 - strength) * plain + strength * colormap(one.full, self._look.colormap)
        marked = draw_masks(plain, [one.full >= FIXED], [FOUND])
        box = found_box(one.full)
        marked = marked if box is None else draw_boxes(marked, [box], [FOUND])
        if truth is not None:
            there = truth.at((plain.shape[0], plain.shape[1]))
            marked = draw_masks(marked, there.masks, [TRUE] * len(there.masks))
            edges = [(float(x0), float(y0), x1 + 1.0, y1 + 1.0) for x0, y0, x1, y1 in there.boxes.tolist()]
            marked = draw_boxes(marked, edges, [TRUE] * len(edges))
        return {side: plain, f"overlay_{side}": np.rint(heat).astype(np.uint8), f"target_{side}": marked}

    def _row(self, source: Input, side: str, one: Mapped, fit: float | None) -> tuple[str, ...]:
        box = found_box(one.full)
        corners = ("",) * 4 if box is None else tuple(f"{edge:.0f}" for edge in box)
        shares = (f"{one.probability:.4f}", f"{float((one.full >= FIXED).mean()):.4f}")
        first = (source.file.as_posix(), side, str(one.label), self._name(one.label))
        return (*first, *shares, *corners, "" if fit is None else f"{fit:.2f}")

    def _entry(self, source: Input, mapped: Mapping[str, Mapped]) -> dict[str, Any]:
        """An image in the manifest: as `Writer` lists those of explainers, for `evaluate.py --maps`."""
        label = source.label if source.label >= 0 else None
        return {
            "file": source.path.as_posix(),
            "size": list(source.size),
            "label": label,
            "label_name": None if label is None else self._name(label),
            "views": [self._view(source, side, one, len(mapped) > 1) for side, one in mapped.items()],
        }

    def _view(self, source: Input, side: str, one: Mapped, named: bool) -> dict[str, Any]:
        raw = self._results.path(f"map_{side}", self._results.stem_of(source.file), ".npy")
        # No class: the map is the same whichever is asked for.
        entry = {"method": "fcam", "layer": None, "target": None, "unit": True}
        return {
            "side": side if named else None,
            "predicted": one.ranking[0],
            "predicted_name": self._name(one.ranking[0]),
            "ranking": list(one.ranking),
            "maps": [{**entry, "raw": raw.relative_to(self._results.folder).as_posix()}],
        }

    def _name(self, label: int) -> str:
        return self._names.get(label, str(label))


def found_box(one: Array, threshold: float = FIXED) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) around the largest contour above a share of the map's maximum, as it is measured; None of a map
    of zeros."""
    quantised = (one * 255).astype(np.uint8)
    boxes, largest = boxes_above(quantised, int(threshold * int(quantised.max())))
    x0, y0, x1, y1 = (float(edge) for edge in boxes[largest])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _summary(side: str, found: Scores) -> str:
    """`input: MaxBoxAcc 61.2, ...`."""
    shown = ("MaxBoxAcc", "MaxBoxAccV2", "BoxAcc_fixed", "PxAP", "IoU_fixed")
    parts = [f"{name} {found.values[name].value:.1f}" for name in shown if name in found.values]
    return f"{side}: {', '.join(parts)}"
