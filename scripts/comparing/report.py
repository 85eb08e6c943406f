"""A comparison as a report: its tables, and everything that must be known to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scripts.comparing.comparison import Comparison, Difference, Score, Tested
from scripts.comparing.runs import Method
from scripts.comparing.sampling import KERNEL_DRAWS
from scripts.comparing.tables import Cell, Report, Table, decimals, p_text
from util.errors import printable
from util.evaluations import RULES
from util.statistics import DRAWS, Interval

_ARROW = {"lower": " ↓", "higher": " ↑", "": ""}


def report_of(comparison: Comparison) -> Report:
    """Tables of scores, differences and rules, and the notes under them."""
    tables = [_scores(comparison)]
    if comparison.differences:
        tables.append(_differences(comparison))
    if comparison.several_evaluations:
        tables.append(_rules(comparison))
    first = comparison.methods[0].runs[0].evaluations[-1]
    title = f"{len(comparison.methods)} methods on {first.source.count} images of the phase {first.phase}"
    return Report(printable(title), tables, _notes(comparison), _data(comparison))


# --- tables


def _scores(comparison: Comparison) -> Table:
    digits = {metric: _digits(comparison, metric) for metric in comparison.metrics}
    rows = [
        [Cell(method.name)]
        + [_score(comparison.scores[method.name, metric], digits[metric]) for metric in comparison.metrics]
        for method in comparison.methods
    ]
    head = ["method", *(metric + _ARROW[comparison.columns[metric].better] for metric in comparison.metrics)]
    return Table("Mean ± standard deviation over seeds [95 % interval]", head, rows, turnable=True)


def _digits(comparison: Comparison, metric: str) -> int:
    scores = [comparison.scores[method.name, metric] for method in comparison.methods]
    spreads = [score.spread for score in scores] + [_reach(score.interval) for score in scores]
    return decimals(spreads, [score.value for score in scores])


def _score(score: Score, digits: int) -> Cell:
    if score.value is None:
        return Cell("-")
    spread = "" if score.spread is None else f" ± {score.spread:.{digits}f}"
    return Cell(f"{score.value:.{digits}f}", spread + _ends(score.interval, digits), score.best)


def _reach(interval: Interval | None) -> float | None:
    return None if interval is None else (interval.high - interval.low) / 2


def _ends(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _differences(comparison: Comparison) -> Table:
    head = ["metric", "method", "difference [95 % interval]", "p images", "Holm", "p seeds", "Holm"]
    rows = [
        [Cell(item.metric), Cell(item.method), _difference(item), *_tested(item.images), *_tested(item.seeds)]
        for item in comparison.differences
    ]
    return Table(f"Difference to {comparison.baseline.name}", head, rows, labels=2)


def _difference(item: Difference) -> Cell:
    digits = decimals([_reach(item.interval)], [item.value])
    return Cell(f"{item.value:+.{digits}f}", _ends(item.interval, digits))


def _tested(test: Tested | None) -> list[Cell]:
    return [Cell(p_text(test.p if test else None)), Cell(p_text(test.corrected if test else None))]


def _rules(comparison: Comparison) -> Table:
    rows = []
    for method in comparison.methods:
        for rule in comparison.rules:
            numbers = [comparison.numbers(method, metric, rule) for metric in comparison.metrics]
            cells = [
                Cell(f"{np.mean(found):.{_digits(comparison, metric)}f}" if found else "-")
                for metric, found in zip(comparison.metrics, numbers, strict=True)
            ]
            rows.append([Cell(method.name), Cell(rule), *cells])
    return Table("The same under each rule", ["method", "rule", *comparison.metrics], rows, labels=2)


# --- notes


def _notes(comparison: Comparison) -> list[str]:
    notes = [f"WARNING: {text}." for text in comparison.warnings]
    notes.append(_rule_note(comparison))
    notes += [_seeds_note(method, comparison) for method in comparison.methods]
    if len(comparison.methods) > 1:
        notes.append("*, or bold: the best value of its column, which a difference by chance may also be.")
    notes += _interval_notes(comparison)
    if comparison.differences:
        notes += _test_notes(comparison)
    notes += _metric_notes(comparison)
    return notes


def _rule_note(comparison: Comparison) -> str:
    if comparison.rule not in RULES:
        return f"Epoch {comparison.rule} of every run."
    text = f"Epoch: {RULES[comparison.rule]} evaluation of each run"
    if comparison.rule == "mean5":
        text = "Epoch: mean of the last five evaluations of each run, or of as many as there are"
    if comparison.by and comparison.several_evaluations:
        text += f"; best goes by {comparison.by} on these very images, which flatters"
    return text + "."


def _seeds_note(method: Method, comparison: Comparison) -> str:
    runs = [
        f"{run.name} (seed {run.seed}, epoch {', '.join(found.epoch for found in comparison.chosen[run.name])})"
        for run in method.runs
    ]
    seeds = f"n = {len(runs)} seed{'s' if len(runs) > 1 else ''}"
    alone = "; one seed is no evidence about a method, only about this network" if len(runs) == 1 else ""
    return f"{method.name}: {seeds}: {', '.join(runs)}{alone}."


def _interval_notes(comparison: Comparison) -> list[str]:
    notes, by_way = [], _by_way(comparison)
    if by_way["images"]:
        notes.append(
            f"Intervals of {_counted(by_way['images'])}: paired bootstrap, {DRAWS:,} resamples of the test images, the "
            "same for every method; for several seeds each resample also adds a Student-t deviate of their spread."
        )
    if by_way["kernel"]:
        notes.append(
            f"Interval and difference of {_counted(by_way['kernel'])}: unbiased MMD of all images with the kernel "
            f"(x.y/d + 1)^3, {KERNEL_DRAWS:,} resamples of images, the same for every method; seeds as above."
        )
    for metric in by_way["seeds"]:
        notes.append(
            f"{metric}: interval over seeds only (Student's t), none for one seed: {comparison.columns[metric].reason}."
        )
    return notes


def _by_way(comparison: Comparison) -> dict[str, list[str]]:
    ways: dict[str, list[str]] = {"images": [], "kernel": [], "seeds": []}
    for metric, column in comparison.columns.items():
        ways[column.sampling.how if column.sampling else "seeds"].append(metric)
    counted = {metric: c.sampling.images for metric, c in comparison.columns.items() if c.sampling}
    return {way: [f"{m} ({counted[m]} images)" if m in counted else m for m in found] for way, found in ways.items()}


def _counted(metrics: Sequence[str]) -> str:
    return ", ".join(metrics)


def _test_notes(comparison: Comparison) -> list[str]:
    images = [item.images for item in comparison.differences if item.images]
    seeds = [item.seeds for item in comparison.differences if item.seeds]
    exact = sum(test.exact for test in images)
    return [
        f"p images: paired permutation test, the two methods' translations of an image change places at random "
        f"({exact} of {len(images)} tests exact, the others {DRAWS:,} draws). It is about these trained networks, not "
        "about training them again.",
        "p seeds: Welch's t test over the seeds, about training again; '-' where a side has fewer than two.",
        f"Holm: corrected over all {len(images)} tests of images, and over all {len(seeds)} of seeds, in this table.",
    ]


def _metric_notes(comparison: Comparison) -> list[str]:
    notes = []
    for metric, column in comparison.columns.items():
        values = [v for method in comparison.methods for run in method.runs if (v := comparison.value(run, metric))]
        said = dict.fromkeys([column.kind, *(value.note for value in values if value.value is not None)])
        if text := "; ".join(part for part in said if part):
            notes.append(f"{metric}: {text}.")
        missing = [score.reason for m in comparison.methods if (score := comparison.scores[m.name, metric]).reason]
        if missing:
            notes.append(f"{metric} lacks: {'; '.join(missing)}.")
    return [printable(note) for note in notes]


# --- JSON


def _data(comparison: Comparison) -> dict[str, Any]:
    first = comparison.methods[0].runs[0].evaluations[-1]
    return {
        "phase": first.phase,
        "images": first.source.count,
        "digests": {
            "source": first.source.digest,
            "target": first.target.digest if first.target else None,
        },
        "rule": comparison.rule,
        "best_by": comparison.by,
        "baseline": comparison.baseline.name,
        "methods": [_method(method, comparison) for method in comparison.methods],
        "metrics": [
            {
                "name": metric,
                "better": column.better,
                "kind": column.kind,
                "resampled": column.sampling.how if column.sampling else None,
                "images": column.sampling.images if column.sampling else None,
                "draws": column.sampling.draws if column.sampling else None,
                "reason": column.reason,
            }
            for metric, column in comparison.columns.items()
        ],
        "scores": [
            {"method": method, "metric": metric, **asdict(score), "interval": _pair(score.interval)}
            for (method, metric), score in comparison.scores.items()
        ],
        "differences": [{**asdict(item), "interval": _pair(item.interval)} for item in comparison.differences],
        "rules": _rules_data(comparison) if comparison.several_evaluations else [],
        "notes": _notes(comparison),
    }


def _method(method: Method, comparison: Comparison) -> dict[str, Any]:
    runs = [
        {"name": run.name, "seed": run.seed, "epochs": [found.epoch for found in comparison.chosen[run.name]]}
        for run in method.runs
    ]
    return {"name": method.name, "seeds": len(runs), "runs": runs}


def _rules_data(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {"method": method.name, "metric": metric, "rule": rule, "values": comparison.numbers(method, metric, rule)}
        for method in comparison.methods
        for metric in comparison.metrics
        for rule in comparison.rules
    ]


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
