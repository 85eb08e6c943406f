"""Figures of maps: aspect ratios, titles that meet nothing, colours where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from models.cam.base import EXPLAINERS
from util.visual.cam_figures import HIGH, NAMES, WIDE, Cell, gallery, name_of
from util.visual.figures import DPI


def boxes(figure: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, left, height, width of what has a colour."""
    rows, columns = np.nonzero((np.abs(figure.astype(int) - colour) < 8).all(2))
    return rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize("size", [(40, 40), (100, 300), (300, 100), (1000, 700), (1, 50)])
def test_pictures_keep_their_aspect_ratio_and_lie_apart(size: tuple[int, int]) -> None:
    figure = gallery([Cell(plain(*size, RED), "one\ntwo"), Cell(plain(*size, BLUE), "three")])
    top, left, height, width = boxes(figure, RED)
    assert abs(width - height * size[1] / size[0]) <= 2 + 2 * size[1] / size[0]
    assert height <= HIGH * DPI + 2
    assert width <= WIDE * DPI + 2
    again = boxes(figure, BLUE)
    assert again[0] == top
    assert again[1] > left + width
    assert again[1] + again[3] < figure.shape[1]


def test_titles_are_whole_and_above_their_picture() -> None:
    """Dark ink above the picture and never on it, in its own cell."""
    long = "a title of many words that is much wider than the picture below it is"
    figure = gallery([Cell(plain(64, 64, RED), long), Cell(plain(64, 64, BLUE), "short")])
    ink: np.ndarray = np.max(figure, axis=2) < 100
    top, left, _, width = boxes(figure, RED)
    assert not ink[top:].any()
    assert not ink[0].any(), "nothing is cut off"
    columns = np.nonzero(ink[:top].any(0))[0]
    other = boxes(figure, BLUE)
    middle = (left + width + other[1]) // 2
    assert columns[columns < middle].min() >= left - 10
    assert columns[columns < middle].max() <= left + width + 10
    one_line = gallery([Cell(plain(64, 64, RED), "short")])
    assert figure.shape[0] > one_line.shape[0] + 20, "the long title has taken several lines"


def test_rows_and_their_order() -> None:
    greys = [plain(32, 32, (value, value, 0)) for value in (50, 90, 130, 170, 210)]
    figure = gallery([Cell(grey, str(number)) for number, grey in enumerate(greys)], columns=3)
    places = [boxes(figure, (value, value, 0))[:2] for value in (50, 90, 130, 170, 210)]
    assert len({top for top, _ in places[:3]}) == 1
    assert places[3][0] == places[4][0] > places[0][0]
    assert [left for _, left in places[:2]] == [left for _, left in places[3:]]


def test_names_with_special_letters_are_drawn_and_nothing_is_no_figure() -> None:
    figure = gallery([Cell(plain(8, 8, RED), "$x^$ _a_ \\frac " + "w" * 200)])
    assert figure.dtype == np.uint8
    assert figure.ndim == 3
    with pytest.raises(ValueError, match="at least one picture"):
        gallery([])


def test_every_method_has_a_name_for_papers() -> None:
    assert set(EXPLAINERS.names()) <= set(NAMES)
    assert name_of("gradcam++") == "Grad-CAM++"
    assert name_of("mine") == "mine"
