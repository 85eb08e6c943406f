"""What was found of each method, as a table with notes and as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from scripts.benchmarks.machine import machine, versions
from scripts.comparing.tables import Cell, Report, Table
from scripts.faithfulness.measures import COLUMNS, Row, Where
from util.errors import printable
from util.metrics.faithfulness import STEPS
from util.metrics.imputation import SHARES
from util.metrics.randomisation import Stage

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
_DIGITS = 3
_CURVES = ("deletion", "insertion", "road")


@dataclass
class Method:
    """What was found of one maker of maps.

    Attributes:
        learns: whether the maps depend on the network.
        rows: of each image, by its number.
        stages: of the sanity check, one list a batch.
        failure: why there are no maps; empty: there are.
    """

    name: str
    learns: bool = True
    rows: dict[int, Row] = field(default_factory=dict)
    stages: list[list[Stage]] = field(default_factory=list)
    failure: str = ""

    def values(self, column: str) -> list[float]:
        """Of all images that have one."""
        return [value for row in self.rows.values() if (value := row.get(column)) is not None]

    def mean(self, column: str) -> float | None:
        """Over images; None where there is none, or the method failed."""
        found = [] if self.failure else self.values(column)
        return statistics.fmean(found) if found else None


def report(title: str, methods: Sequence[Method], notes: Sequence[str], facts: dict[str, Any]) -> Report:
    """One table of all methods.

    Args:
        notes: beside what the columns mean and which methods failed.
        facts: beside what was measured, for JSON.
    """
    measured = [name for name in COLUMNS if any(method.mean(name) is not None for method in methods)]
    shown = [name for name in measured if COLUMNS[name].shown]
    best = {name: _best(methods, name) for name in shown}
    rows = [
        [Cell(method.name), *(_cell(method.mean(name), method.name in best[name]) for name in shown)]
        for method in methods
    ]
    head = ["method", *(COLUMNS[name].heading + ARROWS[COLUMNS[name].better] for name in shown)]
    lines = [f"{COLUMNS[name].heading}: {COLUMNS[name].meaning}." for name in shown]
    if set(_CURVES) & set(shown):
        lines.append(
            f"ROAD: mean over {len(SHARES)} shares from {SHARES[0]:g} to {SHARES[-1]:g}. Curves: {STEPS} steps."
        )
    lines += [*notes, "* or bold: the best of its column, which a difference by chance may also be."]
    lines += [f"{method.name}: no maps: {printable(method.failure)}" for method in methods if method.failure]
    data = {
        **facts,
        "better": {name: COLUMNS[name].better for name in measured},
        "methods": [_entry(method, measured) for method in methods],
        "notes": lines,
        "versions": versions(),
        "machine": machine(),
    }
    return Report(printable(title), [Table("Mean over images", head, rows)], lines, data)


def where_note(where: Where | None, count: int) -> list[str]:
    """What must be known to read pointing, energy and IoU."""
    if where is None:
        return []
    areas = [area for number in range(count) if (area := where.area(number)) is not None]
    share = f"; they fill {statistics.fmean(areas):.3f} of an image, which a flat map reaches" if areas else ""
    return [
        f"The targets of {len(areas)} of {count} images are known{share}. Tolerance of pointing "
        f"{where.tolerance:g} px, box around {where.threshold:g} of the greatest value."
    ]


def _cell(value: float | None, best: bool) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.{_DIGITS}f}", best=best)


def _best(methods: Iterable[Method], column: str) -> set[str]:
    """Names of the methods that are best as far as it is shown; nobody where all are. Yardsticks do not count."""
    means = {m.name: round(value, _DIGITS) for m in methods if m.learns and (value := m.mean(column)) is not None}
    if len(set(means.values())) < 2 or not COLUMNS[column].better:
        return set()
    end = (min if COLUMNS[column].better == "lower" else max)(means.values())
    return {name for name, value in means.items() if value == end}


def _entry(method: Method, columns: Sequence[str]) -> dict[str, Any]:
    known = {} if method.failure else dict(sorted(method.rows.items()))
    return {
        "name": method.name,
        "failure": method.failure or None,
        "mean": {name: method.mean(name) for name in columns},
        "spread": {
            name: statistics.pstdev(values) if known and (values := method.values(name)) else None for name in columns
        },
        "images": list(known),
        "per_image": {name: [row.get(name) for row in known.values()] for name in columns},
        "sanity": [_stage(stages) for stages in zip(*method.stages, strict=True)],
    }


def _stage(batches: Sequence[Stage]) -> dict[str, Any]:
    """One stage over all batches."""
    return {
        "from_layer": batches[0].layer,
        "layers": batches[0].layers,
        "rank_correlation": float(torch.cat([stage.rank_correlation for stage in batches]).mean()),
        "ssim": float(torch.cat([stage.ssim for stage in batches]).mean()),
    }
