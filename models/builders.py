"""From options to networks: the place where configuration stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from models.networks import Generator, build_discriminator, build_generator, init_weights
from options.schema import OptionError, show
from util import seeding

if TYPE_CHECKING:
    from options.parse import RunOptions


# Words of --preprocess after which images are of --crop_size, in training or when a run is used.
FIXING = {"crop", "patch", "trim", "resize", "scale_width"}


def generator_from(run: RunOptions, purpose: str = "G") -> Generator:
    """The generator of a run, with its first weights.

    Raises:
        OptionError: --netG is unknown, or --crop_size does not fit it.
    """
    nets = run.networks
    try:
        net = build_generator(
            nets.netG,
            input_nc=nets.input_nc,
            output_nc=nets.output_nc,
            ngf=nets.ngf,
            norm=nets.normG,
            dropout=not nets.no_dropout,
            antialias=not nets.no_antialias,
            antialias_up=not nets.no_antialias_up,
            **_initial(run, purpose),
        )
    except ValueError as error:
        raise OptionError(f"--netG {nets.netG}: {error}") from error
    crop, words = run.data.crop_size, run.data.preprocess.split("_and_")
    if FIXING.intersection(words) and any(side % net.size_multiple for side in crop):
        near = show([_nearest(side, net.size_multiple) for side in crop])
        raise OptionError(
            f"--crop_size {show(crop)}: --netG {nets.netG} needs multiples of {net.size_multiple}, for example {near}"
        )
    return net


def rounded_sizes(run: RunOptions, multiple: int) -> list[str]:
    """What to say where images are loaded at a size that G does not take: they come to the nearest that it does."""
    words, load = set(run.data.preprocess.split("_and_")), run.data.load_size
    sides = load if words == {"resize"} else load[1:] if words == {"scale_width"} else ()
    if not any(side % multiple for side in sides):
        return []
    near = show([_nearest(side, multiple) for side in sides])
    return [f"--load_size {show(load)}: {run.networks.netG} needs multiples of {multiple}; images come to {near}"]


def _nearest(side: int, multiple: int) -> int:
    return max(round(side / multiple), 1) * multiple


def discriminator_from(run: RunOptions, purpose: str = "D") -> nn.Module:
    """The discriminator of a run, with its first weights.

    Raises:
        OptionError: --netD is unknown.
    """
    nets = run.networks
    try:
        return build_discriminator(
            nets.netD,
            input_nc=nets.output_nc,
            ndf=nets.ndf,
            n_layers=nets.n_layers_D,
            norm=nets.normD,
            antialias=not nets.no_antialias,
            **_initial(run, purpose),
        )
    except ValueError as error:
        raise OptionError(f"--netD {nets.netD}: {error}") from error


def initialised(net: nn.Module, run: RunOptions, purpose: str, init_type: str | None = None) -> nn.Module:
    """Give any other network its first weights; of the run's kind unless one is named."""
    kwargs = _initial(run, purpose)
    init_weights(net, init_type or kwargs["init_type"], kwargs["init_gain"], kwargs["generator"])
    return net


def _initial(run: RunOptions, purpose: str) -> dict[str, Any]:
    return {
        "init_type": run.networks.init_type,
        "init_gain": run.networks.init_gain,
        "generator": seeding.generator(run.experiment.seed, f"init {purpose}"),
    }
