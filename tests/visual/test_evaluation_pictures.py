"""Pictures of an evaluation: pixels by hand, counts and components against NumPy, SciPy and PyTorch."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import wasserstein_distance

from util.visual.boxes import CLASS_COLOURS, UNKNOWN_COLOUR, class_colour, draw_boxes, draw_masks, outline_thickness
from util.visual.difference import colour_bar, difference, difference_map, symmetric_limit, with_colour_bar
from util.visual.embedding import EmbeddingError, embed, embedding_figure, principal_components
from util.visual.figures import confusion_figure, figure_bytes, literal, new_figure, save_figure
from util.visual.grid import MARGIN, panel, text_image
from util.visual.histogram import (
    feature_figure,
    intensity_counts,
    intensity_edges,
    intensity_figure,
    mean_shifts,
    wasserstein,
)
from util.visual.montage import epoch_grid, evenly_spaced, montage

MIDDLE = (247, 247, 247)
DARK_BLUE, DARK_RED = (5, 48, 97), (103, 0, 31)  # the ends of ColorBrewer's RdBu


def plain(value: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


# --- differences


def test_a_difference_is_signed_the_mean_over_channels_and_in_the_unit_asked_for() -> None:
    one = np.array([[[0.5, 0.0]], [[0.3, 1.0]]], np.float32)  # (2, 1, 2)
    other = torch.tensor([[[0.1, 0.0]], [[0.1, 0.0]]])
    np.testing.assert_allclose(difference(one, other), [[0.3, 0.5]], atol=1e-6)
    np.testing.assert_allclose(difference(other, one, span=200), [[-60, -100]], atol=1e-4)
    for bad in (np.zeros((1, 2, 2)), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="one shape"):
            difference(one, bad)


def test_no_difference_is_exactly_the_middle_colour() -> None:
    values = np.array([[0.0, 1e-9, -1e-9, np.nan], [-2.0, 2.0, -9.0, 9.0]])
    shown = difference_map(values, 2.0)
    assert shown[0].tolist() == [list(MIDDLE)] * 4
    assert shown[1].tolist() == [list(DARK_BLUE), list(DARK_RED)] * 2, "clipped at the limit"
    red, blue = difference_map(np.array([[0.7, -0.7]]), 2.0)[0].astype(int)
    assert red[0] > 200 > red[2]
    assert blue[2] > 200 > blue[0]


def test_colours_are_those_of_matplotlib() -> None:
    ramp = np.linspace(-1, 1, 257)[None]
    expected = matplotlib.colormaps["RdBu_r"](ramp / 2 + 0.5, bytes=True)[..., :3].astype(int)
    assert np.abs(difference_map(ramp, 1.0).astype(int) - expected).max() <= 4  # its table has 256 levels


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_difference_map_needs_a_range(limit: float) -> None:
    with pytest.raises(ValueError, match="positive limit"):
        difference_map(np.zeros((2, 2)), limit)
    with pytest.raises(ValueError, match="values"):
        difference_map(np.zeros((2, 2, 3)), 1.0)


@pytest.mark.parametrize(
    ("largest", "expected"), [(0.0, 1.0), (0.231, 0.25), (0.25, 0.25), (97.0, 100.0), (1.0, 1.0), (0.0301, 0.04)]
)
def test_the_range_is_a_round_number(largest: float, expected: float) -> None:
    maps = [np.array([[0.0, -largest]]), np.array([[np.nan, largest / 2]])]
    assert symmetric_limit(maps, percent=100) == expected
    assert symmetric_limit([]) == 1.0


def test_the_range_holds_the_share_asked_for() -> None:
    values = np.arange(1, 1001).reshape(10, 100)
    assert symmetric_limit([values, -values], percent=50) == 600  # the median of 1..1000 is 500.5
    assert symmetric_limit([values], percent=99.5) == 1000


def test_the_colour_bar_says_the_range() -> None:
    bar = colour_bar(0.25, 100, "counts")
    assert bar.shape[0] == 100
    assert bar[0, :12].tolist() == [list(DARK_RED)] * 12
    assert bar[-1, :12].tolist() == [list(DARK_BLUE)] * 12
    np.testing.assert_array_equal(difference_map(np.linspace(1, -1, 100)[:, None], 1.0)[:, 0], bar[:, 3])
    label = text_image("+0.25")
    np.testing.assert_array_equal(bar[: label.shape[0], 12 + MARGIN :][:, : label.shape[1]], label)
    middle = text_image("0 counts")
    top = (100 - middle.shape[0]) // 2
    np.testing.assert_array_equal(bar[top : top + middle.shape[0], 12 + MARGIN :][:, : middle.shape[1]], middle)
    assert colour_bar(1, 4).shape[0] == 3 * label.shape[0], "room for its text"
    both = with_colour_bar(np.zeros((100, 50)), 0.25, "counts")
    assert both.shape == (100 + 2 * MARGIN, 50 + bar.shape[1] + 3 * MARGIN, 3)


# --- montages


def test_evenly_spaced_numbers() -> None:
    assert evenly_spaced(5, 10) == [0, 1, 2, 3, 4]
    assert evenly_spaced(101, 5) == [0, 25, 50, 75, 100]
    assert evenly_spaced(7, 1) == [0]


def test_a_montage_is_a_panel_with_headings_and_empty_places() -> None:
    rows = [{"input": plain(10), "target": plain(20)}, {"input": plain(30), "translation": plain(40)}]
    empty = np.full((1, 1), 255, np.uint8)
    expected = panel(
        [[plain(10), plain(20), empty], [plain(30), empty, plain(40)]], ["input", "target", "translation"], ["a", "b"]
    )
    np.testing.assert_array_equal(montage(rows, ["a", "b"]), expected)
    with pytest.raises(ValueError, match="at least one picture"):
        montage([])
    with pytest.raises(ValueError, match="2 rows and 1 labels"):
        montage(rows, ["a"])


def test_long_names_are_shortened_and_line_breaks_do_not_break_lines() -> None:
    name = "x" * 40 + "end\n"
    drawn = montage([{"input": plain(0)}], [name])
    assert drawn.shape[1] == montage([{"input": plain(0)}], ["x" * 12 + "..." + "x" * 7 + "end\\n"]).shape[1]


def test_epochs_are_columns_in_their_order() -> None:
    rows = [{"latest": plain(3), "100": plain(2), "20": plain(1)}, {"20": plain(4)}]
    expected = montage(
        [
            {"epoch 20": plain(1), "epoch 100": plain(2), "latest": plain(3)},
            {"epoch 20": plain(4)},
        ],
        ["a", "b"],
    )
    np.testing.assert_array_equal(epoch_grid(rows, ["a", "b"]), expected)


# --- boxes and masks


def test_a_box_is_drawn_around_its_pixels() -> None:
    drawn = draw_boxes(plain(100), [(2, 3, 5, 6)], [1], thickness=1)
    expected = np.full((8, 8, 3), 100, np.uint8)
    expected[2:7, 1:6] = CLASS_COLOURS[1]
    expected[3:6, 2:5] = 100
    np.testing.assert_array_equal(drawn, expected)


def test_a_box_at_the_border_is_cut() -> None:
    drawn = draw_boxes(plain(0, 4, 6), [(-3, 0, 3, 9)], [-1], thickness=1)
    coloured = (drawn == UNKNOWN_COLOUR).all(axis=2)
    assert coloured.tolist() == [[False, False, False, True, False, False]] * 4


def test_a_line_between_pixels_is_shared_out() -> None:
    """Against counting a fine grid of points."""
    box, line, fine = (2.25, 1.5, 5.75, 6.1), 1, 40
    centres = (np.arange(8 * fine) + 0.5) / fine

    def inside(grown: float) -> np.ndarray:
        rows = (centres >= box[1] - grown) & (centres < box[3] + grown)
        columns = (centres >= box[0] - grown) & (centres < box[2] + grown)
        return np.outer(rows, columns)

    share = (inside(line) & ~inside(0)).reshape(8, fine, 8, fine).mean(axis=(1, 3))
    expected = 50 + share[:, :, None] * (np.array(CLASS_COLOURS[0]) - 50.0)
    assert np.abs(draw_boxes(plain(50), [box], thickness=line) - expected).max() <= 1


def test_lines_suit_the_picture_and_colours_the_class() -> None:
    assert [outline_thickness(plain(0, side, 2 * side)) for side in (32, 128, 256, 640)] == [1, 1, 2, 5]
    assert len({class_colour(label) for label in range(-1, 7)}) == 8
    assert class_colour(7) == class_colour(0)


def test_a_mask_keeps_its_own_pixels_and_gets_a_soft_edge() -> None:
    random = np.random.default_rng(0)
    mask = cv2.GaussianBlur(random.random((24, 20)), (0, 0), 3) > 0.5
    assert 0 < mask.sum() < mask.size
    drawn = draw_masks(plain(0, 24, 20), [mask], [6], thickness=2)
    places = np.argwhere(mask)
    for row, column in np.ndindex(mask.shape):
        distance = np.sqrt(((places - (row, column)) ** 2).sum(axis=1)).min()
        share = 0 if mask[row, column] else np.clip(3 - distance, 0, 1)
        assert drawn[row, column].tolist() == pytest.approx(np.array(CLASS_COLOURS[6]) * share, abs=0.6)


def test_outlines_leave_the_picture_alone_and_refuse_what_does_not_fit() -> None:
    picture = plain(7)
    np.testing.assert_array_equal(draw_masks(picture, [np.zeros((8, 8), bool)]), np.full((8, 8, 3), 7))
    np.testing.assert_array_equal(draw_boxes(picture, []), np.full((8, 8, 3), 7))
    draw_boxes(picture, [(1, 1, 3, 3)])
    assert (picture == 7).all()
    with pytest.raises(ValueError, match="x0 < x1"):
        draw_boxes(picture, [(3, 1, 3, 4)])
    with pytest.raises(ValueError, match="1 outlines and 2 labels"):
        draw_boxes(picture, [(1, 1, 3, 4)], [1, 2])
    with pytest.raises(ValueError, match="must be bool"):
        draw_masks(picture, [np.zeros((8, 8))])
    with pytest.raises(ValueError, match="must be bool"):
        draw_masks(picture, [np.zeros((8, 9), bool)])


# --- histograms


def test_bins_hold_whole_numbers_of_counts() -> None:
    edges = intensity_edges([(0, 255)])
    assert edges[0] == -0.5
    assert edges[-1] == 255.5
    assert set(np.diff(edges)) == {4.0}
    levels = np.arange(256, dtype=np.float32)[None, None] / 255  # every grey level once
    assert set(intensity_counts([levels], (0, 255), edges)) == {4}, "no comb"
    wide = intensity_edges([(7995.0, 13995.0), (8100.0, 20000.0)])
    assert len(wide) <= 66
    assert wide[0] <= 7995 < 20000 <= wide[-1]
    np.testing.assert_allclose(intensity_edges([(0.0, 1.0)], 10), np.linspace(0, 1, 11))


def test_counts_are_numpys() -> None:
    random = np.random.default_rng(0)
    raw = [random.integers(1000, 1501, (3, 9, 7)) for _ in range(4)]
    edges = intensity_edges([(1000, 1500)], 20)
    images = [torch.from_numpy(((values - 1000) / 500).astype(np.float32)) for values in raw]
    counted = intensity_counts(images, (1000, 1500), edges)
    np.testing.assert_array_equal(counted, np.histogram(np.stack(raw), edges)[0])


def test_the_earth_movers_distance_is_scipys() -> None:
    random, edges = np.random.default_rng(1), np.linspace(-2, 6, 33)
    one, other = random.integers(0, 9, 32), random.integers(0, 9, 32)
    centres = (edges[1:] + edges[:-1]) / 2
    expected = wasserstein_distance(centres, centres, one, other)
    assert wasserstein(one, other, edges) == pytest.approx(expected)


def test_the_figure_of_intensities_shows_densities_in_counts() -> None:
    dark, bright = np.zeros((1, 4, 4)), np.ones((1, 4, 4))
    figure = intensity_figure(
        {"source": [dark], "real": iter([bright, bright])}, {"source": (0, 1000), "real": (0, 1000)}
    )
    axes: Any = figure.axes[0]
    source, real = (patch.get_data() for patch in axes.patches[:2])
    np.testing.assert_array_equal(source.edges, real.edges)
    assert (source.values * np.diff(source.edges)).sum() == pytest.approx(1)
    assert np.flatnonzero(source.values).tolist() == [0]
    assert np.flatnonzero(real.values).tolist() == [len(real.values) - 1]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    width = source.edges[1] - source.edges[0]
    assert legend == [f"source (distance to real {width * (len(real.values) - 1):.3g})", "real"]
    assert axes.get_xlabel() == "raw counts"
    assert intensity_figure({"a": [dark]}, log=True).axes[0].get_xlabel() == "grey level"
    with pytest.raises(ValueError, match="no intensity"):
        intensity_figure({"a": []})


@pytest.mark.parametrize(
    ("source", "apart"), [((0, 2060), False), ((0, 255), True)], ids=["other window", "other depth"]
)
def test_intensities_of_different_scales_are_drawn_each_within_its_window(
    source: tuple[float, float], apart: bool
) -> None:
    """Equal pictures of 16-bit and 8-bit counts are at no distance."""
    image = np.linspace(0, 1, 64).reshape(1, 8, 8)
    windows = {"source": source, "real": (0, 255)}
    axes: Any = intensity_figure({"source": [image], "real": [image]}, windows, apart=apart).axes[0]
    assert axes.get_legend().get_texts()[0].get_text() == "source (distance to real 0)"
    edges = axes.patches[0].get_data().edges
    assert (edges[0], edges[-1]) == (0, 1)
    assert "within each domain's own window" in axes.get_xlabel()


def test_shifts_are_in_standard_deviations_of_the_real_images() -> None:
    real = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0]])  # standard deviations 1, 0, 1
    fake = np.array([[3.0, 9.0, 0.0], [5.0, 9.0, 0.0]])
    np.testing.assert_allclose(mean_shifts(fake, real), [3, -2])


def test_the_figure_of_features() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(60, 5)) * (9, 3, 1, 1, 1)
    figure = feature_figure({"real": real, "translations": torch.from_numpy(real + 1)})
    drawings: list[Any] = figure.axes
    assert [len(axes.patches) for axes in drawings] == [3, 3, 1]  # the real ones are filled too
    assert sum(drawings[2].patches[0].get_data().values) == 5
    along, shares = principal_components(real, 2, {"real": real})
    drawn = drawings[0].patches[0].get_data()
    expected = along["real"][:, 0] / along["real"][:, 0].std()
    np.testing.assert_allclose(drawn.values, np.histogram(expected, drawn.edges, density=True)[0])
    assert f"{shares[0]:.0%}" in figure.axes[0].get_title()
    for bad in ({"translations": real}, {"real": real[:1]}):
        with pytest.raises(ValueError, match="need real images"):
            feature_figure(bad)


# --- embeddings


def blobs(count: int = 20, size: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"real": random.normal(size=(count, size)), "fake": random.normal(size=(count, size)) + 30}


def test_principal_components_are_the_singular_vectors() -> None:
    random = np.random.default_rng(2)
    table, other = random.normal(size=(30, 7)) @ random.normal(size=(7, 7)), random.normal(size=(4, 7))
    along, shares = principal_components(table, 2, {"own": table, "other": other})
    mean = table.mean(axis=0)
    _, values, vectors = np.linalg.svd(table - mean)
    signs = np.sign((along["own"] * ((table - mean) @ vectors[:2].T)).sum(axis=0))
    np.testing.assert_allclose(along["own"], (table - mean) @ vectors[:2].T * signs, atol=1e-9)
    np.testing.assert_allclose(along["other"], (other - mean) @ vectors[:2].T * signs, atol=1e-9)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:2])
    torch.manual_seed(0)
    low = torch.pca_lowrank(torch.from_numpy(table), 7)[2][:, :2].numpy()
    np.testing.assert_allclose(np.abs((table - mean) @ low), np.abs(along["own"]), atol=1e-6)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_same_seed_gives_the_same_points(method: str) -> None:
    features = blobs()
    one, again = (embed(features, method, seed=3) for _ in range(2))
    for name in features:
        np.testing.assert_array_equal(one.points[name], again.points[name])
        assert one.points[name].shape == (20, 2)
    gap = one.points["real"].mean(axis=0) - one.points["fake"].mean(axis=0)
    sides = np.concatenate([one.points["real"] @ gap, one.points["fake"] @ gap])
    assert sides[:20].min() > sides[20:].max(), "what is far apart stays apart"
    if method == "tsne":
        assert one.method == "t-SNE, perplexity 13"  # (40 - 1) / 3
        assert one.axes == ("", "")
    else:
        assert "of the variance" in one.axes[0]


def test_many_points_are_thinned_in_proportion() -> None:
    features = {"real": np.random.default_rng(0).normal(size=(300, 3)), "fake": np.zeros((100, 3))}
    one, again, other = (embed(features, "pca", seed, most=40) for seed in (1, 1, 2))
    assert {name: len(rows) for name, rows in one.numbers.items()} == {"real": 30, "fake": 10}
    assert one.left_out == 360
    assert one.numbers == again.numbers != other.numbers
    assert list(one.numbers["real"]) == sorted(set(one.numbers["real"]))
    assert "360 more" in embedding_figure(one).axes[0].get_title()


def test_umap_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EmbeddingError, match=r"pip install umap-learn.*t-SNE$"):
        embed(blobs(), "umap", 0)
    asked: dict[str, Any] = {}

    class Umap:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def fit_transform(self, table: np.ndarray) -> np.ndarray:
            assert table.shape == (40, 6)
            return table[:, :2].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    found = embed(blobs(), "umap", 0)
    np.testing.assert_allclose(found.points["fake"], blobs()["fake"][:, :2], rtol=1e-6)
    assert found.method == "UMAP, 15 neighbours"
    assert asked["n_neighbors"] == 15
    assert asked["random_state"] is not None


def test_points_that_cannot_be_placed() -> None:
    with pytest.raises(EmbeddingError, match="at least 4 images"):
        embed({"real": np.zeros((3, 5))}, "tsne", 0)
    with pytest.raises(EmbeddingError, match="finite"):
        embed({"real": np.full((9, 5), np.nan)}, "pca", 0)
    with pytest.raises(ValueError, match="pca, tsne, umap"):
        embed(blobs(), "tsnee", 0)


def test_points_have_the_colour_of_their_set_and_the_marker_of_their_class() -> None:
    found = embed(blobs(5), "pca", 0)
    figure = embedding_figure(found, {"real": [0, 1, 1, -1, 0]}, {0: "T$72$", 1: "_D7"})
    axes: Any = figure.axes[0]
    drawn = [(len(group.get_offsets()), group.get_facecolor()[0][:3].tolist()) for group in axes.collections]
    assert [count for count, _ in drawn] == [1, 2, 2, 5]  # real: unknown, 0, 1; fake: without labels
    assert drawn[0][1] == drawn[1][1] == drawn[2][1] != drawn[3][1]
    assert {len(group.get_paths()[0].vertices) for group in axes.collections[1:3]} == {26, 5}, "a circle and a square"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["real (5)", "fake (5)", r"T\$72\$", " _D7"]


@pytest.mark.parametrize(("classes", "entries"), [(12, 2 + 12), (13, 2)])
def test_more_classes_than_markers_have_none(classes: int, entries: int) -> None:
    labels = {"real": range(classes), "fake": [0] * classes}
    axes: Any = embedding_figure(embed(blobs(classes), "pca", 0), labels).axes[0]
    assert len(axes.get_legend().get_texts()) == entries


# --- confusion, and files


def test_a_confusion_matrix_shows_percent_of_the_row_and_counts() -> None:
    figure = confusion_figure([[3, 1, 0], [0, 0, 0], [0, 2, 2]], ["car", "$van$", "_bus"], "flips")
    axes: Any = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75 %\n3", (1, 0): "25 %\n1", (1, 2): "50 %\n2", (2, 2): "50 %\n2"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25, 0], [0, 0, 0], [0, 50, 50]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["car", r"\$van\$", " _bus"]
    figure_bytes(figure, "png")
    assert not confusion_figure(np.eye(21), [str(i) for i in range(21)]).axes[0].texts
    for bad in ([[1, 2]], [[1, 2, 0]] * 2, [[-1, 0], [0, 0]]):
        with pytest.raises(ValueError, match="confusion matrix of 2"):
            confusion_figure(bad, ["a", "b"])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", ["T72", "a long name of a class of vehicles"])
def test_a_confusion_matrix_of_few_classes_shows_its_labels_whole(size: int, name: str) -> None:
    figure = confusion_figure(np.eye(size, dtype=int), [f"{name} {number}" for number in range(size)])
    with Image.open(io.BytesIO(figure_bytes(figure, "png"))) as opened:
        picture = np.array(opened.convert("RGB"))
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > 0
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all(), "ink at the edge: something goes on outside"


def test_names_are_shown_letter_by_letter() -> None:
    assert literal("a$b$\n") == r"a\$b\$\n"
    figure, (axes,) = new_figure(1, 1)
    axes.set_title(literal(r"$\frac{"))
    assert figure_bytes(figure, "png").startswith(b"\x89PNG")


def test_a_picture_is_saved_with_its_pixels(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    png, pdf = save_figure(picture, tmp_path / "new" / "epoch_1.5")
    assert (png.name, pdf.name) == ("epoch_1.5.png", "epoch_1.5.pdf")
    read = cv2.imread(str(png))
    assert read is not None
    np.testing.assert_array_equal(read[:, :, ::-1], picture)
    # matplotlib keeps the scan lines of a PNG, which a PNG's reader therefore undoes.
    (stream,) = re.findall(rb"/Predictor 10.*?stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.S)
    np.testing.assert_array_equal(png_of(47, 33, stream), picture)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["epoch_1.5.pdf", "epoch_1.5.png"]


def png_of(width: int, height: int, data: bytes) -> np.ndarray:
    """The pixels of compressed RGB scan lines."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return np.array(Image.open(io.BytesIO(file)).convert("RGB"))


def test_equal_figures_are_equal_files_with_fonts_that_publishers_take() -> None:
    for kind in ("png", "pdf", "svg"):
        one, other = (figure_bytes(confusion_figure([[1]], ["a"]), kind) for _ in range(2))
        assert one == other
    content = figure_bytes(confusion_figure([[1]], ["a"]), "pdf")
    assert b"/Type3" not in content
    assert b"/CIDFontType2" in content
    with pytest.raises(ValueError, match="png, pdf, svg"):
        figure_bytes(Figure(), "jpeg")


def test_no_display_and_no_pyplot_are_needed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom util.visual.figures import confusion_figure, save_figure\n"
        "save_figure(confusion_figure([[1]], ['a']), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"MPLBACKEND": "tkagg"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, tmp_path / "f"], cwd=root, env=environment, check=True, timeout=120)
    assert (tmp_path / "f.pdf").stat().st_size > 1000
