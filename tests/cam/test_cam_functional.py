"""Arithmetic on class activation maps against values by hand, numpy and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.cam import functional as cf


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


SMALL = torch.tensor([[[0.0, 1.0], [3.0, 4.0]]])


def test_rectify_and_dead() -> None:
    cam = torch.tensor([[[-1.0, 2.0]], [[-1.0, -2.0]], [[0.0, 0.0]], [[1e-9, 0.0]]])
    assert cf.rectify(cam)[0].tolist() == [[0.0, 2.0]]
    assert cf.dead(cam).tolist() == [False, True, True, True]
    assert cf.dead(cam, eps=0.0).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("minmax", [0.0, 0.25, 0.75, 1.0]),
        ("mean", [0.0, 0.5, 1.5, 2.0]),
        ("l2", [0.0, 1 / math.sqrt(26), 3 / math.sqrt(26), 4 / math.sqrt(26)]),
    ],
)
def test_normalize_by_hand(mode: str, expected: list[float]) -> None:
    assert cf.normalize(SMALL, mode).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_softmax_is_a_distribution_with_temperature() -> None:
    cam = maps(2, 3, 4)
    out = cf.normalize(cam, "softmax", tau=0.5)
    by_hand = np.exp(cam.numpy() / 0.5)
    by_hand /= by_hand.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(out.numpy(), by_hand, rtol=1e-12)


@pytest.mark.parametrize("mode", ["minmax", "mean", "l2"])
def test_normalize_ignores_scale_and_keeps_dead_maps_at_zero(mode: str) -> None:
    cam = cf.rectify(maps(3, 5, 6))
    torch.testing.assert_close(cf.normalize(cam, mode), cf.normalize(1000 * cam, mode), rtol=0, atol=1e-4)
    zeros = torch.zeros(2, 5, 6, requires_grad=True)
    out = cf.normalize(zeros, mode)
    assert out.abs().max() == 0
    (gradient,) = torch.autograd.grad(out.sum(), zeros)
    assert gradient.isfinite().all()


def test_flat_maps() -> None:
    flat = torch.full((1, 4, 4), 7.0)
    assert cf.normalize(flat, "minmax").abs().max() == 0
    torch.testing.assert_close(cf.normalize(flat, "mean"), torch.ones(1, 4, 4))


@pytest.mark.parametrize("mode", list(cf.CAM_NORMS))
def test_normalize_gradient(mode: str) -> None:
    cam = (maps(2, 3, 3).abs() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: cf.normalize(c, mode), cam)


@pytest.mark.parametrize("mode", list(cf.CAM_NORMS))
def test_normalize_under_bfloat16_autocast_is_float32(mode: str) -> None:
    cam = maps(2, 4, 4, dtype=torch.bfloat16).relu()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = cf.normalize(cam, mode)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, cf.normalize(cam.float(), mode), rtol=0, atol=0)


def test_unknown_normalisation_is_named() -> None:
    with pytest.raises(ValueError, match=r"'max'.*minmax, mean, l2, softmax"):
        cf.normalize(SMALL, "max")


def test_resize_by_hand() -> None:
    cam = torch.arange(16.0).view(1, 4, 4)
    assert cf.resize_map(cam, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert cf.resize_map(cam, (4, 4)).equal(cam)
    up = cf.resize_map(torch.tensor([[[0.0, 4.0]]]), (1, 4))
    assert up.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    mixed = cf.resize_map(torch.tensor([[[0.0], [2.0], [4.0], [6.0]]]), (2, 3))
    assert mixed.tolist() == [[[1.0] * 3, [5.0] * 3]]


def test_shrinking_keeps_a_single_hot_position() -> None:
    cam = torch.zeros(1, 64, 64)
    cam[0, 31, 17] = 1.0
    small = cf.resize_map(cam, (16, 16))
    assert small.sum().item() == pytest.approx(1 / 16)


class Head(nn.Module):
    """1x1 convolution, ReLU, mean, linear: the head the closed form is about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.project = nn.Conv2d(5, 7, 1)
        self.classify = nn.Linear(7, 4)

    def hidden(self, feature: Tensor) -> Tensor:
        hidden: Tensor = self.project(feature).relu()
        return hidden

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.hidden(feature).mean(dim=(2, 3)))
        return logits


def closed_form(head: Head, feature: Tensor, classes: Tensor) -> Tensor:
    return cf.gradcam_at_feature(feature, head.hidden(feature), head.project.weight, head.classify.weight, classes)


def test_closed_form_is_autograd_gradcam() -> None:
    head = Head().double()
    feature = maps(3, 5, 6, 7, seed=1).requires_grad_()
    classes = torch.tensor([2, 0, 3])
    score = head(feature).gather(1, classes[:, None]).sum()
    (slope,) = torch.autograd.grad(score, feature)
    expected = (slope.mean(dim=(2, 3), keepdim=True) * feature).sum(dim=1)
    torch.testing.assert_close(closed_form(head, feature, classes), expected, rtol=1e-11, atol=1e-14)


def test_closed_form_sends_gradient_to_the_feature_only() -> None:
    head = Head()
    feature = maps(2, 5, 4, 4, dtype=torch.float32).requires_grad_()
    torch.autograd.backward(closed_form(head, feature, torch.tensor([0, 1])).square().sum())
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in head.parameters())


