"""Run a network to look at it, and take what one layer puts out, without leaving a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.layout import layout_of


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside `torch.compile` and (Distributed)DataParallel: its layers have their own names."""
    while True:
        inner = getattr(net, "_orig_mod", None)
        if inner is None and isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = net.module
        if not isinstance(inner, nn.Module):
            return net
        net = inner


def check_batch(images: Tensor) -> None:
    """Images must be (N, C, H, W) with N at least 1, or an ExplainError says what they are."""
    if images.ndim != 4 or len(images) == 0:
        raise ExplainError(f"images are {tuple(images.shape)}: give (N, C, H, W) with N at least 1")


@contextmanager
def _eager() -> Iterator[None]:
    """What `torch.compile` made runs as it was written: hooks set after compiling would be passed over."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled; importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is as it was."""
    training = [module for module in net.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def running(net: nn.Module, *, as_it_stands: bool = False, grad: bool = False) -> Iterator[None]:
    """How an explainer runs a network, wherever its caller stands: eager, outside `inference_mode`.

    Args:
        net: unwrapped.
        as_it_stands: leave dropout and batch statistics as they are, for losses within a training step; otherwise the
            network runs in evaluation mode. Its flags are restored, also after an exception.
        grad: record everything; otherwise nothing, until an `ActivationTap` has been passed.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(_eager())
        if not as_it_stands:
            stack.enter_context(_evaluating(net))
        yield


class ActivationTap:
    """Context that takes, or replaces, the output of one layer during one forward pass.

    The rest of the network gets a clone: an in-place ReLU behind the layer would overwrite what was taken. Use it
    inside `running`, which gives grad mode back.

    Args:
        layer: the module.
        images: shape (N, C, H, W) of what the network is given.
        name: of the layer, for messages.
        create_graph: keep the activation attached to what made it, for losses. Otherwise it is a leaf, and recording
            begins here: the layers before it cost what they cost under `no_grad`.
        replacement: (N', C, h, w), handed on in place of the positions of the layer's output; nothing is taken.

    Raises:
        ExplainError: on leaving, if the layer was not called exactly once, or what it gave has been overwritten;
            within, if it gives no maps (see `models.cam.layout`).
    """

    def __init__(
        self,
        layer: nn.Module,
        images: tuple[int, ...],
        name: str = "",
        *,
        create_graph: bool = False,
        replacement: Tensor | None = None,
    ) -> None:
        self.layer, self.name, self._images = layer, name or type(layer).__name__, images
        self.create_graph, self.replacement = create_graph, replacement
        self.calls, self._version = 0, 0
        self._taken: Tensor | None = None

    @property
    def activation(self) -> Tensor:
        """(N, C, h, w), whatever the layer's layout, in the network's own precision; gradients to it exist."""
        if self._taken is None:
            raise ExplainError(f"layer '{self.name}' has not been called")
        return self._taken

    def __enter__(self) -> ActivationTap:
        self._handle = self.layer.register_forward_hook(self._hook)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        if kind is not None:
            return
        if self.calls != 1:
            raise ExplainError(
                f"layer '{self.name}' was called {self.calls} times in one forward pass, so that its activation is not "
                f"defined: choose a layer that is called once{'' if self.calls else ', perhaps one inside it'}"
            )
        if self._taken is not None and self._taken._version != self._version:
            raise ExplainError(
                f"layer '{self.name}' hands on its input, which the network overwrites later: choose the one before it"
            )

    def _hook(self, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        self.calls += 1
        if self.calls > 1:
            return None
        layout = layout_of(module, output, self._images)
        if layout is None:
            raise ExplainError(
                f"layer '{self.name}' gives {described(output)}, and no maps (N, C, h, w), (N, h, w, C) or tokens "
                "(N, 1 + h*w, C): choose another layer"
            )
        if self.replacement is not None:
            return layout.with_maps(self.replacement, output)
        attached = self.create_graph and output.requires_grad
        maps = layout.maps_of(output)
        self._taken = maps if attached else maps.detach().requires_grad_()
        self._version = self._taken._version
        torch.set_grad_enabled(True)
        return layout.with_maps(self._taken.clone(), output if attached else output.detach())


def described(value: object) -> str:
    """What a layer or a network put out, for messages: a shape, or a type with its size."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with keys {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
