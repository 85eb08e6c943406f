"""Colours by hand, blending by hand, bilinear resizing against PyTorch, panel shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from util.visual.grid import GAP, LARGEST, MARGIN, captioned_grid, panel, text_image
from util.visual.overlay import COLORMAPS, colormap, overlay


def test_jet_by_hand() -> None:
    colours = colormap(np.array([[0.0, 0.5, 1.0, -3.0, 7.0, np.nan]]))
    dark_blue, green, dark_red = colours[0, :3].tolist()
    assert dark_blue == [0, 0, 128]
    assert green[1] == 255
    assert abs(green[0] - green[2]) <= 6
    assert dark_red == [128, 0, 0]
    assert colours[0, 3:].tolist() == [dark_blue, dark_red, dark_blue], "clipped; NaN counts as 0"


@pytest.mark.parametrize("name", sorted(set(COLORMAPS) - {"jet", "hot"}))  # two other tables there
def test_colours_agree_with_matplotlib(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    ramp = np.linspace(0, 1, 256)[None]
    expected = matplotlib.colormaps[name](ramp, bytes=True)[..., :3].astype(int)
    assert np.abs(colormap(ramp, name).astype(int) - expected).max() <= 9


def test_gray_and_unknown_names() -> None:
    assert colormap(np.array([[0.0, 1.0]]), "gray").tolist() == [[[0, 0, 0], [255, 255, 255]]]
    with pytest.raises(ValueError, match="viridis"):
        colormap(np.zeros((2, 2)), "cividis")
    with pytest.raises(ValueError, match="shape"):
        colormap(np.zeros((2, 2, 3)))


def test_overlay_by_hand() -> None:
    image = np.full((1, 2, 1), 100, np.uint8)
    shown = overlay(image, np.array([[0.0, 5.0]]), strength=0.25)  # divided by its maximum: 0 and 1
    assert shown.tolist() == [[[75, 75, 107], [107, 75, 75]]]  # 75 + a quarter of (0, 0, 128) and (128, 0, 0)
    assert overlay(image, np.array([[0.0, 5.0]]), strength=0).tolist() == [[[100] * 3] * 2]
    assert overlay(image, np.zeros((1, 2)), strength=1).tolist() == [[[0, 0, 128]] * 2], "zeros stay zeros"


@pytest.mark.parametrize("size", [(32, 48), (33, 17), (8, 8)])
def test_overlay_resizes_as_pytorch_does(size: tuple[int, int]) -> None:
    small = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    resized = torch.nn.functional.interpolate(small[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    expected = colormap((resized / resized.max()).numpy(), "gray").astype(int)
    actual = overlay(np.zeros((*size, 3), np.uint8), small.numpy(), strength=1, name="gray").astype(int)
    assert actual.shape == (*size, 3)
    assert np.abs(actual - expected).max() <= 1


@pytest.mark.parametrize(
    ("image", "values", "strength"),
    [
        (np.zeros((4, 4), np.uint8), np.full((4, 4), -1.0), 0.5),
        (np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4)), 0.5),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), 1.5),
        (np.zeros((4, 4), np.float32), np.zeros((4, 4)), 0.5),
        (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4)), 0.5),
    ],
)
def test_overlay_refuses(image: np.ndarray, values: np.ndarray, strength: float) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each case has a message of its own)
        overlay(image, values, strength)


def test_panel_places_pictures() -> None:
    red, blue = np.zeros((10, 20, 3), np.uint8), np.zeros((6, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    drawn = panel([[red, blue], [blue]])
    assert drawn.shape == (10 + 6 + 3 * MARGIN, 20 + 8 + 3 * MARGIN, 3)
    assert (drawn[MARGIN : MARGIN + 10, MARGIN : MARGIN + 20] == red).all()
    top, left = MARGIN + 2, 2 * MARGIN + 20  # the lower picture is centred: (10 - 6) / 2
    assert (drawn[top : top + 6, left : left + 8] == blue).all()
    drawn[MARGIN : MARGIN + 10, MARGIN : MARGIN + 20] = 255
    drawn[top : top + 6, left : left + 8] = 255
    top, left = 2 * MARGIN + 10, MARGIN + 6
    drawn[top : top + 6, left : left + 8] = 255
    assert (drawn == 255).all(), "everything else is white"


def test_panel_labels_take_their_room() -> None:
    picture = np.zeros((64, 200), np.uint8)
    plain, top = panel([[picture] * 2] * 2), panel([[picture] * 2] * 2, ["input", "translation"])
    both = panel([[picture] * 2] * 2, ["input", "translation"], ["Car", "Truck"])
    label = text_image("x").shape[0]
    assert top.shape == (plain.shape[0] + label + MARGIN, plain.shape[1], 3)
    assert both.shape == (top.shape[0], top.shape[1] + text_image("Truck").shape[1] + MARGIN, 3)
    assert (top[MARGIN : MARGIN + label] < 128).any(), "there is ink in the label"


def test_a_label_wider_than_a_large_picture_widens_every_column() -> None:
    label = "a heading that is quite a bit wider than the picture under it"
    large = np.zeros((8, LARGEST), np.uint8)
    needed = text_image(label).shape[1] + GAP
    assert needed > LARGEST
    assert panel([[large]], [label]).shape[1] == needed + 2 * MARGIN
    assert panel([[large, large]], [label, "x"]).shape[1] == 2 * needed + 3 * MARGIN, "columns are even"
    assert panel([[large, large[:, 1:]]], [label, "x"]).shape[1] == needed + LARGEST - 1 + 3 * MARGIN


def test_pictures_narrower_than_their_headings_are_enlarged_and_evenly_spaced() -> None:
    headings = ["input", "translation", "CAM input", "CAM translation"]
    pictures = [np.random.default_rng(number).integers(0, 200, (64, 64, 3), np.uint8) for number in range(4)]
    drawn = panel([pictures], headings, ["x"])
    top = drawn.shape[0] - MARGIN - 128
    columns = np.flatnonzero((drawn[top:-MARGIN] < 200).all(axis=2).any(axis=0))
    left = columns[columns > text_image("x").shape[1] + MARGIN][0]
    for number, picture in enumerate(pictures):
        start = left + number * (128 + MARGIN)
        np.testing.assert_array_equal(drawn[top : top + 128, start : start + 128], picture.repeat(2, 0).repeat(2, 1))
        assert (drawn[:top, start - MARGIN - GAP // 2 : start + GAP // 2 - 1] == 255).all(), "headings stand apart"
    assert panel([[np.zeros((2, 2), np.uint8)]]).shape == (2 + 2 * MARGIN, 2 + 2 * MARGIN, 3), "nothing to stand under"


def test_panel_refuses() -> None:
    picture = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="at least one picture"):
        panel([])
    with pytest.raises(ValueError, match="2 columns and 1 labels"):
        panel([[picture, picture]], ["one"])
    with pytest.raises(ValueError, match="1 rows and 2 labels"):
        panel([[picture]], [], ["one", "two"])


def test_captions_enlarge_all_pictures_alike() -> None:
    name = "a name wider than 40 pixels"
    room = 40 * -(-(text_image(name).shape[1] + GAP) // 40)
    drawn = captioned_grid({"a": np.zeros((40, 40), np.uint8), name: np.zeros((40, 40), np.uint8)}, 2)
    assert (drawn == 0).all(axis=2).sum() == 2 * room**2


def test_captioned_grid_wraps() -> None:
    pictures = {name: np.zeros((40, 40), np.uint8) for name in "abcde"}
    wide, high = captioned_grid(pictures, 5), captioned_grid(pictures, 1)
    assert wide.shape[1] == 5 * (40 + 2 * MARGIN) + 6 * MARGIN
    assert high.shape[1] == (40 + 2 * MARGIN) + 2 * MARGIN
    two = captioned_grid(pictures, 2)
    assert two.shape[0] == 3 * (wide.shape[0] - 2 * MARGIN) + 4 * MARGIN
    with pytest.raises(ValueError, match="at least one column"):
        captioned_grid(pictures, 0)


@pytest.mark.parametrize("letter", ["ü", "é", "ß", "Ж", "λ", "ñ"])
def test_letters_of_names_are_drawn_and_are_no_empty_boxes(letter: str) -> None:
    missing = text_image("\U0010ffff")
    drawn = text_image(letter)
    assert (drawn < 128).any()
    assert drawn.shape != missing.shape or (drawn != missing).any()
