"""Loss curves as SVG, written without a plotting library so that a page can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle, product
from typing import Any

import numpy as np

from util.visual.base import EVALUATION, MONITORS, grouped
from util.visual.jsonl import names_in

# Okabe and Ito's palette (2008), told apart with any colour vision, without its yellow (invisible on white).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444", "#8c6bb1")
DASHES = ("", "7 4", "2 3")  # once all colours are taken, lines differ in these
WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 418, 8, 192
MAX_POINTS = 600
_MARKS = dict(zip(DASHES, ("&#9632;", "&#9476;", "&#8943;"), strict=True))  # in the legend


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], roughly `about` of them."""
    raw = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and values of one loss where it is finite, in the log's order."""
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None and math.isfinite(r[name])]
    array = np.array(points, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def smoothed(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Moving average with a centred triangular window over `share` of the values, narrowed at both ends.

    Centred, since a causal average lags behind a falling loss.
    """
    half = max(1, round(share * len(values)))
    window = np.convolve(np.ones(half), np.ones(half))
    padded = np.convolve(values, window)[half - 1 : half - 1 + len(values)]
    weights = np.convolve(np.ones(len(values)), window)[half - 1 : half - 1 + len(values)]
    return padded / weights


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, evenly spread, the first and the last among them."""
    kept: np.ndarray = values[np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int))]
    return kept


@dataclass(frozen=True)
class _Axes:
    """The data window and its place in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def across(self, x: float) -> float:
        return LEFT + (x - self.x_low) / (self.x_high - self.x_low) * (RIGHT - LEFT)

    def down(self, y: float) -> float:
        return BOTTOM - (y - self.y_low) / (self.y_high - self.y_low) * (BOTTOM - TOP)


def _span(values: Sequence[np.ndarray], percent: float, pad: float) -> tuple[float, float]:
    low = min(float(np.percentile(v, percent)) for v in values)
    high = max(float(np.percentile(v, 100 - percent)) for v in values)
    if high - low < 1e-9 * max(abs(high), 1e-9):  # one value: give the axis a width, by which a rate of 2e-4 is told
        half = 0.5 * (abs(high) or 1.0)
        low, high = low - half, high + half
    return low - pad * (high - low), high + pad * (high - low)


def _frame(axes: _Axes) -> str:
    parts = ['<g stroke="#e4e7eb">']
    xs, ys = ticks(axes.x_low, axes.x_high), ticks(axes.y_low, axes.y_high)
    parts += [f'<path d="M{LEFT} {axes.down(y):.1f}H{RIGHT}"/>' for y in ys]
    parts += [f'<path d="M{axes.across(x):.1f} {TOP}V{BOTTOM}"/>' for x in xs]
    parts.append('</g><g fill="#5b6470" font-size="11" font-family="sans-serif">')
    parts += [f'<text x="{LEFT - 6}" y="{axes.down(y) + 4:.1f}" text-anchor="end">{_number(y)}</text>' for y in ys]
    parts += [f'<text x="{axes.across(x):.1f}" y="{BOTTOM + 15}" text-anchor="middle">{x:,.10g}</text>' for x in xs]
    middle = (LEFT + RIGHT) / 2
    return "".join([*parts, f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">optimiser step</text></g>'])


def _number(y: float) -> str:
    """As short as fits beside the axis: 0.0002, and 1.5e-4 for 0.00015."""
    text = f"{y:.4g}"
    return text if len(text) <= 6 else f"{y:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _curve(axes: _Axes, x: np.ndarray, y: np.ndarray, colour: str, dashes: str) -> str:
    xs = [axes.across(value) for value in thinned(x, MAX_POINTS)]
    if len(xs) == 1:
        return f'<circle cx="{xs[0]:.1f}" cy="{axes.down(y[0]):.1f}" r="3" fill="{colour}"/>'
    lines, dashed = [], f'stroke-dasharray="{dashes}" ' if dashes else ""
    for values, style in ((y, 'opacity="0.25"'), (smoothed(y), f'{dashed}stroke-width="1.8"')):
        ys = (axes.down(value) for value in thinned(values, MAX_POINTS))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
        lines.append(f'<polyline fill="none" stroke="{colour}" {style} points="{points}"/>')
    return "".join(lines)


def svg_curves(records: Sequence[Mapping[str, Any]], names: Sequence[str], title: str = "") -> str:
    """One chart of several losses over the optimiser step, as an HTML `<figure>` with an inline `<svg>`.

    The faint line is the loss, the full one its moving average. The vertical axis spans the middle 98 percent
    of each loss, so that one spike does not flatten all curves; what lies outside is cut at the frame.

    Args:
        records: rows of `log.jsonl`, from `util.visual.jsonl.read_log`.
        names: the losses to draw; those without a finite value are left out.
        title: the heading of the chart.

    Returns:
        The element, every name escaped, or an empty string if there is nothing to draw.
    """
    found = {name: series(records, name) for name in names}
    curves = {name: points for name, points in found.items() if len(points[0])}
    if not curves:
        return ""
    axes = _Axes(*_span([x for x, _ in curves.values()], 0, 0), *_span([y for _, y in curves.values()], 1, 0.06))
    styles = dict(zip(curves, cycle(product(DASHES, COLOURS)), strict=False))
    legend = "".join(
        f'<span class="key"><span style="color:{styles[name][1]}">{_MARKS[styles[name][0]]}</span> {escape(name)} '
        f"<b>{smoothed(y)[-1]:.4g}</b></span>"
        for name, (_, y) in curves.items()
    )
    box = (LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP)
    # A nested <svg> cuts off what leaves the frame, without an id that could clash between two charts.
    inner = f'<svg x="{LEFT}" y="{TOP}" width="{box[2]}" height="{box[3]}" viewBox="{" ".join(map(str, box))}">'
    drawn = "".join(_curve(axes, x, y, styles[name][1], styles[name][0]) for name, (x, y) in curves.items())
    return (
        f'<figure class="chart"><figcaption><strong>{escape(title)}</strong>{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} losses">'
        f"{_frame(axes)}{inner}{drawn}</svg></svg></figure>"
    )


def svg_groups(records: Sequence[Mapping[str, Any]]) -> str:
    """One chart for each group of losses in the log: adversarial, contrastive, cam, and so on to the monitors.

    Monitors, and measures of an evaluation, whose values mostly lie within [-1, 1] (correlations, entropies) have a
    chart of their own, since counts would flatten them.
    """
    groups = grouped(names_in(records))
    for group in (EVALUATION, MONITORS):
        names = groups.pop(group, [])
        sizes = {name: np.abs(series(records, name)[1]) for name in names}
        small = [name for name, size in sizes.items() if len(size) and np.median(size) <= 1]
        groups[f"{group} up to 1"] = small
        groups[f"{group} above 1"] = [name for name in names if name not in small]
    return "".join(svg_curves(records, names, group) for group, names in groups.items())
