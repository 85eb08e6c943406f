"""Figures of merit of class activation maps, for the log of a run: they show degenerate maps that losses do not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.cam.functional import correlation, dead, entropy, rectify, std_over_mean, top_mass


def map_monitors(cam: Tensor, cam_fake: Tensor, cross: Tensor) -> dict[str, Tensor]:
    """Means over a batch, by log column.

    Args:
        cam, cam_fake: (N, h, w) raw maps of inputs and of their translations, for the same classes.
        cross: scalar, mean correlation between maps of different images. The correlation of a map with its
            translation's says something only beside it: a map that is always the same correlates perfectly.
    """
    seen, seen_fake = rectify(cam), rectify(cam_fake)
    same = correlation(seen, seen_fake).mean()
    return {
        "CAM_corr": same,
        "CAM_cross_corr": cross,
        "CAM_corr_gain": same - cross,
        "CAM_entropy": entropy(seen).mean(),
        "CAM_std_over_mean": std_over_mean(seen).mean(),
        "CAM_top5": top_mass(seen).mean(),
        "CAM_dead": dead(cam).float().mean(),
        "CAM_dead_fake": dead(cam_fake.detach()).float().mean(),
    }


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the images with a label >= 0 whose class (N,) has the largest of the logits (N, K); NaN without any."""
    known = labels >= 0
    if not bool(known.any()):
        return torch.tensor(math.nan, device=labels.device)
    return (logits.argmax(1) == labels)[known].float().mean()
