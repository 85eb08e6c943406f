"""Adversarial terms against torch's own losses and values by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.cam import adversarial_weights
from models.losses.gan import GAN_MODES, gan_loss, gan_map, gradient_penalty, r1_penalty


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(mode: str, x: Tensor, real: bool, for_generator: bool) -> Tensor:
    """The modes from torch's losses, written out."""
    target = torch.full_like(x, float(real))
    if mode == "lsgan":
        return F.mse_loss(x, target, reduction="none")
    if mode in ("vanilla", "nonsaturating"):
        return F.binary_cross_entropy_with_logits(x, target, reduction="none")
    if mode == "wgangp" or for_generator:
        return -x if real else x
    return hinge(x, real)


def hinge(x: Tensor, real: bool) -> Tensor:
    return torch.maximum(torch.zeros_like(x), 1 - x if real else 1 + x)


@pytest.mark.parametrize("for_generator", [False, True])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("mode", list(GAN_MODES))
def test_maps_are_torchs(mode: str, real: bool, for_generator: bool) -> None:
    x = 3 * logits(2, 1, 5, 4)
    out = gan_map(x, real, mode, for_generator)
    assert out.shape == x.shape
    torch.testing.assert_close(out, reference(mode, x, real, for_generator))
    assert gan_loss(x, real, mode, for_generator).item() == pytest.approx(out.mean().item())


@pytest.mark.parametrize("mode", list(GAN_MODES))
def test_the_generators_gradient_pushes_towards_real(mode: str) -> None:
    x = logits(2, 1, 3, 3).requires_grad_()
    (slope,) = torch.autograd.grad(gan_loss(x, True, mode, for_generator=True), x)
    expected = (x.detach() < 1) if mode == "lsgan" else torch.ones_like(x, dtype=torch.bool)
    assert ((slope < 0) == expected).all()


def test_hinge_margin_is_the_critics_only() -> None:
    x = torch.tensor([[2.0]], requires_grad=True)
    (critic,) = torch.autograd.grad(gan_loss(x, True, "hinge"), x)
    (generator,) = torch.autograd.grad(gan_loss(x, True, "hinge", for_generator=True), x)
    assert (critic.item(), generator.item()) == (0.0, -1.0)


@pytest.mark.parametrize("mode", list(GAN_MODES))
@pytest.mark.parametrize("real", [False, True])
def test_gradcheck(mode: str, real: bool) -> None:
    x = logits(2, 1, 2, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: gan_map(v, real, mode), x)


@pytest.mark.parametrize("mode", list(GAN_MODES))
def test_bfloat16_is_computed_in_float32(mode: str) -> None:
    x = logits(2, 1, 4, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = gan_map(x, True, mode)
    assert out.dtype == torch.float32
    assert out.equal(gan_map(x.float(), True, mode))


def test_large_logits_stay_finite() -> None:
    x = torch.tensor([[-1e4, 1e4]])
    assert gan_map(x, True, "vanilla").tolist() == [[1e4, 0.0]]
    assert gan_map(x, False, "vanilla").tolist() == [[0.0, 1e4]]


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match=r"gan_mode 'lsgann'.*lsgan, vanilla"):
        gan_map(torch.zeros(1), True, "lsgann")


def test_weights_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    weights = torch.tensor([[[0.0, 2.0], [0.0, 2.0]]])
    assert gan_loss(x, False, "wgangp", weights=weights).item() == pytest.approx(3.0)
    assert gan_loss(x, False, "wgangp", weights=50 * weights).item() == pytest.approx(3.0)


@pytest.mark.parametrize("mode", list(GAN_MODES))
def test_flat_and_dead_weights_change_nothing(mode: str) -> None:
    x = logits(2, 1, 5, 5)
    plain = gan_loss(x, True, mode)
    for weights in (torch.full((2, 8, 8), 0.3), torch.zeros(2, 8, 8), torch.ones(2, 1, 5, 5)):
        torch.testing.assert_close(gan_loss(x, True, mode, weights=weights.double()), plain)


def test_weights_have_mean_one_after_resizing() -> None:
    # A map of ones as the terms: the weighted mean is the mean of the weights, per image and overall.
    ones = torch.ones(3, 1, 7, 5, dtype=torch.float64)
    weights = logits(3, 16, 16, seed=2).abs()
    assert gan_loss(ones, False, "wgangp", weights=weights).item() == pytest.approx(1.0, abs=1e-12)
    assert gan_loss(ones[:1], False, "wgangp", weights=weights[:1]).item() == pytest.approx(1.0, abs=1e-12)


