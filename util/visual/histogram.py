"""Histograms of what images are made of: intensities, and features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from util.visual.curves import COLOURS
from util.visual.embedding import principal_components
from util.visual.figures import describe, literal, new_figure

Floats = NDArray[np.float64]
Window = tuple[float, float]  # raw counts shown as 0 and 1

EIGHT_BITS: Window = (0.0, 255.0)
WITHIN = "intensity within each domain's own window (0: its low end, 1: its high end)"
REAL = "real"
FEATURE_BINS = 24


def intensity_edges(windows: Iterable[Window], about: int = 64) -> Floats:
    """Edges of at most about + 1 equal bins over all windows.

    Where a bin is a count wide or more, its width is a whole number of counts and its edges lie between counts: bins
    that hold now two and now three grey levels would draw a comb that is not in the data.

    Returns:
        (bins + 1,) ascending.
    """
    ends = list(windows)
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if high - low < about:
        return np.linspace(low, high, about + 1)
    low = np.floor(low)
    width = np.ceil((high - low + 1) / about)
    edges: Floats = low - 0.5 + width * np.arange(np.ceil((high - low + 1) / width) + 1)
    return edges


def intensity_counts(images: Iterable[ArrayLike], window: Window, edges: Floats) -> NDArray[np.int64]:
    """How many values fall into each bin, all channels together; images are taken one after the other.

    Args:
        images: (C, H, W) in [0, 1] each: arrays, or tensors on the CPU.
        window: what makes counts of them.
        edges: equally spaced, from `intensity_edges`.

    Returns:
        (bins,).
    """
    total = np.zeros(len(edges) - 1, np.int64)
    for image in images:
        values = window[0] + np.asarray(image, np.float64).ravel() * (window[1] - window[0])
        total += np.histogram(values, bins=len(total), range=(edges[0], edges[-1]))[0]
    return total


def wasserstein(one: ArrayLike, other: ArrayLike, edges: Floats) -> float:
    """Earth mover's distance of two histograms: how far, on average, intensities must be moved. In the edges' unit."""
    a, b = (np.cumsum(np.asarray(counts, np.float64)) / np.sum(counts) for counts in (one, other))
    return float((np.abs(a - b) * np.diff(edges)).sum())


def intensity_figure(
    images: Mapping[str, Iterable[ArrayLike]],
    windows: Mapping[str, Window] | None = None,
    unit: str = "raw counts",
    apart: bool = False,
    log: bool = False,
) -> Figure:
    """Densities of the intensities of several image sets over the same bins.

    Counts of different windows are not of one scale: then every set is drawn within its own, from 0 to 1.

    The legend says, for every other set, its earth mover's distance to the one named `real`, where there is one.

    Args:
        images: by name, for example source, translations, real; (C, H, W) in [0, 1] each. Read once, in order.
        windows: by the same names; None: the images are taken as 8-bit grey levels.
        unit: of the windows.
        apart: their counts mean different things also where the windows are equal, as those of 8 and 16 bits do.
        log: logarithmic density, for the few bright pixels that are the targets.

    Raises:
        ValueError: no images in a set.
    """
    known = windows or dict.fromkeys(images, EIGHT_BITS)
    if windows and (apart or len({windows[name] for name in images}) > 1):
        known, unit = dict.fromkeys(images, (0.0, 1.0)), WITHIN
    edges = intensity_edges(known[name] for name in images)
    counts = {name: intensity_counts(them, known[name], edges) for name, them in images.items()}
    figure, (axes,) = new_figure(4.6, 2.8)
    for (name, count), colour in zip(counts.items(), cycle(COLOURS), strict=False):
        if not count.sum():
            raise ValueError(f"There is no intensity of {name!r} to draw.")
        density = count / count.sum() / np.diff(edges)
        label = literal(name)
        if REAL in counts and name != REAL:
            label += f" (distance to real {wasserstein(count, counts[REAL], edges):.3g})"
        _outline(axes, density, edges, name, colour, label)
    if log:
        axes.set_yscale("log")
    describe(axes, "Intensities", unit if windows else "grey level", "density", legend=True)
    return figure


def _outline(axes: Axes, heights: ArrayLike, edges: Floats, name: str, colour: str, label: str = "") -> None:
    """One histogram; the one of real images is filled, being what the others are held against."""
    axes.stairs(heights, edges, color=colour, label=label or literal(name), linewidth=1.2)
    if name == REAL:
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.15)


def mean_shifts(features: ArrayLike, real: ArrayLike) -> Floats:
    """(d,): each feature's shift of the mean in standard deviations of the real images; constant ones left out."""
    one, other = np.asarray(features, np.float64), np.asarray(real, np.float64)
    spread = other.std(axis=0)
    varies = spread > 1e-6 * max(float(spread.max()), 1e-300)
    shifts: Floats = (one.mean(axis=0) - other.mean(axis=0))[varies] / spread[varies]
    return shifts


def feature_figure(features: Mapping[str, ArrayLike]) -> Figure:
    """What is hidden in one number such as FID: where in feature space the sets differ.

    The first two pictures are densities along the two directions in which *real* images vary most (their principal
    components, in standard deviations of the real images): a shift there is a shift of style, a narrow peak is a loss
    of variety. The third counts features by how far their mean is off: all of them a little, or a few of them a lot?

    Args:
        features: (N, d) by name, `real` among them; the order of the names is that of the colours.

    Raises:
        ValueError: no real features, or fewer than two features or two images of a set.
    """
    tables = {name: np.asarray(table, np.float64) for name, table in features.items()}
    if REAL not in tables or min(min(table.shape) for table in tables.values()) < 2:
        raise ValueError("Histograms of features need real images, and at least two images and features of each set.")
    along, shares = principal_components(tables[REAL], 2, tables)
    figure, axes = new_figure(7.0, 2.4, 3)
    colours = dict(zip(tables, cycle(COLOURS), strict=False))
    for number in range(2):
        spread = max(along[REAL][:, number].std(), 1e-12)
        values = {name: table[:, number] / spread for name, table in along.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=FEATURE_BINS)
        for name, those in values.items():
            density = np.histogram(those, edges, density=True)[0]
            _outline(axes[number], density, edges, name, colours[name])
        share = f"{shares[number]:.0%} of the real variance"
        describe(axes[number], f"Component {number + 1}: {share}", "standard deviations", "density", legend=number == 0)
    shifts = {name: mean_shifts(table, tables[REAL]) for name, table in tables.items() if name != REAL}
    if shifts:
        edges = np.histogram_bin_edges(np.concatenate(list(shifts.values())), bins=FEATURE_BINS)
        for name, those in shifts.items():
            _outline(axes[2], np.histogram(those, edges)[0], edges, name, colours[name])
        axes[2].axvline(0, color="0.6", linewidth=0.8)
    describe(axes[2], "Shift of each feature's mean", "standard deviations", "features")
    return figure
