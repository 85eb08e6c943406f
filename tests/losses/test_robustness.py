"""SRUNIT's loss against loops, quadrature and values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.losses.robustness import LEAST, REG_MODES, disturbed, magnitudes, robustness, unit_directions

EVENLY = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000  # midpoints of [0, 1]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- noise


def test_directions_have_length_one_at_every_position_and_point_anywhere() -> None:
    normal = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = unit_directions(normal)
    for n in range(2):
        assert math.hypot(*found[n, :, 5, 7].tolist()) == pytest.approx(1, rel=1e-6)
        assert torch.allclose(found[n, :, 5, 7] * normal[n, :, 5, 7].norm(), normal[n, :, 5, 7])
    outer = torch.einsum("nchw,ndhw->cd", found, found) / (2 * 64 * 64)
    assert torch.allclose(outer, torch.eye(3) / 3, atol=0.02)  # no axis is preferred
    assert found.mean(dim=(0, 2, 3)).abs().max() < 0.03


def test_a_direction_of_one_channel_is_a_sign_and_one_of_no_length_is_none() -> None:
    found = unit_directions(torch.tensor([0.3, -2.0, 0.0]).view(1, 1, 1, 3))
    assert found.flatten().tolist() == [1.0, -1.0, 0.0]
    assert unit_directions(torch.ones(1, 2, 1, 1, dtype=torch.float16)).dtype == torch.float32


def test_the_released_magnitudes_weight_by_9_21_on_average() -> None:
    """srunit.md S3: the integral of sigma / (1e-7 + (sigma - 1e-7) u) over u is ln(1e4) for sigma = 1e-3."""
    added, divisor = magnitudes(EVENLY, 0.001, "released")
    assert bool((added == 0.001).all())  # the largest, whatever is recorded
    ends = magnitudes(torch.tensor([0.0, 1.0], dtype=torch.float64), 0.001, "released")[1]
    assert ends.tolist() == pytest.approx([LEAST, 0.001], rel=1e-12)
    # Midpoints of a log-spaced grid: the integrand is steep near 0.
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-9, 0, 20_000, dtype=torch.float64)])
    weights = 0.001 / magnitudes((edges[1:] + edges[:-1]) / 2, 0.001, "released")[1]
    assert float((weights * edges.diff()).sum()) == pytest.approx(9.21, abs=0.005)
    drawn = torch.rand(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float((0.001 / magnitudes(drawn, 0.001, "released")[1]).mean()) == pytest.approx(9.21, rel=0.05)
    assert float(divisor.mean()) == pytest.approx(0.0005, rel=1e-3)


@pytest.mark.parametrize("mode", ["matched", "quotient"])
def test_one_magnitude_on_both_sides_weights_within_a_factor_of_ten(mode: str) -> None:
    added, divisor = magnitudes(EVENLY, 0.02, mode)
    assert torch.equal(added, divisor)
    assert (float(added.min()), float(added.max())) == pytest.approx((0.002, 0.02), rel=1e-4)
    assert float(added.mean()) == pytest.approx(0.011, rel=1e-6)
    assert float((0.02 / divisor).mean()) == pytest.approx(math.log(10) / 0.9, rel=1e-6)


def test_an_unknown_mode_names_the_known() -> None:
    assert REG_MODES == ("matched", "released", "quotient")
    with pytest.raises(ValueError, match="'both': choose one of matched, released, quotient"):
        magnitudes(torch.zeros(1), 0.001, "both")


def test_noise_is_added_as_it_is_or_relative_to_the_norm_of_its_position() -> None:
    feature = torch.tensor([[3.0, 0.0], [4.0, 0.5]], dtype=torch.float64).view(1, 2, 1, 2).requires_grad_()
    along = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 2)
    sizes = torch.tensor([0.1, 0.2], dtype=torch.float64).view(1, 1, 1, 2)
    plain = disturbed(feature, along, sizes)
    assert plain.flatten().tolist() == pytest.approx([3.1, 0.0, 4.0, 0.7])
    relative = disturbed(feature, along, sizes, relative=True)  # norms 5 and 0.5
    assert relative.flatten().tolist() == pytest.approx([3.5, 0.0, 4.0, 0.6])
    (gradient,) = torch.autograd.grad(relative.sum(), feature)
    assert torch.equal(gradient, torch.ones_like(feature))  # none through the norm


# --- the loss


def test_the_loss_is_the_mean_of_distances_over_magnitudes() -> None:
    moved, reference, magnitude = random(6, 5), random(6, 5, seed=1), random(6, seed=2).abs() + 0.1
    by_hand = [
        math.dist(a.tolist(), b.tolist()) / float(m) for a, b, m in zip(moved, reference, magnitude, strict=True)
    ]
    assert float(robustness(moved, reference, magnitude)) == pytest.approx(sum(by_hand) / 6, rel=1e-12)


def test_both_sides_get_the_gradient_of_the_loss() -> None:
    sides = (random(4, 3).requires_grad_(), random(4, 3, seed=1).requires_grad_())
    magnitude = torch.tensor([0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: robustness(a, b, magnitude), sides)


def test_equal_rows_have_the_gradient_zero_and_small_distances_are_kept() -> None:
    row = torch.ones(1, 8, requires_grad=True)
    robustness(row, torch.ones(1, 8), torch.ones(1)).backward()  # type: ignore[no-untyped-call]
    assert row.grad is not None
    assert not bool(row.grad.any())  # not NaN
    base = torch.zeros(1, 4)
    for distance in (1e-6, 1e-4, 0.3):  # rounding of unit vectors begins at 1e-7
        moved = base + torch.tensor([distance, 0, 0, 0])
        assert float(robustness(moved, base, torch.ones(1))) == pytest.approx(distance, rel=1e-4)


def test_sixteen_bits_are_widened_first() -> None:
    moved, reference = random(3, 4).half(), random(3, 4, seed=1).half()
    found = robustness(moved, reference, torch.full((3,), 0.001))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(robustness(moved.double(), reference.double(), torch.full((3,), 1e-3))))


@pytest.mark.parametrize(
    ("moved", "reference", "magnitude"),
    [((4, 3), (4, 2), (4,)), ((4, 3), (4, 3), (3,)), ((4, 3), (4, 3), (4, 1)), ((2, 2, 3), (2, 2, 3), (2,))],
)
def test_shapes_that_do_not_fit_are_refused(
    moved: tuple[int, ...], reference: tuple[int, ...], magnitude: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="must both be"):
        robustness(torch.zeros(moved), torch.zeros(reference), torch.ones(magnitude))
