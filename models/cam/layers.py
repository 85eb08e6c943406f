"""Layers by what a user writes: a name, a pattern, a number, or nothing at all."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.tap import check_batch, running, unwrapped

AUTO = "auto"
PATTERN = "*?["


def find_layer(net: nn.Module, spec: str | int, images: Tensor) -> list[tuple[str, nn.Module]]:
    """Names and modules of the layers meant, in the order in which the network calls them.

    A layer that is counted or matched gives one tensor (N, C, h, w) with more than one position, in one call a pass,
    and something follows it. A number or a pattern is looked up among these after one pass of one image.

    Args:
        net: may be compiled.
        spec: a module's name as in `named_modules` (any module; nothing is run); a pattern such as `layer?` or
            `*.conv2`, in which `*` spans dots too; a number as a list index has, -1 for the last; "auto", the last.
        images: (N, C, H, W), N >= 1; the first is used.

    Raises:
        ExplainError: nothing fits, or the images are no batch; the message lists what is near.
    """
    net = unwrapped(net)
    if isinstance(spec, str) and spec != AUTO and not set(spec) & set(PATTERN):
        return [(spec, _named(net, spec))]
    usable = _usable(net, images)
    if not usable:
        raise ExplainError(f"{type(net).__name__} has no layer with maps (N, C, h, w) of more than one position")
    if spec == AUTO:
        return usable[-1:]
    return _numbered(usable, spec) if isinstance(spec, int) else _matching(usable, spec)


def _named(net: nn.Module, name: str) -> nn.Module:
    known: dict[str, nn.Module] = {key: module for key, module in net.named_modules(remove_duplicate=False) if key}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5) or list(known)[-5:]
        raise ExplainError(f"no layer '{name}' in {type(net).__name__}: near it are {', '.join(near)}")
    return known[name]


def _numbered(usable: list[tuple[str, nn.Module]], number: int) -> list[tuple[str, nn.Module]]:
    count = len(usable)
    if not -count <= number < count:
        raise ExplainError(f"layer {number} does not exist: there are {count}, {-count} to {count - 1}")
    return [usable[number]]


def _matching(usable: list[tuple[str, nn.Module]], pattern: str) -> list[tuple[str, nn.Module]]:
    found = [(name, module) for name, module in usable if fnmatchcase(name, pattern)]
    if not found:
        known = [name for name, _ in usable]
        near = difflib.get_close_matches(pattern, known, n=5, cutoff=0.3) or known[-5:]
        raise ExplainError(f"no layer fits '{pattern}': near it are {', '.join(near)}")
    return found


def _usable(net: nn.Module, images: Tensor) -> list[tuple[str, nn.Module]]:
    """Modules with maps to look at, in the order in which they finish."""
    outputs: dict[str, list[object]] = {}  # dicts keep the order of the first call

    def see(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.setdefault(name, []).append(output)

    modules = {name: module for name, module in net.named_modules() if name}
    check_batch(images)
    handles = [module.register_forward_hook(partial(see, name)) for name, module in modules.items()]
    try:
        with running(net):
            last = net(images[:1].detach().clone())  # may be normalised in place
    finally:
        for handle in handles:
            handle.remove()
    return [(name, modules[name]) for name, seen in outputs.items() if len(seen) == 1 and _is_map(seen[0], last)]


def _is_map(output: object, last: object) -> bool:
    """Whether it is (N, C, h, w) with several positions and not the network's own output."""
    return isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1 and output is not last
