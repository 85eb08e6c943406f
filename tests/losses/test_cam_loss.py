"""CAM invariance and adversarial weights: values by hand, who gets gradient, dead maps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cosine
from scipy.stats import entropy as kl
from torch import Tensor

from models.cam.functional import CAM_NORMS, dead
from models.losses.cam import adversarial_weights, cam_contrast, cam_invariance

MODES = list(CAM_NORMS)


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = torch.tensor([[[0.0, 1.0], [3.0, 4.0]]], dtype=torch.float64)
FAKE = torch.tensor([[[2.0, 2.0], [0.0, 4.0]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("minmax", (0.5 + 0.25 + 0.75 + 0.0) / 4),
        ("mean", (1.0 + 0.5 + 1.5 + 0.0) / 4),
        ("l2", 2 - 2 * (2 + 16) / math.sqrt(26 * 24)),
    ],
)
def test_by_hand(mode: str, expected: float) -> None:
    assert cam_invariance(X, FAKE, mode).tolist() == pytest.approx([expected], abs=2e-6)


def test_against_scipy() -> None:
    x, fake = maps(3, 4, 5), maps(3, 4, 5, seed=1)
    pairs = [(x[i].flatten(), fake[i].flatten()) for i in range(3)]
    angles = [2 * cosine(a.relu().numpy(), b.relu().numpy()) for a, b in pairs]
    assert cam_invariance(x, fake, "l2").tolist() == pytest.approx(angles, abs=1e-10)
    divergences = [kl((a / 0.7).softmax(0).numpy(), (b / 0.7).softmax(0).numpy()) for a, b in pairs]
    assert cam_invariance(x, fake, "softmax", tau=0.7).tolist() == pytest.approx(divergences, abs=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_identical_maps_cost_nothing_and_others_do(mode: str) -> None:
    x = maps(3, 6, 6)
    assert cam_invariance(x, x, mode).abs().max() < 1e-12
    out = cam_invariance(x, x.flip(2), mode)
    assert out.shape == (3,)
    assert (out > 1e-3).all()


@pytest.mark.parametrize("mode", ["minmax", "mean", "l2"])
def test_scale_of_either_side_does_not_matter(mode: str) -> None:
    x, fake = maps(3, 6, 6), maps(3, 6, 6, seed=1)
    expected = cam_invariance(x, fake, mode)
    torch.testing.assert_close(cam_invariance(50 * x, 0.02 * fake, mode), expected, rtol=0, atol=2e-3)


def test_softmax_ignores_an_offset() -> None:
    x, fake = maps(2, 4, 4), maps(2, 4, 4, seed=1)
    torch.testing.assert_close(cam_invariance(x, fake + 3, "softmax"), cam_invariance(x, fake, "softmax"))


@pytest.mark.parametrize("mode", MODES)
def test_only_the_translation_gets_gradient(mode: str) -> None:
    x, fake = maps(2, 5, 5).requires_grad_(), maps(2, 5, 5, seed=1).requires_grad_()
    torch.autograd.backward(cam_invariance(x, fake, mode).mean())
    assert x.grad is None
    assert fake.grad is not None
    assert (fake.grad.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode: str) -> None:
    x, fake = maps(2, 3, 4), maps(2, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: cam_invariance(x, f, mode), fake)


@pytest.mark.parametrize("mode", MODES)
def test_dead_input_maps_are_skipped(mode: str) -> None:
    x, fake = maps(3, 5, 5), maps(3, 5, 5, seed=1).requires_grad_()
    x[1] = -x[1].abs()
    out = cam_invariance(x, fake, mode)
    assert dead(x).tolist() == [False, True, False]
    assert [value == 0 for value in out.tolist()] == [False, True, False]
    (slope,) = torch.autograd.grad(out.sum(), fake)
    assert slope.isfinite().all()
    assert slope[1].abs().max() == 0
    assert slope[0].abs().max() > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_dead_translation_is_punished_and_only_softmax_revives_it(mode: str) -> None:
    x, fake = maps(1, 5, 5), (-maps(1, 5, 5, seed=1).abs() - 0.1).requires_grad_()
    out = cam_invariance(x, fake, mode)
    assert out.item() > 0.05
    (slope,) = torch.autograd.grad(out.sum(), fake)
    assert slope.isfinite().all()
    assert bool(slope.abs().max() > 0) == (mode == "softmax")


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_and_autocast_are_computed_in_float32(mode: str) -> None:
    x, fake = maps(2, 4, 4).bfloat16(), maps(2, 4, 4, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = cam_invariance(x, fake, mode)
    assert out.dtype == torch.float32
    assert out.equal(cam_invariance(x.float(), fake.float(), mode))


def unit_rows(count: int, seed: int = 7) -> Tensor:
    return F.normalize(maps(count, 20, seed=seed).relu(), dim=1)


def test_contrast_is_cross_entropy_over_cosines() -> None:
    x, fake, others = maps(3, 4, 5), maps(3, 4, 5, seed=1), unit_rows(4)
    differ = torch.tensor([[True, True, False, True], [True] * 4, [False, False, True, False]])
    expected = []
    for i in range(3):
        rows = [x[i].relu().flatten(), *(others[j] for j in range(4) if differ[i, j])]
        similar = [1 - cosine(row.numpy(), fake[i].relu().flatten().numpy()) for row in rows]
        expected.append(F.cross_entropy(torch.tensor([similar]) / 0.2, torch.tensor([0])).item())
    assert cam_contrast(x, fake, others, differ, 0.2).tolist() == pytest.approx(expected, abs=1e-10)


def test_contrast_trains_the_translation_alone() -> None:
    x, fake = maps(2, 4, 5).requires_grad_(), maps(2, 4, 5, seed=1).requires_grad_()
    others, differ = unit_rows(3).requires_grad_(), torch.ones(2, 3, dtype=torch.bool)
    loss = cam_contrast(x, fake, others.detach(), differ)
    (none,) = torch.autograd.grad(loss.sum(), x, allow_unused=True, retain_graph=True)
    assert none is None
    (slope,) = torch.autograd.grad(loss.sum(), fake)
    assert (slope.flatten(1).abs().sum(1) > 0).all()
    assert torch.autograd.gradcheck(lambda f: cam_contrast(x, f, others.detach(), differ, 0.5), fake)


def test_contrast_prefers_the_own_map_to_one_that_all_share() -> None:
    x, others = maps(2, 4, 5), unit_rows(6)
    shared = others.mean(0).view(1, 4, 5).expand(2, 4, 5)
    differ = torch.ones(2, 6, dtype=torch.bool)
    assert (cam_contrast(x, x, others, differ) < cam_contrast(x, shared, others, differ) - 1).all()


def test_contrast_of_a_dead_map_or_without_others_is_nothing() -> None:
    x, fake = maps(2, 4, 5), maps(2, 4, 5, seed=1).requires_grad_()
    x[1] = -1.0
    differ = torch.ones(2, 3, dtype=torch.bool)
    first, second = cam_contrast(x, fake, unit_rows(3), differ).tolist()
    assert first > 0
    assert second == 0
    for none in (cam_contrast(x, fake, unit_rows(3), ~differ), cam_contrast(x, fake, unit_rows(0), differ[:, :0])):
        assert none.tolist() == [0, 0]
        (slope,) = torch.autograd.grad(none.sum(), fake, retain_graph=True)
        assert not slope.any()


def test_contrast_in_bfloat16_is_computed_in_float32() -> None:
    x, fake, others = maps(2, 4, 5).bfloat16(), maps(2, 4, 5, seed=1).bfloat16(), unit_rows(3).float()
    differ = torch.ones(2, 3, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = cam_contrast(x, fake, others, differ)
    assert out.dtype == torch.float32
    assert out.equal(cam_contrast(x.float(), fake.float(), others, differ))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        cam_contrast(X, FAKE, unit_rows(2), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="unknown CAM normalisation 'L2'"):
        cam_invariance(X, FAKE, "L2")
    with pytest.raises(ValueError, match="resize"):
        cam_invariance(X, torch.zeros(1, 4, 4), "l2")


def test_weights_by_hand() -> None:
    cam = torch.tensor([[[-3.0, 1.0], [3.0, 4.0]]], dtype=torch.float64)
    full = adversarial_weights(cam, (2, 2), 1.0)
    assert full.shape == (1, 1, 2, 2)
    assert full.flatten().tolist() == pytest.approx([0.0, 0.5, 1.5, 2.0])
    half = adversarial_weights(cam, (2, 2), 0.5)
    assert half.flatten().tolist() == pytest.approx([0.5, 0.75, 1.25, 1.5], abs=1e-6)
    assert adversarial_weights(cam, (1, 2), 1.0).flatten().tolist() == pytest.approx([0.75, 1.25])


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(30, 30), (5, 7), (64, 20)])
def test_weights_have_mean_one_per_image(size: tuple[int, int], strength: float) -> None:
    weights = adversarial_weights(maps(3, 16, 16).float(), size, strength)
    assert weights.shape == (3, 1, *size)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(3), rtol=0, atol=1e-6)


def test_weights_are_detached_scale_free_and_ignore_the_sign_of_the_rest() -> None:
    cam = maps(2, 8, 8).requires_grad_()
    weights = adversarial_weights(cam, (4, 4), 0.7)
    assert not weights.requires_grad
    torch.testing.assert_close(adversarial_weights(40 * cam, (4, 4), 0.7), weights, rtol=0, atol=1e-4)
    torch.testing.assert_close(adversarial_weights(cam.relu(), (4, 4), 0.7), weights)


def test_dead_maps_weigh_exactly_one() -> None:
    cam = maps(3, 8, 8).float()
    cam[1] = -1.0
    cam[2] = 0.0
    weights = adversarial_weights(cam, (5, 5), 1.0)
    assert (weights[1:] == 1).all()
    assert weights[0].std() > 0


def test_no_strength_is_plain_averaging_and_others_are_refused() -> None:
    torch.testing.assert_close(adversarial_weights(X, (3, 3), 0.0), torch.ones(1, 1, 3, 3).double())
    for strength in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            adversarial_weights(X, (2, 2), strength)
