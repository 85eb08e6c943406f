"""A split, translated and explained by the weights of one epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.domain import check_classes
from data.images import DomainFormat, decode, unit_to_uint8
from data.pairing import cut_half
from data.single_dataset import SingleDataset, WholeImage
from models import load_trained
from models.base import Explanation, Model
from options.groups import Explanation as ExplanationOptions
from options.groups import Inference
from options.parse import RunOptions, extra
from scripts.explaining.sizes import say_sizes
from util.engine.build import pace, progress, writing_threads
from util.engine.inference import by_size, explain_images, noise_key, translate_images
from util.errors import printable
from util.sharing import is_first, mine
from util.visual.cam_table import CamTable
from util.visual.overlay import colormap, heat_map, overlay
from util.visual.results import Results, Stored

Picture = NDArray[np.uint8]
# Called for each image with what was drawn of it, and the number of images that the split counts.
Watch = Callable[[WholeImage, Mapping[str, Picture], int], None]


def explain_split(run: RunOptions, device: torch.device, watch: Watch | None = None) -> None:
    """Write translations, maps, overlays, `cams.csv` and a page to `<results_dir>/<name>/<epoch>`.

    The processes that torchrun starts share the images; the first writes table and page.

    Args:
        run: options of the run, with those of inference and explanation; its epoch is the one explained.
        watch: is shown `input`, `fake` and the drawings of each image as well.

    Raises:
        UserError: weights, images or labels cannot be used, or the model has no class head.
    """
    wanted, look = extra(run, Inference), extra(run, ExplanationOptions)
    model = load_trained(run, device, evaluate=wanted.eval, tile=wanted.tile)
    multiple, least = model.size_multiple, model.smallest_side
    dataset = SingleDataset.for_phase(run, wanted.phase, wanted.num_test, multiple, smallest=least)
    model.check_class(look.class_idx)
    if look.class_idx < 0:
        check_classes(run, dataset.labels, dataset.source_files)
    folder = Path(wanted.results_dir) / run.experiment.name / run.experiment.epoch
    results = Results(folder, "{stem}_{kind}", threads=writing_threads(), files=dataset.names)
    table, speed = CamTable(dataset.class_names), pace(run, model, wanted.tile)

    share, done = mine(len(dataset)), []
    images = say_sizes(dataset.images(speed.processes, share=share), run, model.size_multiple)
    explained = by_size(images, partial(explain_group, model, run, speed.amp), speed.together)
    with results:
        for whole, (fake, seen) in progress(explained, len(share), run.log.quiet):
            caption = table.add(whole.file, whole.sample.label_A, seen)
            translation: Stored = (fake, dataset.target)
            drawn = drawings(whole, fake, seen, look)
            shown = {"input": unit_to_uint8(whole.image)}
            results.add(whole.file, {"fake": translation, **drawn}, printable(caption), first=shown)
            if look.save_raw:  # float32 (h, w), not normalised, at cam_layer's resolution
                results.add_array(whole.file, "cam_input", seen.cam[0].numpy())
                results.add_array(whole.file, "cam_output", seen.cam_fake[0].numpy())
            if watch is not None:
                plain = {**shown, "fake": unit_to_uint8(fake)}
                watch(whole, plain | {kind: draw() for kind, draw in drawn.items()}, len(dataset))
            done.append(whole.sample.file_A)

    results.gather(done)
    table.gather(done)
    dataset.gather()
    if not is_first():
        return
    table.write(results.folder / "cams.csv")
    page = results.write_page(f"{run.experiment.name}, {run.experiment.epoch}: what the generator looks at")
    dataset.list_bad_images(results.folder)
    if left := results.left_over():
        print(left)
    outcome = dataset.outcome("translated and explained")
    print(f"{outcome}; table: {results.folder / 'cams.csv'}; page: {page}")


def translate_group(model: Model[Any], run: RunOptions, amp: str, group: Sequence[WholeImage]) -> list[Tensor]:
    """The translations of images of one size, (C, H, W) in [0, 1] of their own sizes; each draws by its file's name."""
    samples, sizes = [whole.sample.A for whole in group], [whole.size for whole in group]
    noise = [noise_key(run.experiment.seed, whole.file) for whole in group]
    return translate_images(model, samples, sizes, amp, noise)


def explain_group(
    model: Model[Any], run: RunOptions, amp: str, group: Sequence[WholeImage]
) -> list[tuple[Tensor, Explanation]]:
    """The same with the explanations: of --class_idx, else of the image's label, else of the head's choice."""
    wanted = extra(run, ExplanationOptions).class_idx
    samples, sizes = [whole.sample.A for whole in group], [whole.size for whole in group]
    chosen = [wanted if wanted >= 0 else whole.sample.label_A for whole in group]
    noise = [noise_key(run.experiment.seed, whole.file) for whole in group]
    return explain_images(model, samples, sizes, chosen, amp, noise)


def drawings(
    whole: WholeImage, fake: Tensor, seen: Explanation, look: ExplanationOptions
) -> dict[str, Callable[[], Picture]]:
    """What draws heat maps and overlays of input and translation, (H, W, 3) uint8 at the image's own size."""
    sides = {"input": (whole.image, seen.cam), "output": (fake, seen.cam_fake)}
    heats = {side: partial(heat_map, cam[0].numpy(), whole.size) for side, (_, cam) in sides.items()}

    def in_colours(side: str) -> Picture:
        return colormap(heats[side](), look.colormap)

    def over_picture(side: str) -> Picture:
        return overlay(unit_to_uint8(sides[side][0]), heats[side](), look.overlay_strength, look.colormap)

    kinds = {"cam": in_colours, "overlay": over_picture}
    return {f"{kind}_{side}": partial(draw, side) for kind, draw in kinds.items() for side in sides}


def read_target(
    targets: Mapping[int, tuple[Path, str]], run: RunOptions, fmt: DomainFormat, number: int
) -> Tensor | None:
    """The target image, or the half of one, to be shown beside an input; None where there is none."""
    file, half = targets.get(number, (None, ""))
    return None if file is None else cut_half(decode(file, run.channels[1], fmt), half, file)
