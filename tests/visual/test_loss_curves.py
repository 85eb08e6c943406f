"""Loss curves: ticks and averages by hand, points where the axes say."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from util.visual.curves import BOTTOM, LEFT, RIGHT, smoothed, svg_curves, svg_groups, thinned, ticks


def records(**losses: list[float | None]) -> list[dict[str, Any]]:
    length = len(next(iter(losses.values())))
    return [{"step": 10 * i, **{name: values[i] for name, values in losses.items()}} for i in range(length)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.03, 0.98, [0.2, 0.4, 0.6, 0.8]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (100, 20000, [5000, 10000, 15000, 20000]),
    ],
)
def test_ticks_by_hand(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_smoothing_keeps_constants_and_lines_in_the_middle() -> None:
    assert smoothed(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    line = np.arange(100.0)
    assert smoothed(line)[10:-10] == pytest.approx(line[10:-10]), "no lag"
    assert smoothed(np.array([5.0])).tolist() == [5.0]
    # half = 2: the window is 1 2 1, cut at the ends
    assert smoothed(np.array([4.0, 0.0, 8.0]), share=0.6).tolist() == pytest.approx([8 / 3, 3.0, 16 / 3])


def test_thinning_keeps_both_ends() -> None:
    kept = thinned(np.arange(1000), 11)
    assert len(kept) == 11
    assert kept[[0, -1]].tolist() == [0, 999]
    assert thinned(np.arange(3), 10).tolist() == [0, 1, 2]


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline[^>]*points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())] for text in found]


def test_points_lie_where_the_axes_say() -> None:
    svg = svg_curves(records(a=[0.0, 1.0, 2.0]), ["a"])
    raw = polylines(svg)[0]
    assert [x for x, _ in raw] == pytest.approx([LEFT, (LEFT + RIGHT) / 2, RIGHT])
    labels = {text: float(y) - 4 for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">([^<]+)<', svg)}
    assert raw[1][1] == pytest.approx(labels["1"], abs=0.11), "the value 1 lies on the grid line of 1"
    assert raw[0][1] > raw[1][1] > raw[2][1], "upwards is smaller y"
    assert raw[0][1] < BOTTOM


def test_missing_values_are_left_out() -> None:
    svg = svg_curves(records(a=[1.0, None, math.nan, 2.0], b=[None] * 4), ["a", "b", "c"])
    assert [len(line) for line in polylines(svg)] == [2, 2]
    assert "> b " not in svg
    assert svg_curves(records(a=[None]), ["a"]) == ""
    assert svg_groups([]) == ""


def test_one_point_and_a_constant_are_drawn() -> None:
    assert "<circle" in svg_curves(records(a=[0.0]), ["a"])
    lines = polylines(svg_curves(records(a=[2.0] * 5), ["a"]))
    assert all(math.isfinite(y) for line in lines for _, y in line)


def test_a_spike_does_not_flatten_the_rest() -> None:
    values: list[float | None] = [float(i % 2) for i in range(300)]
    values[150] = 1e6
    ys = [y for _, y in polylines(svg_curves(records(a=values), ["a"]))[0]]
    assert max(ys[:100]) - min(ys[:100]) > 100, "an oscillation between 0 and 1 fills the frame"


def test_groups_have_charts_and_large_monitors_their_own() -> None:
    log = records(D_real=[1.0, 2.0], NCE=[1.0, 2.0], cam_corr=[0.5, 0.6], classes=[5.0, 6.0])
    titles = re.findall(r"<strong>([^<]*)</strong>", svg_groups(log))
    assert titles == ["adversarial", "contrastive", "monitors up to 1", "monitors above 1"]


def test_rate_and_evaluations_have_charts_of_their_own() -> None:
    log = records(lr=[2e-4, 1e-4], eval_kid=[0.1, 0.05], eval_fid=[300.0, 100.0], eval_ssim=[0.3, 0.4], x=[0.5, 0.5])
    titles = re.findall(r"<strong>([^<]*)</strong>", svg_groups(log))
    assert titles == ["learning rate", "KID", "FID", "evaluation up to 1", "monitors up to 1"]


def test_a_constant_small_value_is_told_by_its_axis() -> None:
    drawn = svg_curves(records(lr=[2e-4, 2e-4, 2e-4]), ["lr"])
    assert ">0.0002</text>" in drawn
    assert ">1.5e-4</text>" in drawn, "a longer number would be cut off"
    assert "-0.5" not in re.sub(r'[a-z-]+="[^"]*"', "", drawn)


def test_no_two_curves_of_a_chart_look_alike() -> None:
    names = [f"CAM_{number}" for number in range(20)]
    svg = svg_curves([{"step": step, **{name: step + n for n, name in enumerate(names)}} for step in (1, 2)], names)
    styles = re.findall(r'stroke="(#[^"]+)" ((?:stroke-dasharray="[^"]+" )?)stroke-width', svg)
    assert len(styles) == len(set(styles)) == 20


def test_names_are_escaped() -> None:
    log = [{"step": step, "<b>&": 1.0 + step} for step in range(2)]
    svg = svg_curves(log, ["<b>&"], '"><script>')
    assert "<b>&" not in svg
    assert "<script>" not in svg
    assert "&lt;b&gt;&amp;" in svg
