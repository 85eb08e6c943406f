"""Guided backpropagation: ReLUs let only positive gradients pass, and what such maps look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import Node

from models.cam.arithmetic import in_full_precision
from models.cam.errors import ExplainError
from models.cam.recording import gradients_of_each, recorded
from models.cam.subject import Subject

# Names of the graph's nodes: activations that the rule says nothing about.
_OTHERS = {
    "Celu": "CELU",
    "Elu": "ELU or SELU",
    "Gelu": "GELU",
    "Glu": "GLU",
    "Hardshrink": "Hardshrink",
    "Hardsigmoid": "Hardsigmoid",
    "Hardswish": "Hardswish",
    "LeakyRelu": "LeakyReLU",
    "LogSigmoid": "LogSigmoid",
    "Maximum": "the maximum of two tensors",
    "Mish": "Mish",
    "PreluKernel": "PReLU",
    "RreluWithNoise": "RReLU",
    "Sigmoid": "Sigmoid",
    "Silu": "SiLU",
    "Softplus": "Softplus",
    "Softshrink": "Softshrink",
    "Tanh": "Tanh",
    # Not an activation, but it would hide a ReLU in place.
    "torch::autograd::CopySlices": "an operation in place on a part of a tensor or a view",
}
# Nodes that are ReLUs if they begin at 0, and where they remember that.
_RELUS = {"Relu": "", "Threshold": "threshold", "Hardtanh": "min_val", "Clamp": "min", "ClampMin": "min"}


@contextmanager
def guided(output: Tensor, entry: Tensor, *, allow_other_activations: bool = False) -> Iterator[None]:
    """Gradients taken inside go back from `output` to `entry` by the guided rule.

    A ReLU hands g 1[x > 0] 1[g > 0] on, a ReLU6 that times 1[x < 6] (Springenberg et al., ICLR workshop 2015, section
    3.4).

    The rule is set on the recorded graph rather than on the network: it finds ReLUs and ReLU6s however they are
    written (modules, functions, methods, clamps from 0; in place or not), the network is never touched, and the graph
    is as before afterwards.

    Args:
        output: what the network put out, attached.
        entry: what it was given; not a leaf. Nothing before it is changed.
        allow_other_activations: leave other activations with their own derivative.

    Raises:
        ExplainError: there are other activations, or parts whose inside cannot be seen; they are named.
    """
    nodes = _nodes(output, entry)
    others = sorted({name for node in nodes if (name := _unguided(node))})
    if others and not allow_other_activations:
        raise ExplainError(
            f"guided backpropagation is defined for ReLU and ReLU6, and this network has {', '.join(others)}: "
            "set allow_other_activations to leave those as they are, or take gradcam"
        )
    handles = [node.register_hook(_positive) for node in nodes if _is_relu(node)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def guided_gradients(subject: Subject, *, allow_other_activations: bool = False) -> Tensor:
    """d score / d image by the guided rule, (N, T, C, H, W) with sign, in full precision.

    Raises:
        ExplainError: as of `guided`; or the score does not depend on the images.
    """
    with recorded(subject) as run, guided(run.output, run.entry, allow_other_activations=allow_other_activations):
        found = gradients_of_each(run, create_graph=subject.create_graph)
        return torch.stack([gradient for gradient, _ in found], dim=1)


@in_full_precision
def guided_display(maps: Tensor, strength: float = 0.25) -> Tensor:
    """Maps in pixels to look at: standardised, times `strength`, around 0.5, clipped.

    Args:
        maps: (N, T, C, H, W) with sign; each (C, H, W) is standardised as a whole.
        strength: share of the range that one standard deviation takes, > 0: 0.25 as is usual, 0.1 as in grad-cam.

    Returns:
        (N, T, C, H, W) in [0, 1]; a map that is the same everywhere becomes 0.5.
    """
    dims = (-3, -2, -1)
    centred = maps - maps.mean(dims, keepdim=True)
    deviation = centred.square().mean(dims, keepdim=True).sqrt()
    noise = 16 * torch.finfo(maps.dtype).eps * maps.abs().amax(dims, keepdim=True)
    flat = deviation <= noise
    standard = torch.where(flat, 0.0, centred / torch.where(flat, 1.0, deviation))
    return (standard * strength + 0.5).clamp(0, 1)


def _nodes(output: Tensor, entry: Tensor) -> list[Node]:
    """Every node between the two."""
    seen: dict[Node, None] = {}
    ahead = [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen or node is entry.grad_fn:
            continue
        seen[node] = None
        ahead += [before for before, _ in node.next_functions]
    return list(seen)


def _kind(node: Node) -> str:
    """`Relu` of `ReluBackward0`."""
    return node.name().partition("Backward")[0]


def _unguided(node: Node) -> str | None:
    """The name of an activation that stays as it is, or of what may hide one."""
    kind = _kind(node)
    own = isinstance(node, torch.autograd.function.BackwardCFunction)
    if own and getattr(getattr(node, "_forward_cls", None), "no_activation", False):  # it says so itself
        return None
    if own or kind.startswith("torch::jit"):
        return f"a function with a derivative of its own ({kind.rpartition('::')[2]})"
    if kind in ("Hardtanh", "Threshold") and not _is_relu(node):
        return kind
    if kind in ("Clamp", "ClampMin") and isinstance(getattr(node, f"_saved_{_RELUS[kind]}"), Tensor):
        return "a clamp by a tensor"
    return _OTHERS.get(kind)


def _is_relu(node: Node) -> bool:
    """Whether it is 0 below 0; what it does above (ReLU6) is in its derivative."""
    kind = _kind(node)
    if kind not in _RELUS:
        return False
    begin = getattr(node, f"_saved_{_RELUS[kind]}") if _RELUS[kind] else 0
    return isinstance(begin, int | float) and begin == 0


def _positive(handed_on: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradient that goes back: the node has multiplied it by 1[x > 0] (and 1[x < 6]) already."""
    return handed_on[0].relu(), *handed_on[1:]
