"""PatchNCE: contrast a patch of the translation with the patches of its source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cam.functional import full_precision
from models.losses.nce_weighting import DECOUPLED, Weighting, log_weights

# What the own position's logit is replaced by among the negatives, before the division by the temperature.
OWN_POSITION = -10.0


def patch_nce(
    query: Tensor,
    key: Tensor,
    images: int,
    temperature: float = 0.07,
    all_negatives: bool = False,
    weighting: Weighting | None = None,
) -> Tensor:
    """Cross-entropy of finding the source patch at the same position (Park et al. 2020, eq. 3 and 4).

    Args:
        query: (N*P,C) unit rows from the translation, image by image: rows i*P to (i+1)*P are image i's.
        key: (N*P,C) unit rows from the source, in the same order; detached here.
        images: N.
        temperature: divides the similarities.
        all_negatives: negatives from the whole batch instead of the same image.
        weighting: multiplies each negative's exponential; the own position is then left out rather than set to -10.

    Returns:
        (N*P,), one loss per row.

    Raises:
        ValueError: shapes that differ, or rows that are not a multiple of images.
    """
    if query.shape != key.shape or query.dim() != 2:
        raise ValueError(f"queries {tuple(query.shape)} and keys {tuple(key.shape)} must both be (rows, channels)")
    rows, channels = query.shape
    if images < 1 or rows % images:
        raise ValueError(f"{rows} patches cannot be split over {images} images: sample equally many from each")
    groups = 1 if all_negatives else images
    patches = rows // groups
    with torch.autocast(query.device.type, enabled=False):
        query, key = full_precision(query), full_precision(key.detach())
        positive = (query * key).sum(dim=1, keepdim=True)
        grouped = query.view(groups, patches, channels), key.view(groups, patches, channels)
        negative = torch.bmm(grouped[0], grouped[1].transpose(1, 2))
        own = torch.eye(patches, dtype=torch.bool, device=query.device)
        if weighting is not None:
            return _weighted(positive, negative, temperature, weighting)
        negative = negative.masked_fill(own, OWN_POSITION).view(rows, patches)
        logits = torch.cat([positive, negative], dim=1) / temperature
    target = torch.zeros(rows, dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, target, reduction="none")


def _weighted(positive: Tensor, similarity: Tensor, temperature: float, weighting: Weighting) -> Tensor:
    """(N*P,1) and (G,P',P') similarities to losses (N*P,)."""
    negative = (similarity / temperature + log_weights(similarity, weighting)).flatten(0, 1)
    agreement = positive / temperature
    if weighting.name not in DECOUPLED:
        negative = torch.cat([agreement, negative], dim=1)
    return negative.logsumexp(dim=1) - agreement[:, 0]
