from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import Generator, StyleGAN2Generator, build_discriminator, build_generator, init_weights
from models.networks.stylegan2 import (
    Blur,
    DoublingConv2d,
    EqualConv2d,
    EqualLinear,
    JudgedSizeError,
    ResidualBlock,
    StyleGAN2Discriminator,
    TileStyleGAN2Discriminator,
    minibatch_deviation,
    power_of_two,
)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shuffled(net: Any, seed: int = 1) -> Any:
    """Biases too get values."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=draws)
    return net


def small(**options: Any) -> Generator:
    return build_generator("stylegan2", ngf=1, size=32, generator=torch.Generator().manual_seed(3), **options)


# --- layers by hand


def test_equalised_convolution_by_hand() -> None:
    layer = shuffled(EqualConv2d(2, 3, 3))
    x = rand(1, 2, 4, 5)
    padded = F.pad(x, (1, 1, 1, 1))
    found = layer(x)
    for channel, row, column in ((0, 0, 0), (1, 2, 3), (2, 3, 4)):
        window = padded[0, :, row : row + 3, column : column + 3]
        value = (window * layer.weight[channel]).sum() / math.sqrt(2 * 3 * 3) + layer.bias[channel]
        value = value if value > 0 else 0.2 * value
        assert found[0, channel, row, column].item() == pytest.approx(value.item() * math.sqrt(2), rel=1e-4)


def test_equalised_linear_by_hand() -> None:
    plain, active = shuffled(EqualLinear(4, 2)), shuffled(EqualLinear(4, 2, activated=True))
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    value = (x @ plain.weight.T / 2 + plain.bias)[0].tolist()
    assert plain(x)[0].tolist() == pytest.approx(value, rel=1e-5)
    expected = [math.sqrt(2) * (v if v > 0 else 0.2 * v) for v in value]
    assert active(x)[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("inner", [2, 200])
def test_a_step_of_adam_has_the_same_relative_size_whatever_the_width(inner: int) -> None:
    """The reason for scaling in the pass: what acts has the size 1 / sqrt(fan in), and moves by that times the rate."""
    layer = EqualConv2d(inner, 4, 3, bias=False, activated=False)
    channels = torch.eye(inner)[:, :, None, None]  # each shows the middle of its filters
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    before = layer(channels).detach()
    layer(rand(2, inner, 4, 4)).square().sum().backward()
    optimizer.step()
    moved = (layer(channels).detach() - before).abs() * math.sqrt(9 * inner)
    assert moved.flatten().tolist() == pytest.approx([0.01] * moved.numel(), rel=0.01)


def test_blur_against_numpy() -> None:
    x = rand(1, 2, 6, 6)
    row = np.array([1, 3, 3, 1]) / 8
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((1, 2, 5, 5))
    for i in range(5):
        for j in range(5):
            expected[..., i, j] = np.einsum("nchw,h,w->nc", padded[..., i : i + 4, j : j + 4], row, row)
    np.testing.assert_allclose(Blur(1)(x).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(Blur(1, stride=2)(x).numpy(), expected[..., ::2, ::2], atol=1e-6)


def test_doubling_has_filters_of_length_one_and_keeps_a_constant_in_place() -> None:
    layer = DoublingConv2d(3, 2)
    with torch.no_grad():
        layer.weight.fill_(5.0)  # the size of weights does not matter
    x = torch.ones(1, 3, 5, 6)
    found = layer(x)
    assert found.shape == (1, 2, 10, 12)
    # Every sample of the transposed convolution sums 1, 2 or 4 of 9 equal taps in 3 channels; blurred with gain 4, 9.
    expected = 9 * 3 * (1 / math.sqrt(27)) * math.sqrt(2)
    assert found[0, :, 3:7, 3:8].flatten().tolist() == pytest.approx([expected] * 40, rel=1e-4)


def test_doubling_against_zeros_put_between() -> None:
    layer = shuffled(DoublingConv2d(2, 3))
    x = rand(1, 2, 4, 4)
    weight = layer.weight / layer.weight.flatten(1).norm(dim=1)[:, None, None, None]
    spread = torch.zeros(1, 2, 7, 7)
    spread[..., ::2, ::2] = x
    full = F.conv2d(F.pad(spread, (2, 2, 2, 2)), weight.flip(2, 3))
    blurred = 4 * F.conv2d(F.pad(full, (1, 1, 1, 1)).transpose(0, 1), Blur(0).filt).transpose(0, 1)
    expected = F.leaky_relu(blurred + layer.bias, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("halve", [True, False])
def test_residual_block_against_its_parts(halve: bool) -> None:
    block = shuffled(ResidualBlock(3, 4 if halve else 3, halve))
    x = rand(2, 3, 6, 8)
    inner = block.conv1(x)
    if halve:
        blurred = F.conv2d(F.pad(inner, (2, 2, 2, 2)).flatten(0, 1)[:, None], Blur(0).filt).view(2, 3, 7, 9)
        skipped = F.conv2d(F.pad(x, (1, 1, 1, 1)).flatten(0, 1)[:, None], Blur(0).filt).view(2, 3, 5, 7)
        weight = block.skip[1].weight / math.sqrt(3)
        conv = block.conv2[1]
        value = F.conv2d(blurred, conv.weight / math.sqrt(27), conv.bias, stride=2)
        expected = F.leaky_relu(value, 0.2) * math.sqrt(2) + F.conv2d(skipped, weight, stride=2)
    else:
        expected = block.conv2(inner) + x
    assert expected.shape[-2:] == ((3, 4) if halve else (6, 8))
    torch.testing.assert_close(block(x), expected / math.sqrt(2), rtol=1e-4, atol=1e-5)


def test_activations_keep_their_size_from_layer_to_layer() -> None:
    features = small().encode(rand(4, 3, 32, 32), range(1, 9))
    sizes = [float(feature.detach().square().mean().sqrt()) for feature in features]
    assert all(0.3 < size < 2 for size in sizes), sizes  # the blur takes much of white noise away


# --- first weights


def test_the_first_weights_are_its_own_whatever_init_type_says() -> None:
    for init_type in ("xavier", "normal", "orthogonal", "kaiming"):
        net = small(init_type=init_type, init_gain=0.02)
        weight = net.get_parameter("model.5.conv1.weight")
        assert weight.std().item() == pytest.approx(1, rel=0.05)
    again = small(init_type="orthogonal")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert not any(bool(p.any()) for name, p in net.named_parameters() if name.endswith("bias"))


def test_they_follow_from_the_generator_alone() -> None:
    nets = [StyleGAN2Generator(ngf=1, size=32), StyleGAN2Generator(ngf=1, size=32)]
    first, second = (net.get_parameter("model.1.weight") for net in nets)
    assert not torch.equal(first, second)
    for net in nets:
        init_weights(net, generator=torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


# --- the generator


def test_published_widths() -> None:
    """CUT's at its preset, --ngf 10 and --crop_size 64: 80 channels, 160 once halved; 6 residual blocks."""
    net = StyleGAN2Generator(ngf=10, size=64)
    assert net.feature_channels(net.valid_layers) == [3, 80, *[160] * 7, 80, 3, 3]
    assert [net.feature_stride(layer) for layer in net.valid_layers] == [1, 1, *[2] * 7, 1, 1, 1]
    small = build_generator("smallstylegan2", ngf=10, size=64)
    assert small.feature_channels(small.valid_layers) == [3, 80, *[160] * 3, 80, 3, 3]
    # From 64 pixels up widths follow the side; below, 512 is the most.
    assert StyleGAN2Generator(ngf=64, size=256, n_blocks=0).feature_channels([1, 2]) == [128, 256]
    assert StyleGAN2Generator(ngf=64, size=32, n_blocks=0).feature_channels([1, 2]) == [512, 512]


