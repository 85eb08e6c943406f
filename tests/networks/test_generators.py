from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import GENERATORS, Generator, ResnetGenerator, UnetGenerator, build_generator

NORMS = ("instance", "batch", "none")
Shapes = dict[str, tuple[int, ...]]


def shapes(net: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def small(name: str, **options: Any) -> Generator:
    settings: dict[str, Any] = {"ngf": 4, "init_type": "kaiming"} | options
    return build_generator(name, generator=torch.Generator().manual_seed(3), **settings)


def image_for(net: Generator, channels: int = 3, batch: int = 1) -> Tensor:
    """Not square; as small as the network allows."""
    unit = net.size_multiple if net.size_multiple > 4 else 24
    size = (batch, channels, unit, 2 * unit if unit < 100 else unit)
    return torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# --- agreement with the published CUT


def test_state_dict_is_cuts(published_keys: dict[str, Shapes]) -> None:
    net = ResnetGenerator()
    assert shapes(net) == published_keys["G"]
    assert sum(p.numel() for p in net.parameters()) == 11_378_179


def test_golden_image_and_features(
    golden: dict[str, npt.NDArray[np.float32]], golden_weights: Callable[[nn.Module], None]
) -> None:
    net = ResnetGenerator(ngf=8)
    golden_weights(net)
    layers = net.default_layers
    with torch.no_grad():
        image, features = net.with_features(torch.from_numpy(golden["x"]), layers)
    np.testing.assert_allclose(image.numpy(), golden["y"], atol=1e-5)
    for layer, feature in zip(layers, features, strict=True):
        np.testing.assert_allclose(feature[:, :4, ::7, ::7].numpy(), golden[f"f{layer}"], atol=1e-5)
        moments = [feature.mean().item(), feature.std().item()]
        np.testing.assert_allclose(moments, golden[f"m{layer}"], atol=1e-5)


def test_batch_norm_has_running_statistics_and_no_bias_before_it() -> None:
    names = set(shapes(ResnetGenerator(ngf=4, norm="batch")))
    assert {"model.2.weight", "model.2.running_mean", "model.12.conv_block.6.running_var"} <= names
    assert "model.1.bias" not in names
    assert "model.12.conv_block.5.bias" not in names
    assert "model.30.bias" in names


@pytest.mark.parametrize("norm", NORMS)
def test_without_antialiasing_names_and_size(norm: str) -> None:
    net = ResnetGenerator(ngf=4, norm=norm, n_blocks=2, antialias=False, antialias_up=False)
    convolutions = {name.split(".")[1] for name, shape in shapes(net).items() if len(shape) == 4}
    # pad, (conv norm relu) x3, 2 blocks, (transposed conv norm relu) x2, pad, conv, tanh
    assert convolutions == {"1", "4", "7", "10", "11", "12", "15", "19"}
    assert shapes(net)["model.12.weight"] == (16, 8, 3, 3)
    x = image_for(net)
    assert net(x).shape == x.shape


# --- every generator


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("norm", NORMS)
def test_declared_shapes_are_those_of_a_pass(name: str, norm: str) -> None:
    net = small(name, norm=norm)
    x = image_for(net)
    layers = net.valid_layers
    features = net.encode(x, layers)
    assert [f.shape[1] for f in features] == net.feature_channels(layers)
    for layer, feature in zip(layers, features, strict=True):
        stride, border = net.feature_stride(layer), net.feature_border(layer)
        assert feature.shape[2:] == (x.shape[2] // stride + 2 * border, x.shape[3] // stride + 2 * border)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("antialias_up", [True, False])
def test_declared_shapes_without_antialiasing(antialias: bool, antialias_up: bool) -> None:
    net = small("resnet_4blocks", antialias=antialias, antialias_up=antialias_up)
    x = image_for(net)
    features = net.encode(x, net.valid_layers)
    assert [f.shape[1] for f in features] == net.feature_channels(net.valid_layers)
    for layer, feature in enumerate(features):
        assert feature.shape[3] == x.shape[3] // net.feature_stride(layer) + 2 * net.feature_border(layer)


@pytest.mark.parametrize("name", GENERATORS)
def test_one_pass_gives_what_two_give(name: str) -> None:
    net = small(name)
    x = image_for(net)
    image, features = net.with_features(x, net.default_layers)
    assert torch.equal(image, net(x))
    encoded = net.encode(x, net.default_layers)
    assert all(torch.equal(a, b) for a, b in zip(features, encoded, strict=True))
    backwards = net.encode(x, net.default_layers[::-1])
    assert all(torch.equal(a, b) for a, b in zip(backwards[::-1], encoded, strict=True))


@pytest.mark.parametrize("name", ["resnet_4blocks", "unet_128"])
@pytest.mark.parametrize("norm", NORMS)
def test_no_later_operation_writes_into_a_feature(name: str, norm: str) -> None:
    net = small(name, norm=norm)
    x = image_for(net)
    layers = net.valid_layers
    _, features = net.with_features(x, layers)
    for layer, feature in zip(layers, features, strict=True):
        # Asking for one layer alone stops the pass there, before anything could overwrite it.
        assert torch.equal(net.encode(x, [layer])[0], feature), layer
        assert feature._version == 0


def test_convolution_features_are_not_yet_normalised_or_rectified() -> None:
    net = small("resnet_4blocks", norm="none")
    for feature in net.encode(image_for(net), (4, 8)):
        assert (feature < 0).any()


def test_layer_0_is_the_padded_image() -> None:
    net = small("resnet_4blocks")
    x = image_for(net)
    (padded,) = net.encode(x, [0])
    border = net.feature_border(0)
    assert torch.equal(padded[..., border:-border, border:-border], x)
    assert torch.equal(padded, F.pad(x, (3, 3, 3, 3), mode="reflect"))


def test_encode_runs_nothing_after_the_last_layer_asked() -> None:
    assert modules_run(small("resnet_4blocks"), [8, 4])[-2:] == ["BlurDownsample", "Conv2d"]
    assert len(modules_run(small("resnet_4blocks"), [8, 4])) == 9
    assert modules_run(small("unet_128"), [1, 2]) == ["Conv2d", "LeakyReLU", "Conv2d"]


def modules_run(net: Generator, layers: list[int]) -> list[str]:
    called: list[str] = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, *_: called.append(type(m).__name__))
    net.encode(image_for(net), layers)
    return called


@pytest.mark.parametrize("name", GENERATORS)
def test_gradients_reach_every_parameter(name: str) -> None:
    net = small(name, norm="batch")
    image = net(image_for(net, batch=2))
    (image * torch.linspace(-1, 1, image.shape[-1])).sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


@pytest.mark.parametrize("name", ["resnet_6blocks", "unet_128"])
def test_one_channel_in_and_another_number_out(name: str) -> None:
    net = small(name, input_nc=1, output_nc=2)
    x = image_for(net, channels=1)
    image = net(x)
    assert image.shape == (1, 2, *x.shape[2:])
    assert image.abs().max() <= 1
    assert net.feature_channels([0]) == [1]


def test_no_layers_no_features() -> None:
    net = small("resnet_4blocks")
    x = image_for(net)
    assert net.encode(x, []) == []
    assert net.with_features(x, [])[1] == []


@pytest.mark.parametrize("name", ["resnet_4blocks", "unet_128"])
def test_unknown_layers_name_the_valid_ones(name: str) -> None:
    net = small(name)
    last = net.valid_layers[-1]
    for bad in (-1, last + 1):
        with pytest.raises(ValueError, match=rf"no layer {bad} in .*valid ids are 0, 1, .*{last}"):
            net.feature_channels([0, bad])
        with pytest.raises(ValueError, match=f"no layer {bad}"):
            net.encode(image_for(net), [bad])


def test_sizes_that_would_not_come_back_are_refused() -> None:
    with pytest.raises(ValueError, match="30x32 pixels, but both must be multiples of 4"):
        small("resnet_4blocks")(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="multiples of 128"):
        small("unet_128")(torch.zeros(1, 3, 128, 64))


def test_unknown_generator() -> None:
    with pytest.raises(ValueError, match=r"unknown netG 'resnet'.*resnet_9blocks.*unet_128"):
        build_generator("resnet")


# --- U-Net: published names and an independent reading of the architecture


def test_unet_names_and_sizes() -> None:
    # pix2pix's unet_256 with batch norm is widely quoted at 54.414 M parameters.
    assert sum(p.numel() for p in UnetGenerator(3, 3, 8, 64, "batch").parameters()) == 54_413_955
    found = shapes(UnetGenerator(3, 3, 7, 8))
    assert found["model.model.0.weight"] == (8, 3, 4, 4)
    assert found["model.model.1.model.1.weight"] == (16, 8, 4, 4)
    assert found["model.model.1.model.3.model.1.weight"] == (32, 16, 4, 4)
    # The innermost level: LeakyReLU, convolution, ReLU, transposed convolution, norm.
    innermost = "model.model.1." + "model.3." * 5
    assert found[innermost + "model.1.weight"] == (64, 64, 4, 4)
    assert found[innermost + "model.3.weight"] == (64, 64, 4, 4)
    assert found["model.model.1.model.5.weight"] == (32, 8, 4, 4)
    assert found["model.model.3.weight"] == (16, 3, 4, 4)
    assert found["model.model.3.bias"] == (3,)
    assert all(name.removesuffix("weight") + "bias" in found for name in found if name.endswith("weight"))


def test_unet_against_a_flat_reading() -> None:
    """The same weights, applied without nesting: seven halvings, then doublings on [skip, below]."""
    net = UnetGenerator(3, 3, 7, 4)
    state = net.state_dict()
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():
        tensor.normal_(0, 0.2, generator=generator)
    x = torch.rand(1, 3, 128, 128, generator=generator)

    prefixes = ["model.model."] + ["model.model.1." + "model.3." * depth + "model." for depth in range(6)]
    down_at = [0] + [1] * 6
    up_at = [3] + [5] * 5 + [3]
    skips, h = [x], x
    for level, (prefix, at) in enumerate(zip(prefixes, down_at, strict=True)):
        h = F.leaky_relu(h, 0.2) if level else h
        h = F.conv2d(h, state[f"{prefix}{at}.weight"], state[f"{prefix}{at}.bias"], 2, 1)
        if 0 < level < 6:
            h = F.instance_norm(h)
        skips.append(h)
    for level in reversed(range(7)):
        at, prefix = up_at[level], prefixes[level]
        below = h if level == 6 else torch.cat([skips[level + 1], h], 1)
        h = F.conv_transpose2d(F.relu(below), state[f"{prefix}{at}.weight"], state[f"{prefix}{at}.bias"], 2, 1)
        h = F.instance_norm(h) if level else torch.tanh(h)
    with torch.no_grad():
        torch.testing.assert_close(net(x), h, atol=1e-5, rtol=0)


def test_unet_dropout_sits_in_the_inner_levels() -> None:
    net = UnetGenerator(3, 3, 8, 4, dropout=True)
    found = [name for name, module in net.named_modules() if isinstance(module, nn.Dropout)]
    # Levels 5, 6 and 7 of 8, at the end of each level.
    assert found == ["model.model.1." + "model.3." * depth + "model.7" for depth in (5, 4, 3)]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("name", GENERATORS)
def test_the_smallest_side_just_goes_through(name: str, antialias: bool) -> None:
    net = small(name, ngf=2, antialias=antialias, antialias_up=antialias)
    least = net.smallest_side
    assert net(torch.zeros(1, 3, least, 2 * least)).shape[-2:] == (least, 2 * least)
    if least > net.size_multiple:
        with pytest.raises((RuntimeError, ValueError)):
            net(torch.zeros(1, 3, least - net.size_multiple, 2 * least))