def test_closed_form_under_autocast() -> None:
    head = Head()
    feature = maps(2, 5, 4, 4, dtype=torch.float32)
    classes = torch.tensor([0, 1])
    hidden = head.hidden(feature)
    arguments = (feature, hidden, head.project.weight, head.classify.weight, classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cf.gradcam_at_feature(*arguments)
    assert inside.equal(cf.gradcam_at_feature(*arguments))


def test_closed_form_rejects_a_cut_border() -> None:
    with pytest.raises(ValueError, match="border"):
        cf.gradcam_at_feature(
            torch.ones(1, 2, 4, 4),
            torch.ones(1, 2, 2, 2),
            torch.ones(2, 2),
            torch.ones(3, 2),
            torch.zeros(1).long(),
        )


def test_label_free_map() -> None:
    feature = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]])
    assert cf.label_free_map(feature).tolist() == [[[2.0, 2.0]]]


def test_correlation_is_numpys() -> None:
    a, b = maps(3, 5, 6), maps(3, 5, 6, seed=1)
    expected = [np.corrcoef(a[i].flatten().numpy(), b[i].flatten().numpy())[0, 1] for i in range(3)]
    assert cf.correlation(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(cf.correlation(a, 3 * a + 5), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(cf.correlation(a, -a), -torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("size", [(9, 7), (37, 31), (64, 64), (101, 99), (256, 256)])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.1, 1e4, 1e-3 / 3])  # some leave round-off in the mean
def test_correlation_with_a_constant_map_is_zero(value: float, size: tuple[int, int]) -> None:
    constant = torch.full((2, *size), value)
    assert cf.correlation(constant, constant).tolist() == [0.0, 0.0]


def test_correlation_needs_equal_shapes() -> None:
    with pytest.raises(ValueError, match="resize"):
        cf.correlation(torch.zeros(1, 2, 2), torch.zeros(1, 4, 4))


def test_cross_image_correlation_is_the_mean_over_pairs() -> None:
    m = maps(5, 4, 4)
    table = np.corrcoef(m.flatten(1).numpy())
    expected = table[~np.eye(5, dtype=bool)].mean()
    assert cf.cross_image_correlation(m).item() == pytest.approx(expected, abs=1e-12)
    positional = m[:1] * torch.tensor([1.0, 2.0, 5.0])[:, None, None]
    assert cf.cross_image_correlation(positional).item() == pytest.approx(1.0)
    assert math.isnan(cf.cross_image_correlation(m[:1]).item())
    assert math.isnan(cf.cross_image_correlation(m[:0]).item())


def test_maps_of_one_image_are_not_compared_with_each_other() -> None:
    m = torch.rand(4, 5, 6, dtype=torch.float64)
    table = np.corrcoef(m.flatten(1).numpy())
    pairs = [(0, 1), (0, 3), (1, 2), (2, 3)]  # 0 and 2 are of one image, 1 and 3 of another
    found = cf.cross_image_correlation(m, torch.tensor([7, 2, 7, 2])).item()
    assert found == pytest.approx(np.mean([table[pair] for pair in pairs]), abs=1e-12)
    assert math.isnan(cf.cross_image_correlation(m, torch.full((4,), 3)).item())


def test_statistics_of_flat_dead_and_peaked_maps() -> None:
    peak = torch.zeros(10, 10)
    peak[3, 4] = 2.0
    cam = torch.stack([torch.full((10, 10), 3.0), -torch.ones(10, 10), peak])
    assert cf.entropy(cam).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-6)
    assert cf.std_over_mean(cam).tolist() == pytest.approx([0.0, 0.0, math.sqrt(99)], abs=1e-5)
    assert cf.top_mass(cam).tolist() == pytest.approx([0.05, 0.05, 1.0], abs=1e-6)


def test_statistics_by_hand() -> None:
    cam = torch.tensor([[[-5.0, 1.0], [3.0, 4.0]]])
    p = np.array([1, 3, 4]) / 8
    assert cf.entropy(cam).item() == pytest.approx(-(p * np.log(p)).sum() / np.log(4), abs=1e-6)
    assert cf.std_over_mean(cam).item() == pytest.approx(np.std([0, 1, 3, 4]) / 2, abs=1e-6)
    assert cf.top_mass(cam, 0.5).item() == pytest.approx(7 / 8)
    assert cf.top_mass(cam, 0.01).item() == pytest.approx(0.5)
    assert cf.entropy(torch.ones(1, 1, 1)).item() == 1


def test_statistics_ignore_scale_and_carry_no_gradient() -> None:
    cam = maps(2, 6, 6).requires_grad_()
    for statistic in (cf.entropy, cf.std_over_mean, cf.top_mass):
        torch.testing.assert_close(statistic(cam), statistic(1e-12 * cam))
        assert not statistic(cam).requires_grad


def test_statistics_refuse_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        cf.top_mass(SMALL, 0.0)


def test_effective_classes() -> None:
    assert cf.effective_classes(torch.eye(4)).item() == pytest.approx(4.0)
    assert cf.effective_classes(torch.eye(4)[[1] * 9]).item() == pytest.approx(1.0)
    rows = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert cf.effective_classes(rows).item() == pytest.approx(0.75**-0.75 * 0.25**-0.25, rel=1e-6)
