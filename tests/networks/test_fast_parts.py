"""The faster parts against PyTorch's own layers: values, gradients, and gradients of gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import build_discriminator, build_generator
from models.networks.blocks import BlurDownsample, BlurUpsample, ResnetBlock, binomial_kernel
from models.networks.discriminators import judge_both
from models.networks.fast_parts import InstanceNorm, filtered, spread
from models.networks.resnet_generator import ResnetGenerator
from scripts.benchmarks.counting import SavedTensors

FORMATS = (torch.contiguous_format, torch.channels_last)


def plain_down(x: Tensor) -> Tensor:
    kernel = binomial_kernel(3).to(x.dtype).repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def plain_up(x: Tensor) -> Tensor:
    kernel = 4 * binomial_kernel(4).to(x.dtype).repeat(x.shape[1], 1, 1, 1)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(padded, kernel, stride=2, padding=3, groups=x.shape[1])


PARTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "norm": (InstanceNorm(4), nn.InstanceNorm2d(4)),
    "down": (BlurDownsample(4).double(), plain_down),
    "up": (BlurUpsample(4).double(), plain_up),
}


def thrice(part: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of a curved function of it, and the gradient of that gradient's square."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_(True)
    out = part(x)
    (first,) = torch.autograd.grad((out.sigmoid() * out).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return out, first, second


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("size", [(3, 4, 6, 10), (1, 4, 7, 9)])
@pytest.mark.parametrize("name", PARTS)
def test_values_and_two_gradients_are_those_of_the_plain_layer(
    name: str, size: tuple[int, ...], layout: torch.memory_format
) -> None:
    ours, plain = PARTS[name]
    draw = torch.Generator().manual_seed(1)
    x = (torch.randn(size, generator=draw, dtype=torch.float64) * 3 + 2).to(memory_format=layout)
    for made, wanted in zip(thrice(ours, x), thrice(plain, x), strict=True):
        torch.testing.assert_close(made, wanted.to(made.dtype), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("layout", FORMATS)
def test_single_precision_is_exact_to_rounding_and_keeps_its_layout(layout: torch.memory_format) -> None:
    x = (torch.randn(2, 16, 64, 64) * 3 + 30).to(memory_format=layout)  # far from 0: a difference of squares would show
    out = InstanceNorm(16)(x)
    torch.testing.assert_close(out.double(), F.instance_norm(x.double()), atol=5e-5, rtol=1e-5)
    assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_sixteen_bits_round_once_each_way(name: str, autocast: bool, layout: torch.memory_format) -> None:
    """bfloat16 has 8 bits: what is computed exactly and rounded is off by 2^-9 at most, gradients by a little more."""
    parts: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "norm": (InstanceNorm(4), F.instance_norm),
        "down": (BlurDownsample(4), plain_down),
        "up": (BlurUpsample(4), plain_up),
    }
    ours, plain = parts[name]
    x = (torch.randn(2, 4, 12, 8) * 3 + 2).bfloat16().to(memory_format=layout).requires_grad_(True)
    slope = torch.randn_like(plain(x.float())).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = ours(x)
    out.backward(slope)  # type: ignore[no-untyped-call]
    exact = x.detach().double().requires_grad_(True)
    wanted = plain(exact)
    wanted.backward(slope.double())  # type: ignore[no-untyped-call]
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(out.double(), wanted, atol=2**-9, rtol=2**-8)
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=2**-7, rtol=2**-6)


def test_blurring_under_autocast_is_in_sixteen_bits_as_a_convolution_is() -> None:
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = BlurUpsample(2)(BlurDownsample(2)(x))
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_the_filter_and_its_transpose_are_adjoint() -> None:
    """<K x, y> = <x, K^T y>, also where the last row and column of x are read by nobody."""
    kernel = torch.rand(3, 1, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)
    out = filtered(x, kernel)
    y = torch.randn_like(out)
    (back,) = torch.autograd.grad(out, x, y)
    torch.testing.assert_close((out * y).sum(), (x * back).sum())
    assert back[:, :, -1].abs().sum() == 0
    torch.testing.assert_close(spread(y, kernel, 0), back[:, :, :7, :])


def test_blurring_keeps_nothing_for_backward() -> None:
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with SavedTensors([x]) as saved:
        out = filtered(x, binomial_kernel(3).repeat(4, 1, 1, 1))
        assert out.requires_grad
        assert saved.bytes == 0


def test_a_norm_over_one_position_is_refused_as_by_pytorch() -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        InstanceNorm(4)(torch.zeros(1, 4, 1, 1))


# --- a block that computes again


@pytest.mark.parametrize("dropout", [False, True])
def test_a_forgetful_block_is_bit_for_bit_the_same(dropout: bool) -> None:
    """With dropout too: what is drawn the second time is what was drawn the first."""
    block, x = ResnetBlock(4, dropout=dropout), torch.randn(2, 4, 8, 8)
    found = []
    for forgetful in (False, True):
        block.forgetful = forgetful
        block.zero_grad()
        torch.manual_seed(3)
        given = x.clone().requires_grad_(True)
        block(block(given)).square().sum().backward()
        found.append([given.grad, torch.rand(2), *(p.grad for p in block.parameters())])
    for kept, again in zip(*found, strict=True):
        assert kept is not None
        assert again is not None
        assert kept.equal(again)


def test_a_forgetful_block_keeps_its_input_alone() -> None:
    block, x = ResnetBlock(8), torch.randn(1, 8, 16, 16, requires_grad=True)
    kept = []
    for forgetful in (False, True):
        block.forgetful = forgetful
        with SavedTensors([*block.parameters()]) as saved:
            out = block(x)
            kept.append(saved.bytes)
            del out
    assert kept[1] == x.numel() * 4
    assert kept[0] > 4 * kept[1]


@pytest.mark.parametrize("layers", [(0, 4, 8, 12, 16), (2, 5), (13,), (20, 25), (0,)])
@pytest.mark.parametrize("decode", [True, False])
def test_a_forgetful_generator_is_bit_for_bit_the_same(layers: tuple[int, ...], decode: bool) -> None:
    """Wherever features are read: they, the image and every gradient."""
    net, x = build_generator("resnet_4blocks", ngf=4), torch.randn(2, 3, 16, 20)
    assert isinstance(net, ResnetGenerator)
    found: list[list[Tensor | None]] = []
    for forgetful in (False, True):
        for part in net.modules():
            if isinstance(part, (ResnetBlock, ResnetGenerator)):
                part.forgetful = forgetful
        net.zero_grad()
        given = x.clone().requires_grad_(True)
        image, features = net.with_features(given, layers) if decode else (None, net.encode(given, layers))
        made = [*features, *([] if image is None else [image])]
        torch.stack([one.square().mean() for one in made]).sum().backward()  # type: ignore[no-untyped-call]
        found.append([*made, given.grad, *(p.grad for p in net.parameters())])
    for plain, again in zip(*found, strict=True):
        assert (plain is None) == (again is None)
        assert plain is None or again is None or plain.equal(again)


# --- one pass of D


def test_one_pass_of_a_discriminator_gives_what_two_give() -> None:
    critic, fake, real = build_discriminator("basic", ndf=4), torch.randn(2, 3, 32, 32), torch.randn(3, 3, 32, 32)
    passes = []
    critic.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    for made, wanted in zip(judge_both(critic, fake, real), (critic(fake), critic(real)), strict=True):
        torch.testing.assert_close(made, wanted)
    assert passes == [5, 2, 3]


@pytest.mark.parametrize("flags", [{"norm": "batch"}, {"spectral": True}, {"netD": "stylegan2"}])
def test_a_discriminator_that_mixes_images_sees_them_apart(flags: dict[str, object]) -> None:
    made = {"netD": "basic", "ndf": 4, "size": 32} | flags
    critic = build_discriminator(made.pop("netD"), **made)  # type: ignore[arg-type]
    passes = []
    critic.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    judge_both(critic, torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32))
    assert passes == [4, 4]


def test_images_of_two_sizes_are_judged_apart() -> None:
    critic = build_discriminator("basic", ndf=4)
    of_fake, of_real = judge_both(critic, torch.randn(1, 3, 32, 32), torch.randn(1, 3, 48, 32))
    assert of_fake.shape[2] < of_real.shape[2]
