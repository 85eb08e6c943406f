"""What an evaluation says on the console."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scripts.evaluating.record import record_path
from util.evaluations import Evaluation, choose, criterion, mean_value, read_evaluation, read_evaluations
from util.metrics.base import Scores, Value
from util.visual.report import number_text

ARROWS = {"lower": "v", "higher": "^", "": " "}


def say_scores(name: str, epoch: str, scores: Scores, seconds: Mapping[str, float]) -> None:
    """A line for each number, with its spread, its direction, and what exactly it is."""
    width = max((len(metric) for metric in scores.values), default=0)
    print(f"{name}, {epoch}  (^ higher is better, v lower)")
    for metric, value in scores.values.items():
        if value.value is None:
            print(f"  {metric:{width}}    -  {value.note}")
            continue
        about = "; ".join(text for text in (value.kind, value.note) if text)
        print(f"  {metric:{width}} {ARROWS[value.better]}  {number_text(value.value, value.spread):18}  {about}")
    print("seconds: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in seconds.items()))


def protocol_of(folder: Path, phase: str, epoch: str) -> dict[str, dict[str, Value]]:
    """Last, best and mean of the last five evaluations of a run, by heading; nothing where there are fewer than two.

    Only evaluations on the images of that epoch's count, and of each metric only values of one kind.
    """
    same = read_evaluation(record_path(folder, phase, epoch))
    found = [one for one in read_evaluations(folder, phase) if (one.source, one.target) == (same.source, same.target)]
    if len(found) < 2:
        return {}
    by = criterion(found)
    rules = {
        f"last ({found[-1].epoch})": choose(found, "last"),
        f"mean of {_epochs(choose(found, 'mean5'))}": choose(found, "mean5"),
    }
    if by is not None:
        best = choose(found, "best", by)
        rules[f"best by {by} ({_epochs(best)})"] = best
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    return {
        heading: {name: value for name in names if (value := _mean(chosen, name)) is not None}
        for heading, chosen in rules.items()
    }


def _mean(chosen: list[Evaluation], name: str) -> Value | None:
    """The mean of a metric; none over values that were measured in different ways."""
    kinds = {value.kind for one in chosen if (value := one.metrics.get(name)) and value.value is not None}
    return mean_value(chosen, name) if len(kinds) < 2 else None


def _epochs(found: list[Evaluation]) -> str:
    return ", ".join(one.epoch for one in found)


def say_protocol(folder: Path, phase: str, epoch: str) -> None:
    """Last, best and mean of the last five evaluations side by side, where there are several on an epoch's images."""
    columns = protocol_of(folder, phase, epoch)
    if not columns:
        return
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    width = max(len(name) for name in names)
    print("; ".join(f"({number}) {heading}" for number, heading in enumerate(columns, 1)))
    for name in names:
        cells = [_cell(column.get(name)) for column in columns.values()]
        if any(cell != "-" for cell in cells):
            print(f"  {name:{width}}  " + "  ".join(f"{cell:>10}" for cell in cells))


def _cell(value: Value | None) -> str:
    return "-" if value is None or value.value is None else number_text(value.value)
