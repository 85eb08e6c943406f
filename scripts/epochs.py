"""Which exported weights of a run a script is to work through."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models import MODELS
from options.parse import RunOptions
from options.schema import OptionError
from util.errors import printable
from util.visual.montage import epoch_order


def epochs_of(run: RunOptions, asked: Sequence[str], every: bool = False) -> list[str]:
    """The epochs of --epochs, each once, in the order given; where there are none, the one of --epoch.

    Args:
        every: where none are asked for, all that were exported, in order; `latest` only if it is none of the others.

    Raises:
        OptionError: one that is asked for has no weights; those that have are listed.
    """
    model = MODELS.get(run.experiment.model)
    net = model.translator if model.translator in model.inference_nets else model.inference_nets[0]
    there = exported(run.folder, net)
    for epoch in asked:
        if epoch not in there:
            known = printable(", ".join(there)) or "none"
            raise OptionError(f"--epochs {printable(epoch)}: {run.folder} has no weights of it; there are {known}")
    if every and not asked:
        asked = [epoch for epoch in there if epoch != "latest" or not _has_a_copy(run.folder, net, epoch, there)]
    return list(dict.fromkeys(asked)) or [run.experiment.epoch]


def exported(folder: Path, net: str = "G") -> list[str]:
    """The epochs whose weights a run's folder holds: by number, then by iteration, then words such as `latest`.

    Args:
        net: a network that every exported epoch has.
    """
    suffix = f"_net_{net}.pth"
    return sorted((file.name.removesuffix(suffix) for file in folder.glob(f"*{suffix}")), key=epoch_order)


def at_epoch(run: RunOptions, epoch: str) -> RunOptions:
    """The run's options with another epoch's weights."""
    return replace(run, experiment=replace(run.experiment, epoch=epoch))


def _has_a_copy(folder: Path, net: str, epoch: str, there: Sequence[str]) -> bool:
    """Whether another epoch has the same weights, byte by byte."""
    own = folder / f"{epoch}_net_{net}.pth"
    others = (folder / f"{other}_net_{net}.pth" for other in there if other != epoch)
    return any(filecmp.cmp(own, other, shallow=False) for other in others)
