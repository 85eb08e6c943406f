"""From options to networks: the place where configuration stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from models.networks import Generator, build_discriminator, build_generator, init_weights
from options.schema import OptionError
from util import seeding

if TYPE_CHECKING:
    from options.parse import RunOptions


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
    if "crop" in run.data.preprocess and any(side % net.size_multiple for side in run.data.crop_size):
        raise OptionError(
            f"--crop_size {run.data.crop_size[0]},{run.data.crop_size[1]}: --netG {nets.netG} needs "
            f"multiples of {net.size_multiple}"
        )
    return net


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
