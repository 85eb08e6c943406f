"""Sanity check: a map must change when the network forgets what it has learnt (Adebayo et al., NeurIPS 2018)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from models.cam.functional import correlation, resize_map
from util.metrics.maps import SIDE
from util.seeding import generator

STAGES = 4


class Stage(NamedTuple):
    """Likeness of maps to those of the trained network; near 1 they show the image, not what was learnt.

    Attributes:
        layer: the first layer that has forgotten, with all that follow it.
        layers: how many those are.
        rank_correlation: Spearman's, (N,).
        ssim: (N,).
    """

    layer: str
    layers: int
    rank_correlation: Tensor
    ssim: Tensor


def sanity(
    net: nn.Module, images: Tensor, maps_of: Callable[[nn.Module], Tensor], *, stages: int = STAGES, seed: int = 0
) -> list[Stage]:
    """Compare the maps of a network with those of the same network whose weights are more and more random.

    Args:
        net: is not changed.
        images: (N, C, H, W), what the network takes.
        maps_of: a network of the same structure -> maps (N, H, W) in [0, 1] of those images, for the same classes.
    """
    own = maps_of(net)
    found = []
    for name, count, changed in cascade(net, images, stages=stages, seed=seed):
        theirs = maps_of(changed)
        found.append(Stage(name, count, rank_correlation(own, theirs), map_ssim(own, theirs)))
    return found


def cascade(
    net: nn.Module, images: Tensor, *, stages: int = STAGES, seed: int = 0
) -> Iterator[tuple[str, int, nn.Module]]:
    """A copy of the network whose layers forget from the last to the first: the last one, then ever more, then all.

    A layer forgets by having the entries of each weight tensor shuffled: the weights are a fresh draw from the trained
    distribution, so that what passes through keeps its size. Running statistics stay.

    Args:
        images: (N, C, H, W); the first one shows in which order layers are called.
        stages: at least 1; no more than layers.

    Yields:
        Name of the first layer that has forgotten, their number, and the copy, which the next stage changes further.
    """
    changed = copy.deepcopy(net).eval()
    layers = _in_order_of_calls(changed, images[:1])[::-1]
    rest = [module for module in changed.modules() if module not in {layer for _, layer in layers}]
    counts = sorted({1 + round((len(layers) - 1) * stage / max(1, stages - 1)) for stage in range(stages)})
    done = 0
    for count in counts:
        for number in range(done, count):
            _forget(layers[number][1], generator(seed, "random weights", number))
        done = count
        if count == len(layers):
            for number, module in enumerate(rest):  # weights that are used without calling their module
                _forget(module, generator(seed, "random other weights", number))
        yield layers[count - 1][0], count, changed


@torch.no_grad()
def _forget(layer: nn.Module, draws: torch.Generator) -> None:
    for weight in layer.parameters(recurse=False):
        mixed = torch.randperm(weight.numel(), generator=draws).to(weight.device)
        weight.copy_(weight.flatten()[mixed].view_as(weight))


def _in_order_of_calls(net: nn.Module, images: Tensor) -> list[tuple[str, nn.Module]]:
    """Modules with weights of their own that a forward pass calls, each once; the first called first."""
    called: dict[str, nn.Module] = {}

    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any) -> None:
            called.setdefault(name, module)

        return note

    own = [
        (name, module) for name, module in net.named_modules() if any(True for _ in module.parameters(recurse=False))
    ]
    handles = [module.register_forward_pre_hook(noting(name)) for name, module in own]
    try:
        with torch.no_grad():
            net(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return list(called.items())


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of each pair of maps at SIDE x SIDE, (N, H, W) x 2 -> (N,); 0 where either is flat."""
    return correlation(*(_mean_ranks(_small(x)) for x in (a, b)))


def map_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair of maps in [0, 1] at SIDE x SIDE, (N, H, W) x 2 -> (N,)."""
    first, second = _small(a)[:, None], _small(b)[:, None]
    found = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def _small(maps: Tensor) -> Tensor:
    return resize_map(maps, (SIDE, SIDE))


def _mean_ranks(maps: Tensor) -> Tensor:
    """The place of each value within its map, equal values sharing the mean of theirs; (N, H, W) float64."""
    rows = []
    for row in maps.flatten(1):
        _, which, counts = row.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0)
        rows.append((last - (counts - 1) / 2).double()[which])
    return torch.stack(rows).view_as(maps)
