"""Guided maps: the rule written out, libraries' maps, and every way to write a ReLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.gradcam_explainer import gradcam
from models.cam.gradcam_pp_explainer import gradcam_pp
from models.cam.guided import guided, guided_display, guided_gradients
from models.cam.guided_gradcam_explainer import guided_cam
from models.cam.subject import Subject
from models.cam.targets import LogProbability, TopK
from tests.cam.make_golden_more import FILE
from tests.cam.relu_networks import Activation, ReluNet, guided_activation
from tests.cam.tiny_networks import TinyNet, compiled, filled, pictures

CLASS = torch.tensor([[0, 3], [1, 2], [4, 0]])
HERE = ("guided_backprop", "guided_gradcam", "guided_gradcam++")
RELUS: dict[str, Callable[[], Activation]] = {
    "module": nn.ReLU,
    "module in place": lambda: nn.ReLU(inplace=True),
    "function": lambda: F.relu,
    "function in place": lambda: lambda x: F.relu(x, inplace=True),
    "torch": lambda: torch.relu,
    "torch in place": lambda: torch.relu_,
    "method": lambda: Tensor.relu,
    "method in place": lambda: Tensor.relu_,
    "clamp": lambda: lambda x: x.clamp(min=0),
    "clamp in place": lambda: lambda x: x.clamp_(min=0),
    "clamp by 0.0": lambda: lambda x: torch.clamp(x, 0.0),
    "clamp_min": lambda: lambda x: x.clamp_min(0),
    "threshold": lambda: nn.Threshold(0, 0),
    "hardtanh": lambda: nn.Hardtanh(0, torch.inf),
    "checkpoint": lambda: lambda x: checkpoint(F.relu, x, use_reentrant=False),
}
RELU6S: dict[str, Callable[[], Activation]] = {
    "module": nn.ReLU6,
    "module in place": lambda: nn.ReLU6(inplace=True),
    "function": lambda: F.relu6,
    "clamp": lambda: lambda x: x.clamp(0, 6),
    "hardtanh": lambda: lambda x: F.hardtanh(x, 0, 6),
}


def exact(activation: Callable[[], Activation]) -> nn.Module:
    return filled(ReluNet(activation), seed=3).double()


def images64(scale: float = 1.0) -> Tensor:
    return scale * pictures(3, dtype=torch.float64)


def oracle(images: Tensor, upper: float = torch.inf) -> Tensor:
    """The plain gradient of a network whose ReLUs have the guided derivative, (N, T, C, H, W)."""
    net, leaf = exact(guided_activation(upper)), images.clone().requires_grad_()
    logits = net(leaf)
    chosen = [logits[torch.arange(3), CLASS[:, t]].sum() for t in (0, 1)]
    return torch.stack([torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in chosen], 1)


# --- the rule


@pytest.mark.parametrize("way", RELUS)
def test_every_relu_is_guided(way: str) -> None:
    images = images64()
    plain = Subject(exact(RELUS[way]), images, None, CLASS)
    expected = oracle(images)
    torch.testing.assert_close(guided_gradients(plain), expected, rtol=1e-12, atol=1e-15)
    leaf = images.clone().requires_grad_()
    (unguided,) = torch.autograd.grad(plain.net(leaf)[torch.arange(3), CLASS[:, 0]].sum(), leaf)
    assert not torch.allclose(unguided, expected[:, 0], rtol=0.1)


@pytest.mark.parametrize("way", RELU6S)
def test_every_relu6_is_guided(way: str) -> None:
    images = images64(12.0)
    assert not torch.allclose(oracle(images, 6.0), oracle(images))  # some saturate
    found = guided_gradients(Subject(exact(RELU6S[way]), images, None, CLASS))
    torch.testing.assert_close(found, oracle(images, 6.0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", [*RELUS.values(), *RELU6S.values()])
def test_the_rule_by_hand(activation: Callable[[], Activation]) -> None:
    """At the bounds too, where a clamp might have the derivative 1."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), _Module(activation()), nn.Flatten(), nn.Linear(8, 1, bias=False)
    )
    upper = 6 if activation in RELU6S.values() else torch.inf
    gradients = torch.tensor([[1.0, 1.0, 3.0, 4.0], [0.0, -1.0, -3.0, 5.0]])
    net[0].weight.data = torch.ones(2, 1, 1, 1)
    net[3].weight.data = gradients.view(1, 8)
    for last, passed in ((5.0, 9), (6.0, 9 if upper > 6 else 0), (7.0, 9 if upper > 6 else 0)):
        images = torch.tensor([-1.0, 0.0, 2.0, last]).view(1, 1, 1, 4)
        assert guided_gradients(Subject(net, images, None, 0)).flatten().tolist() == [0, 0, 3, passed]


