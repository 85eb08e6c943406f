"""Make a run of published weights, so that everything that works on runs works on them.

python scripts/import_weights.py latest_net_G.pth --name horse2zebra --model cycle_gan
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import torch

from data.domain import save_formats
from data.images import DomainFormat, Window, parse_window
from models import MODELS, load_trained
from options.parse import OPTIONS_FILE, RunOptions, inference_options
from options.schema import OptionError, check_name, shorten
from options.yaml_config import dump_yaml
from util.checkpoint import CheckpointError
from util.errors import exit_code, printable
from util.files import write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="import_weights.py",
        allow_abbrev=False,
        description=(__doc__ or "").splitlines()[0],
        epilog="Further flags are those of the networks (--netG, --ngf, --input_nc, --no_antialias, ...), and "
        "--window_A and --window_B as LO,HI in counts; python test.py --help lists them.",
    )
    parser.add_argument("file", type=Path, help="weights of a translator, for example latest_net_G.pth")
    parser.add_argument("--name", required=True, help="of the run that is made")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder that holds the runs")
    wanted, flags = parser.parse_known_args(argv)
    run = import_weights(wanted.file, wanted.checkpoints_dir, wanted.name, flags)
    print(f"{run.folder}: use it as any run, for example python test.py --checkpoint {run.folder} --input photo.jpg")
    return 0


def import_weights(file: Path, checkpoints: str, name: str, flags: Sequence[str]) -> RunOptions:
    """Make the run's folder from the weights of a translator; it appears when everything fits.

    Args:
        checkpoints, name: the folder that holds the runs, and the name of the one that is made.
        flags: --model, --netG and so on where they are not the defaults. Images are read in 0..255 at 8 bits, or in
            the counts of --window_A and --window_B.

    Raises:
        UserError: there is such a run, the weights do not fit the flags, or a window is not given in counts.
    """
    if not file.is_file():
        raise CheckpointError(f"{printable(file)}: does not exist")
    check_name("name", name, folders=True)
    folder = Path(checkpoints) / name
    if folder.exists():
        raise OptionError(f"--name {shorten(name)}: {folder} exists; give another name, or remove it")
    with tempfile.TemporaryDirectory(prefix="import-") as place:  # options are read from a folder with weights
        there = Path(place) / name
        there.mkdir(parents=True)
        shutil.copyfile(file, there / "latest_net_G.pth")
        run = inference_options((), ["--checkpoints_dir", place, "--name", name, *flags], prog="import_weights.py")
        formats = _format(run.data.window_A), _format(run.data.window_B)
        nets = MODELS.get(run.experiment.model).from_options(run).inference_nets
        if len(nets) > 1:
            raise OptionError(
                f"--model {run.experiment.model}: has {' and '.join(nets)}; a file of weights has one network"
            )
        try:
            load_trained(run, torch.device("cpu"))
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(there / "latest_net_G.pth"), printable(file))) from error
        (there / "latest_net_G.pth").rename(there / f"latest_net_{nets[0]}.pth")
        here = replace(run, experiment=replace(run.experiment, checkpoints_dir=checkpoints), published=False)
        write_atomic(there / OPTIONS_FILE, dump_yaml(here.groups()).encode())
        save_formats(there, *(formats if here.data.direction == "AtoB" else formats[::-1]))
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(there, folder)
    return here


def _format(window: str) -> DomainFormat:
    rule = parse_window(window)
    if rule.kind == "auto":
        return DomainFormat(Window(0.0, 255.0), "uint8")
    if rule.kind != "counts":
        raise OptionError(
            f"--window_A or --window_B {window}: there are no images to take it from; give LO,HI in counts"
        )
    return DomainFormat(Window(rule.low, rule.high), "uint8" if rule.high <= 255 else "uint16")


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
