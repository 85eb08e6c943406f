"""Arithmetic on class activation maps: normalising, resizing, closed-form Grad-CAM, what monitors read.

Maps are (N,H,W), one per image. Everything is computed in float32 (float64 stays float64), whatever autocast
says. A map is *dead* when no position is positive: it points nowhere. The statistics read a dead map as a
flat one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32, or untouched if it is float64 already (gradient checks need that)."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def rectify(cam: Tensor) -> Tensor:
    """Keep the evidence for the class: max(0, cam) of any shape, in full precision."""
    return full_precision(cam).relu()


def dead(cam: Tensor, eps: float = EPS) -> Tensor:
    """Which raw or rectified maps point nowhere: (N,H,W) -> (N,) bool, true where no position exceeds eps."""
    return full_precision(cam.detach()).amax(dim=(1, 2)) <= eps


def _minmax(cam: Tensor, eps: float, tau: float) -> Tensor:
    low, high = cam.amin(dim=(1, 2), keepdim=True), cam.amax(dim=(1, 2), keepdim=True)
    return (cam - low) / (high - low + eps)


def _mean(cam: Tensor, eps: float, tau: float) -> Tensor:
    return cam / (cam.mean(dim=(1, 2), keepdim=True) + eps)


def _l2(cam: Tensor, eps: float, tau: float) -> Tensor:
    # Clamped rather than shifted by eps, so that the vectors have length exactly 1 and their distance is 2 -
    # 2 cos.
    length: Tensor = torch.linalg.vector_norm(cam, dim=(1, 2), keepdim=True)
    return cam / length.clamp_min(eps)


def _softmax(cam: Tensor, eps: float, tau: float) -> Tensor:
    return (cam.flatten(1) / tau).softmax(dim=1).view_as(cam)


CAM_NORMS = MappingProxyType({"minmax": _minmax, "mean": _mean, "l2": _l2, "softmax": _softmax})


def cam_norm(mode: str) -> Callable[[Tensor, float, float], Tensor]:
    """The normalisation of that name; ValueError naming the known ones otherwise."""
    if mode not in CAM_NORMS:
        raise ValueError(f"unknown CAM normalisation {mode!r}: choose one of {', '.join(CAM_NORMS)}")
    return CAM_NORMS[mode]


def normalize(cam: Tensor, mode: str = "minmax", eps: float = EPS, tau: float = 1.0) -> Tensor:
    """Remove the scale of each map.

    Args:
        cam: (N,H,W), rectified (>= 0); softmax takes raw maps too.
        mode: "minmax" to [0,1] (a flat map becomes 0); "mean" divides by the mean (a flat map becomes 1);
            "l2" divides by the Euclidean norm; "softmax" is a distribution over positions.
        eps: guards the division; a dead map stays 0 in the first three modes.
        tau: temperature of the softmax.

    Returns:
        (N,H,W), differentiable.

    Raises:
        ValueError: unknown mode.
    """
    return cam_norm(mode)(full_precision(cam), eps, tau)


def resize_map(cam: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N,H,W) to (N,*size): each axis by area where it shrinks, bilinearly where it grows.

    Area averaging keeps the mass of small targets that sampling would skip. Values stay within the range of
    the input; the mean is kept exactly only when a shrinking axis divides evenly.
    """
    cam = full_precision(cam)[:, None]
    height, width = cam.shape[-2:]
    shrunk = (min(height, size[0]), min(width, size[1]))
    if shrunk != (height, width):
        cam = F.adaptive_avg_pool2d(cam, shrunk)
    if shrunk != tuple(size):
        cam = F.interpolate(cam, size=size, mode="bilinear", align_corners=False)
    return cam[:, 0]


def gradcam_at_feature(
    feature: Tensor, hidden: Tensor, projection: Tensor, classifier: Tensor, classes: Tensor
) -> Tensor:
    """Grad-CAM at the input of the head h = ReLU(P f + p), s = W mean(h) + b, in closed form.

    The weight of channel k for class c is alpha_k = 1/(HW) sum_j W_cj P_jk rho_j, with rho_j the share of
    positions where h_j > 0; this is the spatial mean of ds_c/df_k, what Grad-CAM (Selvaraju et al. 2017, eq.
    1) averages. The weights are detached: the gradient of the map flows through the feature only and is first
    order.

    Args:
        feature: (N,C,H,W), f.
        hidden: (N,J,H,W), h; only its sign is used.
        projection: (J,C) or the 1x1 convolution's (J,C,1,1), P.
        classifier: (K,J), W.
        classes: (N,) int64, c of each image.

    Returns:
        (N,H,W), not rectified.

    Raises:
        ValueError: feature and hidden differ in height or width.
    """
    if feature.shape[-2:] != hidden.shape[-2:]:
        raise ValueError(
            f"feature {tuple(feature.shape)} and hidden map {tuple(hidden.shape)} differ in size: "
            "cut the head's border from the feature too"
        )
    feature = full_precision(feature)
    height, width = feature.shape[-2:]
    with torch.no_grad(), torch.autocast(feature.device.type, enabled=False):
        active = (hidden > 0).to(feature.dtype).mean(dim=(2, 3))
        rows = classifier[classes].to(feature.dtype) * active
        alpha = rows @ projection.flatten(1).to(feature.dtype) / (height * width)
    return (alpha[:, :, None, None] * feature).sum(dim=1)


