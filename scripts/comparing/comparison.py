"""Methods side by side: value, spread over seeds, interval, difference to a baseline and its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np

from options.schema import OptionError
from scripts.comparing.runs import Method, Run
from scripts.comparing.sampling import Sampling, sampling_of
from util.errors import printable
from util.evaluations import RULES, Evaluation, check_comparable, choose, criterion, different_networks, mean_value
from util.metrics.base import Value
from util.registry import did_you_mean
from util.statistics import (
    Floats,
    Interval,
    Test,
    holm,
    percentile_interval,
    seed_deviates,
    seed_deviates_of_difference,
    sign_flip_test,
    standard_deviation,
    t_interval,
    welch,
)

_SEED = 20_260_101  # of the resampling: equal files give equal tables


@dataclass(frozen=True)
class Score:
    """A method under one metric.

    Args:
        value: mean over its runs; None where there is none, and `reason` says why.
        runs: how many of its runs have a value.
        spread: standard deviation over them; None of one.
        interval: of the value: over images and seeds, or over seeds alone.
        best: no other method's value is better.
    """

    value: float | None
    runs: int = 0
    spread: float | None = None
    interval: Interval | None = None
    best: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Tested:
    """A two-sided test, its p-value as such and corrected by Holm over all tests of its kind in the table."""

    p: float
    corrected: float
    exact: bool = False


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline.

    Args:
        images: test of these trained networks by changing places image by image; None where the metric allows none.
        seeds: Welch's test over the seeds; None of fewer than two on either side.
    """

    metric: str
    method: str
    value: float
    interval: Interval | None
    images: Tested | None
    seeds: Tested | None


@dataclass(frozen=True)
class Column:
    """A metric: its direction and kind as the evaluations say, and how it was resampled (`images`, `kernel`, or not)
    on how many images."""

    metric: str
    better: str
    kind: str
    sampling: Sampling | None
    reason: str


