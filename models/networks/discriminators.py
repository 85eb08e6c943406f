"""Discriminators of patches (PatchGAN, Isola et al., CVPR 2017, arXiv:1611.07004) and of pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from models.networks.blocks import BlurDownsample, has_bias, norm_layer
from models.networks.fast_conv import Conv2d


def _leaky() -> nn.Module:
    # In place: a LeakyReLU out of place keeps its input for the backward pass, and nobody reads these layers.
    return nn.LeakyReLU(0.2, inplace=True)


class PatchDiscriminator(nn.Module):
    """Convolutions of 4x4 that give one value (no sigmoid) per patch; 70x70 pixels each with `n_layers` 3.

    State-dict names and shapes are CUT's (`model.N...`). Channels double with every level up to 8 * ndf.

    Args:
        input_nc: channels of the images.
        ndf: channels after the first convolution.
        n_layers: levels that halve the size.
        norm: `instance` | `batch` | `none`.
        antialias: halve by blurring; else by convolutions of stride 2.
    """

    def __init__(
        self,
        input_nc: int = 3,
        ndf: int = 64,
        n_layers: int = 3,
        norm: str = "instance",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers_D is {n_layers}, but a patch discriminator needs at least 1 level")
        self.antialias = antialias
        self.n_layers = n_layers
        bias = has_bias(norm)
        widths = [ndf * min(2**level, 8) for level in range(n_layers + 1)]
        modules: list[nn.Module] = []
        for level, width in enumerate(widths):
            halve = level < n_layers
            stride = 2 if halve and not antialias else 1
            if level == 0:
                modules += [Conv2d(input_nc, width, 4, stride, 1), _leaky()]
            else:
                conv = Conv2d(widths[level - 1], width, 4, stride, 1, bias=bias)
                modules += [conv, norm_layer(norm, width), _leaky()]
            if halve and antialias:
                modules.append(BlurDownsample(width))
        modules.append(Conv2d(widths[-1], 1, 4, 1, 1))
        self.model = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) in [-1, 1] -> (N, 1, *output_size(H, W)), unbounded values."""
        values: Tensor = self.model(x)
        return values

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the map of values for an image of height x width pixels."""
        return self._positions(height), self._positions(width)

    @property
    def smallest_side(self) -> int:
        """Pixels of a side of the smallest image that is judged: three positions are left before the last two layers.

        With fewer, the last norm but one would see a single position, or the last convolution none.
        """
        return 3 << self.n_layers

    def levels_for(self, pixels: int) -> int:
        """Most levels with which an image of such a side is judged; 0: none."""
        return max((pixels // 3).bit_length() - 1, 0)

    def _positions(self, pixels: int) -> int:
        for _ in range(self.n_layers):
            pixels = pixels // 2 if self.antialias else (pixels - 2) // 2 + 1
        return pixels - 2


class PixelDiscriminator(nn.Module):
    """1x1 convolutions (ndf, 2 ndf, 1 channels): a value per pixel (names as published: `net.N...`)."""

    def __init__(self, input_nc: int = 3, ndf: int = 64, norm: str = "instance") -> None:
        super().__init__()
        bias = has_bias(norm)
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            _leaky(),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            norm_layer(norm, 2 * ndf),
            _leaky(),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) in [-1, 1] -> (N, 1, H, W), unbounded values."""
        values: Tensor = self.net(x)
        return values

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The image's own size."""
        return height, width


def judge_both(critic: nn.Module, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """What it says of translations and of real images, (N, C, H, W) each; from one pass where that is the same.

    It is not where images see each other (batch norm, minibatch standard deviation), where a pass changes the network
    (spectral norm) or where their sizes differ.
    """
    alone = not isinstance(critic, PatchDiscriminator | PixelDiscriminator) or fake.shape[1:] != real.shape[1:]
    if alone or any(isinstance(m, nn.BatchNorm2d) or is_parametrized(m) for m in critic.modules()):
        return critic(fake), critic(real)
    of_fake, of_real = torch.split(critic(torch.cat([fake, real])), [len(fake), len(real)])
    return of_fake, of_real


def with_spectral_norm(net: nn.Module, draws: torch.Generator | None = None) -> None:
    """Let every convolution divide its weight by an estimate of its largest singular value.

    One step of power iteration in every training pass (Miyato et al., ICLR 2018, arXiv:1802.05957). Weights are then
    saved under `...parametrizations.weight.original`.

    Args:
        draws: where the iterations start; None: anywhere.
    """
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    with torch.random.fork_rng(devices=[]):  # it draws from the global generator
        if draws is not None:
            torch.manual_seed(int(torch.randint(2**62, (), generator=draws)))
        for convolution in convolutions:
            spectral_norm(convolution)
