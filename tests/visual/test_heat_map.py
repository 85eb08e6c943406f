"""Maps scaled for pictures: by hand, and against PyTorch's resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from util.visual.overlay import heat_map


def test_the_smallest_value_becomes_0_and_the_largest_1() -> None:
    np.testing.assert_allclose(heat_map(np.array([[2.0, 4.0], [3.0, 6.0]])), [[0, 0.5], [0.25, 1]])


def test_negative_evidence_counts_as_none() -> None:
    np.testing.assert_allclose(heat_map(np.array([[-5.0, 0.0, 1.0, 2.0]])), [[0, 0, 0.5, 1]])


def test_what_is_no_number_counts_as_none() -> None:
    np.testing.assert_allclose(heat_map(np.array([[np.nan, np.inf, -np.inf, 2.0]])), [[0, 0, 0, 1]])


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-30, 1e30])
@pytest.mark.parametrize("size", [None, (33, 45)])
def test_a_constant_map_points_nowhere(value: float, size: tuple[int, int] | None) -> None:
    heat = heat_map(np.full((9, 8), value), size)
    assert heat.shape == (size or (9, 8))
    assert not heat.any()


def test_rounding_errors_are_not_blown_up_to_a_pattern() -> None:
    noise = np.random.default_rng(0).choice([0.0, 3e-8], (8, 8))
    assert not heat_map((0.3 + noise).astype(np.float32)).any()
    assert heat_map(np.array([[0.3, 0.3003]])).max() == 1  # a faint pattern is one


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_scale_of_a_map_does_not_matter(scale: float) -> None:
    values = np.random.default_rng(1).random((8, 8))
    np.testing.assert_allclose(heat_map(values * scale), heat_map(values), atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (33, 45), (5, 3), (8, 8)])
def test_maps_are_resized_as_pytorch_does(size: tuple[int, int]) -> None:
    small = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    big = torch.nn.functional.interpolate(small[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    expected = (big - big.min()) / (big.max() - big.min())
    got = heat_map(small.numpy(), size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_a_map_of_one_cell_is_constant() -> None:
    assert not heat_map(np.array([[3.0]]), (4, 6)).any()


def test_the_map_itself_is_left_as_it_is() -> None:
    values = np.array([[-1.0, 2.0]], np.float32)
    heat_map(values)
    assert values.tolist() == [[-1.0, 2.0]]