class Comparison:
    """Everything a table of methods shows.

    Args:
        methods: what is compared; equal names are not allowed.
        rule: `last`, `best`, `mean5` or an epoch.
        metrics: which, in order; None: all.
        baseline: the method that differences are taken to; None: the first.
        by: the metric `best` goes by; None: KID, FID, or the first with a direction.

    Attributes:
        rules: those that can be told apart here; `rule` alone where it is an epoch.
        chosen: by run, the evaluations whose mean counts.
        warnings: what its numbers differ by beside the methods.

    Raises:
        EvaluationError: evaluations are missing, or were made on different images or features.
        OptionError: an unknown metric or baseline.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        rule: str = "last",
        metrics: Sequence[str] | None = None,
        baseline: str | None = None,
        by: str | None = None,
    ) -> None:
        self.methods, self.rule = list(methods), rule
        self._runs = [run for method in methods for run in method.runs]
        used = [choose(run.evaluations, rule) for run in self._runs] if rule not in RULES else self._all()
        considered = list(chain.from_iterable(used))
        self.metrics = _metrics_of(considered, metrics)
        check_comparable(considered, self.metrics)
        self.warnings = different_networks(considered, self.metrics)
        self.by = by or (criterion(considered) if rule in RULES else None)
        if rule == "best" and self.by is None:
            raise OptionError("--epoch best: no metric with a direction has a value in every evaluation; use last")
        self.rules = [name for name in RULES if name != "best" or self.by] if rule in RULES else [rule]
        self._chosen = {
            (run.name, rule): choose(run.evaluations, rule, self.by) for run in self._runs for rule in self.rules
        }
        self.chosen = {run.name: self._chosen[run.name, rule] for run in self._runs}
        self.baseline = self._method(baseline) if baseline else self.methods[0]

    @property
    def several_evaluations(self) -> bool:
        """Whether last, best and mean of the last five can differ."""
        return self.rule in RULES and any(len(run.evaluations) > 1 for run in self._runs)

    def value(self, run: Run, metric: str, rule: str | None = None) -> Value | None:
        """The number of one run by a rule (the comparison's own unless told), None where it was not measured."""
        return mean_value(self._chosen[run.name, rule or self.rule], metric)

    def numbers(self, method: Method, metric: str, rule: str | None = None) -> list[float]:
        """The numbers of a method's runs; runs without one are left out."""
        values = [self.value(run, metric, rule) for run in method.runs]
        return [value.value for value in values if value and value.value is not None]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Each metric with the way it is resampled."""
        return {metric: self._column(number, metric) for number, metric in enumerate(self.metrics)}

    @cached_property
    def scores(self) -> dict[tuple[str, str], Score]:
        """By method and metric."""
        scores = {(m.name, metric): self._score(m, metric) for m in self.methods for metric in self.metrics}
        for metric in self.metrics:
            known = {key: s.value for key, s in scores.items() if key[1] == metric and s.value is not None}
            better = self.columns[metric].better
            if better and len(known) > 1:
                best = (min if better == "lower" else max)(known.values())
                scores |= {key: replace(scores[key], best=True) for key, value in known.items() if value == best}
        return scores

    @cached_property
    def differences(self) -> list[Difference]:
        """Every other method minus the baseline under every metric both have."""
        raw = [
            self._difference(method, metric)
            for metric in self.metrics
            for method in self.methods
            if method is not self.baseline and self._both_have(method, metric)
        ]
        images = _corrected([test for _, test, _ in raw])
        seeds = _corrected([test for _, _, test in raw])
        return [replace(item, images=images[n], seeds=seeds[n]) for n, (item, _, _) in enumerate(raw)]

    @cached_property
    def _replicates(self) -> dict[tuple[str, str], Floats]:
        """By method and metric, the mean of its runs on each resample of images."""
        return {
            (method.name, metric): np.mean([sampling.replicates(run) for run in runs], axis=0)
            for metric in self.metrics
            if (sampling := self.columns[metric].sampling)
            for method in self.methods
            if (runs := self._with_value(method.name, metric))
        }

    def _random(self, metric: str, method: Method, purpose: int) -> np.random.Generator:
        return np.random.default_rng([_SEED, self.metrics.index(metric), purpose, self.methods.index(method)])

    def _all(self) -> list[Sequence[Evaluation]]:
        return [run.evaluations for run in self._runs]

    def _method(self, name: str) -> Method:
        known = {method.name: method for method in self.methods}
        if name not in known:
            raise OptionError(
                f"--baseline {printable(name)}: no such method{did_you_mean(name, list(known))}; "
                f"there are {printable(', '.join(known))}"
            )
        return known[name]

    def _with_value(self, method: str, metric: str) -> list[str]:
        runs = self._method(method).runs
        return [run.name for run in runs if (value := self.value(run, metric)) and value.value is not None]

    def _both_have(self, method: Method, metric: str) -> bool:
        return bool(self.numbers(method, metric) and self.numbers(self.baseline, metric))

    def _column(self, number: int, metric: str) -> Column:
        values = [v for run in self._runs if (v := self.value(run, metric)) and v.value is not None]
        if not values:
            return Column(metric, "", "", None, "no method has a value")
        known = {run: self.chosen[run] for method in self.methods for run in self._with_value(method.name, metric)}
        sampling, reason = sampling_of(metric, known, np.random.default_rng([_SEED, number, 0]))
        return Column(metric, values[0].better, values[0].kind, sampling, reason)

    def _score(self, method: Method, metric: str) -> Score:
        numbers = self.numbers(method, metric)
        reasons = [
            f"{printable(run.name)}: {(value.note or 'no value') if value else 'not measured'}"
            for run in method.runs
            if not ((value := self.value(run, metric)) and value.value is not None)
        ]
        if not numbers:
            return Score(None, reason="; ".join(reasons))
        interval = t_interval(numbers)
        if (replicates := self._replicates.get((method.name, metric))) is not None:
            deviates = seed_deviates(numbers, len(replicates), self._random(metric, method, 1))
            interval = percentile_interval(replicates + deviates)
        mean = float(np.mean(numbers))
        return Score(mean, len(numbers), standard_deviation(numbers), interval, reason="; ".join(reasons))

    def _difference(self, method: Method, metric: str) -> tuple[Difference, Test | None, Test | None]:
        ours, theirs = self.numbers(method, metric), self.numbers(self.baseline, metric)
        by_seeds = welch(ours, theirs)
        seeds = Test(by_seeds[1], False, 0) if by_seeds else None
        sampling = self.columns[metric].sampling
        if sampling is None:
            value = float(np.mean(ours) - np.mean(theirs))
            return Difference(metric, method.name, value, by_seeds[0] if by_seeds else None, None, None), None, seeds
        each = sampling.contributions(*(self._with_value(m.name, metric) for m in (method, self.baseline)))
        replicates = self._replicates[method.name, metric] - self._replicates[self.baseline.name, metric]
        deviates = seed_deviates_of_difference(ours, theirs, len(replicates), self._random(metric, method, 2))
        interval = percentile_interval(replicates + deviates)
        difference = Difference(metric, method.name, float(each.mean()), interval, None, None)
        return difference, sign_flip_test(each, self._random(metric, method, 3)), seeds


def _metrics_of(evaluations: Sequence[Evaluation], wanted: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(name for found in evaluations for name in found.metrics))
    for name in wanted or ():
        if name not in known:
            raise OptionError(
                f"--metrics {printable(name)}: was not measured in any of these runs{did_you_mean(name, known)}; "
                f"there are {printable(', '.join(known))}"
            )
    return list(dict.fromkeys(wanted)) if wanted else known


def _corrected(tests: Sequence[Test | None]) -> list[Tested | None]:
    """The tests with Holm's correction over those that there are, in place."""
    done = [test for test in tests if test]
    corrected: Mapping[int, float] = dict(zip(map(id, done), holm([test.p for test in done]), strict=True))
    return [Tested(test.p, corrected[id(test)], test.exact) if test else None for test in tests]
