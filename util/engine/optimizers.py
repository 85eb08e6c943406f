"""PyTorch's optimisers without its compiler, which loading takes as long as loading the rest of PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

Kind = TypeVar("Kind", bound=Optimizer)
# Methods that PyTorch hides from its compiler, and loads it for that.
HIDDEN = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """The same optimiser, whose methods are called as they are written, below what the compiler needs around them.

    `torch.compile` and `differentiable=True` need the original.
    """
    update: Callable[..., Any] = inspect.unwrap(kind.step)

    def step(self: Kind, closure: Callable[[], float] | None = None) -> Any:
        with torch.no_grad():
            return update(self, closure)

    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in HIDDEN}
    return type(kind.__name__, (kind,), methods | {"step": step, "__doc__": kind.__doc__})


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": uncompiled(Adam),
    "adamw": uncompiled(AdamW),
    "sgd": uncompiled(SGD),
}
