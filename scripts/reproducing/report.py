"""The report of an experiment: Markdown and plots, made of evaluations and logs alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.comparing.tables import Cell, Report, Table, decimals, p_text, render
from scripts.reproducing.listing import CHOICE
from scripts.reproducing.plan import (
    ARMS,
    BASELINE,
    FIRST_CONFIRM_SEED,
    OUTCOMES,
    PRIMARY,
    QUESTIONS,
    SUITES,
    TESTS,
    VERDICT,
    Outcome,
)
from scripts.reproducing.plan import CHOICE as RULE
from scripts.reproducing.plots import draw
from scripts.reproducing.results import (
    Compared,
    Finished,
    chosen,
    compare,
    family,
    guards,
    ranking,
    read_results,
    spread_of,
    step_seconds,
    suites_won,
)
from util.errors import counted
from util.evaluations import EvaluationError
from util.files import write_atomic
from util.strict_json import read_json

_ARROW = {"lower": " ↓", "higher": " ↑"}
_STAGES = {"screen": "Screen: held-out training images", "confirm": "Confirmation: untouched test images, fresh seeds"}
_BOUNDS = ("acc_train_source", "acc_train_real", "kid_source", "ssim_input", "cc_input", "box_area")


def write_report(out: Path) -> Path:
    """Write `report.md`, `report.json`, `choice.json` and the plots below a folder; returns the report's path.

    Raises:
        EvaluationError: there is no finished run.
    """
    results = read_results(out)
    if not results:
        raise EvaluationError(
            f"{out}: holds no finished run; start with scripts/reproduce.py --suite infrared_unmatched"
        )
    parts = ["# CUTCAM against CUT, measured", "", *_about(out, results)]
    data: dict[str, Any] = {}
    for stage, title in _STAGES.items():
        mine = [found for found in results if found.stage == stage]
        if not mine:
            continue
        tests, guarded = family(mine), guards(mine)
        parts += [f"## {title}", ""]
        for found in mine:
            plot = draw(out, found)
            parts += _suite(found, tests, plot)
        parts += _conclusion(stage, mine, tests, guarded)
        data[stage] = {found.suite: _data(found, tests) for found in mine}
    screens = [found for found in results if found.stage == "screen"]
    choice = chosen(screens)
    if screens and not choice:  # what fewer runs have chosen must not be confirmed any more
        (out / CHOICE).unlink(missing_ok=True)
    if choice:
        write_atomic(out / CHOICE, (json.dumps({"arm": choice}) + "\n").encode())
    write_atomic(out / "report.json", (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
    path = out / "report.md"
    write_atomic(path, ("\n".join(parts) + "\n").encode())
    return path


def _about(out: Path, results: Sequence[Finished]) -> list[str]:
    lines = [
        "Made by `python scripts/reproduce.py --report` from evaluations and logs alone.",
        "",
        f"- Tests: {TESTS}.",
    ]
    lines += [f"- Verdict: {VERDICT}.", f"- Choice after the screen: {RULE}."]
    for found in results:
        settings = read_json(out / found.suite / found.stage / "settings.json")
        size = f"{settings['size']} px, ngf {settings['ngf']}, batch {settings['batch']}"
        images = next(iter(next(iter(found.runs.values())).values())).source.count
        runs = sum(map(len, found.runs.values()))
        # Those done: arms have steps of their own, and whole epochs, so that the budget's are not those of all.
        steps = sorted({one.step for seeds in found.runs.values() for one in seeds.values()})
        span = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0])
        lines.append(
            f"- {found.suite}, {found.stage}: {counted(runs, 'run')} of {span} steps ({size}), "
            f"measured on {counted(images, 'image')}."
        )
    return [*lines, ""]


# --- a suite


def _suite(found: Finished, tests: Sequence[Compared], plot: str) -> list[str]:
    title = f"{found.suite}: {SUITES[found.suite].title}"
    tables = [_outcomes(found)]
    tables += [table for number in QUESTIONS if (table := _question(found, number, tests))]
    text = render(Report(title, tables, _notes(found), {}), "markdown")
    return [text, f"![{found.suite}, {found.stage}: each dot a seed]({plot})", ""]


def _shown(found: Finished) -> list[Outcome]:
    return [item for item in OUTCOMES if any(found.values(arm, item.metric) for arm in found.arms)]


def _outcomes(found: Finished) -> Table:
    shown = _shown(found)
    rows = []
    columns = {item: _cells(found, item) for item in shown}
    pace = {arm: _pace(found, arm) for arm in found.arms}
    unit = pace.get(BASELINE)
    for number, arm in enumerate(found.arms):
        ratio = pace[arm]
        time = f"{ratio / unit:.2f}" if ratio and unit else "-"
        seeds = str(len(found.runs[arm]))
        rows.append([Cell(arm), Cell(seeds), *(columns[item][number] for item in shown), Cell(time)])
    head = ["arm", "seeds", *(item.metric + _ARROW[item.better] for item in shown), "time"]
    return Table(
        "Mean ± standard deviation over seeds; time: seconds per step over CUT's, noisy on a shared machine", head, rows
    )


def _cells(found: Finished, item: Outcome) -> list[Cell]:
    values = [found.values(arm, item.metric) for arm in found.arms]
    means = [float(np.mean(list(one.values()))) if one else None for one in values]
    spreads = [spread_of(one) for one in values]
    digits = min(decimals(spreads, means), 4)
    known = [mean for mean in means if mean is not None]
    best = (min if item.better == "lower" else max)(known)
    cells = []
    for mean, spread in zip(means, spreads, strict=True):
        if mean is None:
            cells.append(Cell("-"))
            continue
        rest = "" if spread is None else f" ± {spread:.{digits}f}"
        cells.append(Cell(f"{mean:.{digits}f}", rest, mean == best and len(known) > 1))
    return cells


def _pace(found: Finished, arm: str) -> float | None:
    seconds = [pace for one in found.runs[arm].values() if (pace := step_seconds(one))]
    return float(np.median(seconds)) if seconds else None


def _notes(found: Finished) -> list[str]:
    """Between which bounds the outcomes lie: what was measured without any translation, and with the true one."""
    values = {name: found.values(BASELINE, name) or _first(found, name) for name in _BOUNDS}
    text = ", ".join(f"{name} {np.mean(list(one.values())):.3f}" for name, one in values.items() if one)
    return [f"For scale: {text}."] if text else []


def _first(found: Finished, metric: str) -> dict[int, float]:
    return next((values for arm in found.arms if (values := found.values(arm, metric))), {})


def _question(found: Finished, number: int, tests: Sequence[Compared]) -> Table | None:
    """Differences of the arms that answer a question: to CUT, and to the arm each is a change of."""
    shown = [item for item in _shown(found) if item.role]
    rows = []
    for arm in found.arms:
        if number not in ARMS[arm].questions or arm == BASELINE:
            continue
        for against in dict.fromkeys((BASELINE, ARMS[arm].against)):
            for outcome in shown:
                if (item := compare(found, arm, against, outcome)) is not None:
                    rows.append(_row(item, _tested(item, tests)))
    if not rows:
        return None
    head = ["arm", "minus", "outcome", "difference [95 % interval]", "seeds better", "p", "Holm"]
    return Table(f"Question {number}. {QUESTIONS[number]}", head, rows, labels=3)


def _tested(item: Compared, tests: Sequence[Compared]) -> Compared | None:
    if item.against != BASELINE or item.outcome.role != PRIMARY:
        return None
    same = (item.suite, item.arm, item.outcome)
    return next((test for test in tests if (test.suite, test.arm, test.outcome) == same), None)


def _row(item: Compared, test: Compared | None) -> list[Cell]:
    reach = None if item.interval is None else (item.interval.high - item.interval.low) / 2
    digits = min(decimals([reach], [item.mean]), 4)
    ends = "" if item.interval is None else f" [{item.interval.low:+.{digits}f}, {item.interval.high:+.{digits}f}]"
    p, corrected = (test.p, test.corrected) if test else (None, None)
    return [
        *(Cell(item.arm), Cell(item.against), Cell(item.outcome.metric + _ARROW[item.outcome.better])),
        Cell(f"{item.mean:+.{digits}f}", ends),
        *(Cell(f"{item.better} of {len(item.differences)}"), Cell(p_text(p)), Cell(p_text(corrected))),
    ]


# --- what follows


def _conclusion(
    stage: str, mine: Sequence[Finished], tests: Sequence[Compared], guarded: Sequence[Compared]
) -> list[str]:
    if stage == "screen":
        rows = [[Cell(arm), Cell(f"{gain:+.3f}"), Cell(f"{ratio:.2f}")] for arm, gain, ratio in ranking(mine)]
        if not rows:
            return []
        choice = chosen(mine)
        text = f"Chosen: {choice}" if choice else "None is chosen: every KID is too high"
        table = Table("Gain over CUT, and KID in units of CUT's", ["arm", "gain", "KID"], rows)
        return [render(Report("What the screen chooses", [table], [f"{text}. The rule: {RULE}."], {}), "markdown")]
    arms = list(dict.fromkeys(item.arm for item in tests))
    lines = ["### Verdict", ""]
    for arm in arms:
        won = suites_won(arm, tests, guarded)
        verdict = "is better than CUT by the rule" if len(won) >= 2 else "is not better than CUT by the rule"
        lines.append(f"- `{arm}` {verdict}: it wins {', '.join(won) or 'no suite'}.")
    fewest = min((len(item.differences) for item in tests), default=0)
    lines.append(f"- Fewest seeds behind a test: {fewest}; the plan asks for six from {FIRST_CONFIRM_SEED} on.")
    return [*lines, ""]


def _data(found: Finished, tests: Sequence[Compared]) -> dict[str, Any]:
    return {
        "values": {
            arm: {item.metric: {str(s): v for s, v in found.values(arm, item.metric).items()} for item in OUTCOMES}
            for arm in found.arms
        },
        "tests": [
            {
                "arm": item.arm,
                "outcome": item.outcome.metric,
                "difference": item.mean,
                "interval": list(item.interval) if item.interval else None,
                "p": item.p,
                "holm": item.corrected,
            }
            for item in tests
            if item.suite == found.suite
        ],
    }
