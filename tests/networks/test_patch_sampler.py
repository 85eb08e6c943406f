from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from models.networks import PatchSampleF, ResnetGenerator, draw_patch_ids


def feature_maps(channels: tuple[int, ...] = (3, 8), batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, 6 - i, 7, generator=generator) for i, c in enumerate(channels)]


def test_state_dict_is_cuts(published_keys: dict[str, dict[str, tuple[int, ...]]]) -> None:
    generator = ResnetGenerator()
    net = PatchSampleF(generator.feature_channels(generator.default_layers))
    assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == published_keys["F"]
    assert sum(p.numel() for p in net.parameters()) == 560_384


@pytest.mark.parametrize("netF", ["mlp_sample", "sample"])
def test_rows_one_by_one(netF: str) -> None:
    features = feature_maps()
    net = PatchSampleF([3, 8], netF, nc=5)
    ids = draw_patch_ids([42, 35], 10, seed=1, step=2, netF=netF)
    rows = net(features, ids)
    state = net.state_dict()
    for i, (feature, chosen) in enumerate(zip(features, ids, strict=True)):
        width = feature.shape[3]
        assert rows[i].shape == (20, net.out_channels[i])
        for n in range(2):
            for p, position in enumerate(chosen.tolist()):
                v = feature[n, :, position // width, position % width]
                if netF == "mlp_sample":
                    hidden = (state[f"mlp_{i}.0.weight"] @ v + state[f"mlp_{i}.0.bias"]).clamp(min=0)
                    v = state[f"mlp_{i}.2.weight"] @ hidden + state[f"mlp_{i}.2.bias"]
                want = v / (v.square().sum().sqrt() + 1e-7)
                torch.testing.assert_close(rows[i][n * 10 + p].detach(), want, atol=1e-6, rtol=1e-5)


def test_reshape_and_no_ids_give_every_position_in_order() -> None:
    features = feature_maps()
    net = PatchSampleF([3, 8], "reshape")
    every = net(features, draw_patch_ids([42, 35], 10, seed=1, step=2, netF="reshape"))
    none = net(features)
    for a, b, feature in zip(every, none, features, strict=True):
        assert torch.equal(a, b)
        want = feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])
        torch.testing.assert_close(a, want / want.norm(dim=1, keepdim=True))
    assert not list(net.parameters())


def test_ids_are_drawn_without_replacement() -> None:
    ids = draw_patch_ids([1000, 30], 256, seed=0, step=0)
    assert [len(i) for i in ids] == [256, 30]
    for chosen, size in zip(ids, (1000, 30), strict=True):
        assert chosen.dtype == torch.int64
        assert len(set(chosen.tolist())) == len(chosen)
        assert chosen.min() >= 0
        assert chosen.max() < size
    assert sorted(ids[1].tolist()) == list(range(30))


def test_ids_are_uniform() -> None:
    counts = torch.zeros(20)
    for step in range(2000):
        counts[draw_patch_ids([20], 5, seed=3, step=step)[0]] += 1
    # Binomial(2000, 1/4): mean 500, standard deviation 19.4; five of them either way.
    assert (counts - 500).abs().max() < 97


def test_ids_depend_on_their_keys_and_nothing_else() -> None:
    first = draw_patch_ids([500, 500], 64, seed=1, step=7)
    torch.manual_seed(0)
    again = draw_patch_ids([500, 500], 64, seed=1, step=7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    others = [
        draw_patch_ids([500], 64, seed=2, step=7),
        draw_patch_ids([500], 64, seed=1, step=8),
        draw_patch_ids([500], 64, seed=1, step=7, purpose="identity patches"),
    ]
    assert not any(torch.equal(first[0], other[0]) for other in others)


def test_zero_patches_take_every_position() -> None:
    assert torch.equal(draw_patch_ids([12], 0, seed=1, step=1)[0], torch.arange(12))


def test_the_same_positions_in_every_image() -> None:
    one = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    ids = draw_patch_ids([25], 9, seed=0, step=0)
    (rows,) = PatchSampleF([4], "sample")([one.expand(3, -1, -1, -1)], ids)
    first, *rest = rows.chunk(3)
    assert all(torch.equal(first, other) for other in rest)


def test_a_zero_vector_has_a_finite_gradient() -> None:
    feature = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (rows,) = PatchSampleF([3], "sample")([feature])
    rows.sum().backward()
    assert torch.equal(rows, torch.zeros(4, 3))
    assert feature.grad is not None
    assert feature.grad.isfinite().all()


def test_half_precision_is_normalised_in_single() -> None:
    feature = torch.full((1, 2, 2, 2), 1e-4, dtype=torch.float16)
    (rows,) = PatchSampleF([2], "sample")([feature])
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4), atol=1e-3, rtol=0)


def test_gradients_reach_every_parameter_and_a_copy_is_independent() -> None:
    net = PatchSampleF([3, 8], nc=4)
    twin = copy.deepcopy(net)
    features = feature_maps()
    score = torch.stack([(rows * torch.arange(4.0)).sum() for rows in net(features)]).sum()
    assert all(gradient.any() for gradient in torch.autograd.grad(score, list(net.parameters())))
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert all(rows.abs().sum() > 0 for rows in twin(features))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown netF 'mlp'.*mlp_sample, sample, reshape"):
        PatchSampleF([3], "mlp")
    with pytest.raises(ValueError, match="unknown netF 'mlp'"):
        draw_patch_ids([3], 1, 0, 0, netF="mlp")
    with pytest.raises(ValueError, match="num_patches is -1"):
        draw_patch_ids([3], -1, 0, 0)
    with pytest.raises(ValueError, match="built for 2 feature maps"):
        PatchSampleF([3, 8])(feature_maps((3,)))
