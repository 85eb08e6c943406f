"""Whether a map names what the network goes by: pixels taken away, put in, or hidden, and the score that follows.

Functions of tensors; nothing here knows a network. A *score* is any function that answers for N images at once what
the network thinks of each one's class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from models.cam.functional import correlation
from util.seeding import generator

# (R, C, H, W) with R a multiple of N, row r a version of image r mod N -> (R,), the probability of that image's class.
Score = Callable[[Tensor], Tensor]

STEPS = 16  # of a deletion or insertion curve
ROWS = 64  # images in one call of a score, or N where that is more
BLUR = 10.0  # standard deviation in pixels at 224 pixels a side, as in RISE; scaled with the image
SIGMAS = 3  # radius of the blur's window


# --- in which order pixels go


def ranks(maps: Tensor, seed: int = 0) -> Tensor:
    """The place of each pixel, the strongest first: (N, H, W) -> (N, H, W) int64 in [0, H W).

    Pixels of equal value go in a random order, the same for all maps: in the order of rows a map's zeros would go from
    top to bottom.
    """
    flat = maps.flatten(1)
    mixed = torch.randperm(flat.shape[1], generator=generator(seed, "order of equal pixels")).to(flat.device)
    order = mixed[flat[:, mixed].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def random_ranks(like: Tensor, seed: int = 0, *keys: int) -> Tensor:
    """`ranks` of maps that say nothing, another one for each row; (N, H, W) as `like`."""
    flat = like.flatten(1)
    draws = generator(seed, "random order of pixels", *keys)
    rows = [torch.randperm(flat.shape[1], generator=draws) for _ in range(len(flat))]
    return torch.stack(rows).view_as(like).to(like.device)


# --- deletion and insertion


def deletion(images: Tensor, places: Tensor, score: Score, *, blank: float = 0.0, steps: int = STEPS) -> Tensor:
    """Area under the score while pixels become `blank`, the strongest first: small for a faithful map.

    Petsiuk et al., RISE, BMVC 2018, section 4.2.

    Args:
        images: (N, C, H, W).
        places: (N, H, W), of `ranks`.
        blank: value of a deleted pixel; black, if images are in [0, 1].
        steps: intervals of the curve.

    Returns:
        (N,) float64.
    """
    return area(curve(images, torch.full_like(images, blank), places, score, steps))


def insertion(images: Tensor, places: Tensor, score: Score, *, steps: int = STEPS) -> Tensor:
    """Area under the score while pixels of the blurred image become sharp, the strongest first: large for a faithful
    map. Same paper and arguments as `deletion`."""
    return area(curve(blurred(images), images, places, score, steps))


def curve(before: Tensor, after: Tensor, places: Tensor, score: Score, steps: int = STEPS) -> Tensor:
    """The score (N, steps + 1) while pixels turn from `before` to `after`, in the order of `places`, equally many a
    step."""
    pixels = places[0].numel()

    def versions() -> Iterator[Tensor]:
        for step in range(steps + 1):
            turned = places < round(pixels * step / steps)
            yield torch.where(turned[:, None], after, before)

    return scores(versions(), score)


def area(values: Tensor) -> Tensor:
    """Trapezoidal area under curves (N, S) over [0, 1], (N,) float64."""
    return torch.trapezoid(values.double(), dx=1 / (values.shape[1] - 1), dim=1)


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, H, W) without their details: Gaussian blur of BLUR pixels at 224 a side."""
    shorter = min(images.shape[-2:])
    sigma = BLUR * shorter / 224
    side = min(2 * int(SIGMAS * sigma) + 1, 2 * ((shorter - 1) // 2) + 1)
    result: Tensor = gaussian_blur(images, [max(3, side), max(3, side)], [sigma, sigma])
    return result


def scores(versions: Iterable[Tensor], score: Score) -> Tensor:
    """The score of each version (N, C, H, W) of N images, (N, versions), in as few calls as ROWS allows."""
    held: list[Tensor] = []
    found: list[Tensor] = []
    count = 0

    def ask() -> None:
        found.extend(score(torch.cat(held)).view(len(held), -1))
        held.clear()

    for version in versions:
        held.append(version)
        count = len(version)
        if len(held) >= max(1, ROWS // count):
            ask()
    if held:
        ask()
    return torch.stack(found, dim=1)


# --- the image seen through its map


def seen_through(images: Tensor, maps: Tensor, blank: float = 0.0) -> Tensor:
    """Images (N, C, H, W) faded to `blank` where their maps (N, H, W) in [0, 1] are 0."""
    return blank + maps[:, None].to(images.dtype) * (images - blank)


def drop(before: Tensor, after: Tensor) -> Tensor:
    """Share of the score that is lost when only what the map shows is seen; small for a faithful map.

    Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1 (there in percent).

    Args:
        before, after: (N,) probabilities, of the image and of `seen_through`.

    Returns:
        (N,) in [0, 1]; 0 where there was nothing to lose.
    """
    lost = (before - after).clamp(min=0)
    return torch.where(before > 0, lost / before, 0.0)


def increase(before: Tensor, after: Tensor) -> Tensor:
    """1 where the score has grown, else 0, (N,); same paper."""
    return (after > before).to(before.dtype)


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """How much a map stays the same when the image is seen through it: Pearson's r on [0, 1], (1 + r) / 2.

    Poppi et al., CVPR workshop 2021, section 3.1.

    Args:
        maps, again: (N, H, W), of the image and of `seen_through`.

    Returns:
        (N,); 1/2 where either map is flat.
    """
    return (1 + correlation(maps, again)) / 2


def complexity(maps: Tensor) -> Tensor:
    """How much of the image a map in [0, 1] covers: its mean, (N, H, W) -> (N,); same paper, section 3.2."""
    return maps.abs().mean((1, 2))


def adcc(coherent: Tensor, complex_: Tensor, dropped: Tensor) -> Tensor:
    """Harmonic mean of coherency, 1 - complexity and 1 - drop, (N,); same paper, equation 6. 0 where one of them is."""
    parts = torch.stack([coherent, 1 - complex_, 1 - dropped])
    return torch.where(
        (parts > 0).all(0), len(parts) / parts.clamp(min=torch.finfo(parts.dtype).tiny).reciprocal().sum(0), 0.0
    )
