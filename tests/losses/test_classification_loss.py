"""Class consistency against torch's losses: true labels, pseudo-labels, unknown ones, who gets gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.classification import class_consistency

HARD, SOFT = torch.tensor([False]), torch.tensor([True])


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_true_label_by_hand() -> None:
    x, fake = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    out = class_consistency(x, fake, torch.tensor([0]), HARD, smoothing=0.0)
    assert out.tolist() == pytest.approx([0.5 * (-math.log(0.75) - math.log(0.5))])


def test_pseudo_label_by_hand() -> None:
    x, fake = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    out = class_consistency(x, fake, torch.tensor([0]), SOFT, smoothing=0.0)
    agree = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert out.tolist() == pytest.approx([0.5 * (-math.log(0.75) + agree)])


def test_mixed_batch_is_torchs() -> None:
    x, fake = 2 * logits(5, 4), 2 * logits(5, 4, seed=1)
    labels = torch.tensor([1, -1, 3, 0, -1])
    soft = torch.tensor([False, False, True, True, True])
    out = class_consistency(x, fake, labels, soft, smoothing=0.1, temperature=2.0)
    for i, label in enumerate(labels.tolist()):
        if label < 0:
            assert out[i] == 0
            continue
        target = labels[i : i + 1]
        learn = F.cross_entropy(x[i : i + 1], target, label_smoothing=0.1)
        if soft[i]:
            second = F.kl_div((fake[i] / 2).log_softmax(0), (x[i] / 2).softmax(0), reduction="sum")
        else:
            second = F.cross_entropy(fake[i : i + 1], target, label_smoothing=0.1)
        torch.testing.assert_close(out[i], 0.5 * (learn + second))


def test_what_is_taught_is_half_a_cross_entropy_more() -> None:
    x, fake, taught = logits(3, 4), logits(3, 4, seed=1), logits(3, 4, seed=2).requires_grad_()
    labels, soft = torch.tensor([2, -1, 0]), torch.tensor([False, False, True])
    more = class_consistency(x, fake, labels, soft, taught=taught) - class_consistency(x, fake, labels, soft)
    wanted = 0.5 * F.cross_entropy(taught, labels.clamp_min(0), label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(more, wanted * torch.tensor([1.0, 0.0, 1.0]))
    torch.autograd.backward(more.sum())
    assert taught.grad is not None
    assert bool((taught.grad[1] == 0).all())


def test_gradients_of_a_true_label_reach_both_sides() -> None:
    x, fake = logits(1, 4).requires_grad_(), logits(1, 4, seed=1).requires_grad_()
    torch.autograd.backward(class_consistency(x, fake, torch.tensor([2]), HARD, smoothing=0.0).sum())
    assert x.grad is not None
    assert fake.grad is not None
    one_hot = F.one_hot(torch.tensor([2]), 4)
    torch.testing.assert_close(x.grad, 0.5 * (x.detach().softmax(1) - one_hot))
    torch.testing.assert_close(fake.grad, 0.5 * (fake.detach().softmax(1) - one_hot))


def test_the_teacher_of_a_pseudo_label_gets_no_gradient_from_the_translation() -> None:
    x, fake = logits(1, 4).requires_grad_(), logits(1, 4, seed=1).requires_grad_()
    torch.autograd.backward(class_consistency(x, fake, torch.tensor([2]), SOFT, smoothing=0.0).sum())
    assert x.grad is not None
    assert fake.grad is not None
    # Only the cross-entropy of x, exactly, although the KL term depends on x as well.
    torch.testing.assert_close(x.grad, 0.5 * (x.detach().softmax(1) - F.one_hot(torch.tensor([2]), 4)))
    torch.testing.assert_close(fake.grad, 0.5 * (fake.detach().softmax(1) - x.detach().softmax(1)))
    assert fake.grad.abs().sum() > 0


def test_unknown_labels_give_zero_without_gradient() -> None:
    x, fake = logits(3, 4).requires_grad_(), logits(3, 4, seed=1).requires_grad_()
    out = class_consistency(x, fake, torch.tensor([-1, 1, -1]), torch.tensor([False, False, True]))
    assert out[[0, 2]].tolist() == [0.0, 0.0]
    torch.autograd.backward(out.sum())
    for side in (x, fake):
        assert side.grad is not None
        assert side.grad[[0, 2]].abs().max() == 0
        assert side.grad[1].abs().max() > 0


def test_a_batch_without_labels_is_zero_and_differentiable() -> None:
    x = logits(2, 4).requires_grad_()
    out = class_consistency(x, x * 2, torch.tensor([-1, -1]), torch.zeros(2, dtype=torch.bool))
    torch.autograd.backward(out.sum())
    assert out.tolist() == [0.0, 0.0]
    assert x.grad is not None
    assert x.grad.abs().max() == 0


def test_agreement_makes_the_pseudo_term_vanish_and_offsets_do_not_matter() -> None:
    x = logits(1, 4)
    label = torch.tensor([1])
    half = 0.5 * F.cross_entropy(x, label, label_smoothing=0.1)
    torch.testing.assert_close(class_consistency(x, x + 7, label, SOFT)[0], half)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradcheck(temperature: float) -> None:
    x, fake = logits(3, 4), logits(3, 4, seed=1).requires_grad_()
    labels, soft = torch.tensor([0, 2, -1]), torch.tensor([True, False, False])
    assert torch.autograd.gradcheck(lambda f: class_consistency(x, f, labels, soft, temperature=temperature), fake)
    hard = torch.zeros(3, dtype=torch.bool)  # the soft term is detached on purpose, so hard ones only
    assert torch.autograd.gradcheck(
        lambda v: class_consistency(v, fake.detach(), labels, hard), logits(3, 4, seed=2).requires_grad_()
    )


def test_bfloat16_and_autocast_are_computed_in_float32() -> None:
    x, fake = logits(2, 4).bfloat16(), logits(2, 4, seed=1).bfloat16()
    labels, soft = torch.tensor([0, 1]), torch.tensor([True, False])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = class_consistency(x, fake, labels, soft)
    assert out.dtype == torch.float32
    assert out.equal(class_consistency(x.float(), fake.float(), labels, soft))


def test_saturated_logits_stay_finite() -> None:
    x, fake = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert class_consistency(x, fake, torch.tensor([0]), SOFT).isfinite().all()


def test_the_sum_is_the_same_however_the_batch_is_split() -> None:
    x, fake = logits(6, 3), logits(6, 3, seed=1)
    labels, soft = torch.tensor([0, -1, 2, 1, -1, -1]), torch.tensor([True, False] * 3)
    whole = class_consistency(x, fake, labels, soft)
    parts = [class_consistency(x[i:j], fake[i:j], labels[i:j], soft[i:j]) for i, j in ((0, 2), (2, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)