def label_free_map(feature: Tensor) -> Tensor:
    """Where the features are active, without a class: channel mean of ReLU(f), (N,C,H,W) -> (N,H,W).

    LaFAM, Karjauv and Albayrak 2024 (arXiv:2407.06059).
    """
    return rectify(feature).mean(dim=1)


def _mass(cam: Tensor) -> Tensor:
    """Each rectified map as a distribution over its positions (N,HW); a dead map is the uniform one."""
    flat = rectify(cam.detach()).flatten(1)
    total = flat.sum(dim=1, keepdim=True)
    uniform = torch.full_like(flat, 1.0 / flat.shape[1])
    return torch.where(total > 0, flat / total.clamp_min(torch.finfo(flat.dtype).tiny), uniform)


def _unit_deviation(maps: Tensor) -> Tensor:
    """Centred maps of length 1 as rows (N,HW), so that a dot product is Pearson's r; 0 for a constant map."""
    flat = full_precision(maps.detach()).flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    # A constant map leaves a few units of round-off, which must not be blown up into a pattern.
    noise = maps.detach().flatten(1).abs().amax(dim=1, keepdim=True).to(flat.dtype)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    floor = 16 * noise * torch.finfo(flat.dtype).eps * math.sqrt(flat.shape[1])
    return torch.where(length > floor, flat / length.clamp_min(torch.finfo(flat.dtype).tiny), 0.0)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each pair of maps, (N,H,W) x 2 -> (N,); 0 where either is constant.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"maps of shape {tuple(a.shape)} and {tuple(b.shape)} cannot be correlated: resize one")
    return (_unit_deviation(a) * _unit_deviation(b)).sum(dim=1)


def cross_image_correlation(maps: Tensor, images: Tensor | None = None) -> Tensor:
    """Mean Pearson correlation over all pairs of maps of different images, (M,H,W) -> scalar.

    High values say that the map does not depend on the image (a positional map). NaN without such a pair: there is
    nothing to compare.

    Args:
        images: (M,) int64, which image each map is of; -1, or none at all: of one that no other map is of.
    """
    images = torch.full((len(maps),), -1, device=maps.device) if images is None else images
    differ = (images[:, None] != images) | (images < 0)
    pairs = differ.fill_diagonal_(False).sum()
    rows = _unit_deviation(maps)
    return ((rows @ rows.T) * differ.to(rows)).sum() / pairs  # 0 / 0 is NaN


def entropy(cam: Tensor) -> Tensor:
    """Entropy of the rectified map over log(HW), (N,H,W) -> (N,): 1 is flat (or dead), 0 one position."""
    mass = _mass(cam)
    if mass.shape[1] == 1:
        return torch.ones_like(mass[:, 0])
    return -torch.xlogy(mass, mass).sum(dim=1) / math.log(mass.shape[1])


def std_over_mean(cam: Tensor) -> Tensor:
    """Population standard deviation over mean of the rectified map, (N,H,W) -> (N,): 0 is flat (or dead)."""
    mass = _mass(cam)
    return mass.std(dim=1, correction=0) * mass.shape[1]


def top_mass(cam: Tensor, share: float = 0.05) -> Tensor:
    """Share of the rectified map's sum in its strongest positions, (N,H,W) -> (N,).

    Args:
        cam: (N,H,W).
        share: which part of the positions counts as strongest, in (0, 1]; at least one position is taken.

    Raises:
        ValueError: share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of positions is {share}, it must be in (0, 1]")
    mass = _mass(cam)
    return mass.topk(max(1, round(share * mass.shape[1])), dim=1).values.sum(dim=1)


def effective_classes(probabilities: Tensor) -> Tensor:
    """How many classes a window of predictions uses: exp of its marginal entropy, (M,K) -> scalar in [1,K].

    Args:
        probabilities: (M,K), rows sum to 1; one-hot rows count labels. A collapsed head gives about 1.
    """
    marginal = full_precision(probabilities.detach()).mean(dim=0)
    return torch.exp(-torch.xlogy(marginal, marginal).sum())