class _Module(nn.Module):
    def __init__(self, function: Activation) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def test_only_the_network_is_guided_not_the_target() -> None:
    images = images64()
    net = exact(nn.ReLU)
    plain = guided_gradients(Subject(net, images, None, lambda output: output[:, :1]))
    behind = guided_gradients(
        Subject(net, images, None, lambda output: -(-output[:, :1]).relu() + output[:, :1].relu())
    )
    torch.testing.assert_close(behind, plain)


# --- networks that are not guided


def by_own_function(inputs: Tensor) -> Tensor:
    return guided_activation(torch.inf)()(inputs)


def on_a_view(inputs: Tensor) -> Tensor:
    copy = inputs.clone()
    copy[:, :2].relu_()
    return copy


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.SiLU, "SiLU"),
        (nn.GELU, "GELU"),
        (lambda: nn.LeakyReLU(0.2), "LeakyReLU"),
        (nn.ELU, "ELU"),
        (nn.PReLU, "PReLU"),
        (nn.Hardswish, "Hardswish"),
        (nn.Hardsigmoid, "Hardsigmoid"),
        (nn.Sigmoid, "Sigmoid"),
        (nn.Tanh, "Tanh"),
        (nn.Softplus, "Softplus"),
        (nn.Mish, "Mish"),
        (nn.Hardtanh, "Hardtanh"),
        (lambda: nn.Threshold(0.1, 0), "Threshold"),
        (lambda: lambda x: torch.maximum(x, torch.zeros_like(x)), "maximum"),
        (lambda: lambda x: torch.clamp(x, torch.zeros_like(x)), "a clamp by a tensor"),
        (lambda: lambda x: torch.clamp_min(x, torch.zeros_like(x)), "a clamp by a tensor"),
        (lambda: lambda x: checkpoint(F.relu, x, use_reentrant=True), "CheckpointFunction"),
        (lambda: by_own_function, "_GuidedFunction"),
        (lambda: on_a_view, "in place on a part"),
    ],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_what_stays_unguided_is_named(activation: Callable[[], Activation], name: str) -> None:
    net = exact(activation)
    found = Subject(net, images64(), net.get_submodule("last"), CLASS)
    for method in HERE:
        with pytest.raises(ExplainError, match=f"{name}.*allow_other_activations"):
            EXPLAINERS.get(method)().maps(found)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_relu_hidden_in_a_script_is_named() -> None:
    hidden = torch.jit.script(nn.Sequential(nn.Softsign(), nn.ReLU(), nn.Softsign()))
    net = exact(lambda: hidden)
    for _ in range(3):  # it is rewritten after it has been watched
        net(images64().requires_grad_()).sum().backward()
    with pytest.raises(ExplainError, match="DifferentiableGraph"):
        guided_gradients(Subject(net, images64(), None, CLASS))


def test_other_activations_keep_their_derivative_where_allowed() -> None:
    net, images = exact(nn.SiLU), images64()
    allowed: Any = {"allow_other_activations": True}
    maps = EXPLAINERS.get("guided_backprop")(**allowed).maps(Subject(net, images, None, CLASS[:, :1]))
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[torch.arange(3), CLASS[:, 0]].sum(), leaf)
    torch.testing.assert_close(maps[:, 0], expected)


def test_a_target_that_no_image_changes_is_an_error() -> None:
    net = exact(nn.ReLU)
    with pytest.raises(ExplainError, match="does not depend on the images"):
        guided_gradients(Subject(net, images64(), None, lambda output: output.detach()[:, :1]))
    weight = net.get_parameter("classify.weight")
    with pytest.raises(ExplainError, match="does not depend on the images"):
        guided_gradients(Subject(net, images64(), None, lambda output: weight[:1, :1].expand(len(output), 1)))


