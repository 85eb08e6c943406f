"""A decoder from an encoder's stages to two maps at the image's size (after U-Net, Ronneberger et al., MICCAI 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import norm_layer

WIDTH = 256
LEAST_WIDTH = 4
SIDES = 2  # background and foreground


class UnetDecoder(nn.Module):
    """Doubles the deepest stage once for each stage below the image's resolution, and takes in the next finer one.

    The decoder of F-CAM (Belharbi et al., WACV 2022): its 9.0, 23.1 and 5.7 million weights for ResNet-50, VGG-16 and
    Inception-v3.

    Args:
        stage_channels: of the encoder's stages, finest first. The first is at the image's resolution and is not used.
        width: channels after the first doubling; each further one has half as many.
        norm: `batch` as published, `instance` or `none`.
        center: two more convolutions on the deepest stage, as published for VGG.
        generator: of the first weights, on the CPU.

    Raises:
        ValueError: fewer than two stages, an unknown norm.
    """

    def __init__(
        self,
        stage_channels: Sequence[int],
        width: int = WIDTH,
        norm: str = "batch",
        center: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(stage_channels) < 2:
            raise ValueError(
                f"{len(stage_channels)} stages: a decoder needs one at the image's resolution and one below"
            )
        skips = [*reversed(stage_channels[1:-1]), 0]
        widths = [max(width >> level, LEAST_WIDTH) for level in range(len(skips))]
        deepest = stage_channels[-1]
        pairs = zip([deepest, *widths[:-1]], skips, widths, strict=True)
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when they are made
            self.center = _convolutions(deepest, deepest, norm) if center else nn.Identity()
            self.blocks = nn.ModuleList(_convolutions(before + skip, after, norm) for before, skip, after in pairs)
            self.head = nn.Conv2d(widths[-1], SIDES, 3, padding=1)
            self._initialise(generator)

    def forward(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (N, 2, *size), background first.

        Args:
            stages: features (N, C, h, w) by `stage_channels`; the first one may be anything.
            size: (H, W) of the images.
        """
        skips: list[Tensor | None] = [*reversed(stages[1:-1]), None]
        x: Tensor = self.center(stages[-1])
        for block, skip in zip(self.blocks, skips, strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if skip is not None:
                x = torch.cat([_resized(x, skip.shape[2:]), skip], 1)
            x = block(x)
        return _resized(self.head(x), size)

    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
        nn.init.xavier_uniform_(self.head.weight, generator=generator)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)


def _convolutions(before: int, after: int, norm: str) -> nn.Sequential:
    """Twice 3x3 convolution, norm, ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), norm_layer(norm, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
