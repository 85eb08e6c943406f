"""The watchmen by themselves, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.guards import COLLAPSED, CollapseGuard, GradientCap, MapMemory
from util.seeding import generator

UNKNOWN = torch.tensor([-1, -1])
ONE = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])


def even(step: int) -> Tensor:
    """Two certain predictions that go round all four classes."""
    return torch.eye(4)[[(2 * step) % 4, (2 * step + 1) % 4]]


def test_effective_classes_of_the_window() -> None:
    guard = CollapseGuard(4, window=4)
    assert math.isnan(guard.effective)
    guard.watch(ONE, UNKNOWN)
    assert guard.effective == pytest.approx(1)
    guard.watch(even(0), UNKNOWN)  # classes 0 and 1: together 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert guard.effective == pytest.approx(math.exp(entropy))
    for step in range(4):
        guard.watch(even(step), UNKNOWN)
    assert guard.effective == pytest.approx(4)  # the first two steps have left the window


def test_judges_only_a_full_window() -> None:
    guard = CollapseGuard(4, window=3)
    verdicts = []
    for _ in range(4):
        guard.watch(ONE, UNKNOWN)
        verdicts.append(guard.collapsed)
    assert verdicts == [False, False, True, True]
    for step in range(3):
        guard.watch(even(step), UNKNOWN)
    assert not guard.collapsed


@pytest.mark.parametrize(
    ("labels", "collapsed"),
    [([0, 0], False), ([0, 1], True), ([-1, -1], True), ([0, -1], False), ([1, 2], True)],
)
def test_a_head_is_right_to_say_one_class_where_the_labels_do(labels: list[int], collapsed: bool) -> None:
    guard = CollapseGuard(4, window=5)
    for _ in range(5):
        guard.watch(ONE, torch.tensor(labels))
    assert guard.collapsed == collapsed


@pytest.mark.parametrize("classes", [2, 4, 7, 20])
def test_the_smoothing_of_the_loss_hides_no_collapse(classes: int) -> None:
    """A head that knows one class only learns to say it with 1 - s + s / K: 1.56 effective classes at s 0.1 and K 7."""
    settled = torch.full((2, classes), 0.1 / classes)
    settled[:, 0] += 0.9
    hidden, seen = CollapseGuard(classes, window=2), CollapseGuard(classes, window=2, label_smoothing=0.1)
    for _ in range(2):
        hidden.watch(settled, UNKNOWN)
        seen.watch(settled, UNKNOWN)
    assert seen.collapsed
    assert seen.effective == pytest.approx(1, abs=1e-4)
    assert (hidden.effective > COLLAPSED) == (classes > 5)
    even_handed = CollapseGuard(classes, window=2, label_smoothing=0.1)
    for _ in range(2):
        even_handed.watch(torch.full((2, classes), 1 / classes), UNKNOWN)
    assert even_handed.effective == pytest.approx(classes, rel=1e-4)


def test_the_threshold_is_in_effective_classes() -> None:
    for share, collapsed in ((0.95, True), (0.80, False)):
        row = torch.tensor([[share, 1 - share]])
        effective = math.exp(-(share * math.log(share) + (1 - share) * math.log(1 - share)))
        assert (effective < COLLAPSED) == collapsed
        guard = CollapseGuard(2, window=2)
        for _ in range(2):
            guard.watch(row, torch.tensor([-1]))
        assert guard.collapsed == collapsed


def test_a_guard_remembers_across_a_checkpoint() -> None:
    first, second = CollapseGuard(4, window=3), CollapseGuard(4, window=3)
    for step in range(2):
        first.watch(ONE if step else even(0), UNKNOWN)
    kept = first.state()
    first.watch(even(1), UNKNOWN)  # must not change what was kept
    second.load(kept)
    second.watch(even(1), UNKNOWN)
    assert second.effective == first.effective
    assert second.state()["seen"] == 3


def test_parts_of_a_step_count_as_one_step() -> None:
    whole, parts = CollapseGuard(4, window=3), CollapseGuard(4, window=3)
    for step in range(5):
        images, labels = torch.cat([ONE, even(step)]), torch.tensor([0, -1, 2, 3])
        whole.watch(images, labels, step)
        for begin in (0, 2):
            parts.watch(images[begin : begin + 2], labels[begin : begin + 2], step)
    torch.testing.assert_close(parts.state()["predicted"], whole.state()["predicted"])
    torch.testing.assert_close(parts.state()["true"], whole.state()["true"])
    assert parts.state()["seen"] == whole.state()["seen"] == 5


@pytest.mark.parametrize("seen", [1, 2, 3, 5])
@pytest.mark.parametrize("window", [2, 5])
def test_a_continued_run_may_have_another_window(seen: int, window: int) -> None:
    old, new, fresh = (CollapseGuard(4, window=size) for size in (3, window, window))
    steps = [even(0), even(1), ONE, even(0), even(1)][:seen]
    for images in steps:
        old.watch(images, UNKNOWN)
    for images in steps[-min(3, window) :]:
        fresh.watch(images, UNKNOWN)
    new.load(old.state())
    for guard in (new, fresh):
        guard.watch(ONE, UNKNOWN)
    assert new.effective == fresh.effective
    assert new.collapsed == fresh.collapsed
    assert len(new.state()["predicted"]) == window


def test_a_step_that_is_not_finite_counts_for_nothing() -> None:
    guard = CollapseGuard(4, window=3)
    for images in (ONE, even(0) * math.nan, even(0)):
        guard.watch(images, UNKNOWN)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert guard.effective == pytest.approx(math.exp(entropy))
    assert guard.shares.tolist() == pytest.approx([0.75, 0.25, 0, 0])
    assert not guard.collapsed
    guard.watch(ONE, UNKNOWN)
    guard.watch(even(0) / 0.0, UNKNOWN)
    guard.watch(ONE, UNKNOWN)
    assert guard.collapsed  # by the two steps of the window that count
    for _ in range(3):
        guard.watch(even(0) * math.nan, UNKNOWN)
    assert not guard.collapsed
    assert math.isnan(guard.effective)


# --- gradient cap


def losses(ours: float, theirs: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two losses whose gradients on the first row of the image have these norms; the second row gets 100."""
    image = torch.zeros(2, 1, 2, 2, requires_grad=True)
    ways = torch.tensor([1.0, 1, 1, 1]) / 2
    term = ours * (image[0].flatten() @ ways) + 100 * image[1].sum()
    reference = theirs * (image[0].flatten() @ ways)
    return term, reference, image


