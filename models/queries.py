"""Which positions PatchNCE asks about: drawn evenly, where attention is sharp, or where the class activation map is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.cam.functional import full_precision, rectify, resize_map
from util.transfer import send

NCE_QUERIES = ("random", "entropy")
CAM_QUERY = "cam"
EVEN_SHARE = 0.5  # of the draws by a map that goes by no map, so that no position is never asked about


@torch.no_grad()
def sharpest_ids(feature: Tensor, count: int) -> Tensor:
    """The positions whose attention over all positions has the lowest entropy.

    Query selection of QS-Attn (Hu et al., CVPR 2022, arXiv:2203.08483, eq. 4 and 5), without its routing of values: a
    position that resembles few others is one that says something.

    Args:
        feature: (N, C, H, W).
        count: P, at most H W.

    Returns:
        (N, P) int64 row-major positions, the sharpest first.
    """
    found = []
    for image in full_precision(feature).flatten(2):  # one at a time: attention has (H W)^2 entries
        attention = (image.T @ image).log_softmax(1)
        entropy = -(attention.exp() * attention).sum(1)
        found.append(entropy.topk(min(count, image.shape[1]), largest=False).indices)
    return torch.stack(found)


@torch.no_grad()
def ids_by_map(cam: Tensor, size: tuple[int, int], count: int, draws: Sequence[torch.Generator]) -> Tensor:
    """Positions drawn without replacement, half evenly and half in proportion to a map.

    Args:
        cam: (N, h, w), rectified here; a dead map draws evenly.
        size: (H, W) of the feature.
        count: P, at most H W.
        draws: one CPU generator an image.

    Returns:
        (N, P) int64 row-major positions.
    """
    height, width = size
    mass = rectify(resize_map(rectify(cam), size)).flatten(1)
    total = mass.sum(1, keepdim=True)
    even = torch.full_like(mass, 1 / (height * width))
    share = EVEN_SHARE * even + (1 - EVEN_SHARE) * torch.where(total > 0, mass / total.clamp_min(1e-30), even)
    # The largest of log p + Gumbel noise are a draw without replacement (Kool et al., ICML 2019).
    uniform = torch.stack([torch.rand(height * width, generator=draw, dtype=torch.float64) for draw in draws])
    noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    scores = share.double().log() + send(noise, share.device)
    return scores.topk(min(count, height * width), dim=1).indices
