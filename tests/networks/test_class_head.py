from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from models.networks import ClassHead, ResnetGenerator, build_generator, init_weights
from models.networks.class_head import LSE_SHARPNESS, STATISTICS_FADE, STATISTICS_WARM_UP


def head_and_feature(
    pool: str = "gap", channels: int = 6, hidden: int | None = None, border: int = 0
) -> tuple[ClassHead, Tensor]:
    """In float64, with random biases so that identities must account for them."""
    generator = torch.Generator().manual_seed(0)
    head = ClassHead(channels, 4, pool, hidden=hidden, border=border).double()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    feature = torch.randn(3, channels, 7, 9, generator=generator, dtype=torch.float64)
    return head, feature


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


# --- identities


@pytest.mark.parametrize("hidden", [None, 11])
def test_the_map_of_a_class_sums_up_to_its_logit(hidden: int | None) -> None:
    head, feature = head_and_feature(hidden=hidden)
    h = head.hidden_map(feature)
    logits = head(feature)
    for c in range(4):
        maps = head.class_map(h, torch.full((3,), c))
        close(maps.mean((1, 2)) + head.classify.bias[c], logits[:, c])


def test_grad_cam_at_h_is_the_map_over_the_number_of_positions() -> None:
    head, feature = head_and_feature()
    classes = torch.tensor([2, 0, 3])
    h = head.hidden_map(feature).detach().requires_grad_()
    score = head.logits_from_hidden(h).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, h)
    alpha = gradient.mean((2, 3))
    grad_cam = torch.einsum("nc,nchw->nhw", alpha, h)
    close(grad_cam, head.class_map(h, classes) / (7 * 9))


def test_grad_cam_weights_at_f_have_a_closed_form() -> None:
    """alpha_k = 1/(HW) sum_j W_cj P_jk rho_j, rho_j the share of positions where h_j > 0."""
    head, feature = head_and_feature(hidden=5)
    classes = torch.tensor([1, 1, 2])
    feature.requires_grad_()
    h = head.hidden_map(feature)
    score = head.logits_from_hidden(h).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, feature)
    rho = (h > 0).double().mean((2, 3))
    closed = (head.classify.weight[classes] * rho) @ head.project.weight.flatten(1) / (7 * 9)
    close(gradient.mean((2, 3)), closed)


def test_logits_written_out() -> None:
    head, feature = head_and_feature()
    weight = head.project.weight.flatten(1)
    for n in range(3):
        positions = feature[n].flatten(1)
        h = (weight @ positions + head.project.bias[:, None]).clamp(min=0)  # type: ignore[index]
        close(head(feature)[n], head.classify.weight @ h.mean(1) + head.classify.bias)


def test_lse_and_topk_written_out() -> None:
    for pool in ("lse", "topk"):
        head, feature = head_and_feature(pool)
        h = head.hidden_map(feature).flatten(2)
        if pool == "lse":
            pooled = (LSE_SHARPNESS * h).exp().mean(2).log() / LSE_SHARPNESS
        else:
            count = math.ceil(0.05 * 63)
            assert count == 4
            pooled = h.sort(dim=2, descending=True).values[..., :count].mean(2)
        close(head(feature), pooled @ head.classify.weight.T + head.classify.bias)


def test_pools_are_ordered_and_agree_on_a_constant() -> None:
    mean, soft, top = (head_and_feature(pool)[0] for pool in ("gap", "lse", "topk"))
    for head in (mean, soft, top):
        with torch.no_grad():
            head.classify.weight.copy_(torch.eye(4, 6, dtype=torch.float64))
    _, feature = head_and_feature()
    assert (mean(feature) < soft(feature)).all()
    assert (soft(feature) <= head_max(soft, feature)).all()
    assert (top(feature) <= head_max(top, feature)).all()
    constant = feature[:, :, :1, :1].expand(-1, -1, 7, 9)
    close(mean(constant), soft(constant))
    close(mean(constant), top(constant))


def head_max(head: ClassHead, feature: Tensor) -> Tensor:
    peak = head.hidden_map(feature).amax((2, 3))
    return peak @ head.classify.weight.T + head.classify.bias


# --- frozen, border, precision


def test_frozen_gives_gradients_to_the_feature_only() -> None:
    head, feature = head_and_feature()
    feature.requires_grad_()
    classes = torch.tensor([0, 1, 2])
    h = head.hidden_map(feature, frozen=True)
    (head.class_map(h, classes, frozen=True).square().sum() + head(feature, frozen=True).square().sum()).backward()
    assert feature.grad is not None
    assert feature.grad.any()
    assert all(p.grad is None for p in head.parameters())
    close(head(feature, frozen=True), head(feature))
    close(head.class_map(h, classes, frozen=True), head.class_map(h, classes))