@pytest.mark.parametrize(
    ("ours", "theirs", "limit", "scale"),
    [(4, 2, 1, 0.5), (1, 2, 1, 1.0), (4, 2, 0.1, 0.05), (4, 2, 3, 1.0), (1e-20, 1e-21, 1, 0.1)],
)
def test_scale_by_hand(ours: float, theirs: float, limit: float, scale: float) -> None:
    cap = GradientCap(limit)
    assert cap.scale == 1.0
    cap.measure(*losses(ours, theirs), count=1, step=0)
    assert cap.scale == pytest.approx(scale, rel=1e-5)


def test_the_cap_is_measured_every_so_often() -> None:
    cap = GradientCap(1.0, every=50)
    assert cap.due(7)
    cap.measure(*losses(4, 2), count=1, step=7)
    assert [step for step in range(8, 160) if cap.due(step)] == [50, 100, 150]
    assert not GradientCap(0.0).due(0)


def test_what_cannot_be_measured_leaves_the_cap_as_it_is() -> None:
    cap = GradientCap(1.0)
    term, reference, image = losses(4, 2)
    for bad in (term.detach(), term * 0, term * math.nan, term * math.inf):
        cap.measure(bad, reference, image, count=1, step=7)
        assert cap.scale == 1.0
        assert cap.due(7)
    cap.measure(term, reference, image, count=1, step=7)
    assert cap.scale == 0.5
    term.backward()  # type: ignore[no-untyped-call]  # the graph is still there
    again = GradientCap(1.0)
    again.load(cap.state())
    assert again.scale == 0.5
    assert not again.due(7)


# --- memory of maps


def test_memory_keeps_the_last_maps_small() -> None:
    memory = MapMemory()
    assert math.isnan(float(memory.correlation()))
    maps = torch.rand(20, 32, 32, generator=generator(0, "maps"))
    for single in maps:
        memory.watch(single[None])
    small = maps[-16:].reshape(16, 16, 2, 16, 2).mean((2, 4)).flatten(1).numpy()
    table = np.corrcoef(small)
    expected = table[~np.eye(16, dtype=bool)].mean()
    assert float(memory.correlation()) == pytest.approx(expected, abs=1e-5)
    again = MapMemory()
    again.load(memory.state())
    assert torch.equal(again.correlation(), memory.correlation())


def test_positional_maps_are_recognised() -> None:
    memory = MapMemory()
    ramp = torch.linspace(0, 1, 16).expand(16, 16)
    memory.watch(torch.stack([ramp, 2 * ramp, 0.5 + ramp]))
    assert float(memory.correlation()) == pytest.approx(1, abs=1e-5)


def test_an_image_alone_has_no_other_to_be_compared_with() -> None:
    memory = MapMemory()
    for seed in range(3):
        memory.watch(torch.rand(1, 16, 16, generator=generator(seed, "maps")), torch.tensor([4]))
    assert math.isnan(float(memory.correlation()))
    again = MapMemory()
    again.load(memory.state())
    assert math.isnan(float(again.correlation()))
    memory.watch(torch.rand(1, 16, 16), torch.tensor([5]))
    assert not math.isnan(float(memory.correlation()))


def test_a_map_that_is_not_finite_is_left_out() -> None:
    memory, whole = MapMemory(), MapMemory()
    for seed in range(4):
        one = torch.rand(1, 16, 16, generator=generator(seed, "maps"))
        whole.watch(one)
        memory.watch(one)
        memory.watch(one * math.nan)
    assert torch.equal(memory.correlation(), whole.correlation())
    for _ in range(MapMemory.LENGTH // 2):
        memory.watch(torch.zeros(1, 16, 16))
    assert memory.dead_share == pytest.approx(8 / 12)
    for _ in range(MapMemory.LENGTH):
        memory.watch(torch.full((1, 16, 16), math.inf))
    assert memory.dead_share == 0


def test_maps_of_an_earlier_version_s_checkpoint_count_as_of_different_images() -> None:
    memory = MapMemory()
    memory.load({"maps": torch.rand(3, 16, 16)})
    assert not math.isnan(float(memory.correlation()))


def test_a_cap_is_measured_once_a_step() -> None:
    cap, found = GradientCap(1.0, every=2), []
    for step in (0, 0, 1, 1, 2, 2, 3, 4):  # two parts each
        found.append(cap.due(step))
        if found[-1]:
            cap.measure(*losses(4.0, 1.0), 1, step)
    assert found == [True, False, False, False, True, False, False, True]
