"""L1 distances of translations to images that are known: the way round a cycle, and the true target of a pair."""

from __future__ import annotations

from torch import Tensor

from models.cam.functional import full_precision


def cycle_loss(returned: Tensor, image: Tensor) -> Tensor:
    """Cycle consistency: mean |G_B(G_A(x)) - x| of each image (Zhu et al., ICCV 2017, eq. 2).

    Args:
        returned: (N,C,H,W) in [-1,1], the image after both translations; gets the gradient.
        image: (N,C,H,W) in [-1,1], the image itself; detached here.

    Returns:
        (N,).

    Raises:
        ValueError: shapes that differ.
    """
    return _absolute(returned, image, "the cycle loss")


def paired_loss(translated: Tensor, target: Tensor) -> Tensor:
    """Mean |G(x) - y| of each image with its true target (Isola et al., CVPR 2017, eq. 3).

    Args:
        translated: (N,C,H,W) in [-1,1]; gets the gradient.
        target: (N,C,H,W) in [-1,1], of the same scenes; detached here.

    Returns:
        (N,).

    Raises:
        ValueError: shapes that differ.
    """
    return _absolute(translated, target, "the L1 loss of a pair")


def _absolute(made: Tensor, known: Tensor, what: str) -> Tensor:
    if made.shape != known.shape:
        raise ValueError(f"{what} compares {tuple(made.shape)} with {tuple(known.shape)}: they must be of one shape")
    return (full_precision(made) - full_precision(known.detach())).abs().flatten(1).mean(dim=1)
