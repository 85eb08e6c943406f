"""Localisation scores: the published evaluator's numbers, sums by hand, saved maps, and what is no map."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from tests.metrics.wsol_inputs import box_case, mask_case
from util.metrics.base import MetricError, Scores
from util.metrics.wsol import (
    Localiser,
    Truth,
    folder_scores,
    localisation_scores,
    truth_from,
    unit_map,
)
from util.metrics.wsol_boxes import best_ious, box_iou, boxes_above, resized_boxes, thresholds
from util.metrics.wsol_curves import PixelCurve

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "wsol.json").read_text())
NO_BOX = np.zeros((0, 4), np.int64)


def boxes(*corners: list[int]) -> NDArray[np.int64]:
    return np.array(corners, np.int64).reshape(-1, 4)


def value(scores: Scores, name: str) -> float:
    found = scores.values[name].value
    assert found is not None
    return found


# --- the published numbers


def digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_the_inputs_are_those_of_the_golden_numbers() -> None:
    assert [digest(box_case(seed).score) for seed in range(48)] == GOLDEN["sha256_16"]["box"]
    assert [digest(mask_case(seed)[2]) for seed in range(24)] == GOLDEN["sha256_16"]["mask"]


@pytest.fixture(scope="module", params=[0.01, 0.001])
def of_boxes(request: pytest.FixtureRequest) -> tuple[float, Localiser]:
    counter = Localiser(request.param)
    for seed in range(48):
        case = box_case(seed)
        truth = Truth(case.size[::-1], boxes(*case.boxes))
        counter.add(case.score, truth, label=case.target, ranking=case.ranking)
    return request.param, counter


@pytest.mark.parametrize(("row", "name", "version"), [(0, "MaxBoxAcc", ""), (1, "MaxBoxAccV2", "V2")])
def test_boxes_score_as_the_published_evaluator_says(
    of_boxes: tuple[float, Localiser], row: int, name: str, version: str
) -> None:
    step, counter = of_boxes
    expected = GOLDEN["box"][f"multi_contour={bool(row)},interval={step}"]
    scores = counter.scores()
    for number, sigma in enumerate(("30", "50", "70")):
        assert value(scores, f"{name}_IoU{sigma}") == pytest.approx(expected["MaxBoxAcc"][sigma], rel=1e-12)
        assert f"threshold {expected['best_tau_first_argmax'][sigma]:.3f}" in scores.values[f"{name}_IoU{sigma}"].kind
        for word in ("top1", "top5"):
            found = value(scores, f"{word}_loc{version}_IoU{sigma}")
            assert found == pytest.approx(expected[f"fcam_{word}_loc"][sigma], rel=1e-12)
        if "curves_num_correct" in expected:
            assert counter.boxes.hits[row, number].tolist() == expected["curves_num_correct"][sigma]
    overall = "MaxBoxAccV2(mean)" if row else "MaxBoxAcc_v1(IoU50)"
    assert value(scores, name) == pytest.approx(expected[overall], rel=1e-12)


def test_a_fixed_threshold_is_read_off_the_same_curve(of_boxes: tuple[float, Localiser]) -> None:
    step, counter = of_boxes
    scores, place = counter.scores(), round(0.5 / step)
    curve = scores.tables["box_curve"]
    assert curve["threshold"][place] == pytest.approx(0.5)
    assert value(scores, "BoxAcc_fixed") == curve["MaxBoxAcc_IoU50"][place]
    three = [curve[f"MaxBoxAccV2_IoU{sigma}"][place] for sigma in (30, 50, 70)]
    assert value(scores, "BoxAccV2_fixed") == pytest.approx(sum(three) / 3)
    assert value(scores, "BoxAcc_fixed") < value(scores, "MaxBoxAcc")


@pytest.mark.parametrize("step", [0.01, 0.001])
def test_pixels_score_as_the_published_evaluator_says(step: float) -> None:
    counter = Localiser(step)
    for seed in range(24):
        masks, ignore, score = mask_case(seed)
        counter.add(score, Truth(score.shape, NO_BOX, masks, ignore))
    expected = GOLDEN["mask"][f"interval={step}"]
    assert value(counter.scores(), "PxAP") == pytest.approx(expected["PxAP"], rel=1e-12)
    assert (counter.pixels.true.sum(), counter.pixels.false.sum()) == (expected["n_true"], expected["n_false"])
    if step == 0.01:
        assert counter.pixels.true.tolist() == GOLDEN["mask"]["hist_true_interval=0.01"]
        assert counter.pixels.false.tolist() == GOLDEN["mask"]["hist_false_interval=0.01"]


def quantised(score: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (score * 255).astype(np.uint8)


def test_boxes_of_a_map_are_the_published_ones_at_every_threshold() -> None:
    for name, expected in GOLDEN["boxes_per_threshold"].items():
        score = quantised(box_case(int(name[3:6])).score)
        for tau, largest, every in zip(expected["thresholds"], expected["largest"], expected["all"], strict=True):
            found, number = boxes_above(score, int(tau * score.max()))
            assert sorted(found.tolist()) == sorted(every)
            assert [found[number].tolist()] == largest


def test_the_published_unit_cases() -> None:
    units = GOLDEN["units"]
    for first, second, expected in units["iou"]:
        assert box_iou(boxes(first), boxes(second)) == pytest.approx(expected, rel=1e-12)
    for box, (width, height), (to_width, to_height), expected in units["resize_bbox"]:
        assert resized_boxes(boxes(box), (height, width), (to_height, to_width)).tolist() == [expected]
    assert boxes_above(np.zeros((5, 7), np.uint8), 0)[0].tolist() == units["zero_map_boxes"][0]
    assert boxes_above(np.full((5, 7), 255, np.uint8), 0)[0].tolist() == units["full_map_boxes"][0]
    ring = np.zeros((20, 20), np.uint8)
    ring[4:16, 4:16] = 255
    ring[7:13, 7:13] = 0
    assert boxes_above(ring, 0)[0].tolist() == [[4, 4, 16, 16], [6, 6, 14, 14]]
    for name, expected in GOLDEN["gt_resized_224"].items():
        case = box_case(int(name[3:6]))
        assert Truth(case.size[::-1], boxes(*case.boxes)).at((224, 224)).boxes.tolist() == expected


# --- by hand


def test_a_threshold_is_a_share_of_the_maps_own_maximum() -> None:
    score = np.zeros((20, 20))
    score[2:8, 2:8] = 0.4  # the whole object
    score[4:6, 4:6] = 0.8
    object_box = boxes([2, 2, 8, 8])
    fits = best_ious(score, object_box, thresholds(0.1))
    low = [tau for tau, fit in zip(thresholds(0.1), fits[0], strict=True) if fit == 1]
    assert low == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])  # below 0.4 / 0.8, whatever 0.4 is itself
    assert best_ious(score / 2, object_box, thresholds(0.1))[0].tolist() == fits[0].tolist()


def test_all_contours_find_the_small_object_that_the_largest_is_not() -> None:
    score = np.zeros((30, 30))
    score[2:12, 2:12] = 1
    score[20:24, 20:24] = 1
    truth = boxes([20, 20, 24, 24])
    largest, every = best_ious(score, truth, thresholds(0.5))
    assert largest.tolist() == [0, 0]
    assert every.tolist() == [1, 1]


def test_the_best_threshold_is_one_for_all_images() -> None:
    """Two maps that are each right at another threshold: 50 %, not the 100 % of the best threshold of each."""
    first, second = np.zeros((20, 20)), np.zeros((20, 20))
    first[2:12, 2:12], first[2:6, 2:6] = 0.4, 1  # right only below 0.4
    second[2:12, 2:12], second[2:6, 2:6] = 0.6, 1  # its truth is the core: right only from 0.6 on
    truths = [Truth((20, 20), boxes([2, 2, 12, 12])), Truth((20, 20), boxes([2, 2, 6, 6]))]
    scores = localisation_scores([first, second], truths, side=0, step=0.1)
    assert value(scores, "MaxBoxAcc") == 50
    assert list(scores.per_image["loc_IoU"]) == pytest.approx([100 * 25 / 121] * 2)


def test_average_precision_is_that_of_a_library_on_the_pooled_pixels() -> None:
    draw = np.random.default_rng(0)
    curve = PixelCurve(0.01)
    scores, labels = [], []
    for _ in range(4):
        score = draw.integers(0, 100, (12, 17)) / 100 + 0.005  # in the middle of a bin
        target, ignore = draw.random((12, 17)) < 0.3, draw.random((12, 17)) < 0.2
        curve.add(score, target, ignore)
        counted = target | ~ignore
        scores.append(score[counted])
        labels.append(target[counted])
    pooled = np.concatenate(scores), np.concatenate(labels)
    assert curve.average_precision() == pytest.approx(average_precision_score(pooled[1], pooled[0]), rel=1e-9)
    level = curve.at[40]
    above = pooled[0] >= level
    assert curve.ious()[40] == pytest.approx((above & pooled[1]).sum() / (above | pooled[1]).sum())


def test_ignored_pixels_count_neither_way_unless_they_are_target() -> None:
    score = np.array([[1.0, 1.0, 0.0, 1.0]])
    target = np.array([[True, False, False, False]])
    plain = localisation_scores([score], [Truth((1, 4), NO_BOX, (target,))], side=0)
    ignored = np.array([[True, True, False, True]])
    better = localisation_scores([score], [Truth((1, 4), NO_BOX, (target,), ignored)], side=0)
    assert value(plain, "PxAP") == pytest.approx(100 / 3)
    assert value(better, "PxAP") == value(better, "IoU_fixed") == 100
    found = [*plain.per_image["loc_IoU"], *better.per_image["loc_IoU"]]
    assert found == pytest.approx([100 / 3, 100])


def test_a_fixed_threshold_scores_pixels_by_their_own_value() -> None:
    score = np.array([[0.6, 0.5, 0.4, 0.0]])
    scores = localisation_scores(
        [score], [Truth((1, 4), NO_BOX, (np.array([[True, True, True, False]]),))], side=0, scale=False
    )
    assert value(scores, "IoU_fixed") == pytest.approx(200 / 3)
    assert value(scores, "pIoU") == 100
    assert "threshold 0.001" in scores.values["pIoU"].kind


def test_top_1_and_top_5_count_the_rightly_named() -> None:
    score = np.zeros((10, 10))
    score[2:6, 2:6] = 1
    truth = Truth((10, 10), boxes([2, 2, 6, 6]))
    rankings = [[3, 1, 2, 4, 5, 0], [1, 2, 4, 5, 3, 0], [1, 2, 4, 5, 0, 3], [9]]
    scores = localisation_scores([score] * 4, [truth] * 4, labels=[3] * 4, rankings=rankings, side=0)
    assert value(scores, "MaxBoxAcc") == 100
    assert (value(scores, "top1_loc"), value(scores, "top5_loc")) == (25, 50)
    assert (value(scores, "top1_cls"), value(scores, "top5_cls")) == (25, 50)
    assert "top1_loc" not in localisation_scores([score], [truth], labels=[3], side=0).values


def test_the_predicted_classs_map_is_scored_beside_the_true_ones() -> None:
    good, bad = np.zeros((10, 10)), np.zeros((10, 10))
    good[2:6, 2:6] = 1
    bad[8:, 8:] = 1
    mask = good > 0
    truths = [Truth((10, 10), boxes([2, 2, 6, 6]), (mask,))] * 2
    scores = localisation_scores([good, good], truths, predicted=[good, bad], side=0)
    assert (value(scores, "MaxBoxAcc"), value(scores, "MaxBoxAcc_predicted")) == (100, 50)
    assert (value(scores, "MaxBoxAccV2"), value(scores, "BoxAcc_fixed_predicted")) == (100, 50)
    assert value(scores, "PxAP") == 100
    assert value(scores, "PxAP_predicted") < 60


def test_truth_goes_to_any_size_and_fills_its_boxes() -> None:
    truth = truth_from([(2, 4, 6.5, 8)], (10, 20))
    assert truth.boxes.tolist() == [[2, 4, 6, 7]]
    region = truth.region((10, 20))
    assert region is not None
    assert region.sum() == 5 * 4
    assert region[4:8, 2:7].all()
    assert truth.at((5, 10)).boxes.tolist() == [[1, 2, 3, 3]]
    assert truth_from([(15, 5, 400, 400)], (10, 20)).boxes.tolist() == [[15, 5, 19, 9]]
    masks = (np.eye(4, dtype=bool), np.fliplr(np.eye(8, dtype=bool)))  # instances of different sizes
    both = Truth((4, 4), NO_BOX, masks).region((8, 8))
    assert both is not None
    assert both.sum() == 16 + 8 - 0
    assert Truth((4, 4), NO_BOX).region((8, 8)) is None


# --- streaming


def test_counts_of_two_processes_add_up() -> None:
    halves, whole = [Localiser(0.01), Localiser(0.01)], Localiser(0.01)
    for seed in range(6):
        case = box_case(seed)
        truth = Truth(case.size[::-1], boxes(*case.boxes)) if seed != 4 else None
        for counter in (halves[seed % 2], whole):
            counter.add(case.score, truth, label=case.target, ranking=case.ranking, predicted=case.score)
    together = Localiser(0.01)
    together.counts = halves[0].counts + halves[1].counts
    assert together.scores().values == whole.scores().values
    assert together.left_out == 1
    assert "1 image without a box or a mask left out" in whole.scores().values["MaxBoxAcc"].note


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    counter, case = Localiser(0.05), box_case(0)
    truth = Truth(case.size[::-1], boxes(*case.boxes))
    counter.add(case.score, truth)
    tracemalloc.start()
    for _ in range(3):
        counter.add(case.score, truth)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        counter.add(case.score, truth)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000  # one map is 400 kB


def test_maps_are_read_one_after_the_other() -> None:
    alive = 0

    def maps() -> Iterator[NDArray[np.float64]]:
        nonlocal alive
        for seed in range(4):
            alive += 1
            yield box_case(seed).score
            alive -= 1

    def truths() -> Iterator[Truth]:
        for _ in range(4):
            assert alive == 1
            yield Truth((224, 224), boxes([5, 5, 90, 90]))

    assert localisation_scores(maps(), truths(), step=0.1).values


# --- maps


def test_a_raw_map_comes_to_the_published_scale() -> None:
    raw = np.array([[-3.0, 1.0], [5.0, 0.0]], np.float32)
    assert unit_map(raw).tolist() == [[0, 0.5], [1, 0.375]]
    large = unit_map(raw, (224, 224))
    assert (large.shape, large.min(), large.max()) == ((224, 224), 0, 1)
    for nothing in (np.full((3, 3), 7.0), np.array([[1.0, np.nan]]), np.array([[1.0, np.inf]])):
        assert not unit_map(nothing).any()


def test_what_is_no_map_is_refused() -> None:
    truth = Truth((4, 4), boxes([0, 0, 2, 2]))
    for bad, message in (
        (np.full((4, 4), 1.5), "outside"),
        (np.full((4, 4), -0.1), "outside"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((4, 4, 1)), "instead of numbers"),
        (np.zeros((0, 4)), "instead of numbers"),
        (np.zeros((4, 4), np.complex64), "instead of numbers"),
    ):
        with pytest.raises(MetricError, match=f"map 1: .*{message}"):
            localisation_scores([np.zeros((4, 4)), bad], [truth, truth], scale=False, side=0)
    with pytest.raises(MetricError, match="not as many maps as images"):
        localisation_scores([np.zeros((4, 4))], [truth, truth])
    with pytest.raises(MetricError, match="for 1 image only"):
        localisation_scores([np.zeros((4, 4))] * 2, [truth, truth], labels=[3])
    with pytest.raises(MetricError, match="none of 1 image has a box or a mask"):
        localisation_scores([np.zeros((4, 4))], [None])
    with pytest.raises(MetricError, match="no pixel of any mask is target"):
        localisation_scores([np.zeros((4, 4))], [Truth((4, 4), NO_BOX, (np.zeros((4, 4), bool),))])
    with pytest.raises(MetricError, match="ends before it begins"):
        localisation_scores([np.zeros((4, 4))], [Truth((4, 4), boxes([3, 0, 1, 2]))])


def test_saved_maps_are_found_by_the_images_names(tmp_path: Path) -> None:
    names = ["test/a/one.jpg", "test/b/one.jpg", "two.png"]
    cases = [box_case(seed) for seed in range(3)]
    truths = [Truth(case.size[::-1], boxes(*case.boxes)) for case in cases]
    for name, case in zip(names, cases, strict=True):
        file = (tmp_path / name).with_suffix(".npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, case.score.astype(np.float32))
    found = folder_scores(tmp_path, names, truths, step=0.01)
    assert found.values == localisation_scores([case.score for case in cases], truths, step=0.01).values
    (tmp_path / "two.npy").rename(tmp_path / "two.png.npy")
    assert folder_scores(tmp_path, names, truths, step=0.01) == found
    with pytest.raises(MetricError, match=r"2 of 4 maps are missing, the first is three\.npy"):
        folder_scores(tmp_path, [*names[:2], "three.png", "four.png"], truths)
    with pytest.raises(MetricError, match=r"\.\./one\.png: leads out of the folder"):
        folder_scores(tmp_path, ["../one.png"], truths)
    with pytest.raises(MetricError, match="no such folder of maps"):
        folder_scores(tmp_path / "none", names, truths)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00\xff\xff", b"no map at all", b"\x80\x04K\x01."])
def test_a_file_that_is_no_map_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(MetricError, match=r"a\.npy: cannot be read as a map") as caught:
        folder_scores(tmp_path, ["a.png"], [None])
    assert "\n" not in str(caught.value)


def test_objects_in_a_file_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MetricError, match=r"a\.npy: cannot be read as a map"):
        folder_scores(tmp_path, ["a.png"], [None])
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    with pytest.raises(MetricError, match=r"a\.npy: is float64 \(2, 3, 4\) instead"):
        folder_scores(tmp_path, ["a.png"], [None])
