"""Remove and debias (ROAD): pixels are taken away by what their neighbours foretell, not by black.

Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022. A black pixel says that
it was taken away, and a network may go by the shape of what is missing; a pixel interpolated from its neighbours does
not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from util.metrics.faithfulness import Score, scores
from util.seeding import generator

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the pixels that are taken away
NOISE = 0.01  # standard deviation of what is added to an interpolated pixel, in units of the images
TOLERANCE = 1e-4  # of the residual, relative to the right-hand side: a tenth of the noise in the pixels
MOST_ITERATIONS = 5000


class Road(NamedTuple):
    """Mean scores over the shares taken away, each (N,).

    Attributes:
        morf: the most relevant pixels are gone; small for a faithful map.
        lerf: the least relevant ones are gone; large for a faithful map.
    """

    morf: Tensor
    lerf: Tensor

    @property
    def combined(self) -> Tensor:
        """(LeRF - MoRF) / 2, as pytorch-grad-cam combines them: 0 for a map that says nothing."""
        return (self.lerf - self.morf) / 2


def road(
    images: Tensor,
    places: Tensor,
    score: Score,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = NOISE,
    seed: int = 0,
) -> Road:
    """Scores after the most, and after the least, relevant pixels have been taken away.

    Args:
        images: (N, C, H, W), float32 or float64.
        places: (N, H, W), of `faithfulness.ranks`.
        shares: each in (0, 1); the score is averaged over them.
        noise: see `imputed`.
        seed: of the noise.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares of pixels to take away are {tuple(shares)}: each must be in (0, 1)")
    pixels = places[0].numel()
    # As many as lie above a percentile of all values, which is how the published code counts them.
    counts = [1 + int(share * (pixels - 1)) for share in shares]

    def versions() -> Iterator[Tensor]:
        for first in (True, False):
            for number, count in enumerate(counts):
                missing = places < count if first else places >= pixels - count
                yield with_noise(imputed(images, missing), missing, noise, seed, number)

    found = scores(versions(), score)
    return Road(found[:, : len(counts)].mean(1), found[:, len(counts) :].mean(1))


def with_noise(images: Tensor, missing: Tensor, noise: float, seed: int, *keys: int) -> Tensor:
    """Normal noise on the missing pixels (N, H, W) of images (N, C, H, W), the same for every image."""
    draws = torch.randn(images.shape[1:], generator=generator(seed, "noise of imputation", *keys)).to(images)
    return torch.where(missing[:, None], images + noise * draws, images)


def imputed(images: Tensor, missing: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Images whose missing pixels are the weighted mean of their eight neighbours, missing ones among them.

    Neighbours across an edge weigh 1/6, across a corner 1/12, divided by the sum of those inside the image (section
    4.2 of the paper). The equations of all images and channels are solved at once by conjugate gradients, beginning
    with a coarse-to-fine average of the known pixels; each system stops on its own, so that an image's result does not
    depend on the others.

    Args:
        images: (N, C, H, W), float32 or float64.
        missing: (N, H, W) bool; at least one pixel of each image must be known.
        tolerance: of the residual, relative to the right-hand side.

    Raises:
        ValueError: an image of which nothing is known.
    """
    if bool(missing.flatten(1).all(1).any()):
        raise ValueError("every pixel of an image is missing: there is nothing to interpolate from")
    free = missing[:, None].to(images.dtype)
    total = _neighbours(torch.ones_like(free))
    known = images * (1 - free)
    right = _neighbours(known) * free
    solution = _coarse_to_fine(known, 1 - free) * free

    def product(x: Tensor) -> Tensor:
        return (total * x - _neighbours(x)) * free

    residual = right - product(solution)
    direction, length = residual, _dot(residual, residual)
    stop = tolerance**2 * _dot(right, right)
    tiny = torch.finfo(images.dtype).tiny
    for _ in range(MOST_ITERATIONS):
        active = length > stop
        if not bool(active.any()):
            break
        image = product(direction)
        step = torch.where(active, length / _dot(direction, image).clamp(min=tiny), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        before, length = length, _dot(residual, residual)
        direction = residual + torch.where(active, length / before.clamp(min=tiny), 0.0) * direction
    return known + solution


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours, those outside counting 0: ([1 2 1] x [1 2 1] - 4 at the centre) / 12."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return (rows[..., :-2, :] + 2 * rows[..., 1:-1, :] + rows[..., 2:, :] - 4 * x) / 12


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _coarse_to_fine(known: Tensor, weight: Tensor) -> Tensor:
    """A first guess: the mean of the known pixels in the smallest block around each that has any, smoothed.

    Args:
        known: (N, C, H, W), 0 where missing.
        weight: (N, 1, H, W), share of each pixel that is known.
    """
    mean = known / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    if bool((weight > 0).all()):
        return mean
    halved = [F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (known, weight)]
    coarse = F.interpolate(_coarse_to_fine(*halved), known.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, mean, coarse)
