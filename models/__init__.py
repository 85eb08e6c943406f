"""Models: `MODELS.get(name)` finds `models/<name>_model.py`; `load_run` brings a trained one back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from models.base import MODELS, Model
from models.pictures import PictureReader
from models.speed import Speed, speed_up_passes
from util.checkpoint import SHAPE_OF_G, CheckpointError, fit_weights, load_weights
from util.errors import printable
from util.safe_weights import SAFE_FILE, holds_safe, read_net
from util.sharing import is_first

if TYPE_CHECKING:
    from options.parse import RunOptions

# The flags that shape a network, to be checked where weights do not fit.
SHAPED_BY = {
    "F": "--netF, --netF_nc, --nce_layers, --netG and --ngf",
    "D": "--netD, --ndf, --n_layers_D, --output_nc and the norm flags",
    "S": "--decoder_width, --decoder_norm and --classifier_run",
    "C": "--num_classes, --cam_layer, --nce_layers, --netG and --ngf",
}

__all__ = ["MODELS", "load_pretrained", "load_run", "load_trained"]


def load_trained(run: RunOptions, device: torch.device, evaluate: bool = True, tile: int = 0) -> Model[Any]:
    """The model of a run's options with its exported weights, ready to translate and explain.

    Args:
        evaluate: evaluation mode of batch norm and dropout; False keeps both as in training, as CUT tests.
        tile: images larger than so many pixels go in tiles; 0: in one piece.

    Raises:
        CheckpointError: weights are missing or do not fit.
        UserError: a tile that this model cannot work in.
    """
    model = MODELS.get(run.experiment.model).from_options(run)
    if run.turned:
        model.turn_round()
    for name in model.inference_nets:
        if holds_safe(run.folder, run.experiment.epoch):
            file = run.folder / SAFE_FILE
            fit_weights(file, read_net(file, name), model.nets[name], _flags(name))
        else:
            file = _weights_file(run.folder, run.experiment.epoch, name, run.published)
            load_weights(file, model.nets[name], _flags(name))
    model.to(device)
    model.train(not evaluate)
    # Only what this command asks for: how the training was made faster, and its --amp, do not count.
    sixteen_bits = "amp" in run.given and run.optim.amp != "off"
    flags = {name: name in run.given and getattr(run.runtime, name) for name in ("fast", "channels_last")}
    for line in speed_up_passes(model, Speed(**flags, sixteen_bits=sixteen_bits)):
        if is_first():
            print(line)
    if tile:
        model.in_tiles(tile)
    return model


def load_pretrained(run: RunOptions, nets: Mapping[str, nn.Module]) -> None:
    """Begin with the exported weights of the run that --pretrained_name names, where it has them.

    Raises:
        CheckpointError: there are no weights of the translator, or weights do not fit.
    """
    start, translator = run.experiment.pretrained_name, MODELS.get(run.experiment.model).translator
    folder = run.folder.parent / str(start)
    if not folder.is_dir():
        raise CheckpointError(
            f"--pretrained_name {start}: {folder} does not exist; give the name of a run beside this one"
        )
    if not any(folder.glob(f"*_net_{translator}.pth")):
        nets_there = sorted({file.stem.split("_net_")[1] for file in folder.glob("*_net_*.pth")})
        raise CheckpointError(
            f"--pretrained_name {start}: has no weights of {translator}, with which --model {run.experiment.model} "
            f"begins (there are: {printable(', '.join(nets_there)) or 'none'}); name a run of this --model"
        )
    for name, net in nets.items():
        file = folder / f"{run.experiment.epoch}_net_{name}.pth"
        if name != translator and not file.exists():  # a run of another model
            print(f"{file}: does not exist, so {name} starts anew")
        else:
            load_weights(_weights_file(folder, run.experiment.epoch, name), net, _flags(name))


def _flags(net: str) -> str:
    return SHAPED_BY.get(net[0], SHAPE_OF_G)  # D_A and D_B are shaped as D is


def _weights_file(folder: Path, epoch: str, net: str, published: bool = False) -> Path:
    """Where a network's exported weights are.

    Args:
        published: CycleGAN's authors give out the one translator of a direction as G.

    Raises:
        CheckpointError: not there; the message says which there are.
    """
    file, alone = folder / f"{epoch}_net_{net}.pth", folder / f"{epoch}_net_G.pth"
    if published and not file.is_file() and alone.is_file():
        return alone
    if not file.is_file():
        others = (other.name for other in folder.glob(f"*_net_{net}.pth") if other.is_file())
        found = [name.removesuffix(f"_net_{net}.pth") for name in others]
        known = ", ".join(sorted(found, key=lambda name: (not name.isdigit(), len(name), name)))
        raise CheckpointError(f"--epoch {epoch}: {file} does not exist; there are: {printable(known) or 'none'}")
    return file


def load_run(
    folder: str | Path, epoch: str | int = "latest", device: str = "cpu", direction: str = "", preprocess: str = ""
) -> Model[Any]:
    """Bring a trained model back from its run folder.

    Args:
        folder: `<checkpoints_dir>/<name>`, or what `scripts/export.py --format safetensors` or `hub` has written.
        epoch: which exported weights: latest, a number, or iter_NUMBER.
        direction: AtoB or BtoA; empty: that of the training. The other one only where the model has a way back.
        preprocess: as --preprocess of test.py; empty: that of the training, whose resizing words bring single pictures
            to its crop_size. `none`: pictures go at their own size.

    Raises:
        OptionError, CheckpointError: the folder is no run, or lacks these weights.
    """
    # Imported here: this package is below the options (the one exception to the floors).
    from options.parse import inference_options

    folder = Path(folder)
    flags = ["--checkpoints_dir", str(folder.parent), "--name", folder.name, "--epoch", str(epoch)]
    flags += ["--direction", direction] if direction else []
    flags += ["--preprocess", preprocess] if preprocess else []
    run = inference_options((), flags, turns=True)
    model = load_trained(run, torch.device(device))
    model.pictures = PictureReader.from_options(run, model.size_multiple)
    return model
