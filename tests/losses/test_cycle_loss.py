"""Cycle and pair losses: torch's L1, whose gradient, mismatches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.cycle import cycle_loss, paired_loss

BOTH = pytest.mark.parametrize("loss", [cycle_loss, paired_loss])
Loss = Callable[[Tensor, Tensor], Tensor]


@BOTH
def test_is_the_mean_absolute_difference_per_image(loss: Loss) -> None:
    torch.manual_seed(0)
    a, b = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    expected = [F.l1_loss(a[i], b[i]).item() for i in range(3)]
    assert loss(a, b).tolist() == pytest.approx(expected)


def test_by_hand() -> None:
    made, known = torch.tensor([[[[1.0, -1.0]]], [[[0.5, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    assert cycle_loss(made, known).tolist() == [1.5, 0.25]
    assert paired_loss(made, known).tolist() == [1.5, 0.25]


@BOTH
def test_only_what_was_made_gets_gradient(loss: Loss) -> None:
    a, b = torch.ones(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
    torch.autograd.backward(loss(a, b).sum())
    assert b.grad is None
    assert a.grad is not None
    assert (a.grad == 0.25).all()


@BOTH
def test_half_precision_is_compared_in_full(loss: Loss) -> None:
    a = torch.rand(1, 1, 3, 3).bfloat16()
    assert loss(a, a).dtype == torch.float32
    assert loss(a.double(), a.double()).dtype == torch.float64


@BOTH
def test_shapes_must_agree(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"compares \(1, 1, 4, 4\) with \(1, 3, 4, 4\)"):
        loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))
