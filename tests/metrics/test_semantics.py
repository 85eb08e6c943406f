"""Measures that ask a classifier or a segmenter, with judges whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from util.engine.measuring import Clock, measure
from util.metrics import METRICS
from util.metrics.base import Boxes, ImageSet, Judge, Material, MetricError, Scores

if TYPE_CHECKING:
    from tests.metrics.conftest import SetMaker


def grey(level: float) -> Tensor:
    return torch.full((1, 8, 8), level)


def by_level(images: Tensor) -> Tensor:
    """Class 0 below 0.5, class 1 above."""
    level = images.mean(dim=(1, 2, 3))
    return torch.stack([0.5 - level, level - 0.5], 1)


JUDGE = Judge("classifier by level", 0.9, by_level)


@pytest.fixture
def material(images_of: SetMaker) -> Material:
    """Inputs of classes 0, 0, 1, 1 and unknown; the first and the third translation change their class."""
    source = images_of([grey(v) for v in (0.1, 0.2, 0.8, 0.9, 0.9)], [0, 0, 1, 1, -1], "a")
    fake = images_of([grey(v) for v in (0.7, 0.2, 0.3, 0.9, 0.9)], [0, 0, 1, 1, -1], "f")
    real = images_of([grey(v) for v in (0.1, 0.9, 0.6)], [0, 1, 0], "b")
    names = {0: "dark", 1: "bright"}
    return Material(source, fake, real, judge_real=JUDGE, judge_source=JUDGE, class_names=names)


def test_accuracies_and_flips_by_hand(material: Material) -> None:
    scores = METRICS.get("semantics")().compute(material)
    values = {name: value.value for name, value in scores.values.items()}
    assert values["acc_fake_real_judge"] == 0.5
    assert values["acc_source_source_judge"] == 1.0
    assert values["acc_real_real_judge"] == pytest.approx(2 / 3)
    assert values["flip_rate"] == 0.5
    assert scores.per_image["class_kept"] == [0.0, 1.0, 0.0, 1.0, None]
    table = scores.tables["flips"]
    assert table["classes"] == ["dark", "bright"]
    assert table["counts"] == [[1, 1], [1, 1]]
    assert "errs on 10% of held-out real images" in scores.values["flip_rate"].note


def test_an_accuracy_of_the_judge_that_is_not_known_is_not_mentioned(material: Material) -> None:
    unknown = Material(**{**vars(material), "judge_real": Judge("classifier by level", float("nan"), by_level)})
    note = METRICS.get("semantics")().compute(unknown).values["flip_rate"].note
    assert note == "of 4 labelled inputs"


def test_without_a_judge_it_says_what_is_needed(images_of: SetMaker) -> None:
    given = images_of([grey(0.1)])
    with pytest.raises(MetricError, match="needs labels of the training images"):
        METRICS.get("semantics")().compute(Material(given, given))


def test_training_on_translations_is_tested_on_real_images(material: Material, images_of: SetMaker) -> None:
    seen: list[ImageSet] = []

    def fit(images: ImageSet, name: str) -> Judge:
        seen.append(images)
        return Judge(name, 1.0, lambda batch: -by_level(batch))  # always wrong

    fake_train = images_of([grey(0.1), grey(0.9)], [0, 1], "t")
    whole = Material(
        **{**vars(material), "fake_train": fake_train, "fit_judge": fit, "judge_real": JUDGE, "judge_source": JUDGE}
    )
    values = METRICS.get("transfer")().compute(whole).values
    assert seen == [fake_train]
    assert values["acc_train_fake"].value == pytest.approx(1 / 3)
    assert values["acc_train_real"].value == values["acc_train_source"].value == pytest.approx(2 / 3)
    alike = Material(**{**vars(whole), "fake_train": images_of([grey(0.1)], [0])})
    with pytest.raises(MetricError, match="at least two classes"):
        METRICS.get("transfer")().compute(alike)


def test_iou_of_target_and_background(images_of: SetMaker) -> None:
    picture = torch.zeros(1, 4, 4)
    picture[:, :2] = 1.0  # the segmenter sees rows 0 and 1
    mask = np.zeros((4, 4), np.bool_)
    mask[1:3] = True  # true are rows 1 and 2
    given = images_of([picture, picture])
    whole = Material(given, given, boxes=Boxes([[], []], [mask, None]), segmenter=lambda images: images[:, 0] > 0.5)
    scores = METRICS.get("segmentation")().compute(whole)
    assert scores.per_image["iou_image"] == [pytest.approx(1 / 3), None]
    assert scores.values["mIoU"].value == pytest.approx(1 / 3)  # of the background as well
    with pytest.raises(MetricError, match="needs masks of the size of their images"):
        METRICS.get("segmentation")().compute(Material(**{**vars(whole), "boxes": Boxes([[], []], [None, None])}))


CLASSES = np.array([[0, 0, 2, 2], [0, 0, 5, 255]])


def classes_of(segmenter: Callable[[Tensor], Tensor], images_of: SetMaker, maps: list[Any]) -> Scores:
    given = images_of([torch.zeros(1, 2, 4)] * len(maps))
    masks = [None if one is None else one > 128 for one in maps]
    boxes = Boxes([[]] * len(maps), masks, maps)
    return METRICS.get("segmentation")().compute(Material(given, given, boxes=boxes, segmenter=segmenter))


def test_pixels_keep_their_class_or_are_told_by_what_they_became(images_of: SetMaker) -> None:
    seen = torch.tensor([[[0, 2, 2, 2], [0, 0, 2, 2]]])
    scores = classes_of(lambda image: seen, images_of, [CLASSES, None])
    values = {name: value.value for name, value in scores.values.items()}
    expected = {"iou_0": 3 / 4, "iou_2": 2 / 4, "iou_5": 0.0, "pixel_accuracy": 5 / 7, "mIoU": 5 / 12}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert scores.values["mIoU"].kind == "3 classes"
    assert scores.per_image["iou_image"] == [pytest.approx(5 / 12), None]
    assert scores.tables["pixels"] == {"classes": ["0", "2", "5"], "counts": [[3, 1, 0], [0, 2, 0], [0, 1, 0]]}
    alike = classes_of(lambda image: torch.from_numpy(CLASSES)[None], images_of, [CLASSES])
    assert alike.values["mIoU"].value == alike.values["pixel_accuracy"].value == 1.0


def test_classes_and_a_target_are_not_taken_for_each_other(images_of: SetMaker) -> None:
    with pytest.raises(
        MetricError, match=r"label maps \(values 0, 2, 5, 255\), and the segmenter gives torch.bool; it"
    ):
        classes_of(lambda image: image[:, 0] > 0.5, images_of, [CLASSES])
    with pytest.raises(MetricError, match="all pixels of the label maps are 255"):
        classes_of(lambda image: torch.zeros(1, 2, 4, dtype=torch.int64), images_of, [np.full((2, 4), 255)])
    given, mask = images_of([torch.zeros(1, 2, 4)]), np.ones((2, 4), np.bool_)

    def twos(image: Tensor) -> Tensor:
        return torch.full((1, 2, 4), 2)

    with pytest.raises(
        MetricError, match=r"classes of pixels \(up to 2\), and the masks are 0 and 255; give label maps"
    ):
        METRICS.get("segmentation")().compute(Material(given, given, boxes=Boxes([[]], [mask]), segmenter=twos))


def test_what_lacks_is_said_beside_the_name_and_is_an_error_where_asked_for(material: Material) -> None:
    clock = Clock()
    scores = measure(material, METRICS.names(), clock, required=False)
    assert scores.values["fid"].value is None
    assert scores.values["fid"].note == "needs a feature network (--features)"
    assert scores.values["flip_rate"].value == 0.5
    assert {"semantics", "ssim"} <= set(clock.seconds)
    assert scores.values["transfer"].note == (
        "needs training images of the source with labels of two classes or more (labels.csv, --labels_A)"
    ), "once, though two of its needs are for want of it"
    with pytest.raises(MetricError, match=r"--metrics cam_localisation: needs a class head .* and boxes or masks"):
        measure(material, ("cam_localisation",), clock)
