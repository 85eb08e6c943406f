"""Networks: plain modules built from keyword arguments, by the names users give on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from models.networks.class_head import ClassHead
from models.networks.discriminators import PatchDiscriminator, PixelDiscriminator, with_spectral_norm
from models.networks.generator_base import Generator
from models.networks.init import init_weights
from models.networks.patch_sampler import PatchSampleF, draw_patch_ids
from models.networks.resnet_generator import ResnetGenerator
from models.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator, TileStyleGAN2Discriminator
from models.networks.unet_generator import UnetGenerator

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "ClassHead",
    "Discriminator",
    "Generator",
    "PatchDiscriminator",
    "PatchSampleF",
    "PixelDiscriminator",
    "ResnetGenerator",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "TileStyleGAN2Discriminator",
    "UnetGenerator",
    "build_discriminator",
    "build_generator",
    "draw_patch_ids",
    "init_weights",
]

Discriminator = PatchDiscriminator | PixelDiscriminator | StyleGAN2Discriminator | TileStyleGAN2Discriminator


def _resnet(n_blocks: int) -> Callable[..., Generator]:
    def build(
        input_nc: int,
        output_nc: int,
        ngf: int,
        norm: str,
        dropout: bool,
        antialias: bool,
        antialias_up: bool,
        **others: Any,
    ) -> Generator:
        return ResnetGenerator(input_nc, output_nc, ngf, norm, dropout, n_blocks, antialias, antialias_up)

    return build


def _unet(n_downs: int) -> Callable[..., Generator]:
    def build(input_nc: int, output_nc: int, ngf: int, norm: str, dropout: bool, **others: Any) -> Generator:
        return UnetGenerator(input_nc, output_nc, n_downs, ngf, norm, dropout)

    return build


def _stylegan2(n_blocks: int) -> Callable[..., Generator]:
    def build(input_nc: int, output_nc: int, ngf: int, size: int, halvings: int, **others: Any) -> Generator:
        return StyleGAN2Generator(input_nc, output_nc, ngf, size, halvings, n_blocks)

    return build


GENERATORS: dict[str, Callable[..., Generator]] = {
    "resnet_9blocks": _resnet(9),
    "resnet_6blocks": _resnet(6),
    "resnet_4blocks": _resnet(4),
    "unet_256": _unet(8),
    "unet_128": _unet(7),
    "stylegan2": _stylegan2(6),
    "smallstylegan2": _stylegan2(2),
}


def _basic(input_nc: int, ndf: int, norm: str, antialias: bool, **others: Any) -> Discriminator:
    return PatchDiscriminator(input_nc, ndf, 3, norm, antialias)


def _n_layers(input_nc: int, ndf: int, n_layers: int, norm: str, antialias: bool, **others: Any) -> Discriminator:
    return PatchDiscriminator(input_nc, ndf, n_layers, norm, antialias)


def _pixel(input_nc: int, ndf: int, norm: str, **others: Any) -> Discriminator:
    return PixelDiscriminator(input_nc, ndf, norm)


def _whole(input_nc: int, ndf: int, size: int, group: int, **others: Any) -> Discriminator:
    return StyleGAN2Discriminator(input_nc, ndf, size, group)


def _tiles(input_nc: int, ndf: int, tile: int, **others: Any) -> Discriminator:
    return TileStyleGAN2Discriminator(input_nc, ndf, tile)


DISCRIMINATORS: dict[str, Callable[..., Discriminator]] = {
    "basic": _basic,
    "n_layers": _n_layers,
    "pixel": _pixel,
    "stylegan2": _whole,
    "tilestylegan2": _tiles,
}


def build_generator(
    netG: str = "resnet_9blocks",
    *,
    input_nc: int = 3,
    output_nc: int = 3,
    ngf: int = 64,
    norm: str = "instance",
    dropout: bool = False,
    antialias: bool = True,
    antialias_up: bool = True,
    size: int = 256,
    halvings: int = 1,
    init_type: str = "xavier",
    init_gain: float = 0.02,
    generator: torch.Generator | None = None,
) -> Generator:
    """A generator by name, with drawn weights (see `init_weights`).

    U-Nets have no use for the anti-aliasing arguments, StyleGAN2's for any from `norm` on but the last three:

    Args:
        size: pixels of a side of training images, from which StyleGAN2's widths follow.
        halvings: of StyleGAN2's; the others have their own number.

    Raises:
        ValueError: unknown netG, norm or init_type.
    """
    if netG not in GENERATORS:
        raise ValueError(f"unknown netG '{netG}': choose one of {', '.join(GENERATORS)}")
    net = GENERATORS[netG](
        input_nc=input_nc,
        output_nc=output_nc,
        ngf=ngf,
        norm=norm,
        dropout=dropout,
        antialias=antialias,
        antialias_up=antialias_up,
        size=size,
        halvings=halvings,
    )
    init_weights(net, init_type, init_gain, generator)
    return net


def build_discriminator(
    netD: str = "basic",
    *,
    input_nc: int = 3,
    ndf: int = 64,
    n_layers: int = 3,
    norm: str = "instance",
    antialias: bool = True,
    spectral: bool = False,
    size: int = 256,
    tile: int = 64,
    group: int = 0,
    init_type: str = "xavier",
    init_gain: float = 0.02,
    generator: torch.Generator | None = None,
) -> Discriminator:
    """A discriminator by name, with drawn weights; `n_layers` is read by netD `n_layers` only (`basic`: 3).

    Args:
        spectral: divide each convolution's weight by its largest singular value (Miyato et al., ICLR 2018); not for
            StyleGAN2's, which take no argument from `n_layers` to here.
        size: pixels of a side of the images of `stylegan2`.
        tile: pixels of a side of what `tilestylegan2` judges.
        group: images whose deviation `stylegan2` sees; 0: none.

    Raises:
        ValueError: unknown netD, norm or init_type.
    """
    if netD not in DISCRIMINATORS:
        raise ValueError(f"unknown netD '{netD}': choose one of {', '.join(DISCRIMINATORS)}")
    net = DISCRIMINATORS[netD](
        input_nc=input_nc, ndf=ndf, n_layers=n_layers, norm=norm, antialias=antialias, size=size, tile=tile, group=group
    )
    init_weights(net, init_type, init_gain, generator)
    if spectral:
        with_spectral_norm(net, generator)
    return net
