"""One picture per suite and stage: arms below each other, a dot for each seed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.reproducing.plan import BASELINE, OUTCOMES, Outcome
from scripts.reproducing.results import Finished
from util.files import write_atomic

_TITLES = {"flip_rate": "flip rate (lower is better)", "acc_train_fake": "accuracy (higher is better)"}
# Without translation, and with real training images: what an accuracy lies between.
_BOUNDS = {"acc_train_fake": (("acc_train_source", "untranslated"), ("acc_train_real", "real"))}
_GREY, _BLUE, _RED = "0.55", "#1f5fa8", "#b3382c"


def draw(out: Path, found: Finished) -> str:
    """Draw the outcomes with a role; returns the picture's path below `out`."""
    shown = [item for item in OUTCOMES if item.role and any(found.values(arm, item.metric) for arm in found.arms)]
    height = 1.3 + 0.27 * len(found.arms)
    figure = Figure(figsize=(3.6 * max(1, len(shown)) + 1.2, height), layout="constrained")
    for number, item in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), number + 1)
        _panel(axes, found, item)
        axes.set_yticks(range(len(found.arms)), found.arms if number == 0 else [""] * len(found.arms))
    figure.suptitle(f"{found.suite}, {found.stage}: each dot a seed, bars their means, the line CUT's mean", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    path = Path("plots") / f"{found.suite}_{found.stage}.png"
    write_atomic(out / path, buffer.getvalue())
    return path.as_posix()


def _panel(axes: Axes, found: Finished, item: Outcome) -> None:
    for row, arm in enumerate(found.arms):
        values = list(found.values(arm, item.metric).values())
        if not values:
            continue
        colour = _GREY if arm == BASELINE else _BLUE
        axes.plot(values, [row] * len(values), "o", markersize=4, alpha=0.65, color=colour, markeredgewidth=0)
        axes.plot([float(np.mean(values))] * 2, [row - 0.32, row + 0.32], color=colour, linewidth=2)
    cut = list(found.values(BASELINE, item.metric).values())
    if cut:
        axes.axvline(float(np.mean(cut)), color=_GREY, linewidth=0.8)
    for metric, label in _BOUNDS.get(item.metric, ()):
        bound = list(found.values(BASELINE, metric).values())
        if bound:
            axes.axvline(float(np.mean(bound)), color=_RED, linewidth=0.8, linestyle=":", label=label)
            place = (float(np.mean(bound)), 1.0)
            axes.annotate(
                label, place, xycoords=("data", "axes fraction"), fontsize=6, color=_RED, ha="center", va="bottom"
            )
    axes.set_xlabel(_TITLES.get(item.metric, f"{item.metric} ({item.better} is better)"), fontsize=8)
    axes.set_ylim(len(found.arms) - 0.5, -0.5)
    axes.tick_params(labelsize=7)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
