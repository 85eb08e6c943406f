"""Weighted negatives: the plans against linear arithmetic, the losses against loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.nce_weighting import Weighting, hdce, log_weights, monce
from models.losses.patch_nce import patch_nce


def rows(count: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 6, generator=draws, dtype=torch.float64), dim=1)


def similarity(groups: int = 2, patches: int = 7) -> Tensor:
    q, k = (rows(groups * patches, seed).view(groups, patches, -1) for seed in (1, 2))
    return torch.bmm(q, k.transpose(1, 2))


def test_monce_is_sinkhorns_plan_of_each_image() -> None:
    scores = similarity()
    weights = monce(scores, 0.2).exp()
    for image, plan in zip(scores, weights, strict=True):
        kernel = (image / 0.2).exp() * (1 - torch.eye(7, dtype=torch.float64))
        u = v = torch.ones(7, dtype=torch.float64)
        for _ in range(500):  # the textbook's form, in plain numbers
            v = 1 / (kernel.T @ u)
            u = 1 / (kernel @ v)
        assert torch.allclose(plan, 6 * u[:, None] * kernel * v, atol=1e-6)
        assert torch.allclose(plan.sum(0), torch.full((7,), 6.0, dtype=torch.float64), atol=1e-4)  # a key is shared


@pytest.mark.parametrize("function", [monce, hdce])
def test_weights_have_mean_one_and_favour_hard_negatives(function: object) -> None:
    scores = similarity(1, 12)
    weights = function(scores, 0.3).exp()[0]  # type: ignore[operator]
    assert torch.allclose(weights.sum(1), torch.full((12,), 11.0, dtype=torch.float64))
    assert bool((weights.diagonal() == 0).all())
    others = ~torch.eye(12, dtype=torch.bool)
    pairs = torch.stack([scores[0][others], weights[others]])
    assert float(torch.corrcoef(pairs)[0, 1]) > 0.7
    assert torch.allclose(function(scores, 1e6).exp()[0][others], torch.ones(132, dtype=torch.float64), atol=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["monce", "hdce"])
@pytest.mark.parametrize(("images", "all_negatives"), [(1, False), (3, False), (3, True)])
def test_the_loss_is_the_formula_in_a_loop(name: str, images: int, all_negatives: bool) -> None:
    query, key, weighting = rows(12), rows(12, 1), Weighting(name, 0.4)
    out = patch_nce(query, key, images, 0.2, all_negatives, weighting)
    groups = 1 if all_negatives else images
    size = 12 // groups
    plan = log_weights(
        torch.stack([query[g * size : (g + 1) * size] @ key[g * size : (g + 1) * size].T for g in range(groups)]),
        weighting,
    ).exp()
    for row in range(12):
        group, place = divmod(row, size)
        positive = math.exp(float(query[row] @ key[row]) / 0.2)
        total = sum(
            float(plan[group, place, other]) * math.exp(float(query[row] @ key[group * size + other]) / 0.2)
            for other in range(size)
            if other != place
        )
        expected = -math.log(positive / (total + (positive if name == "monce" else 0)))
        assert float(out[row]) == pytest.approx(expected, abs=1e-9)


def test_equal_weights_are_plain_nce_without_its_constant() -> None:
    query, key = rows(9), rows(9, 1)
    weighted = patch_nce(query, key, 3, 0.07, weighting=Weighting("hdce", 1e9))
    plain = torch.stack([positive_left_out(query, key, row) for row in range(9)])
    assert torch.allclose(weighted, plain, atol=1e-6)
    assert torch.allclose(
        patch_nce(query, key, 3, 0.07, weighting=Weighting("monce", 1e9)), patch_nce(query, key, 3), atol=1e-6
    )


def positive_left_out(query: Tensor, key: Tensor, row: int) -> Tensor:
    others = [n for n in range(row // 3 * 3, row // 3 * 3 + 3) if n != row]
    return torch.logsumexp(key[others] @ query[row] / 0.07, 0) - query[row] @ key[row] / 0.07


def test_weights_carry_no_gradient_and_mistakes_are_named() -> None:
    query = rows(6).requires_grad_(True)
    assert not log_weights((query @ query.T)[None], Weighting("monce")).requires_grad
    fixed = log_weights((query @ rows(6, 1).T)[None], Weighting("hdce", 0.5))[0]
    (got,) = torch.autograd.grad(patch_nce(query, rows(6, 1), 1, 0.3, weighting=Weighting("hdce", 0.5)).sum(), query)
    scores = query @ rows(6, 1).T / 0.3
    (expected,) = torch.autograd.grad((torch.logsumexp(scores + fixed, 1) - scores.diagonal()).sum(), query)
    assert torch.allclose(got, expected)
    with pytest.raises(ValueError, match="unknown nce_weighting 'mons': choose one of none, monce, hdce"):
        log_weights(similarity(), Weighting("mons"))
    with pytest.raises(ValueError, match="temperature is 0"):
        log_weights(similarity(), Weighting("hdce", 0))
