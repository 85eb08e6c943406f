"""Curves of localisation scores as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from util.visual.figures import describe, new_figure

_IOU = 50  # percent, of the curve that is drawn


def curves_figure(tables: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Box accuracy by threshold, and precision by recall of pixels, whichever there are.

    Args:
        tables: by name of a set of maps, the tables of its scores (see `util.metrics.wsol`).

    Raises:
        ValueError: there is no curve in any of them.
    """
    kinds = [kind for kind in ("box_curve", "pixel_curve") if any(kind in table for table in tables.values())]
    if not kinds:
        raise ValueError("there is no curve to draw")
    figure, axes = new_figure(3.4 * len(kinds), 2.8, len(kinds))
    for kind, one in zip(kinds, axes, strict=True):
        for name, table in tables.items():
            if kind in table:
                x, y = box_points(table[kind]) if kind == "box_curve" else pixel_points(table[kind])
                one.plot(x, y, label=name, linewidth=1.2)
        one.set_xlim(0, 1)
        one.set_ylim(0, 100)
        if kind == "box_curve":
            describe(one, f"Boxes of the largest contour, IoU {_IOU} %", "threshold", "images hit (%)", legend=True)
        else:
            describe(one, "Pixels", "recall", "precision (%)", legend=True)
    return figure


def box_points(curve: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and percent of images hit."""
    return np.asarray(curve["threshold"]), np.asarray(curve[f"MaxBoxAcc_IoU{_IOU}"])


def pixel_points(curve: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Recall in [0, 1] and precision in percent, from the highest threshold down."""
    true, false = (np.cumsum(np.asarray(curve[name], np.int64)[::-1]) for name in ("true", "false"))
    some = true + false > 0
    recall, precision = true[some] / max(1, int(true[-1])), 100 * true[some] / (true + false)[some]
    return recall, precision
