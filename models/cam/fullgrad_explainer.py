"""FullGrad: what the image and what every bias adds to the score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _NormBase

from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.functional import full_precision
from models.cam.recording import gradients_of_each, recorded
from models.cam.scaling import minmax
from models.cam.subject import Subject

R = TypeVar("R")

RESCALES = ("channel", "layer", "none")
_BIASED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm, _NormBase)


class FullGradTerms(NamedTuple):
    """A score as a sum (Srinivas and Fleuret, NeurIPS 2019, proposition 1), without absolute values.

    Attributes:
        image: (..., C, H, W), x dy/dx.
        biases: for each layer with a bias and positions, in forward order, (..., C, h, w), b dy/db at each position.
        flat: (...), the biases of layers without positions.
    """

    image: Tensor
    biases: list[Tensor]
    flat: Tensor

    def total(self) -> Tensor:
        """(...), the score, if the network is piecewise linear but for these biases, and the target is linear."""
        positioned = [self.image, *self.biases]
        return self.flat + torch.stack([term.sum((-3, -2, -1)) for term in positioned]).sum(0)


def fullgrad_terms(subject: Subject) -> FullGradTerms:
    """The terms for all targets, leading axes (N, T).

    Biases are those of convolutions, linear layers and normalisations; a batch norm that uses running statistics has
    beta - mean gamma / sqrt(var + eps) (section 3.2). Biases of other modules and of plain functions are not seen.

    Raises:
        ExplainError: the score does not depend on the images, or a layer's rows are not the images'.
    """
    each = _of_each_target(subject, lambda terms: terms)
    biases = [torch.stack(same, 1) for same in zip(*(terms.biases for terms in each), strict=True)]
    return FullGradTerms(torch.stack([t.image for t in each], 1), biases, torch.stack([t.flat for t in each], 1))


def fullgrad(image: Tensor, biases: Sequence[Tensor], rescale: str = "channel") -> Tensor:
    """sum over channels of psi(x dy/dx) and of psi(b dy/db) of every layer (same paper, eq. 5).

    psi takes the absolute value, scales and enlarges to the image.

    Args:
        image: (N, C, H, W), full precision.
        biases: (N, C, h, w) each.
        rescale: min-max of what: "channel", each channel for itself, as pytorch-grad-cam does; "layer", all channels of
            a layer together, as the authors do; "none", no scaling.

    Returns:
        (N, H, W), >= 0.
    """
    size = image.shape[-2:]
    total = torch.zeros_like(image[:, 0])
    for term in (image, *biases):
        scaled = _scaled(term.abs(), rescale).sum(1, keepdim=True)
        total = total + F.interpolate(scaled, size, mode="bilinear", align_corners=False)[:, 0]
    return total


@EXPLAINERS.register("fullgrad")
class FullGrad(Explainer):
    """See `fullgrad` and `fullgrad_terms`; at the images' resolution, (N, T, H, W).

    Args:
        rescale: "channel", "layer" or "none".

    Raises:
        ExplainError: another rescale.
    """

    needs_layer = False

    def __init__(self, rescale: str = "channel") -> None:
        if rescale not in RESCALES:
            raise ExplainError(f"rescale of fullgrad is '{rescale}': choose one of {', '.join(RESCALES)}")
        self.rescale = rescale

    def maps(self, subject: Subject) -> Tensor:
        each = _of_each_target(subject, lambda terms: fullgrad(terms.image, terms.biases, self.rescale))
        return torch.stack(each, 1)


def implicit_bias(module: nn.Module) -> Tensor | None:
    """What a layer adds whatever it is given, (C,); None if nothing is known to be added."""
    if not isinstance(module, _BIASED):
        return None
    bias: Tensor | None = module.bias
    if not isinstance(module, _NormBase) or module.training or module.running_mean is None:
        return None if bias is None else full_precision(bias)
    assert module.running_var is not None
    mean, deviation = full_precision(module.running_mean), (full_precision(module.running_var) + module.eps).sqrt()
    shift = -mean / deviation
    weight: Tensor | None = module.weight
    if weight is not None:
        shift = shift * full_precision(weight)
    return shift if bias is None else shift + full_precision(bias)


def _scaled(term: Tensor, rescale: str) -> Tensor:
    if rescale == "none":
        return term
    return minmax(term, (-2, -1) if rescale == "channel" else (-3, -2, -1))


class _Bias(NamedTuple):
    """A bias where it was added: (C,), the output's place in the graph, which axis of the output it belongs to."""

    value: Tensor
    edge: GradientEdge
    axis: int


@contextmanager
def _biases(net: nn.Module) -> Iterator[list[_Bias]]:
    """Filled by the forward pass inside. The graph is remembered, not the output: that may be changed in place."""
    found: list[_Bias] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        bias = implicit_bias(module)
        if bias is not None and isinstance(output, Tensor) and output.requires_grad:
            found.append(_Bias(bias, get_gradient_edge(output), -1 if isinstance(module, nn.Linear) else 1))

    handles = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, _BIASED)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of_each_target(subject: Subject, read: Callable[[FullGradTerms], R]) -> list[R]:
    """What is read of the terms (leading axis N) of each target, while only those of one are in memory."""
    found = []
    with _biases(subject.net) as biases, recorded(subject) as run:
        edges = [bias.edge for bias in biases]
        for image, inside in gradients_of_each(run, edges, create_graph=subject.create_graph):
            with torch.set_grad_enabled(subject.create_graph):
                found.append(read(_terms(run.images, image, biases, inside)))
    return found


def _terms(images: Tensor, gradient: Tensor, biases: list[_Bias], inside: list[Tensor | None]) -> FullGradTerms:
    """From gradients at the images and at what the biases were added to."""
    positioned, flat = [], torch.zeros_like(gradient[:, 0, 0, 0])
    for bias, slope in zip(biases, inside, strict=True):
        if slope is None:  # the layer stands beside the way to the score
            continue
        if len(slope) != len(images):
            raise ExplainError(f"fullgrad: a layer has {len(slope)} rows for {len(images)} images: take another method")
        term = slope.movedim(bias.axis, -1) * bias.value
        if term.ndim == 4:
            positioned.append(term.movedim(-1, 1))
        else:
            flat = flat + term.flatten(1).sum(1)
    return FullGradTerms(images * gradient, positioned, flat)
