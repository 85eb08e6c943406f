"""Features of images as points in the plane: PCA, t-SNE and UMAP, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from util.errors import UserError
from util.seeding import generator, key
from util.visual.curves import COLOURS
from util.visual.figures import describe, literal, new_figure

Floats = NDArray[np.float64]

METHODS = ("pca", "tsne", "umap")
MOST = 2000  # points: t-SNE of more takes minutes, and nobody can tell them apart
UNKNOWN = -1
DOT = "."
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
_BEFORE = 50  # dimensions that t-SNE and UMAP are given, by PCA (van der Maaten and Hinton, JMLR 9, 2008)
_PERPLEXITY = 30.0
_NEIGHBOURS = 15


class EmbeddingError(UserError, ValueError):
    """Points cannot be placed; the message names what lacks and the remedy."""


@dataclass(frozen=True)
class Embedding:
    """Points of several image sets in one plane.

    Args:
        points: (n, 2) by name.
        numbers: which rows of the features they are, ascending.
        method: how it was made, with its settings, for a title.
        axes: names of both axes; empty where they mean nothing.
        left_out: rows that were not drawn, over all sets.
    """

    points: Mapping[str, Floats]
    numbers: Mapping[str, Sequence[int]]
    method: str
    axes: tuple[str, str]
    left_out: int


def principal_components(
    fitted: ArrayLike, count: int, features: Mapping[str, ArrayLike]
) -> tuple[dict[str, Floats], Floats]:
    """Features along the directions in which some of them vary most.

    Args:
        fitted: (N, d) that the mean and the directions come from.
        count: of directions, at most min(N, d).
        features: (n, d) by name.

    Returns:
        (n, count) by name, and (count,) each direction's share of the fitted variance. Signs are scikit-learn's
        convention, so that they do not depend on the machine.
    """
    found = PCA(count, svd_solver="full").fit(np.asarray(fitted, np.float64))
    along = {name: found.transform(np.asarray(table, np.float64)) for name, table in features.items()}
    return along, np.nan_to_num(found.explained_variance_ratio_)


def embed(features: Mapping[str, ArrayLike], method: str, seed: int, most: int = MOST) -> Embedding:
    """Place images in the plane by their features.

    More than `most` of them are drawn by chance, from every set in proportion. PCA keeps distances as well as a plane
    can. t-SNE (init by PCA, perplexity min(30, (n - 1) / 3)) and UMAP (15 neighbours) keep neighbourhoods: sizes of
    clusters and distances between them mean nothing. One thread, since sums over several depend on their number: equal
    seeds give equal pictures. 2,000 points of t-SNE take some ten seconds.

    Args:
        features: (N, d) by name, the same d: source, translations, real.
        method: `pca`, `tsne` or `umap`.
        seed: of the choice of points and of the method.

    Raises:
        EmbeddingError: fewer than four points, values that are not finite, or UMAP without the package umap-learn.
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown embedding {method!r}; choose one of {', '.join(METHODS)}.")
    tables = {name: np.asarray(table, np.float64) for name, table in features.items()}
    numbers = _subset({name: len(table) for name, table in tables.items()}, most, seed)
    joined = np.concatenate([tables[name][rows] for name, rows in numbers.items()])
    if len(joined) < 4 or joined.shape[1] < 2 or not np.isfinite(joined).all():
        raise EmbeddingError(
            f"{method} needs at least 4 images and 2 finite features, not {joined.shape}; evaluate more images"
        )
    with threadpool_limits(1):
        placed, said, axes = _PLACED[method](joined, key(seed, f"embedding {method}") % 2**32)
    ends = np.cumsum([len(rows) for rows in numbers.values()])[:-1]
    points = dict(zip(numbers, np.split(placed, ends), strict=True))
    return Embedding(points, numbers, said, axes, sum(map(len, tables.values())) - len(joined))


