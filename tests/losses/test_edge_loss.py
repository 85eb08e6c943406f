"""Edge consistency: Sobel against scipy, the three modes by hand, borders, channels, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel as scipy_sobel
from torch import Tensor

from models.losses.edge import EDGE_MODES, EPS, edge_loss, luminance, sobel, sobel_magnitude

MODES = list(EDGE_MODES)


def images(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=random, dtype=torch.float64) * 2 - 1


def step(height: float, size: int = 8) -> Tensor:
    """A vertical edge of that height in the middle."""
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    image[..., size // 2 :] = height
    return image


def test_sobel_is_scipys_with_mirrored_borders() -> None:
    plane = images(2, 7, 9)
    horizontal, vertical = sobel(plane)
    for i in range(2):
        expected = [scipy_sobel(plane[i].numpy(), axis=axis, mode="mirror") for axis in (1, 0)]
        np.testing.assert_allclose(horizontal[i].numpy(), expected[0], atol=1e-12)
        np.testing.assert_allclose(vertical[i].numpy(), expected[1], atol=1e-12)


def test_a_constant_image_has_no_edge_at_its_border() -> None:
    assert sobel_magnitude(torch.full((1, 1, 5, 5), 0.8)).flatten().tolist() == pytest.approx([1e-3] * 25)


def test_luminance() -> None:
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])[:, :, None, None]
    expected = [2 * 0.299 - 1, 2 * 0.587 - 1, 2 * 0.114 - 1, 1.0]
    assert luminance(colours).flatten().tolist() == pytest.approx(expected, abs=1e-6)
    grey = images(2, 1, 4, 4)
    assert luminance(grey).equal(grey[:, 0])
    torch.testing.assert_close(luminance(grey.expand(-1, 3, -1, -1)), grey[:, 0])


def test_l1_of_a_step_by_hand() -> None:
    # A step of height h has |g| = 4h in the two columns beside it, of 8.
    expected = 2 / 8 * (math.sqrt(16 + EPS) - math.sqrt(4 + EPS))
    for fake, source in ((step(0.5), step(1.0)), (step(1.0), step(0.5)), (step(-1.0), step(0.5))):
        assert edge_loss(fake, source, "l1").tolist() == pytest.approx([expected])


def test_keep_counts_lost_edges_only() -> None:
    expected = 2 / 8 * (math.sqrt(16 + EPS) - math.sqrt(4 + EPS))
    assert edge_loss(step(0.5), step(1.0), "keep").item() == pytest.approx(expected)
    assert edge_loss(step(1.0), step(0.5), "keep").item() == 0


def test_ngf_of_a_step_by_hand() -> None:
    # eta is the mean of |g| over the columns, 2 at 4 and 6 flat; equal fields give 1 - (16/(16 + eta^2))^2.
    eta = (2 * math.sqrt(16 + EPS) + 6 * math.sqrt(EPS)) / 8
    expected = 1 - 2 / 8 * (16 / (16 + eta**2)) ** 2
    assert edge_loss(step(1.0), step(1.0), "ngf").item() == pytest.approx(expected)


def test_ngf_is_blind_to_contrast_and_polarity_and_l1_is_not() -> None:
    fake, source = images(2, 1, 12, 12), images(2, 1, 12, 12, seed=1)
    expected = edge_loss(fake, source, "ngf")
    for changed in (-fake, 0.3 * fake + 0.1):
        torch.testing.assert_close(edge_loss(changed, source, "ngf"), expected, rtol=1e-4, atol=1e-4)
    assert (edge_loss(0.3 * fake, source, "l1") - edge_loss(fake, source, "l1")).abs().min() > 0.1


def test_ngf_prefers_aligned_edges() -> None:
    source = images(3, 1, 12, 12)
    aligned = edge_loss(-0.2 * source, source, "ngf")
    assert (aligned < edge_loss(source.transpose(2, 3), source, "ngf")).all()
    assert (aligned < edge_loss(torch.zeros_like(source), source, "ngf")).all()


@pytest.mark.parametrize("mode", ["l1", "keep"])
def test_an_unchanged_image_costs_nothing(mode: str) -> None:
    image = images(2, 3, 6, 6)
    assert edge_loss(image, image, mode).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
def test_channel_counts_may_differ(mode: str) -> None:
    fake, source = images(2, 1, 6, 8), images(2, 3, 6, 8, seed=1)
    out = edge_loss(fake, source, mode)
    assert out.shape == (2,)
    torch.testing.assert_close(edge_loss(fake.expand(-1, 3, -1, -1), source, mode), out)


@pytest.mark.parametrize("mode", MODES)
def test_only_the_translation_gets_gradient(mode: str) -> None:
    fake, source = images(2, 3, 6, 6).requires_grad_(), images(2, 3, 6, 6, seed=1).requires_grad_()
    torch.autograd.backward(edge_loss(fake, source, mode).mean())
    assert source.grad is None
    assert fake.grad is not None
    assert (fake.grad.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode: str) -> None:
    fake, source = images(1, 1, 4, 5).requires_grad_(), images(1, 1, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda f: edge_loss(f, source, mode), fake)


@pytest.mark.parametrize("mode", MODES)
def test_flat_images_have_finite_gradients(mode: str) -> None:
    fake = torch.zeros(1, 1, 6, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(edge_loss(fake, torch.zeros(1, 1, 6, 6), mode).sum(), fake)
    assert slope.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_images_of_a_batch_do_not_mix(mode: str) -> None:
    fake, source = images(3, 1, 6, 6), images(3, 1, 6, 6, seed=1)
    single = [edge_loss(fake[i : i + 1], source[i : i + 1], mode) for i in range(3)]
    torch.testing.assert_close(edge_loss(fake, source, mode), torch.cat(single))


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_and_autocast_are_computed_in_float32(mode: str) -> None:
    fake, source = images(2, 3, 6, 6).bfloat16(), images(2, 1, 6, 6, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = edge_loss(fake, source, mode)
    assert out.dtype == torch.float32
    assert out.equal(edge_loss(fake.float(), source.float(), mode))


def test_arguments_are_checked() -> None:
    one = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"unknown edge_mode 'l2'.*l1, ngf, keep"):
        edge_loss(one, one, "l2")
    with pytest.raises(ValueError, match="2 channels"):
        edge_loss(torch.zeros(1, 2, 4, 4), one)
    with pytest.raises(ValueError, match="must agree"):
        edge_loss(one, torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="at least 2"):
        edge_loss(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
