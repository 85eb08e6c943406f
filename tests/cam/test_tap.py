"""The tap: what is taken is what the layer gave, wherever the caller stands, and nothing is left behind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.tap import ActivationTap, running, unwrapped
from tests.cam.tiny_networks import DenseLike, TinyNet, compiled, filled, pictures


def tapped(net: nn.Module, layer: str, images: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """Activation and output of one pass."""
    with running(net), ActivationTap(net.get_submodule(layer), tuple(images.shape), layer, **settings) as tap:
        output: Tensor = net(images)
    return tap.activation, output


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


@pytest.mark.parametrize("kind", [TinyNet, DenseLike])
def test_an_in_place_relu_behind_the_layer_does_not_change_what_is_taken(kind: Callable[..., nn.Module]) -> None:
    layer = "features.3" if kind is TinyNet else "features"
    plain, inplace = filled(kind(inplace=False)), filled(kind(inplace=True))
    images = pictures()
    activation, output = tapped(inplace, layer, images)
    seen: list[Tensor] = []
    handle = plain.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[-1]))
    expected = plain(images)
    handle.remove()
    assert (activation < 0).float().mean() > 0.2
    torch.testing.assert_close(activation.detach(), seen[0].detach(), rtol=0, atol=0)
    torch.testing.assert_close(output.detach(), expected.detach(), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(output.square().sum(), activation)
    (wanted,) = torch.autograd.grad(expected.square().sum(), seen[0])
    torch.testing.assert_close(gradient, wanted)


class Overwrites(nn.Module):
    """What its layer hands on is its input, which is then changed."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = images * 2
        kept: Tensor = self.same(maps)
        maps.relu_()
        return kept.mean((2, 3))


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_activation_that_is_overwritten_is_an_error(create_graph: bool) -> None:
    net = Overwrites()
    with pytest.raises(ExplainError, match="'same' hands on its input, which the network overwrites later"):
        tapped(net, "same", pictures(), create_graph=create_graph)
    assert hooks(net) == 0


def test_images_do_not_begin_to_require_gradients() -> None:
    images = pictures()
    activation, _ = tapped(nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), "0", images, create_graph=True)
    assert activation.requires_grad
    assert not images.requires_grad
    assert torch.equal(images, pictures())


def test_a_layer_whose_output_is_overwritten_by_the_next_is_taken_as_it_was() -> None:
    """An identity gives the tensor that a later in-place layer changes."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = pictures()
    expected = net[0](images)
    for create_graph in (False, True):
        activation, _ = tapped(net, "1", images, create_graph=create_graph)
        torch.testing.assert_close(activation, expected, rtol=0, atol=0)


class Twice(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 3, 1), calls

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.calls):
            images = self.conv(images)
        return images.mean((2, 3))


@pytest.mark.parametrize("calls", [0, 2, 3])
def test_a_layer_that_is_not_called_once_is_an_error_with_the_number(calls: int) -> None:
    net = Twice(calls)
    with pytest.raises(ExplainError, match=rf"layer 'conv' was called {calls} times"):
        tapped(net, "conv", pictures())
    assert hooks(net) == 0


def test_a_layer_without_maps_is_an_error_that_says_what_it_gives() -> None:
    net = filled(TinyNet())
    with pytest.raises(ExplainError, match=r"'classify' gives a tensor \(3, 5\)"):
        tapped(net, "classify", pictures())

    class Pair(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    with pytest.raises(ExplainError, match="gives a tuple of 2"):
        tapped(nn.Sequential(Pair()), "0", pictures())
    assert hooks(net) == 0


def test_a_tap_without_a_call_says_so() -> None:
    with pytest.raises(ExplainError, match="has not been called"):
        _ = ActivationTap(nn.Identity(), (1, 3, 8, 8), "x").activation


def test_the_error_of_the_network_itself_is_not_hidden() -> None:
    net = filled(TinyNet()).train()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        tapped(nn.Sequential(OrderedDict(net=net, bad=nn.Linear(2, 2))), "net.features", pictures())
    assert hooks(net) == 0
    assert all(module.training for module in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("around", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes_are_given_back(around: Callable[[], AbstractContextManager[Any]]) -> None:
    net, images = filled(TinyNet()), pictures()
    with around():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        activation, output = tapped(net, "features", images)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert activation.is_leaf
    assert output.requires_grad


def test_flags_within_a_network_that_is_partly_training_are_given_back_one_by_one() -> None:
    net = filled(TinyNet()).train()
    net.features.eval()
    before = [module.training for module in net.modules()]
    with running(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == before
    with running(net, as_it_stands=True):
        assert [module.training for module in net.modules()] == before


def test_a_replacement_is_what_the_rest_gets() -> None:
    net = filled(TinyNet(inplace=True))
    other = pictures(3, 10).repeat(1, 4, 1, 1)
    images = pictures()
    with running(net), ActivationTap(net.features[3], tuple(images.shape), replacement=other.clone()) as tap:
        output = net(images)
    assert not output.requires_grad
    torch.testing.assert_close(output, net.classify(other.relu().mean((2, 3))).detach())
    with pytest.raises(ExplainError, match="has not been called"):
        _ = tap.activation


def test_wrappers_are_seen_through() -> None:
    net = filled(TinyNet())
    assert unwrapped(nn.DataParallel(net)) is net
    assert unwrapped(compiled(nn.DataParallel(net))) is net
    assert unwrapped(net) is net
