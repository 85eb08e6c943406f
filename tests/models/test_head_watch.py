"""A collapsed head and dead maps are warned about loudly, once an epoch while it lasts, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from models.cutcam_model import CutCamModel
from models.guards import MapMemory
from models.head_watch import LOOK_EVERY, CollapseError, HeadWatch

if TYPE_CHECKING:
    from tests.conftest import BenchMaker

WINDOW, ALIVE, DEAD = 20, torch.rand(1, 8, 8), torch.zeros(1, 8, 8)
ONE_CLASS = torch.tensor([[0.999, 0.001]])


def label(step: int) -> Tensor:
    return torch.tensor([step % 2])


def test_dead_maps_are_reported_once_an_epoch_while_they_are_used() -> None:
    watch = HeadWatch(2, WINDOW, stop=False)
    said = [(epoch, text) for epoch in range(4) for _ in range(10) for text in watch.see_maps(DEAD, epoch, epoch < 3)]
    assert [epoch for epoch, _ in said] == [1, 2]  # the memory of 16 maps is full in epoch 1
    assert all(text.startswith("WARNING: 100% of the last 16") and "--cam_start_epoch" in text for _, text in said)


def test_half_of_the_maps_dead_is_enough_and_less_is_not() -> None:
    for dead, expected in ((MapMemory.LENGTH // 2 - 1, False), (MapMemory.LENGTH // 2, True)):
        watch = HeadWatch(2, WINDOW, stop=False)
        maps = [DEAD] * dead + [ALIVE] * (MapMemory.LENGTH - dead)
        said = [text for one in maps for text in watch.see_maps(one, 0, True)]
        assert bool(said) == expected


def test_a_collapse_is_reported_at_once_and_again_in_every_later_epoch() -> None:
    watch = HeadWatch(2, WINDOW, stop=False)
    said = []
    for epoch in range(4):
        for step in range(15):
            texts = watch.see_maps(ALIVE, epoch, used=not watch.collapsed)
            if not watch.collapsed:  # the class terms are off afterwards
                texts += watch.see_head(ONE_CLASS, label(step), epoch)
            said += [(epoch, text) for text in texts]
    assert [epoch for epoch, _ in said] == [1, 2, 3]
    assert "has collapsed: 1.0" in said[0][1]
    assert all(text.startswith("WARNING") and "--pseudo_labels kmeans" in text for _, text in said)


def test_a_continued_run_does_not_repeat_what_this_epoch_has_heard() -> None:
    watch, again = HeadWatch(2, WINDOW, stop=False), HeadWatch(2, WINDOW, stop=False)
    for _ in range(MapMemory.LENGTH):
        watch.see_maps(DEAD, 0, True)
    again.load(watch.state())
    assert again.see_maps(DEAD, 0, True) == watch.see_maps(DEAD, 0, True) == []
    assert len(again.see_maps(DEAD, 1, True)) == 1


def test_a_collapse_ends_the_run_where_asked() -> None:
    watch = HeadWatch(2, WINDOW, stop=True)
    for step in range(WINDOW - 1):
        assert watch.see_head(ONE_CLASS, label(step), 0) == []
    with pytest.raises(CollapseError, match=r"over the last 20 steps; its maps explain nothing\. Give labels"):
        watch.see_head(ONE_CLASS, label(WINDOW - 1), 0)
    assert not watch.collapsed


def test_training_on_dead_maps_says_so(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench("--model", "cutcam", "--num_classes", 4, "--cam_weight_adv")
    monkeypatch.setattr(CutCamModel, "class_map", lambda self, feature, hidden, classes: -hidden.abs().sum(1))
    for step in range(2 * LOOK_EVERY + 1):  # the memory of 16 maps is full before it is looked at again
        made.step(step)
    (message,) = made.model.messages
    assert "class activation maps are dead" in message
