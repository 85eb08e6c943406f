"""F-CAM's terms: seeds, barrier, entropy, and the epochs in which they count, by hand and against slow versions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.fcam import (
    Barrier,
    Span,
    entropy,
    extended_log_barrier,
    foreground,
    seed_cross_entropy,
    size_barrier,
)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeds(*shape: int) -> Tensor:
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(5))


# --- seeds


def test_the_seeds_cross_entropy_is_the_mean_over_each_images_seeds() -> None:
    maps, where = logits(3, 2, 5, 4), seeds(3, 5, 4)
    found = seed_cross_entropy(maps, where)
    for n in range(3):
        known = where[n] >= 0
        expected = F.cross_entropy(maps[n, :, known].T, where[n][known])
        assert float(found[n]) == pytest.approx(float(expected), rel=1e-12)


def test_with_equally_many_seeds_it_is_the_mean_over_the_batch() -> None:
    maps, where = logits(4, 2, 3, 3), torch.full((4, 3, 3), -1)
    where[:, 0, 0], where[:, 2, 1] = 1, 0
    expected = F.cross_entropy(maps, where, ignore_index=-1)
    assert float(seed_cross_entropy(maps, where).mean()) == pytest.approx(float(expected), rel=1e-12)


def test_an_image_without_seeds_counts_nothing_and_is_finite() -> None:
    maps, where = logits(2, 2, 4, 4).requires_grad_(), seeds(2, 4, 4)
    where[1] = -1
    found = seed_cross_entropy(maps, where)
    assert found[1].item() == 0
    (slope,) = torch.autograd.grad(found.mean(), maps)
    assert bool(torch.isfinite(slope).all())
    assert float(slope[1].abs().sum()) == 0
    assert float(slope[0].abs().sum()) > 0


# --- barrier


def test_the_barrier_and_its_tangent_by_hand() -> None:
    z = torch.tensor([-4.0, -0.25, 0.0, 1.0], dtype=torch.float64)
    edge, t = 0.25, 2.0  # 1 / t^2
    line = [t * float(x) - math.log(edge) / t + 1 / t for x in z[2:]]
    assert extended_log_barrier(z, t).tolist() == pytest.approx([-math.log(4) / 2, -math.log(0.25) / 2, *line])


@pytest.mark.parametrize("t", [1.0, 1.7, 10.0])
def test_value_and_slope_pass_over_at_the_edge(t: float) -> None:
    edge = -1 / t**2
    z = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64, requires_grad=True)
    values = extended_log_barrier(z, t)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-6)
    assert float(slopes[0]) == pytest.approx(float(slopes[1]), rel=1e-6) == pytest.approx(t, rel=1e-6)


def test_the_size_term_is_half_the_logarithms_of_both_areas() -> None:
    maps = logits(2, 2, 6, 6)
    areas = maps.softmax(1).sum((2, 3))
    expected = -(areas[:, 0].log() + areas[:, 1].log()) / (2 * 1.5)
    torch.testing.assert_close(size_barrier(maps, 1.5), expected)


def test_an_empty_side_is_finite_and_drawn_to_grow() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[:, 0] = 200.0  # the foreground has no area in float32
    maps.requires_grad_()
    found = size_barrier(maps, 1.0)
    assert bool(torch.isfinite(found).all())
    maps = (0.05 * maps.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(size_barrier(maps, 1.0).sum(), maps)
    assert bool((slope[:, 1] < 0).all())  # of a descent: more foreground
    assert bool((slope[:, 0] > 0).all())


def test_equal_areas_are_the_optimum() -> None:
    even = torch.zeros(1, 2, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(size_barrier(even, 1.0).sum(), even)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_the_barrier_steepens_every_epoch_up_to_its_limit() -> None:
    barrier = Barrier(1.0, 10.0, 1.01)
    assert barrier.at(1) == 1
    assert barrier.at(51) == pytest.approx(1.64463, rel=1e-5)
    first = next(epoch for epoch in range(1, 400) if barrier.at(epoch) == 10)
    assert first - 1 == math.ceil(math.log(10) / math.log(1.01))
    assert barrier.at(10**6) == 10
    assert Barrier(2.0, 2.0, 1.0).at(7) == 2


# --- entropy and foreground


def test_entropy_in_bits() -> None:
    maps = torch.zeros(2, 2, 3, 3)
    maps[1, 1] = math.log(3)  # S = 1/4, 3/4
    bits = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert entropy(maps).tolist() == pytest.approx([1.0, bits])


def test_entropy_of_saturated_maps_is_zero_with_a_finite_slope() -> None:
    maps = torch.zeros(1, 2, 2, 2)
    maps[:, 1] = 1e4
    maps.requires_grad_()
    found = entropy(maps)
    (slope,) = torch.autograd.grad(found.sum(), maps)
    assert found.tolist() == [0]
    assert bool(torch.isfinite(slope).all())


def test_the_foreground_is_the_softmax() -> None:
    maps = logits(2, 2, 4, 5)
    torch.testing.assert_close(foreground(maps), maps.softmax(1)[:, 1])


@pytest.mark.parametrize(
    "term", [lambda m: size_barrier(m, 1.3), entropy, lambda m: seed_cross_entropy(m, seeds(2, 3, 3))]
)
def test_gradcheck_and_no_mixing(term: object) -> None:
    assert callable(term)
    maps = logits(2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(term, maps)
    (slope,) = torch.autograd.grad(term(maps)[0], maps)
    assert float(slope[1].abs().sum()) == 0


@pytest.mark.parametrize(
    "term", [lambda m: size_barrier(m, 1.3), entropy, lambda m: seed_cross_entropy(m, seeds(2, 3, 3))]
)
def test_sixteen_bits_are_computed_in_full_precision(term: object) -> None:
    assert callable(term)
    maps = logits(2, 2, 3, 3).bfloat16()
    assert term(maps).dtype == torch.float32
    torch.testing.assert_close(term(maps), term(maps.float()))


# --- epochs


def test_epochs_count_from_one_and_both_ends_belong() -> None:
    assert [epoch for epoch in range(1, 6) if Span(2, 4).holds(epoch)] == [2, 3, 4]
    assert [epoch for epoch in range(1, 6) if Span(3).holds(epoch)] == [3, 4, 5]
    assert Span(0, 1).holds(1)
    assert not Span(0, 0).holds(1)
