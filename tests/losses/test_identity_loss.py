"""Identity loss: torch's L1, one side's gradient, mismatches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.losses.identity import identity_loss


def test_is_the_mean_absolute_difference_per_image() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    expected = [F.l1_loss(a[i], b[i]).item() for i in range(3)]
    assert identity_loss(a, b).tolist() == pytest.approx(expected)
    assert identity_loss(a, a).tolist() == [0.0] * 3


def test_only_the_translation_gets_gradient() -> None:
    a, b = torch.ones(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
    torch.autograd.backward(identity_loss(a, b).sum())
    assert b.grad is None
    assert a.grad is not None
    assert (a.grad == 0.25).all()


def test_dtypes() -> None:
    a, b = torch.rand(1, 1, 3, 3).bfloat16(), torch.rand(1, 1, 3, 3).bfloat16()
    assert identity_loss(a, b).dtype == torch.float32
    assert identity_loss(a.double(), b.double()).dtype == torch.float64


def test_channel_counts_must_agree() -> None:
    with pytest.raises(ValueError, match="input_nc equal to output_nc"):
        identity_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))
