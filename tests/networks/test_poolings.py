"""From feature maps to logits: each pooling against its formula, and its class maps against its logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.networks.poolings import POOLINGS, LogMeanExp, Pooling, Wildcat, build_pooling

CHANNELS, CLASSES = 6, 4


def features(height: int = 5, width: int = 7) -> Tensor:
    return torch.randn(3, CHANNELS, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def built(name: str, **more: float) -> Pooling:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build_pooling(name, CHANNELS, CLASSES, **more).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_has_logits_and_maps_of_any_size(name: str) -> None:
    pooling = built(name)
    for size in ((5, 7), (1, 1), (2, 1)):
        x = features(*size)
        assert pooling(x).shape == (3, CLASSES)
        assert pooling.maps(x).shape == (3, CLASSES, *size)
        classes = torch.tensor([2, 0, 3])
        one = pooling.map_of(x, classes)
        torch.testing.assert_close(one, torch.stack([pooling.maps(x)[n, c] for n, c in enumerate(classes)]))


def test_the_linear_layers_map_adds_up_to_its_logit() -> None:
    pooling, x = built("WGAP"), features()
    assert isinstance(pooling.layer, nn.Linear)
    torch.testing.assert_close(pooling.maps(x).mean((2, 3)) + pooling.layer.bias, pooling(x))
    by_hand = sum(pooling.layer.weight[1, k] * x[0, k] for k in range(CHANNELS))
    torch.testing.assert_close(pooling.maps(x)[0, 1], by_hand)


def class_map(pooling: Pooling, x: Tensor) -> Tensor:
    """The 1x1 convolution by hand, (3, CLASSES, positions)."""
    assert isinstance(pooling.layer, nn.Conv2d)
    weight = pooling.layer.weight[:, :, 0, 0]
    assert pooling.layer.bias is not None
    return torch.einsum("kc,ncp->nkp", weight, x.flatten(2)) + pooling.layer.bias[:, None]


def test_mean_maximum_and_log_mean_exp_of_the_maps() -> None:
    x = features()
    torch.testing.assert_close(built("GAP")(x), class_map(built("GAP"), x).mean(2))
    torch.testing.assert_close(built("MaxPool")(x), class_map(built("MaxPool"), x).max(2).values)
    pooling = built("LogSumExpPool", lse_r=3.0)
    maps = class_map(pooling, x).detach()
    top = maps.max(2).values
    expected = top + torch.tensor(
        [[math.log(sum(math.exp(3 * float(v - m)) for v in row) / 35) / 3 for row, m in zip(a, b, strict=True)]
         for a, b in zip(maps, top, strict=True)], dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(pooling(x).detach(), expected)


def test_log_mean_exp_lies_between_mean_and_maximum_and_does_not_overflow() -> None:
    maps = 1e4 * features()
    assert bool(torch.isfinite(LogMeanExp(10)(maps)).all())
    torch.testing.assert_close(LogMeanExp(1e-9)(features()), features().mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(LogMeanExp(1e5)(features()), features().amax((2, 3)), rtol=0, atol=1e-3)


def test_wildcat_takes_the_largest_and_the_smallest() -> None:
    maps = torch.arange(10.0).view(1, 1, 2, 5).flip(-1)
    top, low = (5 + 6 + 7 + 8 + 9) / 5, 0.0
    assert Wildcat(0.5, 0.1, 0.6)(maps).item() == pytest.approx((top + 0.6 * low) / 2)
    assert Wildcat(2, 3, 0.5)(maps).item() == pytest.approx((8.5 + 0.5 * 1) / 2)
    assert Wildcat(0.2, 0)(maps).item() == Wildcat(0.2, 3, 0)(maps).item() == pytest.approx(8.5)
    assert Wildcat(99, 99, 1)(maps).item() == pytest.approx(4.5)


def test_wildcats_smallest_values_change_the_logit_and_get_a_gradient() -> None:
    """The published F-CAM throws them away."""
    maps = features()[:, :1].clone().requires_grad_()
    pool = Wildcat(0.2, 0.2, 0.6)
    (gradient,) = torch.autograd.grad(pool(maps).sum(), maps)
    assert int((gradient != 0).sum()) == 3 * (7 + 7)
    lowest = maps.detach().flatten(2).argmin(2)[0]
    changed = maps.detach().clone()
    changed.flatten(2)[0, 0, lowest] -= 1
    assert float((pool(maps.detach()) - pool(changed))[0]) == pytest.approx(0.6 / 7 / 2)


def test_wildcats_modalities_are_averaged_before() -> None:
    pooling, x = built("WILDCAT", modalities=3, kmax=1, kmin=0), features()
    each = class_map(pooling, x).view(3, CLASSES, 3, -1)
    torch.testing.assert_close(pooling.maps(x).flatten(2), each.mean(2))
    torch.testing.assert_close(pooling(x), each.mean(2).max(2).values)


def test_an_unknown_pooling_is_named() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'gap': choose one of WGAP, GAP"):
        build_pooling("gap", 3, 2)
