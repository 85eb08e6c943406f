"""PyTorch's optimisers without its compiler, which loading takes as long as loading the rest of PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from an optimiser's `state_dict`: its moments, with the settings that this optimiser was made with.

    PyTorch's own loading brings the saved settings back, and with them whether the step is fused: a run continued with
    other options, or on another device, would go by the old ones.

    Raises:
        ValueError: an optimiser of another kind, or of other groups, was saved.
    """
    saved, own = state["param_groups"], optimizer.param_groups
    for name, kinds in (("betas", "adam or adamw"), ("momentum", "sgd")):
        if name in saved[0] and name not in own[0]:
            other = type(optimizer).__name__.lower()
            raise ValueError(
                f"it was trained with --optimizer {kinds}, whose moments --optimizer {other} cannot go on with"
            )
    if len(saved) != len(own):
        raise ValueError(f"it has {len(saved)} groups of weights and the network has {len(own)}")
    kept = [{key: value for key, value in group.items() if key != "params"} for group in own]
    groups = [{**before, **mine} for before, mine in zip(saved, kept, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
