"""Differentiable augmentation (Zhao et al., NeurIPS 2020, arXiv:2006.10738) of what D and classifiers see.

Real and generated images are changed by draws from the same distribution before D judges them, also where G learns from
its judgement. D can then not learn a small training set by heart, and G does not learn the changes. A classifier that
learns from changed images is meant to rely less on the texture of one domain, and one that judges changed translations
not to be served by a class that is hidden in detail too fine to see.

Colour, translation and cutout are that paper's. Blur and noise are of the kinds of Karras et al., NeurIPS 2020
(arXiv:2006.06676), with ranges of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from util.transfer import send

SHIFT = 0.125  # largest translation, as a share of the side
HOLE = 0.5  # side of the hole of cutout, as a share of the image's
BLUR = 1.5  # largest standard deviation of the blur, in pixels
NOISE = 0.2  # largest standard deviation of the noise: a tenth of the range [-1, 1]


def _color(images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Brightness + U(-0.5, 0.5); saturation x U(0, 2); contrast x U(0.5, 1.5). A grey image has no saturation."""
    drawn = _uniform(images, draws, 3)
    brightness, saturation, contrast = (drawn[:, n].view(-1, 1, 1, 1) for n in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey.expand_as(images), images, 2 * saturation) if images.shape[1] > 1 else images
    level = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(level.expand_as(images), images, contrast + 0.5)


def _translation(images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Shifted by whole pixels, up to an eighth of each side; what comes in is 0, mid-grey."""
    height, width = images.shape[-2:]
    down, right = (round(side * SHIFT) for side in (height, width))
    padded = F.pad(images, (right, right, down, down))
    found = []
    for image, generator in zip(padded, draws, strict=True):
        top = int(torch.randint(0, 2 * down + 1, (), generator=generator))
        left = int(torch.randint(0, 2 * right + 1, (), generator=generator))
        found.append(image[:, top : top + height, left : left + width])
    return torch.stack(found)


def _cutout(images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """A hole of half the side, centred anywhere, becomes 0."""
    height, width = images.shape[-2:]
    tall, wide = round(height * HOLE), round(width * HOLE)
    kept = images.new_ones(len(images), 1, height, width)
    for mask, generator in zip(kept, draws, strict=True):
        top = int(torch.randint(0, height + 1, (), generator=generator)) - tall // 2
        left = int(torch.randint(0, width + 1, (), generator=generator)) - wide // 2
        mask[:, max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = 0
    return images * kept


def _blur(images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Gaussian blur of a standard deviation U(0, 1.5) pixels, reflected at the border."""
    from torchvision.transforms.v2 import functional as vision  # slow to import, and few runs blur

    height, width = images.shape[-2:]
    sides = [2 * min(round(3 * BLUR), side - 1) + 1 for side in (width, height)]  # it reflects less than the image
    found = []
    for image, generator in zip(images, draws, strict=True):
        # At least so wide that its weights beside the centre do not overflow.
        deviation = max(BLUR * float(torch.rand((), generator=generator)), 0.05)
        found.append(vision.gaussian_blur(image, sides, [deviation, deviation]))
    return torch.stack(found)


def _noise(images: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Normal noise, drawn for each pixel and channel, of a standard deviation U(0, 0.2)."""
    found = []
    for generator in draws:
        deviation = NOISE * float(torch.rand((), generator=generator))
        found.append(deviation * torch.randn(images.shape[1:], generator=generator))
    return images + send(torch.stack(found).to(images.dtype), images.device)


# In the order in which they are applied.
AUGMENTATIONS = MappingProxyType(
    {"color": _color, "translation": _translation, "cutout": _cutout, "blur": _blur, "noise": _noise}
)
# Those that move or hide places: maps of positions no longer fit the image.
GEOMETRIC = ("translation", "cutout")


def diff_augment(images: Tensor, words: Sequence[str], draw: Callable[[int], torch.Generator]) -> Tensor:
    """Images changed at random, each by draws of its own.

    Args:
        images: (N, C, H, W), about [-1, 1].
        words: of AUGMENTATIONS, in any order.
        draw: number of an image in the batch -> its generator; equal generators give equal changes.

    Returns:
        (N, C, H, W), differentiable; values may leave [-1, 1].

    Raises:
        ValueError: an unknown word.
    """
    unknown = [word for word in words if word not in AUGMENTATIONS]
    if unknown:
        raise ValueError(f"unknown augmentation '{unknown[0]}': choose of {', '.join(AUGMENTATIONS)}")
    draws = [draw(number) for number in range(len(images))]
    for word, change in AUGMENTATIONS.items():
        if word in words:
            images = change(images, draws)
    return images


def _uniform(images: Tensor, draws: Sequence[torch.Generator], count: int) -> Tensor:
    """(N, count) in [0, 1), of the images' kind; drawn on the CPU."""
    drawn = torch.stack([torch.rand(count, generator=generator) for generator in draws])
    return send(drawn.to(images.dtype), images.device)