@pytest.mark.parametrize("halvings", [0, 1, 3])
def test_declared_taps_are_those_of_a_pass(halvings: int) -> None:
    net = small(halvings=halvings)
    assert net.size_multiple == 2**halvings
    x = rand(2, 3, 16, 24)
    features = net.encode(x, net.valid_layers)
    for layer, feature in zip(net.valid_layers, features, strict=True):
        stride = net.feature_stride(layer)
        assert feature.shape == (2, net.feature_channels([layer])[0], 16 // stride, 24 // stride)
    image = net(x)
    assert image.shape == x.shape
    assert torch.equal(features[-1], image)
    assert float(image.detach().abs().max()) <= 1


def test_decoding_a_feature_gives_the_image() -> None:
    net = small()
    x = rand(1, 3, 16, 16)
    image = net(x)
    for layer in net.valid_layers:
        assert torch.equal(net.decode(net.encode(x, [layer])[0], layer), image)
    with pytest.raises(ValueError, match="no layer 12"):
        net.decode(x, 12)


# --- the discriminators


def test_published_discriminator() -> None:
    """CUT's at its preset, --ndf 8 and --crop_size 64."""
    net = StyleGAN2Discriminator(3, 8, 64)
    blocks = [block for block in net.blocks if isinstance(block, ResidualBlock)]
    assert [block.conv1.weight.shape[0] for block in blocks] == [32, 64, 128, 256]
    assert net.last.weight.shape == (384, 384, 3, 3)
    assert [tuple(net.get_parameter(f"head.{n}.weight").shape) for n in (1, 2)] == [(384, 6144), (1, 384)]
    assert net(rand(2, 3, 64, 64)).shape == (2, 1, *net.output_size(64, 64))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(JudgedSizeError, match=r"16 x 16 pixels, but got 24 x 16.*--netD tilestylegan2"):
        StyleGAN2Discriminator(3, 1, 16)(rand(1, 3, 16, 24))
    with pytest.raises(JudgedSizeError, match=r"16 x 16 pixels, but got an image of 24 x 15.*--D_patch_size"):
        TileStyleGAN2Discriminator(3, 1, 16)(rand(1, 3, 15, 24))


def test_powers_of_two() -> None:
    assert [power_of_two(size) for size in (1, 8, 11, 12, 64, 90, 91, 1000)] == [1, 8, 8, 16, 64, 64, 128, 1024]


def slow_deviation(images: np.ndarray, group: int) -> list[float]:
    values = []
    for start in range(0, len(images), group):
        members = images[start : start + group]
        spread = [
            math.sqrt(np.var([member[c, i, j] for member in members]) + 1e-8)
            for c in range(images.shape[1])
            for i in range(images.shape[2])
            for j in range(images.shape[3])
        ]
        values += [sum(spread) / len(spread)] * len(members)
    return values


@pytest.mark.parametrize(
    ("images", "group", "used"), [(4, 2, 2), (4, 4, 4), (6, 4, 3), (5, 4, 1), (2, 4, 2), (1, 4, 1)]
)
def test_minibatch_deviation_against_a_slow_version(images: int, group: int, used: int) -> None:
    x = rand(images, 2, 3, 2)
    found = minibatch_deviation(x, group)
    assert found.shape == (images, 1, 3, 2)
    expected = slow_deviation(x.double().numpy(), used)
    for image, value in zip(found, expected, strict=True):
        assert image.flatten().tolist() == pytest.approx([value] * 6, rel=1e-4, abs=1e-8)


def test_a_discriminator_with_it_sees_a_batch_without_variety() -> None:
    x = rand(4, 3, 16, 16)
    same = x[:1].expand(4, -1, -1, -1)
    without, seeing = (
        build_discriminator("stylegan2", ndf=1, size=16, group=n, generator=torch.Generator()) for n in (0, 4)
    )
    assert torch.allclose(without(x)[0], without(same)[0], atol=1e-5)
    assert abs((seeing(x)[0] - seeing(same)[0]).item()) > 1e-3
    halves = torch.cat([seeing.to(torch.float64)(part.double()) for part in (x, x.flip(0))])
    assert torch.allclose(seeing(torch.cat([x, x.flip(0)]).double()), halves)  # groups are neighbours


def test_tiles_are_judged_one_by_one() -> None:
    net = TileStyleGAN2Discriminator(3, 1, 8)
    x = rand(2, 3, 20, 27)
    found = net(x)
    assert found.shape == (2, 1, *net.output_size(20, 27)) == (2, 1, 2, 3)
    for row in range(2):
        for column in range(3):
            tile = x[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert torch.allclose(found[:, :, row, column], net.critic(tile)[:, :, 0, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["stylegan2", "tilestylegan2"])
def test_gradients_reach_every_parameter_also_of_a_penalty(name: str) -> None:
    net = build_discriminator(name, ndf=1, size=16, tile=8, group=2)
    x = rand(2, 3, 16, 16).requires_grad_(True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    slope.square().sum().backward()  # type: ignore[no-untyped-call]
    idle = [
        key for key, p in net.named_parameters() if not key.endswith("bias") and (p.grad is None or not p.grad.any())
    ]
    assert not idle
    net(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


def test_filters_are_no_weights() -> None:
    net: nn.Module = build_discriminator("stylegan2", ndf=1, size=8)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}