def embedding_figure(
    found: Embedding, labels: Mapping[str, Sequence[int]] | None = None, class_names: Mapping[int, str] | None = None
) -> Figure:
    """The points, coloured by set; where labels are known, a marker for each class.

    Args:
        labels: by set, a class id for every row of its features, -1 unknown (a dot); a set without labels has dots.
        class_names: by class id. More classes than there are markers (12) are all drawn as dots.
    """
    figure, (axes,) = new_figure(5.4, 3.8)
    colours = dict(zip(found.points, cycle(COLOURS), strict=False))
    classes = {name: _classes(rows, (labels or {}).get(name)) for name, rows in found.numbers.items()}
    present = sorted({int(label) for them in classes.values() for label in them} - {UNKNOWN})
    markers = dict(zip(present, MARKERS, strict=False)) if len(present) <= len(MARKERS) else {}
    size = float(np.clip(9000 / sum(map(len, found.points.values())), 6, 26))
    for name, points in found.points.items():
        for label in np.unique(classes[name]):
            own, marker = points[classes[name] == label], markers.get(int(label), DOT)
            axes.scatter(own[:, 0], own[:, 1], s=size, color=colours[name], marker=marker, alpha=0.6, linewidths=0)
    named = {marker: literal((class_names or {}).get(label, str(label))) for label, marker in markers.items()}
    _legend(axes, {f"{name} ({len(points)})": colours[name] for name, points in found.points.items()}, named)
    describe(axes, found.method + (f", {found.left_out} more not drawn" if found.left_out else ""), *found.axes)
    if any(found.axes):
        axes.set_aspect("equal", adjustable="datalim")  # here distances mean something
    else:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def _classes(rows: Sequence[int], labels: Sequence[int] | None) -> NDArray[np.int64]:
    return np.full(len(rows), UNKNOWN) if labels is None else np.asarray(labels, np.int64)[list(rows)]


def _legend(axes: Axes, sets: Mapping[str, str], classes: Mapping[str, str]) -> None:
    """Colours of the sets, and markers of the classes, beside the points."""
    keys = [(literal(name), "o", colour) for name, colour in sets.items()]
    keys += [(name, marker, "0.4") for marker, name in classes.items()]
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", label=name) for name, marker, colour in keys]
    axes.legend(handles=handles, fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), markerscale=0.7)


def _subset(sizes: Mapping[str, int], most: int, seed: int) -> dict[str, list[int]]:
    """Which rows of each set are drawn: all, or `most` of them in proportion to the sets' sizes."""
    total = sum(sizes.values())
    wanted = {name: size if total <= most else max(1, size * most // total) for name, size in sizes.items()}
    return {
        name: sorted(
            torch.randperm(size, generator=generator(seed, "embedding subset", number))[: wanted[name]].tolist()
        )
        for number, (name, size) in enumerate(sizes.items())
    }


# --- methods: (n, d) and a seed -> points, what to say of them, names of the axes

_Placed = tuple[Floats, str, tuple[str, str]]


def _pca(table: Floats, seed: int) -> _Placed:
    along, shares = principal_components(table, 2, {"": table})
    return along[""], "PCA", (f"component 1 ({shares[0]:.0%} of the variance)", f"component 2 ({shares[1]:.0%})")


def _tsne(table: Floats, seed: int) -> _Placed:
    perplexity = min(_PERPLEXITY, (len(table) - 1) / 3)
    placed = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(_reduced(table))
    return np.asarray(placed, np.float64), f"t-SNE, perplexity {perplexity:.3g}", ("", "")


def _umap(table: Floats, seed: int) -> _Placed:
    try:
        from umap import UMAP  # an optional extra
    except ImportError as error:
        raise EmbeddingError(
            "UMAP needs the package umap-learn, which is not installed: pip install umap-learn, or use t-SNE"
        ) from error
    neighbours = min(_NEIGHBOURS, len(table) - 1)
    placed = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(_reduced(table))
    return np.asarray(placed, np.float64), f"UMAP, {neighbours} neighbours", ("", "")


def _reduced(table: Floats) -> Floats:
    """At most 50 dimensions: faster, and with less noise in the distances."""
    count = min(_BEFORE, *table.shape)
    return table if count == table.shape[1] else principal_components(table, count, {"": table})[0][""]


_PLACED = {"pca": _pca, "tsne": _tsne, "umap": _umap}
