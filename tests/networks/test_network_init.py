from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models.networks import build_discriminator, build_generator
from models.networks.init import INIT_TYPES, init_weights


def drawn(layer: nn.Conv2d, init_type: str, gain: float = 0.02) -> torch.Tensor:
    init_weights(layer, init_type, gain, torch.Generator().manual_seed(1))
    return layer.weight.detach()


@pytest.mark.parametrize(
    ("init_type", "std"),
    [
        ("normal", 0.02),
        ("xavier", 0.02 * math.sqrt(2 / (64 * 9 + 128 * 9))),
        ("kaiming", math.sqrt(2 / (64 * 9))),
    ],
)
def test_standard_deviations(init_type: str, std: float) -> None:
    weight = drawn(nn.Conv2d(64, 128, 3), init_type)
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert abs(weight.mean().item()) < 0.02 * std


def test_orthogonal_rows() -> None:
    rows = drawn(nn.Conv2d(8, 16, 3), "orthogonal", gain=0.5).flatten(1)
    torch.testing.assert_close(rows @ rows.T, 0.25 * torch.eye(16), atol=1e-5, rtol=0)


def test_batch_norm_and_biases() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4000, 1), nn.BatchNorm2d(4000))
    conv, norm = net[0], net[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    init_weights(net, "normal", 0.02, torch.Generator().manual_seed(0))
    assert conv.bias is not None
    assert not conv.bias.any()
    assert not norm.bias.any()
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.002)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("init_type", INIT_TYPES)
def test_depends_on_the_generator_only(init_type: str) -> None:
    def build(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        net = build_generator("resnet_4blocks", ngf=4, norm="batch", init_type=init_type, generator=generator)
        return dict(net.named_parameters())

    torch.manual_seed(0)
    first = build(5)
    torch.manual_seed(99)
    again, other = build(5), build(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.endswith("weight")]
    assert weights
    assert not any(torch.equal(first[name], other[name]) for name in weights)


def test_published_spread_at_default_size() -> None:
    """Measured on the published networks (xavier, gain 0.02)."""
    net = build_discriminator(generator=torch.Generator().manual_seed(0)).state_dict()
    published = {0: 8.81e-04, 3: 5.09e-04, 7: 3.61e-04, 11: 2.55e-04, 14: 3.08e-04}
    for layer, std in published.items():
        assert net[f"model.{layer}.weight"].std().item() == pytest.approx(std, rel=0.05)


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match=r"unknown init_type 'zeros'.*orthogonal"):
        init_weights(nn.Linear(2, 2), "zeros")
