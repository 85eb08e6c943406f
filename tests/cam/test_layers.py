"""Layers by name, pattern, number and "auto", in the order in which the network calls them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.layers import find_layer
from models.networks.classifier import build_classifier
from tests.cam.tiny_networks import DenseLike, TinyNet, WithBypass, compiled, filled, pictures


class OutOfOrder(nn.Module):
    """Defines its blocks in another order than it calls them; one is called twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.block2, self.block1 = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)
        self.relu, self.never = nn.ReLU(), nn.Conv2d(3, 3, 1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.block2(self.relu(self.block1(images))))
        logits: Tensor = self.fc(self.pool(maps).flatten(1))
        return logits


def names(net: nn.Module, spec: str | int) -> list[str]:
    found = find_layer(net, spec, pictures())
    assert all(net.get_submodule(name) is module for name, module in found)
    return [name for name, _ in found]


def test_auto_is_the_last_layer_with_positions() -> None:
    assert names(filled(TinyNet()), "auto") == ["features"]
    assert names(filled(TinyNet(deep=True)), "auto") == ["more"]
    assert names(DenseLike(), "auto") == ["features"]
    assert names(OutOfOrder(), "auto") == ["block2"]  # the ReLU is called twice, the pooling leaves one position
    assert names(WithBypass(), "auto") == ["bottom"]  # `up` is the output: nothing follows it
    judge = build_classifier("judge", 4, 3, torch.Generator().manual_seed(0))
    assert names(judge, "auto") == ["trunk"]


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_auto_in_published_networks(arch: str) -> None:
    net = build_classifier(arch, 4, 3, torch.Generator().manual_seed(0))
    ((name, _),) = find_layer(net, "auto", pictures(1, 64))
    assert name == {"resnet18": "net.layer4", "mobilenet_v2": "net.features"}[arch]


def test_a_pattern_gives_layers_in_the_order_of_calls() -> None:
    assert names(OutOfOrder(), "block?") == ["block1", "block2"]
    assert names(filled(TinyNet(deep=True)), "*.[03]") == ["features.0", "features.3", "more.0"]
    assert names(filled(TinyNet()), "features.*") == [f"features.{number}" for number in range(5)]


def test_numbers_count_as_in_a_list() -> None:
    net = OutOfOrder()
    assert names(net, 0) == names(net, -2) == ["block1"]
    assert names(net, -1) == ["block2"]
    for wrong in (2, -3):
        with pytest.raises(ExplainError, match=f"layer {wrong} does not exist: there are 2, -2 to 1"):
            find_layer(net, wrong, pictures())


def test_a_name_is_any_module_and_runs_nothing() -> None:
    net = OutOfOrder()
    net.register_forward_hook(lambda *_: pytest.fail("the network was run"))
    assert names(net, "relu") == ["relu"]
    assert names(net, "never") == ["never"]


def test_names_near_what_was_written_are_listed() -> None:
    net = filled(TinyNet())
    with pytest.raises(ExplainError, match=r"no layer 'feature' in TinyNet: near it are .*features"):
        find_layer(net, "feature", pictures())
    with pytest.raises(ExplainError, match=r"no layer fits 'featurs.\?': near it are .*features\.4"):
        find_layer(net, "featurs.?", pictures())
    with pytest.raises(ExplainError, match=r"no layer fits 'class\*'"):  # exists, but has no positions
        find_layer(net, "class*", pictures())


def test_a_network_without_maps_says_so() -> None:
    with pytest.raises(ExplainError, match="Sequential has no layer with maps"):
        find_layer(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 2)), "auto", pictures())


def test_compiled_networks_have_their_own_names() -> None:
    net = filled(TinyNet())
    wrapped = compiled(net)
    wrapped(pictures())
    ((name, module),) = find_layer(wrapped, "auto", pictures())
    assert (name, module) == ("features", net.features)


def test_nothing_is_left_behind() -> None:
    net = OutOfOrder().train()
    with torch.inference_mode():
        find_layer(net, "auto", pictures())
    with pytest.raises(RuntimeError):
        find_layer(net, "auto", pictures()[:, :2])
    assert all(module.training and not module._forward_hooks for module in net.modules())
