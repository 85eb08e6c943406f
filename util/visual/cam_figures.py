"""Figures of maps for papers: pictures side by side, each with a title of two lines and in its own aspect ratio."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from util.visual.figures import DPI, FONT, literal
from util.visual.files import as_rgb
from util.visual.montage import shortened

WIDE, HIGH = 2.0, 2.4  # a picture fits into so many inches
NARROWEST = 1.7  # width of a cell, so that its title has room
GAP, LINE = 0.08, 0.135  # inches between cells, and of a line of text
LETTERS = 15.5  # in an inch of a title, on average
_LONGEST_TITLE = 5  # lines

NAMES: Mapping[str, str] = {
    "ablationcam": "Ablation-CAM",
    "cam": "CAM",
    "counterfactual": "Counterfactual",
    "eigencam": "Eigen-CAM",
    "eigengradcam": "EigenGrad-CAM",
    "fullgrad": "FullGrad",
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "guided_backprop": "Guided backprop",
    "guided_gradcam": "Guided Grad-CAM",
    "guided_gradcam++": "Guided Grad-CAM++",
    "hirescam": "HiResCAM",
    "iscam": "IS-CAM",
    "labelfree": "Label-free",
    "layercam": "Layer-CAM",
    "scorecam": "Score-CAM",
    "smoothgradcam++": "Smooth Grad-CAM++",
    "sscam": "SS-CAM",
    "xgradcam": "XGrad-CAM",
}


@dataclass(frozen=True)
class Cell:
    """A picture, uint8 (H, W, 3) or (H, W), and its title; line breaks count."""

    picture: np.ndarray
    title: str


def name_of(method: str) -> str:
    """A method's name as papers write it."""
    return NAMES.get(method, method)


def gallery(cells: Sequence[Cell], columns: int = 0) -> np.ndarray:
    """Pictures in reading order, each under its title.

    Every picture keeps its aspect ratio and is as large as fits; cells of one figure have one size. Titles are broken
    at words where they are too wide.

    Args:
        columns: in a row; 0: all in one.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: no picture.
    """
    if not cells:
        raise ValueError("A figure needs at least one picture.")
    columns = min(columns or len(cells), len(cells))
    rows = math.ceil(len(cells) / columns)
    sizes = [_fitted(*as_rgb(cell.picture).shape[:2]) for cell in cells]
    wide, high = max(NARROWEST, *(w for w, _ in sizes)), max(h for _, h in sizes)
    titles = [_broken(cell.title, wide) for cell in cells]
    lines = [title.count("\n") + 1 for title in titles]
    heads = [max(lines[row * columns : (row + 1) * columns]) * LINE + 0.04 for row in range(rows)]
    tops = [GAP + sum(heads[: row + 1]) + row * (high + GAP) for row in range(rows)]
    across = wide + GAP
    figure = Figure(figsize=(columns * across + GAP, tops[-1] + high + GAP), dpi=DPI)
    width, height = figure.get_size_inches()
    for number, (cell, (w, h), title) in enumerate(zip(cells, sizes, titles, strict=True)):
        left = GAP + number % columns * across + (wide - w) / 2
        top = tops[number // columns] + (high - h) / 2
        axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
        axes.imshow(as_rgb(cell.picture), aspect="auto")  # the axes have the picture's own ratio
        axes.set_axis_off()
        figure.text((left + w / 2) / width, 1 - (top - 0.04) / height, title, ha="center", va="bottom", fontsize=FONT)
    return _drawn(figure)


def _fitted(height: int, width: int) -> tuple[float, float]:
    """Width and height in inches."""
    scale = min(WIDE / width, HIGH / height)
    return width * scale, height * scale


def _broken(title: str, wide: float) -> str:
    """Lines that fit into a cell; a word that is too long for one is shortened in its middle."""
    most = max(8, int(wide * LETTERS))
    lines = [" ".join(shortened(word, most) for word in line.split(" ")) for line in title.split("\n")]
    broken = [part for line in lines for part in (textwrap.wrap(line, most) or [""])]
    return "\n".join(literal(line) for line in broken[:_LONGEST_TITLE])


def _drawn(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="raw", dpi=DPI)
    width, height = figure.canvas.get_width_height()
    pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(pixels[:, :, :3])
