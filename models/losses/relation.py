"""Semantic relation consistency: how alike patches are to each other survives translation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.cam.functional import full_precision


def relation_consistency(query: Tensor, key: Tensor, images: int, temperature: float = 0.07) -> Tensor:
    """Jensen-Shannon divergence of similarity distributions (SRC, Jung et al., CVPR 2022, arXiv:2203.01532, eq. 3).

    Each patch's similarities to the other patches of its image are a distribution, softmax(z_i . z_j / T) over j != i,
    in the translation and in the source; they are to be the same.

    Args:
        query: (N*P,C) unit rows from the translation, image by image.
        key: (N*P,C) unit rows from the source, in the same order; detached here.
        images: N.
        temperature: T.

    Returns:
        (N*P,), in [0, log 2] nats.

    Raises:
        ValueError: shapes that differ, rows that are not a multiple of images, or fewer than 3 patches an image.
    """
    if query.shape != key.shape or query.dim() != 2:
        raise ValueError(f"queries {tuple(query.shape)} and keys {tuple(key.shape)} must both be (rows, channels)")
    rows, channels = query.shape
    if images < 1 or rows % images or rows // images < 3:
        raise ValueError(f"{rows} patches over {images} images: sample equally many from each, at least 3")
    with torch.autocast(query.device.type, enabled=False):
        ours, theirs = (
            _log_distribution(full_precision(z).view(images, rows // images, channels), temperature)
            for z in (query, key.detach())
        )
        middle = torch.logaddexp(ours, theirs) - math.log(2)
        terms = [(side.exp() * (side - middle)).masked_fill(~side.isfinite(), 0.0).sum(2) for side in (ours, theirs)]
        return ((terms[0] + terms[1]) / 2).flatten()


def _log_distribution(z: Tensor, temperature: float) -> Tensor:
    """(N,P,C) -> log probabilities (N,P,P-1) over the other patches."""
    patches = z.shape[1]
    similarity = torch.bmm(z, z.transpose(1, 2)) / temperature
    # Row by row without the diagonal, which in the flat list is every (P+1)-th entry. For a mask the host would wait,
    # to know how many entries it has.
    others = similarity.flatten(1)[:, 1:].view(len(z), patches - 1, patches + 1)[:, :, :-1]
    return others.reshape(len(z), patches, patches - 1).log_softmax(2)
