"""What the runs of an experiment have left: evaluations and logs, and the statistics of the plan."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.reproducing.launching import PHASE
from scripts.reproducing.plan import (
    ARMS,
    BASELINE,
    GUARD,
    KID_ALLOWED,
    LEVEL,
    OUTCOMES,
    PRIMARY,
    SUITES,
    VERDICT_SUITES,
    Outcome,
)
from util.evaluations import FOLDER, Evaluation, check_comparable, read_evaluations
from util.statistics import Interval, holm, paired_t, standard_deviation

_RUN = re.compile(r"(?P<arm>.+)_s(?P<seed>\d+)")


@dataclass(frozen=True)
class Finished:
    """The finished runs of a suite at a stage, by arm and seed."""

    suite: str
    stage: str
    runs: Mapping[str, Mapping[int, Evaluation]]

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """A metric of an arm by seed; seeds without a value are left out."""
        found = {seed: one.metrics.get(metric) for seed, one in sorted(self.runs.get(arm, {}).items())}
        return {seed: value.value for seed, value in found.items() if value and value.value is not None}

    @property
    def arms(self) -> list[str]:
        """In the order of the plan."""
        return [arm for arm in ARMS if self.runs.get(arm)]


@dataclass(frozen=True)
class Compared:
    """An arm minus another, over the seeds that both have.

    Args:
        better: on how many seeds it is.
        p: of the paired t-test; `corrected` by Holm over the stage's family, where the plan tests it.
    """

    suite: str
    arm: str
    against: str
    outcome: Outcome
    differences: Sequence[float]
    mean: float
    interval: Interval | None
    p: float | None
    corrected: float | None = None

    @property
    def better(self) -> int:
        sign = -1 if self.outcome.better == "lower" else 1
        return sum(sign * value > 0 for value in self.differences)

    @property
    def gains(self) -> bool:
        """Better on average, and beyond chance after correction."""
        sign = -1 if self.outcome.better == "lower" else 1
        return sign * self.mean > 0 and self.corrected is not None and self.corrected < LEVEL

    @property
    def worse(self) -> bool:
        """The whole interval of the difference lies on the worse side; without an interval, the mean does."""
        if self.interval is None:
            return self.mean > 0 if self.outcome.better == "lower" else self.mean < 0
        return self.interval.low > 0 if self.outcome.better == "lower" else self.interval.high < 0


def read_results(out: Path) -> list[Finished]:
    """All finished runs below a folder, in the order of the plan.

    Raises:
        EvaluationError: runs of a suite were evaluated on different images.
        JsonError: a file is damaged.
    """
    found = (_read(out, suite, stage) for stage in ("screen", "confirm") for suite in SUITES)
    return [one for one in found if one.runs]


def _read(out: Path, suite: str, stage: str) -> Finished:
    folder = out / suite / stage / "checkpoints"
    runs: dict[str, dict[int, Evaluation]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        named = _RUN.fullmatch(path.name)
        if named and named["arm"] in ARMS and any((path / FOLDER).glob(f"{PHASE}_*.json")):
            runs.setdefault(named["arm"], {})[int(named["seed"])] = read_evaluations(path, PHASE)[-1]
    every = [one for seeds in runs.values() for one in seeds.values()]
    if every:
        check_comparable(every, [item.metric for item in OUTCOMES])
    return Finished(suite, stage, runs)


def compare(found: Finished, arm: str, against: str, outcome: Outcome) -> Compared | None:
    """None where they have no seed in common."""
    ours, theirs = found.values(arm, outcome.metric), found.values(against, outcome.metric)
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not differences:
        return None
    tested = paired_t(differences)
    interval, p = tested or (None, None)
    return Compared(found.suite, arm, against, outcome, differences, float(np.mean(differences)), interval, p)


def family(results: Sequence[Finished]) -> list[Compared]:
    """The tests of one stage, with Holm's correction over all of them."""
    tests = [item for found in results for item in _against_cut(found) if item.outcome.role == PRIMARY]
    known = [item for item in tests if item.p is not None]
    corrected = holm([item.p for item in known if item.p is not None])
    by_id = dict(zip(map(id, known), corrected, strict=True))
    return [replace(item, corrected=by_id.get(id(item))) for item in tests]


def _against_cut(found: Finished) -> Iterator[Compared]:
    for arm in found.arms:
        for outcome in OUTCOMES:
            if arm != BASELINE and (item := compare(found, arm, BASELINE, outcome)):
                yield item


def guards(results: Sequence[Finished]) -> list[Compared]:
    """Differences to CUT of what may not get worse."""
    return [item for found in results for item in _against_cut(found) if item.outcome.role == GUARD]


def suites_won(arm: str, tests: Sequence[Compared], guarded: Sequence[Compared]) -> list[str]:
    """The suites of the verdict where an arm is better than CUT on all primary outcomes, and no guard is worse."""
    won = []
    for suite in VERDICT_SUITES:
        mine = [item for item in tests if (item.suite, item.arm) == (suite, arm)]
        guard = [item for item in guarded if (item.suite, item.arm) == (suite, arm)]
        complete = len(mine) == sum(item.role == PRIMARY for item in OUTCOMES) and bool(guard)
        if complete and all(item.gains for item in mine) and not any(item.worse for item in guard):
            won.append(suite)
    return won


def ranking(screens: Sequence[Finished]) -> list[tuple[str, float, float]]:
    """Arms of --model cutcam by mean gain over CUT, the best first: name, gain, KID in units of CUT's.

    Only arms that have been measured in every labelled suite that was screened.
    """
    labelled = [found for found in screens if SUITES[found.suite].labelled and BASELINE in found.runs]
    rows = []
    for arm in ARMS:
        if ARMS[arm].model != "cutcam" or not labelled or not all(arm in found.runs for found in labelled):
            continue
        gains = [_gain(found, arm) for found in labelled]
        ratios = [_mean(found, arm, "kid") / max(_mean(found, BASELINE, "kid"), 1e-9) for found in labelled]
        rows.append((arm, float(np.mean(gains)), float(np.mean(ratios))))
    return sorted(rows, key=lambda row: -row[1])


def chosen(screens: Sequence[Finished]) -> str | None:
    """The arm to confirm, by the rule of the plan; None where none is allowed."""
    return next((arm for arm, _, ratio in ranking(screens) if ratio <= KID_ALLOWED), None)


def _gain(found: Finished, arm: str) -> float:
    fall = _mean(found, BASELINE, "flip_rate") - _mean(found, arm, "flip_rate")
    return (fall + _mean(found, arm, "acc_train_fake") - _mean(found, BASELINE, "acc_train_fake")) / 2


def _mean(found: Finished, arm: str, metric: str) -> float:
    values = list(found.values(arm, metric).values())
    return float(np.mean(values)) if values else float("nan")


def spread_of(values: Mapping[int, float]) -> float | None:
    """Standard deviation over seeds."""
    return standard_deviation(list(values.values())) if values else None


def step_seconds(evaluation: Evaluation) -> float | None:
    """Median seconds per image of a run's training, by its log; None without one."""
    log = evaluation.path.parent.parent / "log.jsonl"
    if not log.is_file():
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    seconds = [float(line["seconds"]) for line in lines if "seconds" in line]
    return float(np.median(seconds)) if seconds else None
