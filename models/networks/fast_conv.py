"""Convolutions of stride 1 in float32 on a CPU with fewer products: the same values to rounding, in less time.

Forward, and for the gradient of the input, they are NNPACK's, which PyTorch brings: Winograd's minimal filtering for
3x3 kernels (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308), Fourier
transforms for larger ones. NNPACK has no gradient of the kernel: where it pays, that is Lavin and Gray's F(4x4, 3x3)
here, as matrix products; else PyTorch's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

# Below these, transforms cost more than the products they save: measured on one core, see docs/performance.md.
LEAST_WEIGHTS, LEAST_POSITIONS = 4000, 24 * 24
LEAST_CHANNELS = 128  # of the gradient of a 3x3 kernel

OUT, IN = 4, 6  # sides of a tile of outputs, and of the inputs that it comes from
# The transforms of one side of tiles of inputs, of kernels and of outputs: Lavin and Gray, equation 15.
_OF_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class SavesProducts(nn.Module, ABC):
    """A layer with one convolution, which can be told to save products.

    Attributes:
        fewer_products: do so where it pays: float32, CPU, images that are large enough.
    """

    fewer_products: bool = False

    @property
    @abstractmethod
    def can_save_products(self) -> bool:
        """Whether the convolution's shape is one for which that exists and pays; it has stride 1 then."""

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        """`F.conv2d(x, weight, bias, stride, padding)`."""
        if not (self.fewer_products and self.can_save_products and _pays(x, weight)):
            return F.conv2d(x, weight, bias, stride, padding)
        out: Tensor = _FewerProducts.apply(x, weight, bias, padding)
        return out


class Conv2d(SavesProducts, nn.Conv2d):
    """`nn.Conv2d`, same parameters and names, that can be told to save products."""

    @property
    def can_save_products(self) -> bool:
        high, wide = self.kernel_size
        return (
            high == wide
            and self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
            and self.padding[0] == self.padding[1]
            and large_enough(self.weight, int(self.padding[0]))
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.fewer_products and self.can_save_products:
            return self.convolved(x, self.weight, self.bias, 1, int(self.padding[0]))
        return super().forward(x)

    def unpadded(self, x: Tensor) -> Tensor:
        """The convolution of an image that brings its border along."""
        return self.convolved(x, self.weight, self.bias, self.stride[0], 0)


def large_enough(weight: Tensor, padding: int) -> bool:
    """Whether a convolution of stride 1 has enough weights, and less padding than NNPACK allows in either direction."""
    return 0 <= padding < weight.shape[-1] and weight.numel() >= LEAST_WEIGHTS


def _pays(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.dim() == 4
        and x.shape[2] * x.shape[3] >= LEAST_POSITIONS
    )


def available() -> bool:
    """Whether PyTorch was built with NNPACK, and it knows this processor."""
    nnpack = getattr(torch.backends, "nnpack", None)
    return hasattr(torch, "_nnpack_spatial_convolution") and nnpack is not None and bool(nnpack.is_available())


class _FewerProducts(torch.autograd.Function):
    """Keeps its input and the kernel for backward, like PyTorch's own. Can be differentiated any number of times."""

    no_activation = True  # for those who go through a recorded graph in search of activations

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        # Image by image: for several at once NNPACK keeps all transforms, which is slower than PyTorch's own.
        lone = [
            torch._nnpack_spatial_convolution(image, weight.contiguous(), bias, padding)
            for image in torch.split(x.contiguous(), 1)
        ]
        return lone[0] if len(lone) == 1 else torch.cat(lone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3).transpose(0, 1)
            of_x = _FewerProducts.apply(gradient, turned, None, weight.shape[-1] - 1 - ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = kernel_gradient(x, weight, gradient, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def kernel_gradient(x: Tensor, weight: Tensor, gradient: Tensor, padding: int) -> Tensor:
    """The gradient of the kernel of a convolution of stride 1.

    Args:
        x: (N, C, H, W), its input.
        weight: (K, C, k, k).
        gradient: (N, K, H + 2 * padding - k + 1, ...), of its output.

    Returns:
        (K, C, k, k).
    """
    if weight.shape[-1] == 3 and min(weight.shape[:2]) >= LEAST_CHANNELS:
        return winograd_kernel_gradient(x, gradient, padding)
    plain: Tensor = conv2d_weight(x, weight.shape, gradient, padding=padding)  # type: ignore[no-untyped-call]
    return plain


def winograd_kernel_gradient(x: Tensor, gradient: Tensor, padding: int) -> Tensor:
    """`kernel_gradient` of 3x3 kernels by F(4x4, 3x3): 36 products for each 144.

    A tile is a row of matrices whose 36 or 16 planes are the positions in it; the transform of both sides of a tile is
    then one product with the Kronecker square of a side's.
    """
    below, right = -gradient.shape[2] % OUT, -gradient.shape[3] % OUT  # zeros that fill the last tiles
    x = F.pad(x, (padding, padding + right, padding, padding + below))
    gradient = F.pad(gradient, (0, right, 0, below))
    rows, columns = gradient.shape[2] // OUT, gradient.shape[3] // OUT
    of_outputs = _square(_OF_OUTPUT, x).t() @ _tiles(gradient, OUT, rows, columns)
    of_inputs = _square(_OF_INPUT, x) @ _tiles(x, IN, rows, columns)
    inner, outer = x.shape[1], gradient.shape[1]
    # (36, C, tiles) @ (36, tiles, K)
    products = of_inputs.view(IN * IN, -1, inner).transpose(1, 2) @ of_outputs.view(IN * IN, -1, outer)
    kernels = _square(_OF_KERNEL, x).t() @ products.view(IN * IN, -1)
    return kernels.view(3, 3, inner, outer).permute(3, 2, 0, 1)


def _square(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The transform of both sides of a tile that is read as one vector."""
    side = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(side, side).to(like.dtype)


def _tiles(image: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """Tiles that begin at every fourth position: (N, C, H, W) -> (side * side, N * rows * columns * C)."""
    image = image.contiguous(memory_format=torch.channels_last)
    one, channel, row, column = image.stride()
    tiles = image.as_strided(
        (side, side, len(image), rows, columns, image.shape[1]),
        (row, column, one, OUT * row, OUT * column, channel),
        image.storage_offset(),
    )
    return tiles.reshape(side * side, -1)
