"""The maps of several layers as one."""

from __future__ import annotations

import math

import pytest
import torch

from models.cam.errors import ExplainError
from models.cam.fusion import fuse, lifted


def test_scaling_by_hand() -> None:
    found = lifted(torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]))
    assert found.flatten().tolist() == pytest.approx([0, math.tanh(0.5), math.tanh(1), math.tanh(2)])
    assert torch.equal(lifted(torch.tensor([[-3.0, 1.0]])), lifted(torch.tensor([[0.0, 7.0]])))
    for value in (0.0, -1.0, math.nan, math.inf):
        assert not lifted(torch.full((2, 3, 3), value)).any()


@pytest.mark.parametrize(("how", "expected"), [("max", math.tanh(2)), ("mean", (math.tanh(2) + math.tanh(1)) / 2)])
def test_layers_of_several_sizes_become_one_map(how: str, expected: float) -> None:
    coarse = torch.tensor([[[[4.0]]]])
    fine = torch.tensor([[[[1.0, 2.0], [2.0, 1.0]]]])
    found = fuse([coarse, fine], (2, 2), how)
    assert found.shape == (1, 1, 2, 2)
    assert float(found[0, 0, 0, 0]) == pytest.approx(expected)
    assert float(found[0, 0, 0, 1]) == pytest.approx(math.tanh(2))
    assert fuse([fine], (4, 6), how).shape == (1, 1, 4, 6)


def test_the_scale_of_a_layer_does_not_matter_and_gradients_go_through() -> None:
    maps = [torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side)) for side in (3, 5)]
    torch.testing.assert_close(fuse([maps[0], 100 * maps[1]], (5, 5)), fuse(maps, (5, 5)))
    leaf = maps[0].requires_grad_()
    (gradient,) = torch.autograd.grad(fuse([leaf, maps[1]], (5, 5), "mean").sum(), leaf)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_what_cannot_be_fused_is_said() -> None:
    for maps, how in (([], "max"), ([torch.ones(1, 1, 2, 2)], "sum")):
        with pytest.raises(ExplainError, match="give one at least, and one of max, mean"):
            fuse(maps, (2, 2), how)
