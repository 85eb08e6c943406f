"""Runs of classifiers for F-CAM to explain, without training them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from models import MODELS
from options.parse import OPTIONS_FILE, train_options
from options.yaml_config import dump_yaml
from util.checkpoint import export_weights

# Small decoders whose images do not mix, with every term.
SMALL = ("--decoder_norm", "instance", "--decoder_width", 16, "--sl_fg_erode_k", 3, "--lambda_ENT", 1)
JUDGE = ("--model", "classifier", "--num_classes", 4)
CUTCAM = (
    *("--model", "cutcam", "--num_classes", 4, "--ngf", 8, "--ndf", 8, "--netG", "resnet_6blocks"),
    *("--nce_layers", "0,4,8,11", "--netF_nc", 16),
)
STD_CL = ("--model", "std_cl", "--arch", "judge", "--num_classes", 4)


@cache
def classifier_run(*flags: object) -> Path:
    """The folder of a run with first weights, made once for the same flags."""
    root = Path(tempfile.mkdtemp(prefix="fcam_bench"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return write_run(root / "source", *flags)


def write_run(folder: Path, *flags: object) -> Path:
    """Options and exported weights as a run leaves them."""
    folder.mkdir(parents=True)
    size = ("--load_size", 36, "--crop_size", 32)
    run = train_options([str(flag) for flag in (*flags, *size, "--dataroot", "none")])
    model = MODELS.get(run.experiment.model).from_options(run)
    (folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()))
    for name, net in model.nets.items():
        export_weights(folder / f"latest_net_{name}.pth", net.state_dict())
    return folder
