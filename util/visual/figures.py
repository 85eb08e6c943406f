"""Figures by matplotlib's objects, without pyplot: no display, no state that outlives a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from util.errors import printable
from util.files import write_atomic
from util.visual.files import as_rgb, png_bytes
from util.visual.montage import shortened

DPI = 200
FONT = 8.0  # points
_SMALL = 6.5
_EDGE = 0.02  # inches that stay free at least: other formats set text by other pixels
_ROUNDS = 20  # at most: a label keeps its size while the figure grows, so that a few are enough
_MOST_NUMBERED = 20  # classes of a confusion matrix whose cells have room for numbers
# Type 42 fonts, which publishers ask for; no date, so that equal figures are equal files.
_SETTINGS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "figure"}
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many inches, with axes side by side."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.tick_params(labelsize=_SMALL)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def describe(axes: Axes, title: str = "", x: str = "", y: str = "", legend: bool = False) -> None:
    """Title, axis labels and legend in the figures' common sizes."""
    axes.set_title(literal(title), fontsize=FONT)
    axes.set_xlabel(literal(x), fontsize=FONT)
    axes.set_ylabel(literal(y), fontsize=FONT)
    if legend:
        axes.legend(fontsize=_SMALL, frameon=False)


def literal(text: object) -> str:
    """A name as matplotlib shows it letter by letter: no formula between dollars, no legend entry lost to a `_`."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def figure_bytes(figure: Figure | np.ndarray, kind: str) -> bytes:
    """A figure, or a uint8 picture with its exact pixels, as `png`, `pdf` or `svg`.

    Raises:
        ValueError: another kind.
    """
    if kind not in _METADATA:
        raise ValueError(f"A figure is saved as {', '.join(_METADATA)}, not as {kind!r}.")
    if isinstance(figure, np.ndarray):
        if kind == "png":
            return png_bytes(figure)
        figure = _page(as_rgb(figure))
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=_METADATA[kind])
    return buffer.getvalue()


def save_figure(
    figure: Figure | np.ndarray, path_without_suffix: str | Path, formats: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Write a figure, or a uint8 picture, once for each format; each file appears whole or not at all.

    Args:
        figure: a picture keeps its pixels: a PDF holds them losslessly, at DPI.
        path_without_suffix: `.png` and so on are added, whatever dots the name has.
        formats: of `png`, `pdf`, `svg`.

    Returns:
        The files, in the order of the formats.

    Raises:
        ValueError: another format.
        OSError: a file cannot be written.
    """
    stem = Path(path_without_suffix)
    files = {stem.with_name(f"{stem.name}.{kind}"): figure_bytes(figure, kind) for kind in formats}
    for file, content in files.items():
        write_atomic(file, content)
    return list(files)


def confusion_figure(
    counts: ArrayLike,
    names: Sequence[str],
    title: str = "",
    rows: str = "class of the input",
    columns: str = "class seen in the translation",
) -> Figure:
    """A confusion matrix: colour and upper number are percent of the row, the lower number is the count.

    Args:
        counts: (K, K), not negative: row the true class, column the class seen. A row of zeros stays blank.
        names: of the K classes; long ones are shortened in the middle.

    Raises:
        ValueError: another shape, or a number of names that does not fit.
    """
    table = np.asarray(counts, np.int64)
    size = len(names)
    if table.shape != (size, size) or size == 0 or (table < 0).any():
        raise ValueError(f"A confusion matrix of {size} classes must be ({size}, {size}), got {table.shape}.")
    totals = table.sum(axis=1, keepdims=True)
    percent = 100 * table / np.maximum(totals, 1)
    side = 1.6 + 0.42 * min(size, _MOST_NUMBERED)
    figure, (axes,) = new_figure(side + 0.5, side)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    shown = [literal(shortened(name)) for name in names]
    axes.set_xticks(range(size), shown, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), shown)
    describe(axes, title, columns, rows)
    if size <= _MOST_NUMBERED:
        for row, column in zip(*np.nonzero(table), strict=True):
            share = percent[row, column]
            text = f"{share:.0f} %\n{table[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color="w" if share > 55 else "k")
    bar = figure.colorbar(image, ax=axes, fraction=0.046)
    bar.ax.tick_params(labelsize=_SMALL)
    bar.set_label("percent of the row", fontsize=FONT)
    _make_room(figure)
    return figure


def _make_room(figure: Figure) -> None:
    """Widen and heighten a figure until no label is cut off: square axes do not yield to labels as others do."""
    for _ in range(_ROUNDS):
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        beside = max(_EDGE - drawn.x0, drawn.x1 - width + _EDGE, 0.0)
        above = max(_EDGE - drawn.y0, drawn.y1 - height + _EDGE, 0.0)
        if max(beside, above) == 0.0:
            return
        figure.set_size_inches(width + 2 * beside, height + 2 * above)


def _page(picture: np.ndarray) -> Figure:
    """A figure that is one picture, pixel by pixel."""
    height, width = picture.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(picture)
    return figure
