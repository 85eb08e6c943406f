"""Scores by hand, what is settled by the first output, and messages for what does not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.cam.errors import ExplainError
from models.cam.targets import (
    ClassTarget,
    DistanceTarget,
    FunctionTarget,
    LogProbability,
    Margin,
    MaskTarget,
    Negated,
    PatchTarget,
    Repeated,
    Target,
    TopK,
    as_target,
)

LOGITS = torch.tensor([[1.0, 4.0, 2.0], [0.0, -1.0, 3.0]])
MAPS = torch.arange(24.0).view(2, 3, 2, 2)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (1, [[4.0], [-1.0]]),
        ([0, 2], [[1.0], [3.0]]),
        (torch.tensor([0, 2]), [[1.0], [3.0]]),
        ([[0, 1, 1], [2, 1, 0]], [[1.0, 4.0, 4.0], [3.0, -1.0, 0.0]]),
    ],
)
def test_classes(classes: Any, expected: list[list[float]]) -> None:
    target = ClassTarget(classes)
    assert target(LOGITS).tolist() == expected
    fixed = target.fixed(LOGITS)
    assert fixed.classes is not None
    assert fixed(LOGITS + 1).tolist() == (torch.tensor(expected) + 1).tolist()
    assert LOGITS.gather(1, fixed.classes).tolist() == expected


def test_a_settled_target_still_counts_the_images() -> None:
    with pytest.raises(ExplainError, match="2 rows of classes for 1 images"):
        ClassTarget(1).fixed(LOGITS)(LOGITS[:1])


def test_log_probability_and_margin_by_hand() -> None:
    total = math.log(math.exp(1) + math.exp(4) + math.exp(2))
    assert LogProbability([[1, 0], [0, 1]])(LOGITS)[0].tolist() == pytest.approx([4 - total, 1 - total])
    assert Margin([[1, 0], [2, 1]])(LOGITS).tolist() == [[2.0, -3.0], [3.0, -4.0]]


def test_top_k_is_settled_by_the_first_output() -> None:
    target = TopK(2)
    assert target.classes is None
    fixed = target.fixed(LOGITS)
    assert fixed.classes is not None
    assert fixed.classes.tolist() == [[1, 2], [2, 0]]
    assert fixed(LOGITS.flip(1)).tolist() == [[4.0, 1.0], [0.0, 3.0]]
    assert target(LOGITS).tolist() == [[4.0, 2.0], [3.0, 0.0]]
    assert TopK(1, Margin)(LOGITS).tolist() == [[2.0], [3.0]]


def test_negated() -> None:
    target = Negated(TopK(2)).fixed(LOGITS)
    assert target.classes is not None
    assert target.classes.tolist() == [[1, 2], [2, 0]]
    assert target(LOGITS).tolist() == [[-4.0, -2.0], [-3.0, 0.0]]
    assert Negated(PatchTarget()).classes is None


def test_mask_by_hand() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    assert MaskTarget(1, mask)(MAPS).tolist() == [[(4 + 7) / 2], [(16 + 19) / 2]]
    one_each = torch.stack([mask.float() * 3, torch.tensor([[0.0, 1.0], [0.0, 0.0]])])
    target = MaskTarget([[0, 2], [1, 0]], one_each).fixed(MAPS)
    assert target(MAPS).tolist() == [[1.5, 9.5], [17.0, 13.0]]
    assert target.classes is not None
    assert target.classes.tolist() == [[0, 2], [1, 0]]


def test_patches_by_hand() -> None:
    decisions = torch.arange(18.0).view(2, 1, 3, 3)
    assert PatchTarget()(decisions).tolist() == [[4.0], [13.0]]
    assert PatchTarget((0, 1, 2, 3))(decisions).tolist() == [[(1 + 2 + 4 + 5) / 4], [(10 + 11 + 13 + 14) / 4]]


def test_distance_by_hand() -> None:
    assert DistanceTarget(torch.zeros(2, 3))(LOGITS).flatten().tolist() == pytest.approx([21 / 3, 10 / 3])
    assert not DistanceTarget(LOGITS.clone().requires_grad_())(LOGITS).requires_grad


def test_functions_of_one_and_of_several_scores() -> None:
    assert FunctionTarget(lambda out: out.sum(1))(LOGITS).tolist() == [[7.0], [2.0]]
    assert FunctionTarget(lambda out: out[:, :2])(LOGITS).tolist() == LOGITS[:, :2].tolist()


def test_repeated_gives_every_block_the_same_classes() -> None:
    blocks = torch.cat([LOGITS, LOGITS + 10])
    assert Repeated(ClassTarget([0, 2]), 2)(blocks).tolist() == [[1.0], [3.0], [11.0], [13.0]]
    assert Repeated(DistanceTarget(LOGITS), 2)(blocks).tolist() == [[0.0], [0.0], [100.0], [100.0]]


def test_what_a_user_may_write() -> None:
    target = PatchTarget()
    assert as_target(target) is target
    for classes in (1, [1, 1], torch.tensor([[1], [1]])):
        assert as_target(classes)(LOGITS).tolist() == [[4.0], [-1.0]]
    assert as_target(lambda out: out.mean(1))(LOGITS).shape == (2, 1)


@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (ClassTarget(3), LOGITS, "class 3 does not exist: the network knows 0 to 2"),
        (ClassTarget([0, -1]), LOGITS, "class -1 does not exist"),
        (ClassTarget([0, 1, 2]), LOGITS, "3 rows of classes for 2 images"),
        (ClassTarget([0]), LOGITS, "1 rows of classes for 2 images"),
        (ClassTarget(0), MAPS, "MaskTarget is for maps of classes"),
        (Margin(0), LOGITS[:, :1], "at least 2 classes"),
        (TopK(4), LOGITS, "top_k is 4, but the network has 3 classes"),
        (TopK(1), MAPS, "need logits"),
        (MaskTarget(0, torch.ones(3, 3)), MAPS, r"does not fit an output \(2, 3, 2, 2\)"),
        (MaskTarget(0, torch.zeros(2, 2)), MAPS, "empty"),
        (MaskTarget(0, torch.ones(2, 2)), LOGITS, "needs an output with 4 axes"),
        (PatchTarget(), LOGITS, "needs decisions"),
        (PatchTarget((0, 0, 3, 2)), MAPS, r"window \(0, 0, 3, 2\) is not inside the 2 x 2"),
        (PatchTarget((1, 1, 1, 2)), MAPS, "is not inside"),
        (DistanceTarget(LOGITS[:1]), LOGITS, "a reference"),
        (FunctionTarget(lambda out: out.sum()), LOGITS, r"gives \(\) for 2 images"),
        (FunctionTarget(lambda out: 1.0), LOGITS, "gives float"),  # type: ignore[arg-type,return-value]
        (FunctionTarget(lambda out: out[:1]), LOGITS, r"gives \(1, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(target: Target, output: Tensor, message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        target(output)
    with pytest.raises(ExplainError, match=message):
        target.fixed(output)(output)


@pytest.mark.parametrize("classes", [0.5, [0.0, 1.0], torch.zeros(1, 1, 1, dtype=torch.int64), True, [True, False]])
def test_classes_are_whole_numbers(classes: Any) -> None:
    with pytest.raises(ExplainError, match="give whole numbers"):
        ClassTarget(classes)


def test_top_k_is_at_least_1() -> None:
    with pytest.raises(ExplainError, match="top_k is 0"):
        TopK(0)


def test_a_list_that_changes_later_changes_nothing() -> None:
    classes = torch.tensor([0, 2])
    target = ClassTarget(classes)
    classes[0] = 1
    assert target(LOGITS).tolist() == [[1.0], [3.0]]