# --- libraries


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(FILE) as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize("way", ["module", "module in place", "function in place"])
@pytest.mark.parametrize(
    ("library", "name", "settings"),
    [
        ("captum", "guided_backprop", {}),
        ("grad_cam", "guided_backprop", {}),
        ("captum", "guided_gradcam", {"interpolation": "nearest"}),
    ],
)
def test_maps_are_the_libraries(
    golden: dict[str, Any], library: str, name: str, settings: dict[str, Any], way: str
) -> None:
    net, prefix = ReluNet(RELUS[way]).eval(), "guided/weights/"
    net.load_state_dict({key[len(prefix) :]: torch.tensor(golden[key]) for key in golden if key.startswith(prefix)})
    images, classes = torch.tensor(golden["images"]), torch.tensor(golden["guided/classes"])
    maps = EXPLAINERS.get(name)(**settings).maps(Subject(net, images, net.get_submodule("last"), classes))
    expected = torch.tensor(golden[f"{library}/{name}"])
    assert (expected.abs().amax((1, 2, 3)) > 1e-4).all()
    torch.testing.assert_close(maps[:, 0], expected, rtol=0, atol=5e-8)


# --- guided maps of a layer


def test_guided_cams_are_products() -> None:
    net, images = exact(lambda: nn.ReLU(inplace=True)), images64()
    found = Subject(net, images, net.get_submodule("last"), CLASS)
    slopes = oracle(images)
    for name, method in (("guided_gradcam", gradcam), ("guided_gradcam++", gradcam_pp)):
        where = method(found.activations[:, None], found.gradients).relu()
        large = F.interpolate(where, (24, 24), mode="bilinear", align_corners=False)
        expected = torch.stack([slopes[:, :, colour] * large for colour in range(3)], 2)
        assert expected.abs().max() > 0
        torch.testing.assert_close(EXPLAINERS.get(name)().maps(found), expected, rtol=1e-10, atol=1e-16)


def test_guided_cam_by_hand() -> None:
    slopes = torch.arange(1.0, 9.0).view(1, 1, 2, 1, 4)
    cam = torch.tensor([[[[-4.0, 4.0]]]])
    assert guided_cam(slopes, cam, "nearest").flatten().tolist() == [0, 0, 12, 16, 0, 0, 28, 32]
    assert guided_cam(slopes, cam).flatten().tolist() == [0, 2, 9, 16, 0, 6, 21, 32]


def test_an_unknown_interpolation_is_named() -> None:
    settings: Any = {"interpolation": "bicubic"}
    for name in HERE[1:]:
        with pytest.raises(ExplainError, match="'bicubic': choose one of bilinear, nearest"):
            EXPLAINERS.get(name)(**settings)


# --- what all of them keep


def maps_of(name: str, net: nn.Module, images: Tensor, targets: Any, **settings: Any) -> Tensor:
    return EXPLAINERS.get(name)().maps(Subject(net, images, net.get_submodule("last"), targets, **settings))


@pytest.mark.parametrize("name", HERE)
def test_an_image_is_explained_alike_alone_and_in_a_batch(name: str) -> None:
    net, images = exact(RELUS["function in place"]), images64()
    together = maps_of(name, net, images, CLASS)
    assert together.shape == (3, 2, 3, 24, 24)
    for n, image in enumerate(images):
        alone = maps_of(name, net, image[None], CLASS[n : n + 1])
        torch.testing.assert_close(alone[0], together[n], rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("way", ["module", "module in place", "function in place"])
def test_twice_is_the_same_and_nothing_is_left_behind(name: str, way: str) -> None:
    net = filled(ReluNet(RELUS[way])).train()
    net.get_submodule("stem").requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modules, grad = list(net.modules()), [value.requires_grad for value in net.parameters()]
    images = pictures(2)
    first = maps_of(name, net, images, TopK(2))
    kept = first.clone()
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            assert torch.equal(maps_of(name, net, images, TopK(2)), kept)
    assert torch.equal(first, kept)
    assert not first.requires_grad

    def failing(output: Tensor) -> Tensor:
        if output.requires_grad:
            raise KeyError("on purpose")
        return output[:, :1]

    with pytest.raises(KeyError):
        maps_of(name, net, images, failing)
    assert torch.equal(images, pictures(2))
    assert not images.requires_grad
    assert images.grad is None
    assert modules == list(net.modules())
    assert all(module.training for module in modules)
    assert grad == [value.requires_grad for value in net.parameters()]
    assert all(value.grad is None for value in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in modules)
    plain = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net.eval()(plain)[:, 0].sum(), plain)
    assert not torch.equal(slope, kept[:, 0])


