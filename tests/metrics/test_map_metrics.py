"""Measures of class activation maps, on maps typed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from util.metrics import METRICS
from util.metrics.base import Boxes, Maps, Material, MetricError
from util.metrics.maps import target_of

if TYPE_CHECKING:
    from tests.metrics.conftest import SetMaker

Array = NDArray[np.float32]


def spot(row: int, column: int, side: int = 8) -> Array:
    """One hot cell of side x side."""
    heat = np.zeros((side, side), np.float32)
    heat[row, column] = 2.0
    return heat


def brightness(images: Tensor, class_id: int) -> Tensor:
    """A 'class head' that sees class 0 where the upper left corner is bright."""
    value = images[:, :, :8, :8].mean(dim=(1, 2, 3))
    return value if class_id == 0 else 1 - value


def maps(source: list[Array], fake: list[Array] | None = None, randomised: list[Array] | None = None) -> Maps:
    return Maps(source, fake or source, randomised or source, [0] * len(source), brightness)


def images(count: int, side: int = 32) -> list[Tensor]:
    picture = torch.full((1, side, side), 0.2)
    picture[:, :8, :8] = 1.0
    return [picture] * count


def test_maps_that_follow_the_image(images_of: SetMaker) -> None:
    source = [spot(1, 1), spot(6, 6), spot(1, 6)]
    given = images_of(images(3))
    values = METRICS.get("cam_consistency")().compute(Material(given, given, maps=maps(source))).values
    # Cells of 1 and 63 zeros: every other pair of maps correlates by -1/63, at any equal enlargement to blocks.
    assert values["CAM_corr"].value == pytest.approx(1.0, abs=1e-6)
    assert values["CAM_cross_corr"].value is not None
    assert -0.1 < values["CAM_cross_corr"].value < 0
    assert values["CAM_corr_gain"].value == pytest.approx(1.0 - values["CAM_cross_corr"].value, abs=1e-6)


def test_a_map_that_is_always_the_same_gains_nothing(images_of: SetMaker) -> None:
    given = images_of(images(3))
    values = METRICS.get("cam_consistency")().compute(Material(given, given, maps=maps([spot(2, 2)] * 3))).values
    assert values["CAM_corr"].value == pytest.approx(1.0, abs=1e-6)
    assert values["CAM_corr_gain"].value == pytest.approx(0.0, abs=1e-6)
    one = images_of(images(1))
    alone = METRICS.get("cam_consistency")().compute(Material(one, one, maps=maps([spot(2, 2)]))).values
    assert (alone["CAM_corr_gain"].value, alone["CAM_corr_gain"].note) == (None, "needs two images")


def test_cross_correlation_is_over_different_images(images_of: SetMaker) -> None:
    source, fake = [spot(1, 1, 32), spot(6, 6, 32)], [spot(6, 6, 32), spot(1, 1, 32)]
    given = images_of(images(2))
    values = METRICS.get("cam_consistency")().compute(Material(given, given, maps=maps(source, fake))).values
    assert values["CAM_corr"].value == pytest.approx(-1 / 1023, abs=1e-6)
    assert values["CAM_cross_corr"].value == pytest.approx(1.0, abs=1e-6)


def test_energy_and_pointing_of_maps_at_the_images_own_size(images_of: SetMaker) -> None:
    half = np.zeros((32, 32), np.float32)
    half[4, 4], half[20, 20] = 3.0, 1.0
    given = images_of(images(2))
    boxes = Boxes([[(2, 2, 6, 6), (4, 4, 8, 8)], []], [None, None])
    scores = METRICS.get("cam_localisation")().compute(
        Material(given, given, maps=maps([half, half], [half.T * 0, half], [np.ones_like(half)] * 2), boxes=boxes)
    )
    assert scores.per_image["CAM_energy"] == [pytest.approx(0.75), None]
    assert scores.per_image["CAM_pointing"] == [1.0, None]
    assert scores.per_image["CAM_energy_fake"] == [0.0, None]  # a dead map points nowhere
    assert scores.per_image["CAM_pointing_fake"] == [0.0, None]
    area = (16 + 16 - 4) / 1024
    assert scores.values["box_area"].value == pytest.approx(area)
    assert scores.values["CAM_energy_random"].value == pytest.approx(area)  # a flat map scores what the box covers
    assert scores.values["CAM_pointing_random"].value == pytest.approx(area)


def test_masks_go_before_boxes_and_parts_of_pixels_count() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[0, 0] = True
    boxes = Boxes([[(0, 0, 4, 4)], [(0.5, 0, 2, 1)], [(0, 0, 9, 9)]], [mask, None, np.ones((3, 3), np.bool_)])
    first, second = target_of(boxes, 0, (4, 4)), target_of(boxes, 1, (4, 4))
    assert first is not None
    assert second is not None
    assert first.sum() == 1
    assert second.tolist()[0] == [0.5, 1, 0, 0]
    assert second.sum() == 1.5
    assert target_of(boxes, 2, (4, 4)) is None  # a mask of another size says nothing


def test_without_any_box_there_is_nothing_to_measure(images_of: SetMaker) -> None:
    given = images_of(images(1))
    with pytest.raises(MetricError, match="no image of the split has a box or mask"):
        METRICS.get("cam_localisation")().compute(
            Material(given, given, maps=maps([spot(1, 1)]), boxes=Boxes([[]], [None]))
        )


def test_deletion_and_insertion_by_hand(images_of: SetMaker) -> None:
    """The head goes by 64 of 1,024 pixels, which the right map deletes in the first of 16 steps."""
    right, wrong = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)
    right[:8, :8], wrong[24:, 24:] = 1.0, 1.0
    given = images_of(images(1))
    found = {
        name: METRICS.get("deletion_insertion")().compute(Material(given, given, maps=maps([heat]))).values
        for name, heat in (("right", right), ("wrong", wrong))
    }
    assert found["right"]["deletion"].value == pytest.approx(0.5 / 16, abs=1e-6)  # from 1 to 0 in one step
    scores = {name: (v["deletion"].value or 0, v["insertion"].value or 0) for name, v in found.items()}
    assert scores["right"][0] < scores["wrong"][0]
    assert scores["right"][1] > scores["wrong"][1]
    assert found["right"]["deletion_random"].value == found["wrong"]["deletion_random"].value
    assert found["right"]["deletion_random"].value == pytest.approx(0.5, abs=0.05)
    assert (found["right"]["deletion"].better, found["right"]["insertion"].better) == ("lower", "higher")


@pytest.mark.parametrize(("count", "measured"), [(1, [0]), (4, [0, 1, 2, 3]), (41, None), (79, list(range(0, 79, 2)))])
def test_deletion_is_measured_on_every_image_up_to_forty(
    count: int, measured: list[int] | None, images_of: SetMaker
) -> None:
    asked: list[int] = []
    given = images_of(images(count, side=8))

    def read(number: int) -> Tensor:
        asked.append(number)
        return given.read(number)

    heat = maps([spot(1, 1)] * count)
    scores = METRICS.get("deletion_insertion")().compute(Material(replace(given, read=read), given, maps=heat))
    assert asked == measured if measured else (len(asked), asked[0], asked[-1]) == (40, 0, count - 1)
    assert scores.values["deletion"].note.startswith(f"mean and standard deviation over {len(asked)} inputs")


def test_the_head_matters(images_of: SetMaker) -> None:
    given = images_of(images(2))
    same = METRICS.get("head_sanity")().compute(Material(given, given, maps=maps([spot(1, 1), spot(5, 5)])))
    assert same.values["CAM_corr_random_head"].value == pytest.approx(1.0, abs=1e-6)
    other = maps([spot(1, 1), spot(5, 5)], None, [spot(6, 1), spot(1, 6)])
    value = (
        METRICS.get("head_sanity")().compute(Material(given, given, maps=other)).values["CAM_corr_random_head"].value
    )
    assert value is not None
    assert value < 0
