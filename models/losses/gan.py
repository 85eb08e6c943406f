"""Adversarial losses as maps or weighted means, and the gradient penalty of WGAN-GP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cam.functional import full_precision, resize_map


def _lsgan(logits: Tensor, real: bool, for_generator: bool) -> Tensor:
    return (logits - 1).square() if real else logits.square()


def _cross_entropy(logits: Tensor, real: bool, for_generator: bool) -> Tensor:
    return F.softplus(-logits) if real else F.softplus(logits)


def _wasserstein(logits: Tensor, real: bool, for_generator: bool) -> Tensor:
    return -logits if real else logits


def _hinge(logits: Tensor, real: bool, for_generator: bool) -> Tensor:
    sign = 1.0 if real else -1.0
    # Only the critic has a margin: a generator behind it would stop learning once it is judged real.
    return -sign * logits if for_generator else (1 - sign * logits).relu()


GanTerm = Callable[[Tensor, bool, bool], Tensor]

# "vanilla" and "nonsaturating" are one formula (Goodfellow et al. 2014, section 3: the generator maximises
# log D); both names are kept because CUT has both.
GAN_MODES: Mapping[str, GanTerm] = MappingProxyType(
    {
        "lsgan": _lsgan,
        "vanilla": _cross_entropy,
        "nonsaturating": _cross_entropy,
        "wgangp": _wasserstein,
        "hinge": _hinge,
    }
)


def gan_map(logits: Tensor, real: bool, mode: str, for_generator: bool = False) -> Tensor:
    """The adversarial loss at every position.

    Args:
        logits: any shape, the critic's output without a sigmoid.
        real: whether the critic should call them real. A generator passes True for its translations.
        mode: lsgan (Mao et al. 2017), vanilla, nonsaturating (Goodfellow et al. 2014), wgangp (Gulrajani
            et al. 2017, add `gradient_penalty`) or hinge (Lim and Ye 2017).
        for_generator: drops the margin of hinge; the other modes do not differ.

    Returns:
        Like logits, in full precision.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in GAN_MODES:
        raise ValueError(f"unknown gan_mode {mode!r}: choose one of {', '.join(GAN_MODES)}")
    return GAN_MODES[mode](full_precision(logits), real, for_generator)


def _fit_weights(weights: Tensor, logits: Tensor) -> Tensor:
    """Weights at the logits' size, detached, (N,1,h,w) with a mean of 1 per image (1 if they are all 0)."""
    if logits.dim() != 4 or weights.dim() not in (3, 4) or weights.shape[0] != logits.shape[0]:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} do not fit logits of {tuple(logits.shape)}: "
            "spatial weights need a critic that gives a map (N,C,h,w) for the same images"
        )
    flat = weights.detach()[:, 0] if weights.dim() == 4 else weights.detach()
    resized = resize_map(flat, (logits.shape[2], logits.shape[3]))[:, None]
    mean = resized.mean(dim=(1, 2, 3), keepdim=True)
    return torch.where(mean > 0, resized / mean.clamp_min(torch.finfo(mean.dtype).tiny), 1.0)


def gan_loss(
    logits: Tensor, real: bool, mode: str, for_generator: bool = False, weights: Tensor | None = None
) -> Tensor:
    """The mean adversarial loss, optionally weighted over positions.

    Args:
        logits: any shape; (N,C,h,w) with weights.
        real: whether the critic should call them real.
        mode: as for `gan_map`.
        for_generator: as for `gan_map`.
        weights: (N,h',w') or (N,1,h',w'), >= 0, as `adversarial_weights` makes them; resized to the
            logits and normalised to a mean of 1 per image here. They carry no gradient: a generator could
            otherwise lower the loss by moving the weights.

    Returns:
        Scalar.

    Raises:
        ValueError: unknown mode, or weights that do not fit.
    """
    terms = gan_map(logits, real, mode, for_generator)
    if weights is not None:
        terms = terms * _fit_weights(weights, logits)
    return terms.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Mean of (|grad critic| - 1)^2 at points between real and fake images (Gulrajani et al. 2017, eq. 3).

    The critic of an image is the mean of its map, the quantity that the wgangp terms average: the slope of a
    sum would depend on the size of the map. Autocast is off inside, as the gradients here are not
    loss-scaled.

    Args:
        critic: (N,C,H,W) -> (N,...). Its norm layers must not mix images (no batch norm).
        real: (N,C,H,W); no gradient flows to it.
        fake: (N,C,H,W); no gradient flows to it.
        alpha: (N,) or (N,1,1,1) in [0,1], the share of real: one uniform draw per image.

    Returns:
        Scalar, without its weight (10 in the paper), differentiable in the critic's parameters.

    Raises:
        ValueError: real and fake differ in shape.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"real {tuple(real.shape)} and fake {tuple(fake.shape)} images differ in shape, so the gradient "
            "penalty cannot mix them: use equal channel counts and crop sizes for A and B"
        )
    real, fake = full_precision(real.detach()), full_precision(fake.detach())
    share = alpha.detach().to(real).view(-1, 1, 1, 1)
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        between = torch.lerp(fake, real, share.expand_as(real)).requires_grad_(True)
        score = critic(between).flatten(1).mean(dim=1).sum()
        (slope,) = torch.autograd.grad(score, between, create_graph=True)
    length: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (length - 1).square().mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean squared gradient of the critic at real images (Mescheder et al., ICML 2018, eq. 9, without gamma / 2).

    The critic of an image is the mean of its map. Autocast is off inside, as the gradients here are not loss-scaled.

    Args:
        critic: (N,C,H,W) -> (N,...). Its norm layers must not mix images.
        real: (N,C,H,W); no gradient flows to it.

    Returns:
        Scalar, differentiable in the critic's parameters.
    """
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        at = full_precision(real.detach()).requires_grad_(True)
        score = critic(at).flatten(1).mean(dim=1).sum()
        (slope,) = torch.autograd.grad(score, at, create_graph=True)
    return slope.flatten(1).square().sum(dim=1).mean()
