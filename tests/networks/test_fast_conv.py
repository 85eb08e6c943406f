"""Convolutions with fewer products against PyTorch's own in double precision: values, gradients, gradients of those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from models.networks import fast_conv
from models.networks.fast_conv import Conv2d, winograd_kernel_gradient

needs_nnpack = pytest.mark.skipif(not fast_conv.available(), reason="this PyTorch has no NNPACK for this processor")

SHAPES = {  # (images, channels in and out, kernel, padding, height, width)
    "residual block": (2, 128, 128, 3, 0, 26, 30),
    "sides that no tile fills": (1, 32, 20, 3, 1, 25, 27),
    "first layer": (2, 3, 32, 7, 0, 33, 30),
    "last layer": (1, 32, 3, 7, 0, 33, 30),
    "discriminator": (2, 16, 32, 4, 1, 29, 24),
}


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def of(name: str, bias: bool = True) -> tuple[Conv2d, Tensor]:
    count, inner, outer, kernel, padding, height, width = SHAPES[name]
    conv = Conv2d(inner, outer, kernel, padding=padding, bias=bias)
    with torch.no_grad():
        conv.weight.copy_(drawn(*conv.weight.shape) / (inner * kernel**2) ** 0.5)
    conv.fewer_products = True
    return conv, drawn(count, inner, height, width)


def thrice(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Output; gradients of a curved function of it; the gradient of their squares. In double precision."""
    x = x.clone().requires_grad_()
    leaves = [x, *conv.parameters()]
    out = conv(x)
    first = torch.autograd.grad((out.sigmoid() * out).mean(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((part.square().sum() for part in first), torch.zeros(())), leaves)
    return [part.detach().double() for part in (out, *first, *second)]


@needs_nnpack
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_two_gradients_are_those_of_double_precision(
    name: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, x = of(name, bias)
    asked: list[Tensor] = []
    real = torch._nnpack_spatial_convolution

    def counted(image: Tensor, *rest: Any) -> Tensor:
        asked.append(image)
        return real(image, *rest)

    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", counted)
    exact = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size[0], 1, int(conv.padding[0]), bias=bias)
    exact.load_state_dict(conv.state_dict())  # the same names
    for made, wanted in zip(thrice(conv, x), thrice(exact.double(), x.double()), strict=True):
        assert float((made - wanted).abs().max() / wanted.abs().max()) < 3e-5
    assert len(asked) >= 2 * len(x)  # forward and for the gradient of x, image by image


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("padding", "height", "width"), [(0, 12, 16), (1, 9, 6), (0, 3, 11), (2, 7, 7)])
def test_the_gradient_of_the_kernel_is_exact(
    padding: int, height: int, width: int, layout: torch.memory_format
) -> None:
    x, kernel = drawn(3, 5, height, width).double().to(memory_format=layout), drawn(4, 5, 3, 3).double()
    gradient = drawn(*F.conv2d(x, kernel, padding=padding).shape).double()
    wanted = conv2d_weight(x, kernel.shape, gradient, padding=padding)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(winograd_kernel_gradient(x, gradient, padding), wanted, atol=1e-10, rtol=1e-10)


@needs_nnpack
@pytest.mark.parametrize(
    "change",
    [
        lambda conv, x: (conv.double(), x.double()),
        lambda conv, x: (conv, x[:, :, :20, :20]),  # a small image
        lambda conv, x: (conv, x[0]),  # an image alone
    ],
)
def test_elsewhere_it_is_the_plain_layer(
    change: Callable[[Conv2d, Tensor], tuple[Conv2d, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_conv._FewerProducts, "apply", lambda *given: pytest.fail("not for these"))
    conv, x = change(*of("discriminator"))
    assert conv(x).equal(F.conv2d(x, conv.weight, conv.bias, padding=1))


@pytest.mark.parametrize(
    "layer",
    [
        Conv2d(64, 64, 3, stride=2),
        Conv2d(64, 64, 3, dilation=2),
        Conv2d(64, 64, 3, groups=64),
        Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        Conv2d(64, 64, 3, padding=3),
        Conv2d(64, 64, (3, 5)),
        Conv2d(3, 32, 4),
    ],
)
def test_other_shapes_are_left_as_they_are(layer: Conv2d) -> None:
    assert not layer.can_save_products


@needs_nnpack
def test_autocast_keeps_its_sixteen_bits() -> None:
    conv, x = of("discriminator")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
