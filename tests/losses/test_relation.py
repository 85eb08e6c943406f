"""Semantic relation consistency against SciPy's divergence in a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from models.losses.relation import relation_consistency


def rows(count: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 5, generator=draws, dtype=torch.float64), dim=1)


def test_it_is_scipys_jensen_shannon_divergence() -> None:
    query, key = rows(8), rows(8, 1)
    out = relation_consistency(query, key, 2, 0.3)
    for row in range(8):
        image = row // 4
        others = [n for n in range(image * 4, image * 4 + 4) if n != row]
        ours, theirs = (np.exp((z[others] @ z[row] / 0.3).numpy()) for z in (query, key))
        assert float(out[row]) == pytest.approx(jensenshannon(ours, theirs) ** 2, abs=1e-9)  # SciPy takes the root


def test_it_is_zero_for_equal_relations_and_at_most_log_two() -> None:
    turned, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    query = rows(9)
    assert torch.allclose(
        relation_consistency(query, query @ turned, 3), torch.zeros(9, dtype=torch.float64), atol=1e-9
    )
    far = relation_consistency(rows(9), rows(9, 1), 3, 1e-3)  # distributions without overlap
    assert bool((far <= math.log(2) + 1e-9).all())
    assert float(far.max()) > 0.5
    assert bool(torch.isfinite(far).all())


def test_gradient_reaches_the_query_alone_and_is_finite_at_sharp_distributions() -> None:
    query, key = rows(6).requires_grad_(True), rows(6, 1).requires_grad_(True)
    ours, theirs = torch.autograd.grad(relation_consistency(query, key, 1, 1e-3).sum(), [query, key], allow_unused=True)
    assert theirs is None
    assert bool(torch.isfinite(ours).all())
    assert torch.autograd.gradcheck(lambda z: relation_consistency(z, key.detach(), 2, 0.5), query)


def test_too_few_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="4 patches over 2 images: sample equally many from each, at least 3"):
        relation_consistency(rows(4), rows(4), 2)
