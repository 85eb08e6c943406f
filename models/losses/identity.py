"""Identity mapping: an image that is already in the target domain should stay as it is."""

from __future__ import annotations

from torch import Tensor

from models.cam.functional import full_precision


def identity_loss(translated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference per image (Zhu et al. 2017, section 5.2).

    Args:
        translated: (N,C,H,W) in [-1,1], the generator's output for `target`; gets the gradient.
        target: (N,C,H,W) in [-1,1]; detached here.

    Returns:
        (N,).

    Raises:
        ValueError: shapes that differ, as when the domains have different channel counts.
    """
    if translated.shape != target.shape:
        raise ValueError(
            f"the identity loss compares {tuple(translated.shape)} with {tuple(target.shape)}: it needs "
            "input_nc equal to output_nc, or lambda_IDT 0"
        )
    return (full_precision(translated) - full_precision(target.detach())).abs().flatten(1).mean(dim=1)