def test_not_frozen_gradients_reach_every_parameter() -> None:
    head, feature = head_and_feature()
    head(feature).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_frozen_switches_dropout_off() -> None:
    head = ClassHead(16, 3, dropout=0.5)
    feature = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(head(feature), head(feature))
    assert torch.equal(head(feature, frozen=True), head(feature, frozen=True))
    torch.testing.assert_close(head(feature, frozen=True), copy.deepcopy(head).eval()(feature))


def test_spreads_come_to_count_step_by_step() -> None:
    """From one step to the next no logit may jump, however little the images differ."""
    head = ClassHead(3, 2, standardise=True)
    draws = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(STATISTICS_WARM_UP + STATISTICS_FADE + 20):
        head.update_statistics(5 + 0.01 * torch.randn(8, 3, 2, 2, generator=draws))
        sizes.append(float((head.effective_weight(frozen=True) / head.classify.weight.detach()).mean()))
    assert sizes[: STATISTICS_WARM_UP - 1] == [1.0] * (STATISTICS_WARM_UP - 1)
    assert all(1 / 1.15 < after / before < 1.15 for before, after in itertools.pairwise(sizes))
    assert sizes[-1] == pytest.approx(float((1 / (head.pooled_var + 1e-5).sqrt()).mean()), rel=1e-5)
    assert sizes[-1] > 100


def test_border_is_what_a_cropped_feature_gives() -> None:
    head, feature = head_and_feature(border=2)
    h = head.hidden_map(feature)
    assert h.shape == (3, 6, 3, 5)
    bare, _ = head_and_feature()
    close(h, bare.hidden_map(feature[..., 2:-2, 2:-2]))
    with pytest.raises(ValueError, match="within its border of 2"):
        head.hidden_map(feature[..., :4, :])


def test_autocast_keeps_logits_and_maps_in_single() -> None:
    head = ClassHead(8, 3)
    feature = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = head.hidden_map(feature)
        logits, maps = head.logits_from_hidden(h), head.class_map(h, torch.tensor([0, 2]))
    assert (h.dtype, logits.dtype, maps.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    chosen = logits[torch.arange(2), torch.tensor([0, 2])] - head.classify.bias[torch.tensor([0, 2])]
    torch.testing.assert_close(maps.mean((1, 2)), chosen, atol=1e-6, rtol=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown cam_pool 'max'.*gap, lse, topk"):
        ClassHead(4, 3, pool="max")
    with pytest.raises(ValueError, match="num_classes is 1"):
        ClassHead(4, 1)
    with pytest.raises(ValueError, match="border is -1"):
        ClassHead(4, 3, border=-1)
    head, feature = head_and_feature()
    with pytest.raises(IndexError):
        head.class_map(head.hidden_map(feature), torch.tensor([0, -1, 1]))


# --- why there is a ReLU before the pooling


def block_gradient(net: ResnetGenerator, feature_score: Tensor) -> tuple[float, float]:
    """Largest gradient of a score in the residual blocks up to layer 16, and in the layers before them."""
    named = [(name, p) for name, p in net.named_parameters() if int(name.split(".")[1]) <= 16]
    gradients = torch.autograd.grad(feature_score, [p for _, p in named])
    largest = {True: 0.0, False: 0.0}
    for (name, _), g in zip(named, gradients, strict=True):
        inside = "conv_block" in name
        largest[inside] = max(largest[inside], g.abs().max().item())
    return largest[True], largest[False]


def test_a_bare_average_of_layer_16_says_nothing_of_the_residual_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    net = build_generator("resnet_9blocks", ngf=4, init_type="kaiming", generator=generator).double()
    assert isinstance(net, ResnetGenerator)
    head = ClassHead(16, 3).double()
    init_weights(head, "kaiming", generator=generator)
    x = torch.rand(2, 3, 32, 40, generator=generator, dtype=torch.float64)

    halved, first, last = net.encode(x, (11, 12, 16))
    close(first.mean((2, 3)), halved.mean((2, 3)))
    close(last.mean((2, 3)), halved.mean((2, 3)))
    assert (last - halved).abs().max() > 0.5  # although the maps themselves differ

    bare = (last.mean((2, 3)) @ head.classify.weight.T).square().sum()
    in_blocks, before = block_gradient(net, bare)
    assert before > 1e-3
    assert in_blocks < 1e-10 * before

    ours = head(net.encode(x, (16,))[0]).square().sum()
    in_blocks, before = block_gradient(net, ours)
    assert in_blocks > 1e-2 * before
