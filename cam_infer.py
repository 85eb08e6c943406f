"""Export what a network looks at: `python cam_infer.py --dataroot DIR --name RUN`, of any run."""

from __future__ import annotations

from functools import partial

import torch

from models.classifier_model import ClassifierOptions
from models.fcam_options import FcamOptions
from options.groups import Explanation, Given, Inference
from options.parse import RunOptions, extra, inference_options
from scripts.epochs import at_epoch, epochs_of
from scripts.explaining.given import explain_given, with_given
from scripts.explaining.grid import EpochGrids
from scripts.explaining.places import check_output
from scripts.explaining.translation import explain_split
from util.engine.build import choose_device
from util.errors import exit_code
from util.sharing import as_one, is_first

# Any of these asks for explainers; without them a translation run shows its own maps.
ASKING = {"image", "random", "index", "top_k", "explain", "explain_with", "layer", "layers", "score", "normalize"}
ASKING |= {"patches", "explained", "maps_only", "method_settings"}


@as_one
def main() -> int:
    run = with_given(inference_options((Inference, Explanation, Given), prog="cam_infer.py"))
    check_output(run)
    look, device = extra(run, Explanation), choose_device(run.runtime.gpu_ids)
    classifier = isinstance(run.model, ClassifierOptions)
    epochs = epochs_of(run, look.epochs, every=look.grid)
    alone = classifier or run.given & ASKING or extra(run, Given).input is not None
    if (alone or look.fcam or isinstance(run.model, FcamOptions)) and not is_first():
        return 0  # the first process works, the others wait for it
    if look.fcam or isinstance(run.model, FcamOptions):
        map_at_full_resolution(run, epochs, device, look.fcam)
        return 0
    if classifier or run.given & ASKING:
        for epoch in epochs:
            explain_networks(at_epoch(run, epoch), device, classifier)
        return 0
    if extra(run, Given).input is not None:
        for epoch in epochs:
            explain_given(at_epoch(run, epoch), device, epoch if len(epochs) > 1 else "")
        return 0
    grids = EpochGrids(run) if look.grid else None
    for epoch in epochs:
        explain_split(at_epoch(run, epoch), device, partial(grids.add, epoch) if grids else None)
    if grids:
        grids.gather()
        if is_first():
            grids.write()
    return 0


def map_at_full_resolution(run: RunOptions, epochs: list[str], device: torch.device, fcam: str | None) -> None:
    """Map what F-CAM sees: that of --fcam, or the run itself."""
    from scripts.explaining.full_resolution import map_split  # its curves load matplotlib

    for epoch in epochs:
        map_split(at_epoch(run, epoch), device, fcam)


def explain_networks(run: RunOptions, device: torch.device, classifier: bool) -> None:
    """Explain a classifier, or a part of a translation run, by the methods asked for."""
    # Imported here: figures load matplotlib, which takes a second.
    from scripts.explaining.classifier import explain_classifier
    from scripts.explaining.generator import explain_generator

    if classifier:
        explain_classifier(run, device)
    else:
        explain_generator(run, device)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
