"""Translate a split and export what the generator looks at: `python cam_infer.py --dataroot DIR --name RUN`."""

from __future__ import annotations

from functools import partial

from options.groups import Explanation, Inference
from options.parse import extra, inference_options
from scripts.epochs import at_epoch, epochs_of
from scripts.explaining.grid import EpochGrids
from scripts.explaining.translation import explain_split
from util.engine.build import choose_device
from util.errors import exit_code


def main() -> int:
    run = inference_options((Inference, Explanation), prog="cam_infer.py")
    look, device = extra(run, Explanation), choose_device(run.runtime.gpu_ids)
    epochs = epochs_of(run, look.epochs, every=look.grid)
    grids = EpochGrids(run) if look.grid else None
    for epoch in epochs:
        explain_split(at_epoch(run, epoch), device, partial(grids.add, epoch) if grids else None)
    if grids:
        grids.write()
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
