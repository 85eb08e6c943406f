"""Every per-image score of every metric says which of its ends is the worst, so that a report can sort by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from tests.metrics.conftest import noise
from util.engine.measuring import Clock, finite, measure
from util.metrics import METRICS
from util.metrics.base import Boxes, ImageSet, Judge, Maps, Material, Scores, Value

if TYPE_CHECKING:
    from tests.metrics.conftest import SetMaker

COUNT, SIDE = 10, 176  # what the Inception Score and MS-SSIM take at least
LIKENESS_TO_INPUT = {"ssim_input", "cc_input"}  # how much was changed, not how well


def by_level(images: Tensor) -> Tensor:
    level = images.mean(dim=(1, 2, 3))
    return torch.stack([0.5 - level, level - 0.5], 1)


@pytest.fixture
def everything(images_of: SetMaker, tmp_path: Path) -> Material:
    """What every metric needs, at the smallest sizes."""
    torch.manual_seed(0)
    weights = tmp_path / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), weights)
    labels = [number % 2 for number in range(COUNT)]
    source, fake, real = (images_of(noise(COUNT, (SIDE, SIDE), 1, seed), labels, str(seed)) for seed in range(3))
    maps = [np.random.default_rng(number).random((4, 4)).astype(np.float32) for number in range(COUNT)]
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[40:90, 40:90] = True

    def features(images: ImageSet) -> tuple[Tensor, Tensor | None]:
        drawn = torch.Generator().manual_seed(len(images.name))
        return torch.randn(len(images), 4, generator=drawn), torch.randn(len(images), 3, generator=drawn)

    judge = Judge("by level", 0.9, by_level)
    return Material(
        source=source,
        fake=fake,
        real=real,
        train_source=source,
        train_real=real,
        fake_train=fake,
        pairs=[(0, 0)],
        features=features,
        judge_source=judge,
        judge_real=judge,
        fit_judge=lambda images, name: judge,
        segmenter=lambda images: images[:, 0] > 0.5,
        maps=Maps(maps, maps[::-1], maps, [0] * COUNT, lambda images, class_id: images.mean(dim=(1, 2, 3))),
        boxes=Boxes([[]] * COUNT, [mask] * COUNT),
        lpips_weights=weights,
    )


def test_every_metric_gives_a_direction_to_what_it_says_of_an_image(everything: Material) -> None:
    names = [name for name in METRICS.names() if name != "isc"]  # which so few images have not
    scores = measure(everything, names, Clock())
    assert set(scores.directions) == set(scores.per_image) >= {"class_kept", "ssim", "lpips", "CAM_corr", "iou_image"}
    assert {name for name, better in scores.directions.items() if not better} == LIKENESS_TO_INPUT
    assert set(scores.directions.values()) == {"lower", "higher", ""}
    assert scores.directions["class_kept"] == "higher"
    for name, column in scores.per_image.items():
        if {value for value in column if value is not None} <= {0.0, 1.0}:
            assert scores.directions[name], f"{name} is yes or no: one of the two is worse"


def test_a_score_without_a_direction_is_no_score() -> None:
    value = Value(0.5, better="lower")
    with pytest.raises(ValueError, match="per-image scores b need a direction"):
        Scores({"a": value}, {"a": [0.5], "b": [1.0]})
    kept = Scores({"a": value}, {"a": [0.5], "b": [float("nan")]}, better={"b": "higher"})
    assert finite(kept).directions == kept.and_also(Scores({})).directions == {"a": "lower", "b": "higher"}
    with pytest.raises(ValueError, match="need a direction"):
        replace(kept, better={})