def test_a_first_layer_in_place_does_not_change_the_images() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten())
    images = pictures(2).requires_grad_()
    for create_graph in (False, True):
        guided_gradients(Subject(net, images, None, 0, create_graph=create_graph))
    assert torch.equal(images, pictures(2))
    assert images.grad is None
    assert images.requires_grad


def test_a_compiled_network_is_guided() -> None:
    net = filled(ReluNet(nn.ReLU))
    expected = guided_gradients(Subject(net, pictures(2), None, 1))
    made = compiled(net)
    made(pictures(2))
    torch.testing.assert_close(guided_gradients(Subject(made, pictures(2), None, 1)), expected)


def test_under_autocast_maps_are_float32() -> None:
    net = filled(ReluNet(nn.ReLU))
    expected = guided_gradients(Subject(net, pictures(2), None, 1))
    with torch.autocast("cpu", torch.bfloat16):
        maps = guided_gradients(Subject(net, pictures(2), None, 1))
    assert maps.dtype == torch.float32
    assert torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_maps_for_losses_have_the_derivatives_of_small_changes() -> None:
    """To the weights, and to what made the images, with a ReLU and a SiLU of its own; the score is curved."""
    net, strength = exact(nn.ReLU), torch.ones(1, dtype=torch.float64, requires_grad=True)
    weight = net.get_parameter("last.weight")
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(create_graph: bool) -> Tensor:
        seen = F.silu(strength * images64()).relu()
        found = Subject(net, seen, None, lambda output: output[:, 0].square(), create_graph=create_graph)
        return guided_gradients(found).square().sum()

    slopes = torch.autograd.grad(loss(True), [weight, strength])
    expected = []
    for parameter, along in ((weight, way), (strength, torch.ones(1))):
        values = []
        for step in (1e-6, -2e-6, 1e-6):
            parameter.data += step * along
            values.append(loss(False).item())
        expected.append((values[0] - values[1]) / 2e-6)
    assert (slopes[0] * way).sum().item() == pytest.approx(expected[0], rel=1e-4)
    assert slopes[1].item() == pytest.approx(expected[1], rel=1e-4)


def test_the_graph_goes_back_as_usual_afterwards() -> None:
    net, images = exact(nn.ReLU), images64()
    output = net(entry := images.clone().requires_grad_().clone())
    (before,) = torch.autograd.grad(output[:, 0].sum(), entry, retain_graph=True)
    with guided(output, entry):
        (within,) = torch.autograd.grad(output[:, 0].sum(), entry, retain_graph=True)
    (after,) = torch.autograd.grad(output[:, 0].sum(), entry)
    assert torch.equal(before, after)
    assert not torch.allclose(before, within)


def test_log_probability_is_guided_through_the_softmax() -> None:
    found = guided_gradients(Subject(exact(nn.ReLU), images64(), None, LogProbability(CLASS)))
    net, leaf = exact(guided_activation(torch.inf)), images64().requires_grad_()
    total = net(leaf).log_softmax(1)[torch.arange(3), CLASS[:, 1]].sum()
    torch.testing.assert_close(found[:, 1], torch.autograd.grad(total, leaf)[0], rtol=1e-10, atol=1e-15)


def test_a_network_without_activations_gives_its_gradient() -> None:
    net = TinyNet()
    net.features = nn.Sequential(nn.Conv2d(3, 12, 3, bias=False))
    images = pictures(2)
    maps = guided_gradients(Subject(net, images, None, 2))
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net.eval()(leaf)[:, 2].sum(), leaf)
    torch.testing.assert_close(maps[:, 0], expected)


# --- what is shown


def test_display_is_standardised_and_clipped() -> None:
    maps = torch.randn(2, 3, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-9
    maps[1, 2] = 0.25
    shown = guided_display(maps)
    for n, t in ((0, 0), (1, 1)):
        one = maps[n, t].numpy()
        expected = np.clip((one - one.mean()) / one.std() * 0.25 + 0.5, 0, 1)
        np.testing.assert_allclose(shown[n, t].numpy(), expected, rtol=1e-10)
    assert (shown[1, 2] == 0.5).all()
    assert shown.min() == 0
    assert shown.max() == 1
    torch.testing.assert_close(guided_display(1e20 * maps), shown)
    assert guided_display(maps, strength=0.1)[0].std().item() == pytest.approx(0.1, rel=0.01)
