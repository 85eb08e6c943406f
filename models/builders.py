"""From options to networks: the place where configuration stops."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from models.networks import Generator, build_discriminator, build_generator, init_weights
from models.networks.discriminators import PatchDiscriminator
from models.networks.stylegan2 import SMALLEST, power_of_two
from options.schema import OptionError, show
from util import seeding

if TYPE_CHECKING:
    from options.parse import RunOptions


# Words of --preprocess after which images are of --crop_size, in training or when a run is used.
FIXING = {"crop", "patch", "trim", "resize", "scale_width"}
MOST_SIMILARITIES = 4e9  # bytes of the similarities of one layer, in float32; a step needs them several times


def generator_from(run: RunOptions, purpose: str = "G", back: bool = False) -> Generator:
    """The generator of a run, with its first weights.

    Args:
        purpose: what tells its first weights from another network's.
        back: it translates the target to the source.

    Raises:
        OptionError: --netG is unknown, or --crop_size does not fit it.
    """
    nets = run.networks
    _check_plain("netG", nets.netG, {"--normG batch": nets.normG == "batch", "--no_dropout False": not nets.no_dropout})
    channels = (nets.output_nc, nets.input_nc) if back else (nets.input_nc, nets.output_nc)
    try:
        net = build_generator(
            nets.netG,
            input_nc=channels[0],
            output_nc=channels[1],
            ngf=nets.ngf,
            norm=nets.normG,
            dropout=not nets.no_dropout,
            antialias=not nets.no_antialias,
            antialias_up=not nets.no_antialias_up,
            size=min(run.data.crop_size),
            halvings=nets.stylegan2_G_num_downsampling,
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


def discriminator_from(run: RunOptions, purpose: str = "D", channels: int = 0) -> nn.Module:
    """The discriminator of a run, with its first weights.

    Args:
        purpose: what tells its first weights from another network's.
        channels: of what it judges; 0: those of a translation.

    Raises:
        OptionError: --netD is unknown, or options do not fit it.
    """
    nets = run.networks
    _check_plain("netD", nets.netD, {"--normD batch": nets.normD == "batch", "--spectral_norm": nets.spectral_norm})
    try:
        return build_discriminator(
            nets.netD,
            input_nc=channels or nets.output_nc,
            ndf=nets.ndf,
            n_layers=nets.n_layers_D,
            norm=nets.normD,
            antialias=not nets.no_antialias,
            spectral=nets.spectral_norm,
            size=min(run.data.crop_size),
            tile=nets.D_patch_size,
            group=nets.mbstd_group,
            **_initial(run, purpose),
        )
    except ValueError as error:
        raise OptionError(f"--netD {nets.netD}: {error}") from error


def initialised(net: nn.Module, run: RunOptions, purpose: str, init_type: str | None = None) -> nn.Module:
    """Give any other network its first weights; of the run's kind unless one is named."""
    kwargs = _initial(run, purpose)
    init_weights(net, init_type or kwargs["init_type"], kwargs["init_gain"], kwargs["generator"])
    return net


def _check_plain(flag: str, net: str, asked: Mapping[str, bool]) -> None:
    """Raise an OptionError where one of StyleGAN2's networks is asked for a layer that it does not have."""
    if "stylegan2" in net and (found := [name for name, is_asked in asked.items() if is_asked]):
        raise OptionError(f"{found[0]}: --{flag} {net} has no such layers; change it, or choose another --{flag}")


