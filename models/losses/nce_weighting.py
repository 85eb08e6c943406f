"""Weights of the negatives in PatchNCE: hard ones count more than easy ones. Weights carry no gradient."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

SINKHORN_STEPS = 50


class Weighting(NamedTuple):
    """How negatives are weighted.

    Attributes:
        name: of NCE_WEIGHTINGS.
        temperature: of the weights, > 0; the lower, the more the hardest negatives count. Large: all weigh 1.
    """

    name: str
    temperature: float = 1.0


def monce(similarity: Tensor, temperature: float) -> Tensor:
    """Optimal transport between queries and keys (MoNCE, Zhan et al., CVPR 2022, arXiv:2203.09333, eq. 5 to 7).

    The plan that collects the most similarity, with entropic regularisation and uniform marginals, found by Sinkhorn's
    iterations in logarithms. The own position is not part of it. A key that is near to many queries is shared among
    them, which a softmax over each row alone does not do.

    Args:
        similarity: (G, P, P), of unit vectors.
        temperature: the weight of the entropy.

    Returns:
        log weights (G, P, P): in every row they have the mean 1 over the P - 1 negatives; -inf on the diagonal.
    """
    scores = _without_own(similarity) / temperature
    for _ in range(SINKHORN_STEPS):
        scores = scores - scores.logsumexp(1, keepdim=True)
        scores = scores - scores.logsumexp(2, keepdim=True)  # rows last: they are exact
    return scores + math.log(max(1, similarity.shape[1] - 1))


def hdce(similarity: Tensor, temperature: float) -> Tensor:
    """Softmax over each row's negatives (hard negative sampling, Jung et al., CVPR 2022, arXiv:2203.01532, eq. 6).

    Args, returns: as `monce`.
    """
    return (_without_own(similarity) / temperature).log_softmax(2) + math.log(max(1, similarity.shape[1] - 1))


# Those that are decoupled leave the positive out of the denominator (Yeh et al., ECCV 2022, arXiv:2110.06848).
NCE_WEIGHTINGS = MappingProxyType({"none": None, "monce": monce, "hdce": hdce})
DECOUPLED = frozenset({"hdce"})


@torch.no_grad()
def log_weights(similarity: Tensor, weighting: Weighting) -> Tensor:
    """Log weights (G, P, P) of the negatives, -inf at the own position.

    Raises:
        ValueError: an unknown name, or a temperature that is not positive.
    """
    function = NCE_WEIGHTINGS.get(weighting.name)
    if function is None:
        raise ValueError(f"unknown nce_weighting '{weighting.name}': choose one of {', '.join(NCE_WEIGHTINGS)}")
    if not weighting.temperature > 0:
        raise ValueError(f"the weights' temperature is {weighting.temperature}, it must be above 0")
    return function(similarity.detach(), weighting.temperature)


def _without_own(similarity: Tensor) -> Tensor:
    own = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    return similarity.masked_fill(own, -math.inf)
