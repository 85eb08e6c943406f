"""Translate a split and export what the generator looks at: `python cam_infer.py --dataroot DIR --name RUN`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.domain import check_classes
from data.images import unit_to_uint8
from data.single_dataset import SingleDataset, WholeImage
from models import load_trained
from models.base import Explanation
from options.groups import Explanation as ExplanationOptions
from options.groups import Inference
from options.parse import extra, inference_options
from util.engine.build import choose_device
from util.engine.inference import explain_image
from util.errors import exit_code, printable
from util.visual.cam_table import CamTable
from util.visual.overlay import colormap, heat_map, overlay
from util.visual.results import Results, Stored


def main() -> int:
    run = inference_options((Inference, ExplanationOptions), prog="cam_infer.py")
    wanted, look = extra(run, Inference), extra(run, ExplanationOptions)
    model = load_trained(run, choose_device(run.runtime.gpu_ids), evaluate=wanted.eval, tile=wanted.tile)
    dataset = SingleDataset.for_phase(run, wanted.phase, wanted.num_test, model.size_multiple)
    model.check_class(look.class_idx)
    if look.class_idx < 0:
        check_classes(run, dataset.labels, dataset.source_files)
    results = Results(Path(wanted.results_dir) / run.experiment.name / run.experiment.epoch, "{stem}_{kind}")
    table = CamTable(dataset.class_names)

    for whole in tqdm(dataset.images(), total=len(dataset), unit="image", disable=None):
        chosen = look.class_idx if look.class_idx >= 0 else whole.sample.label_A
        fake, seen = explain_image(model, whole.sample.A, whole.size, chosen)
        caption = table.add(whole.file, whole.sample.label_A, seen)
        translation: Stored = (fake, dataset.target)
        results.add(whole.file, {"fake": translation, **drawings(whole, fake, seen, look)}, printable(caption))
        if look.save_raw:  # float32 (h, w), not normalised, at cam_layer's resolution
            results.add_array(whole.file, "cam_input", seen.cam[0].float().cpu().numpy())
            results.add_array(whole.file, "cam_output", seen.cam_fake[0].float().cpu().numpy())

    table.write(results.folder / "cams.csv")
    page = results.write_page(f"{run.experiment.name}, {run.experiment.epoch}: what the generator looks at")
    dataset.list_bad_images(results.folder)
    outcome = dataset.outcome("translated and explained")
    print(f"{outcome}; table: {results.folder / 'cams.csv'}; page: {page}")
    return 0


def drawings(
    whole: WholeImage, fake: torch.Tensor, seen: Explanation, look: ExplanationOptions
) -> dict[str, np.ndarray]:
    """Heat maps and overlays of input and translation, (H, W, 3) uint8 at the image's own size."""
    sides = {"input": (unit_to_uint8(whole.image), seen.cam), "output": (unit_to_uint8(fake), seen.cam_fake)}
    heats = {side: heat_map(cam[0].cpu().numpy(), whole.size) for side, (_, cam) in sides.items()}
    maps = {f"cam_{side}": colormap(heat, look.colormap) for side, heat in heats.items()}
    overlays = {
        f"overlay_{side}": overlay(picture, heats[side], look.overlay_strength, look.colormap)
        for side, (picture, _) in sides.items()
    }
    return maps | overlays


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
