"""Ablation-CAM: channels weighted by how much of the score is lost without them."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cam.arithmetic import in_full_precision, no_autocast, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.subject import LinearHead, Subject

# Numbers in one block of logits of the closed form: 32 MiB.
BLOCK = 1 << 22


@in_full_precision
def ablationcam(activations: Tensor, scores: Tensor, ablated: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = (y - y_k) / |y|, y_k the score with A_k = 0 (Desai and Ramaswamy, WACV 2020, eq. 3 and 4).

    The paper divides by y, which turns the map round where the score is negative.

    Args:
        activations: (..., C, h, w), A.
        scores: (...), y.
        ablated: (..., C), y_k; leading axes broadcast. Scores may be float64 beside float32 activations.

    Returns:
        (..., h, w), not rectified.
    """
    size = torch.where(scores == 0, 1.0, scores.abs())
    weights = (scores[..., None] - ablated) / size[..., None]
    return weighted_sum(activations, weights.to(activations.dtype))


@EXPLAINERS.register("ablationcam")
class AblationCam(Explainer):
    """See `ablationcam`. Exact and without further passes on a linear head over a mean, else one pass a channel."""

    def maps(self, subject: Subject) -> Tensor:
        activations = subject.activations
        scores, ablated = _scores(subject, activations)
        return ablationcam(activations[:, None], scores, ablated)


def _scores(subject: Subject, activations: Tensor) -> tuple[Tensor, Tensor]:
    """y (N, T) and y_k (N, T, C)."""
    if (found := subject.averaged()) is not None:
        return _by_head(subject, *found)
    return subject.scores, _one_by_one(subject, activations)


def _by_head(subject: Subject, features: Tensor, head: LinearHead) -> tuple[Tensor, Tensor]:
    """In float64: the score without a channel differs little from the score, and passes are not what it costs."""
    mean, weight = features.double().mean((2, 3)), head.weight.double()
    with no_autocast(mean.device):
        logits = torch.nn.functional.linear(mean, weight, head.bias.double())
    at_once = max(1, BLOCK // logits.numel())
    found = []
    for part in range(0, mean.shape[1], at_once):
        chosen = slice(part, part + at_once)
        without = logits - mean.T[chosen, :, None] * weight.T[chosen, None]  # (k, N, K)
        found.append(subject.score_of(without.flatten(0, 1)).view(*without.shape[:2], -1))
    return subject.score_of(logits), torch.cat(found).permute(1, 2, 0)


def _one_by_one(subject: Subject, activations: Tensor) -> Tensor:
    """Channel by channel through the rest of the network, as many at once as `subject.chunk` allows."""
    count, channels = activations.shape[:2]
    kept = 1 - torch.eye(channels, dtype=activations.dtype, device=activations.device)
    found = []
    for part in torch.split(kept, max(1, subject.chunk // count)):
        rows = activations * part[:, None, :, None, None]  # (k, N, C, h, w)
        scores = subject.score_of(subject.from_layer(rows.flatten(0, 1)))
        found.append(scores.view(*rows.shape[:2], -1))
    return torch.cat(found).permute(1, 2, 0)