def test_weights_carry_no_gradient() -> None:
    x = logits(2, 1, 3, 3).requires_grad_()
    weights = logits(2, 6, 6, seed=1).abs().requires_grad_()
    torch.autograd.backward(gan_loss(x, True, "lsgan", weights=weights))
    assert weights.grad is None
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_accepts_what_adversarial_weights_makes() -> None:
    cam = logits(2, 8, 8).float()
    x = logits(2, 1, 4, 4, seed=1).float()
    weights = adversarial_weights(cam, (4, 4), 0.5)
    expected = (gan_map(x, True, "lsgan") * weights).mean()
    torch.testing.assert_close(gan_loss(x, True, "lsgan", weights=weights), expected)


@pytest.mark.parametrize("shape", [(2, 1), (3, 1, 4, 4)])
def test_weights_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        gan_loss(torch.zeros(shape), True, "lsgan", weights=torch.ones(2, 4, 4))


class Linear(nn.Module):
    """A critic w . x: its slope is w everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight).flatten(1).sum(dim=1, keepdim=True)


def test_penalty_of_a_linear_critic_by_hand() -> None:
    weight = torch.zeros(1, 2, 2)
    weight[0, 0] = torch.tensor([3.0, 4.0])
    critic = Linear(weight)
    real, fake = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    penalty = gradient_penalty(critic, real, fake, torch.rand(3))
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    torch.autograd.backward(penalty)  # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    assert critic.weight.grad is not None
    torch.testing.assert_close(critic.weight.grad, 2 * 4 * weight / 5)


def test_penalty_of_a_quadratic_critic_sees_the_point_between() -> None:
    real, fake = torch.full((2, 1, 1, 1), 4.0), torch.zeros(2, 1, 1, 1)
    alpha = torch.tensor([1.0, 0.25])  # slopes of x^2 at 4 and 1: 8 and 2

    def critic(image: Tensor) -> Tensor:
        return image.square()

    penalty = gradient_penalty(critic, real, fake, alpha.view(-1, 1, 1, 1))
    assert penalty.item() == pytest.approx((7**2 + 1**2) / 2)


def test_penalty_is_that_of_the_mean_over_the_critics_map() -> None:
    weight = torch.full((1, 2, 2), 2.0)

    def one(image: Tensor) -> Tensor:
        return (image * weight).sum(dim=(1, 2, 3), keepdim=True)

    def tiled(image: Tensor) -> Tensor:
        return one(image).expand(-1, 1, 30, 30)

    real, fake, alpha = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2), torch.rand(2)
    torch.testing.assert_close(gradient_penalty(tiled, real, fake, alpha), gradient_penalty(one, real, fake, alpha))


def test_penalty_gives_gradient_to_the_critic_only_and_in_float32() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    real = torch.randn(2, 1, 8, 8, requires_grad=True)
    fake = torch.randn(2, 1, 8, 8, requires_grad=True)
    alpha = torch.rand(2)
    outside = gradient_penalty(critic, real, fake, alpha)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gradient_penalty(critic, real, fake, alpha)
    assert inside.equal(outside)
    torch.autograd.backward(outside)
    assert real.grad is None
    assert fake.grad is None
    first = next(critic.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_penalty_where_the_critic_is_flat_is_one_with_a_finite_gradient() -> None:
    critic = Linear(torch.zeros(1, 2, 2))
    penalty = gradient_penalty(critic, torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2), torch.rand(1))
    torch.autograd.backward(penalty)
    assert penalty.item() == 1
    assert critic.weight.grad is not None
    assert math.isfinite(critic.weight.grad.sum().item())


def test_penalty_gradcheck() -> None:
    real, fake = logits(2, 1, 3, 3), logits(2, 1, 3, 3, seed=1)
    alpha = torch.tensor([0.3, 0.8], dtype=torch.float64)

    def of_weight(weight: Tensor) -> Tensor:
        return gradient_penalty(lambda image: F.conv2d(image, weight).tanh(), real, fake, alpha)

    assert torch.autograd.gradcheck(of_weight, logits(2, 1, 2, 2, seed=2).requires_grad_())


def test_penalty_needs_equal_shapes() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        gradient_penalty(lambda image: image, torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1))


def test_r1_is_the_squared_slope_of_the_critic_at_real_images() -> None:
    weight = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    real = logits(2, 1, 4, 4).requires_grad_(True)
    penalty = r1_penalty(lambda image: weight * image**2, real)
    # The critic is the mean of 16 values w x^2, so its slope is 2 w x / 16, and the penalty the sum of its squares.
    expected = (2 * 3 * real.detach() / 16).square().sum() / 2
    assert penalty.item() == pytest.approx(float(expected), rel=1e-12)
    to_real, to_weight = torch.autograd.grad(penalty, [real, weight], allow_unused=True)
    assert to_real is None
    assert to_weight.item() == pytest.approx(2 * float(expected) / 3, rel=1e-12)


def test_r1_is_computed_in_full_precision_under_autocast() -> None:
    real, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3, requires_grad=True)

    def penalty() -> Tensor:
        return r1_penalty(lambda image: F.conv2d(image, weight).tanh(), real)

    outside = penalty()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(penalty(), outside)
