"""Layers by what a user writes: a name, a pattern, a number, or nothing at all."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.layout import TOKENS, Layout, layout_of
from models.cam.tap import check_batch, running, unwrapped

AUTO = "auto"
PATTERN = "*?["


def find_layer(net: nn.Module, spec: str | int, images: Tensor) -> list[tuple[str, nn.Module]]:
    """Names and modules of the layers meant, in the order in which the network calls them.

    A layer that is counted or matched gives one tensor of maps (see `models.cam.layout`) with more than one position,
    in one call a pass, and something follows it. A number or a pattern is looked up among these after one pass of one
    image.

    Args:
        net: may be compiled.
        spec: a module's name as in `named_modules` (any module; nothing is run); a pattern such as `layer?` or
            `*.conv2`, in which `*` spans dots too; a number as a list index has, -1 for the last; "auto", the last one
            or, where that gives tokens, the last one of whose positions the output depends.
        images: (N, C, H, W), N >= 1; the first is used.

    Raises:
        ExplainError: nothing fits, or the images are no batch; the message lists what is near.
    """
    net = unwrapped(net)
    if isinstance(spec, str) and spec != AUTO and not set(spec) & set(PATTERN):
        return [(spec, _named(net, spec))]
    usable = _usable(net, images)
    if not usable:
        raise ExplainError(f"{type(net).__name__} has no layer with maps of more than one position")
    names = list(usable)
    if spec == AUTO:
        tokens = usable[names[-1]][1].kind == TOKENS
        chosen = [_last_that_counts(net, usable, images) if tokens else names[-1]]
    else:
        chosen = [_numbered(names, spec)] if isinstance(spec, int) else _matching(names, spec)
    return [(name, usable[name][0]) for name in chosen]


def _named(net: nn.Module, name: str) -> nn.Module:
    known: dict[str, nn.Module] = {key: module for key, module in net.named_modules(remove_duplicate=False) if key}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5) or list(known)[-5:]
        raise ExplainError(f"no layer '{name}' in {type(net).__name__}: near it are {', '.join(near)}")
    return known[name]


def _numbered(usable: Sequence[str], number: int) -> str:
    count = len(usable)
    if not -count <= number < count:
        raise ExplainError(f"layer {number} does not exist: there are {count}, {-count} to {count - 1}")
    return usable[number]


def _matching(usable: Sequence[str], pattern: str) -> list[str]:
    found = [name for name in usable if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, usable, n=5, cutoff=0.3) or usable[-5:]
        raise ExplainError(f"no layer fits '{pattern}': near it are {', '.join(near)}")
    return found


def _usable(net: nn.Module, images: Tensor) -> dict[str, tuple[nn.Module, Layout]]:
    """Modules with maps to look at, and how to read them, in the order in which they finish."""
    outputs, last = _outputs(net, images)
    found = {}
    for name, seen in outputs.items():
        module = net.get_submodule(name)
        layout = layout_of(module, seen[0], (1, *images.shape[1:])) if len(seen) == 1 and seen[0] is not last else None
        if layout is not None and math.prod(layout.grid) > 1:
            found[name] = (module, layout)
    return found


def _outputs(net: nn.Module, images: Tensor, grad: bool = False) -> tuple[dict[str, list[object]], object]:
    """What every module puts out for one image, call by call, and the network's own output.

    Args:
        grad: record the pass.
    """
    outputs: dict[str, list[object]] = {}  # dicts keep the order of the first call

    def see(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.setdefault(name, []).append(output)

    modules = {name: module for name, module in net.named_modules() if name}
    check_batch(images)
    handles = [module.register_forward_hook(partial(see, name)) for name, module in modules.items()]
    try:
        with running(net, grad=grad):
            entry = images[:1].detach().clone().requires_grad_(grad)
            return outputs, net(entry.clone())  # may be normalised in place
    finally:
        for handle in handles:
            handle.remove()


def _last_that_counts(net: nn.Module, usable: Mapping[str, tuple[nn.Module, Layout]], images: Tensor) -> str:
    """The last of these on whose positions the output depends: behind the last attention, only the class token does."""
    outputs, last = _outputs(net, images, grad=True)
    names = list(usable)
    if not isinstance(last, Tensor) or not last.requires_grad:
        return names[-1]
    attached = {name: seen for name in names if isinstance(seen := outputs[name][0], Tensor) and seen.requires_grad}
    with torch.inference_mode(False):
        slopes = torch.autograd.grad(last.float().square().sum(), list(attached.values()), allow_unused=True)
    counts = [
        name
        for name, slope in zip(attached, slopes, strict=True)
        if slope is not None and bool(usable[name][1].maps_of(slope).any())
    ]
    return counts[-1] if counts else names[-1]
