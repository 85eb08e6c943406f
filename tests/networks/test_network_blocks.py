from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor, nn

from models.networks.blocks import BlurDownsample, BlurUpsample, ResnetBlock, has_bias, norm_layer

BINOMIAL_3 = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
BINOMIAL_4 = np.array([[1, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]) / 64


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
def test_blur_downsample_is_a_convolution_of_the_reflected_image(size: tuple[int, int]) -> None:
    x = images(2, 3, *size)
    got = BlurDownsample(3)(x)
    for n in range(2):
        for c in range(3):
            padded = np.pad(x[n, c].numpy(), 1, mode="reflect")
            want = convolve2d(padded, BINOMIAL_3, mode="valid")[::2, ::2]
            np.testing.assert_allclose(got[n, c].numpy(), want, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (3, 6)])
def test_blur_upsample_is_a_transposed_convolution_written_out(size: tuple[int, int]) -> None:
    x = images(1, 2, *size)
    got = BlurUpsample(2)(x)
    height, width = size
    for c in range(2):
        padded = np.pad(x[0, c].numpy(), 1, mode="edge")
        full = np.zeros((2 * height + 6, 2 * width + 6))
        for i in range(height + 2):
            for j in range(width + 2):
                full[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += padded[i, j] * 4 * BINOMIAL_4
        # The transposed convolution's padding of 2, then one row and column off every side.
        want = full[2:-2, 2:-2][1:-1, 1:-1]
        assert want.shape == (2 * height, 2 * width)
        np.testing.assert_allclose(got[0, c].numpy(), want, atol=1e-6)


def test_resampling_keeps_a_constant() -> None:
    x = torch.full((1, 2, 6, 6), 0.7)
    torch.testing.assert_close(BlurDownsample(2)(x), torch.full((1, 2, 3, 3), 0.7))
    torch.testing.assert_close(BlurUpsample(2)(x), torch.full((1, 2, 12, 12), 0.7))


def test_filters_are_buffers_not_parameters() -> None:
    for layer, size in ((BlurDownsample(5), 3), (BlurUpsample(5), 4)):
        assert not list(layer.parameters())
        assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {"filt": (5, 1, size, size)}


def test_instance_norm_by_hand() -> None:
    x = images(2, 3, 5, 4)
    norm = norm_layer("instance", 3)
    assert not norm.state_dict()
    mean = x.mean((2, 3), keepdim=True)
    variance = x.var((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())


def test_norm_names() -> None:
    assert set(norm_layer("batch", 3).state_dict()) >= {"weight", "bias", "running_mean", "running_var"}
    x = images(1, 3, 4, 4)
    assert norm_layer("none", 3)(x) is x
    assert [has_bias(norm) for norm in ("instance", "batch", "none")] == [True, False, False]
    with pytest.raises(ValueError, match=r"unknown norm 'layer'.*instance, batch, none"):
        norm_layer("layer", 3)


def test_resnet_block_keeps_the_spatial_mean_under_instance_norm() -> None:
    x = images(2, 4, 8, 8)
    out = ResnetBlock(4)(x)
    torch.testing.assert_close(out.mean((2, 3)), x.mean((2, 3)), atol=1e-6, rtol=0)
    assert (out - x).abs().max() > 0.1


def test_resnet_block_dropout_acts_in_training_only() -> None:
    block = ResnetBlock(4, dropout=True)
    x = images(1, 4, 8, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
    assert [name for name, m in block.conv_block.named_children() if isinstance(m, nn.Conv2d)] == ["1", "6"]
