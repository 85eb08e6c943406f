"""SRUNIT's semantic robustness: how far an embedding moves when the feature it comes from is disturbed.

Jia et al., ICCV 2021 (arXiv:2012.04932), and the arithmetic of their published code where the two differ. A feature z
of the source gets noise, the rest of the generator makes an image of it, and the embedding of that image is compared
with a reference at the same position, relative to the noise. Nothing here runs a network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cam.functional import full_precision

REG_MODES = ("matched", "released", "quotient")
LEAST = 1e-7  # smallest magnitude that the published code divides by
LEAST_SHARE = 0.1  # smallest magnitude over the largest, elsewhere: no weight is more than 10 times another
# Inside the root, whose gradient at 0 is not finite. Distances below 1e-6 are rounding, so 1e-8 changes nothing.
EPS = 1e-16


def unit_directions(normal: Tensor) -> Tensor:
    """A direction for every position, uniform on the sphere.

    Args:
        normal: (N,C,H,W) independent standard normal numbers.

    Returns:
        (N,C,H,W) in full precision, of norm 1 over the channels; with one channel that is a sign.
    """
    return F.normalize(full_precision(normal), dim=1, eps=torch.finfo(torch.float32).tiny)


def magnitudes(uniform: Tensor, largest: float, mode: str) -> tuple[Tensor, Tensor]:
    """How much noise each position gets, and what its loss is divided by.

    `matched` and `quotient`: one magnitude on both sides, uniform from `LEAST_SHARE * largest` to `largest`, as in
    the paper's difference quotient. `released`: the code adds the largest everywhere and divides by a magnitude drawn
    from `LEAST` to the largest, so that positions are weighted at random, by ln(largest / LEAST) / largest on
    average (9.21 / largest with its own values).

    Args:
        uniform: numbers in [0, 1], of any shape.
        largest: `--reg_noise`, more than LEAST.
        mode: one of REG_MODES.

    Returns:
        Added and dividing magnitude, of the shape of `uniform`.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in REG_MODES:
        raise ValueError(f"unknown reg_mode {mode!r}: choose one of {', '.join(REG_MODES)}")
    uniform = full_precision(uniform)
    if mode == "released":
        return torch.full_like(uniform, largest), LEAST + (largest - LEAST) * uniform
    both = largest * (LEAST_SHARE + (1 - LEAST_SHARE) * uniform)
    return both, both


def disturbed(feature: Tensor, directions: Tensor, magnitude: Tensor, relative: bool = False) -> Tensor:
    """The feature with noise, in full precision.

    Args:
        feature: (N,C,H,W).
        directions: (N,C,H,W) of norm 1 at every position.
        magnitude: (N,1,H,W).
        relative: of the position's own norm. The norm carries no gradient: it only says how large the noise is.
    """
    feature = full_precision(feature)
    if relative:
        magnitude = magnitude * torch.linalg.vector_norm(feature.detach(), dim=1, keepdim=True)
    return feature + magnitude * directions


def robustness(moved: Tensor, reference: Tensor, magnitude: Tensor) -> Tensor:
    """Mean of |moved - reference| / magnitude over positions and images.

    Args:
        moved, reference: (N*P,C) embeddings, row by row of the same position; gradient flows to both.
        magnitude: (N*P,), > 0.

    Returns:
        Scalar, in full precision.

    Raises:
        ValueError: shapes that do not fit.
    """
    if moved.shape != reference.shape or moved.dim() != 2 or magnitude.shape != moved.shape[:1]:
        raise ValueError(
            f"embeddings {tuple(moved.shape)} and {tuple(reference.shape)} must both be (rows, channels), and the "
            f"magnitudes {tuple(magnitude.shape)} one for each row"
        )
    squares = (full_precision(moved) - full_precision(reference)).square().sum(dim=1)
    return ((squares + EPS).sqrt() / full_precision(magnitude)).mean()