def check_judged_size(run: RunOptions) -> None:
    """Raise an OptionError where images in training do not have the size that a --netD of StyleGAN2's kind judges."""
    nets, data = run.networks, run.data
    crop, words = data.crop_size, set(data.preprocess.split("_and_"))
    if "stylegan2" not in nets.netD:
        return
    if nets.netD == "tilestylegan2":
        tile = nets.D_patch_size
        if tile != max(power_of_two(tile), SMALLEST):
            raise OptionError(f"--D_patch_size {tile}: must be a power of two, {SMALLEST} or more")
        if words & {"crop", "patch"} and tile > min(crop):
            raise OptionError(f"--D_patch_size {tile}: is larger than images of --crop_size {show(crop)}; lower it")
    elif crop[0] != crop[1] or crop[0] != max(power_of_two(crop[0]), SMALLEST):
        raise OptionError(
            f"--crop_size {show(crop)}: --netD stylegan2 judges squares whose side is a power of two, {SMALLEST} or "
            f"more, for example {max(power_of_two(min(crop)), SMALLEST)}; --netD tilestylegan2 takes other sizes"
        )
    elif not words & {"crop", "patch"} and (words != {"resize"} or data.load_size != crop):
        raise OptionError(
            f"--preprocess {data.preprocess}: --netD stylegan2 judges images of --crop_size, so it must end with crop "
            "or patch; --netD tilestylegan2 takes other sizes"
        )


def trained_size(run: RunOptions, multiple: int) -> tuple[int, int] | None:
    """Height and width of the images of a training, multiples of G's; None where they follow from the files."""
    data, words = run.data, set(run.data.preprocess.split("_and_"))
    if words & {"crop", "patch"}:
        return data.crop_size
    if words != {"resize"}:
        return None
    return _nearest(data.load_size[0], multiple), _nearest(data.load_size[1], multiple)


def check_trained_size(run: RunOptions, nets: Iterable[nn.Module], multiple: int) -> None:
    """Raise an OptionError where images in training are too small for a generator or a patch discriminator.

    Args:
        multiple: sides of images are multiples of it.
    """
    size = trained_size(run, multiple)
    if size is None:
        return
    flag = "load_size" if run.data.preprocess == "resize" else "crop_size"
    for net in nets:
        if isinstance(net, Generator) and min(size) < net.smallest_side:
            least = net.smallest_side
            raise OptionError(f"--{flag} {show(size)}: --netG {run.networks.netG} needs sides of {least} or more")
        if isinstance(net, PatchDiscriminator) and min(size) < net.smallest_side:
            least, levels = -(-net.smallest_side // multiple) * multiple, net.levels_for(min(size))
            other = f"--netD n_layers --n_layers_D {levels}" if levels else "--netD pixel"
            raise OptionError(
                f"--{flag} {show(size)}: --netD {run.networks.netD} halves images {net.n_layers} times and needs sides "
                f"of {least} or more; raise --{flag}, or take {other}"
            )


def check_similarities(run: RunOptions, net: Generator, layers: Sequence[int], together: int) -> None:
    """Raise an OptionError where contrasting every position of a layer takes more memory than can be meant.

    Args:
        layers: that are contrasted.
        together: images whose positions are contrasted with each other's.
    """
    size = trained_size(run, net.size_multiple)
    for layer in layers if size is not None else ():
        stride, border = net.feature_stride(layer), net.feature_border(layer)
        positions = together * math.prod(side // stride + 2 * border for side in size or ())
        if 4 * positions**2 > MOST_SIMILARITIES:
            raise OptionError(
                f"--netF reshape: contrasts every position with every other, {positions} x {positions} numbers "
                f"({4e-9 * positions**2:.0f} GB) in layer {layer} of --nce_layers; leave that layer out, lower "
                "--crop_size, or take --netF sample, which draws --num_patches"
            )


def check_penalty(run: RunOptions) -> None:
    """Raise an OptionError where --gan_mode wgangp meets a discriminator that mixes images."""
    if run.optim.gan_mode == "wgangp" and run.networks.normD == "batch":
        raise OptionError(
            "--gan_mode wgangp: its gradient penalty is defined per image, and --normD batch mixes images; "
            "use --normD instance"
        )


def _initial(run: RunOptions, purpose: str) -> dict[str, Any]:
    return {
        "init_type": run.networks.init_type,
        "init_gain": run.networks.init_gain,
        "generator": seeding.generator(run.experiment.seed, f"init {purpose}"),
    }
