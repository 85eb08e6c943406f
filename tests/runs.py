"""Run folders with first weights, made without training: enough for whatever reads a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from data.domain import save_formats
from data.images import DomainFormat, Window
from models import MODELS
from options.parse import OPTIONS_FILE, train_options
from options.yaml_config import dump_yaml
from tests.conftest import TINY, TINY_CUT
from util.checkpoint import export_weights
from util.files import write_atomic

BYTES = DomainFormat(Window(0.0, 255.0), "uint8")
COUNTS = DomainFormat(Window(1000.0, 3000.0), "uint16"), DomainFormat(Window(2000.0, 6000.0), "uint16")
CUTCAM = ("--model", "cutcam", "--num_classes", "4", *TINY_CUT)


def make_run(
    folder: Path,
    *flags: str,
    formats: tuple[DomainFormat, DomainFormat] = (BYTES, BYTES),
    classes: Mapping[int, str] | None = None,
) -> Path:
    """A run folder with the weights, options and formats of a model that has not been trained."""
    words = ["--dataroot", "unused", "--checkpoints_dir", str(folder.parent), "--name", folder.name]
    run = train_options([*words, *TINY, "--preprocess", "none", *flags])
    model = MODELS.get(run.experiment.model).from_options(run)
    folder.mkdir(parents=True)
    for name, net in model.nets.items():
        torch.manual_seed(sum(map(ord, name)))
        for parameter in net.parameters():  # first weights are small: their head knows one class only
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        export_weights(folder / f"latest_net_{name}.pth", net.state_dict())
    write_atomic(folder / OPTIONS_FILE, dump_yaml(run.groups()).encode())
    save_formats(folder, *formats, classes)
    return folder
