"""Losses from class activation maps: invariance under translation, contrast, weights for the critic."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cam.functional import EPS, cam_norm, dead, full_precision, normalize, rectify, resize_map

CONTRAST = "contrast"  # the mode of `cam_contrast`, beside those of `cam_invariance`


def _distance(target: Tensor, cam: Tensor, mode: str, eps: float, tau: float) -> Tensor:
    """The distance that belongs to a normalisation, (N,); `target` is the input's side."""
    if mode == "softmax":
        log_target = (target.flatten(1) / tau).log_softmax(dim=1)
        log_cam = (cam.flatten(1) / tau).log_softmax(dim=1)
        return (log_target.exp() * (log_target - log_cam)).sum(dim=1)
    difference = normalize(rectify(cam), mode, eps) - normalize(rectify(target), mode, eps)
    if mode == "l2":
        return difference.square().sum(dim=(1, 2))
    return difference.abs().mean(dim=(1, 2))


def cam_invariance(cam_x: Tensor, cam_fake: Tensor, mode: str = "minmax", eps: float = EPS, tau: float = 1.0) -> Tensor:
    """How far the class map moved from an input to its translation.

    The distance belongs to the normalisation: minmax and mean, the mean absolute difference over positions;
    l2, the squared distance of the unit vectors, 2 - 2 cos, as in attention transfer (Zagoruyko and Komodakis
    2017); softmax, KL(input || translation) in nats. A weight of this loss means something only together with
    the mode.

    The input's side is detached: with gradient on both sides, two flat maps are the easiest solution. For the
    same reason the caller computes `cam_fake` with a frozen head.

    Args:
        cam_x: (N,H,W), raw or rectified map of the input. Rectified here, except for softmax, which uses
            raw maps so that a translation without any positive position still gets a gradient.
        cam_fake: (N,H,W), map of the translation for the same classes.
        mode: minmax, mean, l2 or softmax.
        eps: the normalisation's guard, and the level below which an input's map is dead.
        tau: temperature of the softmax.

    Returns:
        (N,), 0 without gradient where the input's map is dead (`models.cam.functional.dead` says which).

    Raises:
        ValueError: unknown mode, or shapes that differ.
    """
    cam_norm(mode)
    if cam_x.shape != cam_fake.shape:
        raise ValueError(f"class maps {tuple(cam_x.shape)} and {tuple(cam_fake.shape)} differ: resize one to the other")
    cam_x, cam_fake = full_precision(cam_x.detach()), full_precision(cam_fake)
    distance = _distance(cam_x, cam_fake, mode, eps, tau)
    return torch.where(dead(cam_x, eps), torch.zeros_like(distance), distance)


def cam_contrast(
    cam_x: Tensor, cam_fake: Tensor, others: Tensor, differ: Tensor, temperature: float = 0.07, eps: float = EPS
) -> Tensor:
    """Whether a translation's map is told from the maps of other images as its own input's: InfoNCE over maps.

    -log exp(s / T) / (exp(s / T) + sum_j exp(s_j / T)), with s the cosine of a translation's map and its input's and
    s_j that with another image's. Invariance alone is also served by a map that is the same for all images; this is
    not. The form is that of van den Oord et al. 2018 (arXiv:1807.03748, eq. 4), the application to maps is our own.

    Args:
        cam_x: (N,H,W), raw or rectified map of the input; detached here.
        cam_fake: (N,H,W), map of the translation for the same classes.
        others: (M,H*W), rectified maps of length 1.
        differ: (N,M) bool, whether one of them is of another image; the rest are not compared with.
        temperature: T, above 0.
        eps: the smallest length of a map, and the level below which an input's map is dead.

    Returns:
        (N,), in nats, at least 0; 0 without gradient where the input's map is dead or nothing differs.

    Raises:
        ValueError: shapes that differ.
    """
    if cam_x.shape != cam_fake.shape or others.shape[1:] != cam_x.flatten(1).shape[1:]:
        raise ValueError(
            f"class maps {tuple(cam_x.shape)} and {tuple(cam_fake.shape)} and rows {tuple(others.shape)} differ in size"
        )
    with torch.autocast(cam_fake.device.type, enabled=False):
        own, moved = (normalize(rectify(cam), "l2", eps).flatten(1) for cam in (cam_x.detach(), cam_fake))
        same = (own * moved).sum(1, keepdim=True)
        different = torch.where(differ, moved @ others.to(moved).T, -torch.inf)
    loss = -(torch.cat([same, different], 1) / temperature).log_softmax(1)[:, 0]
    return torch.where(dead(cam_x, eps), torch.zeros_like(loss), loss)


def adversarial_weights(cam: Tensor, size: tuple[int, int], strength: float = 1.0, eps: float = EPS) -> Tensor:
    """Where the critic should look: (1 - strength) + strength * map / mean(map), with a mean of 1 per image.

    Args:
        cam: (N,H,W), raw or rectified map of the input (of the input, as its class is known and a
            translation could move its own map away from poor regions).
        size: (h,w) of the critic's output.
        strength: in [0,1]; 0 gives plain averaging, 1 the map alone.
        eps: guard of the division, and the level below which a map is dead.

    Returns:
        (N,1,h,w), detached; exactly 1 everywhere for a dead map.

    Raises:
        ValueError: strength outside [0,1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of the CAM weights is {strength}, it must be in [0, 1]")
    cam = rectify(cam.detach())
    weights = (1 - strength) + strength * resize_map(normalize(cam, "mean", eps), size)
    mean = weights.mean(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    keep = dead(cam, eps)[:, None, None]
    return torch.where(keep, torch.ones_like(weights), weights / mean)[:, None]
