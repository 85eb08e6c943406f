"""Eigen-CAM: the activations along their first principal direction, whatever the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.cam.arithmetic import in_full_precision
from models.cam.base import EXPLAINERS, Explainer, for_every_target
from models.cam.subject import Subject


@in_full_precision
def eigencam(activations: Tensor) -> Tensor:
    """First principal component of the positions (Bany Muhammad and Yeasin, IJCNN 2020, eq. 2).

    With M the activations as (h w, C), centred over positions, and v its first right singular vector: M v. Whether v or
    -v comes out is chance; here the component grows with the sum of the channels. The Gram matrix of the shorter side
    is decomposed, (h w)^2 or C^2.

    Args:
        activations: (..., C, h, w).

    Returns:
        (..., h, w), with mean 0, not rectified; 0 for activations that are the same everywhere, or not finite. First
        derivatives exist where the largest singular value is simple.
    """
    # Of what is no number nothing can be decomposed; the other images of the batch can.
    finite = activations.detach().isfinite().flatten(-3).all(-1)[..., None, None, None]
    activations = torch.where(finite, activations, 0.0)
    rows = activations.flatten(-2).transpose(-1, -2)
    centred = rows - rows.mean(-2, keepdim=True)
    along = _first_component(centred)
    reference = centred.detach().sum(-1)
    turn = torch.where((along.detach() * reference).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    # Without the noise of a constant, which has no direction.
    size = activations.detach().abs().flatten(-3).amax(-1)[..., None]
    blank = along.detach().abs().amax(-1, keepdim=True) <= _noise(rows) * size
    return torch.where(blank, 0.0, turn * along).reshape(*activations.shape[:-3], *activations.shape[-2:])


def _noise(rows: Tensor) -> float:
    return 16 * torch.finfo(rows.dtype).eps * math.sqrt(rows.shape[-1])


def _first_component(centred: Tensor) -> Tensor:
    """M v of (..., P, C), (..., P): of either sign."""
    positions, channels = centred.shape[-2:]
    if positions <= channels:
        turned = centred.transpose(-1, -2)
        left = _first_eigenvector(centred @ turned)
        scale = (turned @ left[..., None]).square().sum((-2, -1)).clamp_min(_tiny(centred)).sqrt()
        return scale[..., None] * left
    right = _first_eigenvector(centred.transpose(-1, -2) @ centred)
    return (centred * right[..., None, :]).sum(-1)


def _first_eigenvector(gram: Tensor) -> Tensor:
    """Unit eigenvector of the largest eigenvalue of symmetric (..., n, n), with its first derivative.

    dv = sum_j v_j v_j^T dG v / (l - l_j) over the other eigenvectors. The derivative of `eigh` itself divides by the
    differences of all pairs of eigenvalues and is not finite when any two are equal, as those of unused channels are.
    """
    values, vectors = torch.linalg.eigh(gram.detach())
    first: Tensor = vectors[..., -1]
    if not gram.requires_grad:
        return first
    others, gaps = vectors[..., :-1], values[..., -1:] - values[..., :-1]
    change = (gram - gram.detach()) @ first[..., None]  # 0, with the derivative dG v
    along = others.transpose(-1, -2) @ change / gaps.clamp_min(_tiny(gram))[..., None]
    attached: Tensor = first + (others @ along)[..., 0]
    return attached


def _tiny(tensor: Tensor) -> float:
    return float(torch.finfo(tensor.dtype).tiny)


@EXPLAINERS.register("eigencam")
class EigenCam(Explainer):
    """See `eigencam`; the same map for every target."""

    def maps(self, subject: Subject) -> Tensor:
        return for_every_target(eigencam(subject.activations), subject)
