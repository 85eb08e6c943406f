"""Intervals, tests and agreement: how much of a difference is chance. NumPy and SciPy only.

Every random draw comes from the generator that is given, so equal generators give equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL = 0.95  # of every interval
DRAWS = 10_000  # resamples of a bootstrap, sign vectors of a permutation test
ROUNDING = 1e-12  # relative; values that differ by less are equal
_AT_ONCE = 2**22  # numbers held while resampling: 32 MB


class Interval(NamedTuple):
    """Two ends of an interval of confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Test:
    """A two-sided p-value; `exact`: every arrangement was counted, otherwise `draws` random ones."""

    __test__ = False  # a name that pytest would collect

    p: float
    exact: bool
    draws: int


# --- means


def standard_deviation(values: ArrayLike) -> float | None:
    """Sample standard deviation (n - 1); None of fewer than two values."""
    array = _vector(values)
    return float(array.std(ddof=1)) if len(array) > 1 else None


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Student's interval of a mean, exact for normal values; None of fewer than two values."""
    array = _vector(values)
    spread = standard_deviation(array)
    if spread is None:
        return None
    reach = stats.t.ppf(0.5 + level / 2, len(array) - 1) * spread / np.sqrt(len(array))
    return Interval(float(array.mean() - reach), float(array.mean() + reach))


def welch(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> tuple[Interval, float] | None:
    """Interval of mean(first) - mean(second) and p-value by Welch's t (1947): unequal variances, normal values.

    None where a side has fewer than two values, or none varies on either side.
    """
    a, b = _vector(first), _vector(second)
    if min(len(a), len(b)) < 2 or not (_varies(a) or _varies(b)):
        return None
    result = stats.ttest_ind(a, b, equal_var=False)
    ends = result.confidence_interval(level)
    return Interval(float(ends.low), float(ends.high)), float(result.pvalue)


def paired_t(differences: ArrayLike, level: float = LEVEL) -> tuple[Interval, float] | None:
    """Student's interval of a mean difference of pairs, and the p-value of none (Gosset 1908): normal differences.

    None of fewer than two, or where all are equal but for rounding, as differences of shares of equal counts are.
    """
    array = _vector(differences)
    ends = t_interval(array, level)
    if ends is None or not _varies(array):
        return None
    return ends, float(stats.ttest_1samp(array, 0.0).pvalue)


def _varies(array: Floats) -> bool:
    return bool(np.ptp(array) > ROUNDING * np.abs(array).max())


# --- bootstrap


def resamples(count: int, draws: int, random: np.random.Generator) -> Iterator[Floats]:
    """How often each of `count` things is drawn in each resample with replacement, in blocks of at most 32 MB.

    Yields:
        (block, count) counts as floats, each row with the sum `count`; the rows of all blocks are `draws`.
    """
    block = max(1, _AT_ONCE // count)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def bootstrap_means(values: ArrayLike, draws: int, random: np.random.Generator) -> Floats:
    """Column means of resampled rows: the rows drawn are the same in every column, so that columns stay paired.

    Args:
        values: (n, k): n images, k runs.

    Returns:
        (draws, k).
    """
    array = np.asarray(values, np.float64)
    return np.concatenate([counts @ array for counts in resamples(len(array), draws, random)]) / len(array)


def seed_deviates(values: ArrayLike, draws: int, random: np.random.Generator) -> Floats:
    """What another choice of as many seeds might add to their mean: Student's t with n - 1 degrees times s / sqrt(n).

    Resampling three seeds gives intervals that cover the truth in about 80 % instead of 95 % of cases; these deviates
    alone give exactly Student's interval.

    Returns:
        (draws,), zero for a single value, about whose spread nothing is known.
    """
    return _deviates([_vector(values)], draws, random)


def seed_deviates_of_difference(first: ArrayLike, second: ArrayLike, draws: int, random: np.random.Generator) -> Floats:
    """The same for mean(first) - mean(second): alone they give exactly Welch's interval. A side of one value adds
    nothing."""
    return _deviates([_vector(first), _vector(second)], draws, random)


def _deviates(samples: Sequence[Floats], draws: int, random: np.random.Generator) -> Floats:
    """Student's t scaled by the standard error of a sum of means, with Welch and Satterthwaite's degrees of freedom."""
    known = [(float(sample.var(ddof=1)) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    error = sum(variance for variance, _ in known)
    if error == 0:
        return np.zeros(draws)
    degrees = error**2 / sum(variance**2 / free for variance, free in known)
    deviates: Floats = random.standard_t(degrees, size=draws) * np.sqrt(error)
    return deviates


def percentile_interval(replicates: ArrayLike, level: float = LEVEL) -> Interval:
    """The percentile interval of a bootstrap (Efron and Tibshirani 1993, section 13.3)."""
    low, high = np.quantile(_vector(replicates), [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))


def cluster_interval(
    successes: ArrayLike, totals: ArrayLike, random: np.random.Generator, draws: int = DRAWS, level: float = LEVEL
) -> Interval | None:
    """Interval of sum(successes) / sum(totals), resampling whole clusters: participants, not their single votes.

    Args:
        successes, totals: (n,) per cluster; every total is positive.

    Returns:
        None of fewer than two clusters, or where all have the same share: their spread is unknown then, not zero.
    """
    hits, sizes = _vector(successes), _vector(totals)
    if len(hits) < 2 or np.ptp(hits / sizes) == 0:
        return None
    sums = bootstrap_means(np.stack([hits, sizes], axis=1), draws, random)
    return percentile_interval(sums[:, 0] / sums[:, 1], level)


# --- tests


def sign_flip_test(differences: ArrayLike, random: np.random.Generator, draws: int = DRAWS) -> Test:
    """Paired permutation test of a mean difference of zero (Fisher 1935, section 21), two-sided.

    Under the null hypothesis each pair could as well have been the other way round. All sign vectors are counted
    where they are at most `draws`; otherwise p = (1 + hits) / (1 + draws), which is never 0 (Phipson and Smyth 2010).

    Args:
        differences: (n,) one per image or participant; zeros carry no information and are left out.
    """
    array = _vector(differences)
    array = array[array != 0]
    if not len(array):
        return Test(1.0, True, 1)
    # Sums that are equal but for rounding count as equal.
    least = abs(array.sum()) - 1e-12 * np.abs(array).sum()
    halved = 2 ** (len(array) - 1)  # a sign vector and its negative have the same |sum|
    if 2 * halved <= draws:
        numbers = np.arange(halved)[:, None] >> np.arange(len(array))
        sums = (1 - 2.0 * (numbers & 1)) @ array
        return Test(float(np.mean(np.abs(sums) >= least)), True, 2 * halved)
    hits, block = 0, max(1, _AT_ONCE // len(array))
    for start in range(0, draws, block):
        signs = 1 - 2.0 * random.integers(2, size=(min(block, draws - start), len(array)), dtype=np.int8)
        hits += int((np.abs(signs @ array) >= least).sum())
    return Test((1 + hits) / (1 + draws), False, draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the order given (Holm 1979): valid whatever their dependence."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


# --- votes


@dataclass(frozen=True)
class Proportion:
    """k of n as if all were independent: Wilson's (1927) and Clopper and Pearson's (1934) interval, and the exact
    two-sided binomial test of one half."""

    successes: int
    total: int
    share: float
    wilson: Interval
    clopper_pearson: Interval
    p: float


def proportion(successes: int, total: int, level: float = LEVEL) -> Proportion:
    """Share, intervals and test of `successes` out of `total` (at least 1)."""
    result = stats.binomtest(successes, total)
    wilson, exact = (result.proportion_ci(level, method=method) for method in ("wilson", "exact"))
    return Proportion(
        successes,
        total,
        successes / total,
        Interval(float(wilson.low), float(wilson.high)),
        Interval(float(exact.low), float(exact.high)),
        float(result.pvalue),
    )


def fleiss_kappa(counts: ArrayLike) -> float | None:
    """Agreement beyond chance of equally many raters per subject (Fleiss 1971, equations 1 to 7).

    Args:
        counts: (subjects, categories): how many raters chose the category.

    Returns:
        1: full agreement, 0: as by chance; None where it is not defined: fewer than two raters, numbers of raters
        that differ, or one category only.
    """
    table = np.asarray(counts, np.float64)
    raters = table.sum(axis=1)
    if table.size == 0 or raters[0] < 2 or bool((raters != raters[0]).any()):
        return None
    agreement = ((table**2).sum(axis=1) - raters) / (raters * (raters - 1))
    by_chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return None if by_chance == 1 else float((agreement.mean() - by_chance) / (1 - by_chance))


def krippendorff_alpha(counts: ArrayLike) -> float | None:
    """Agreement for nominal values where votes may be missing (Krippendorff 2011, section C).

    Args:
        counts: (units, categories): how many raters chose the category; units with fewer than two votes carry no
            information on agreement and are left out.

    Returns:
        1: full agreement, 0: as by chance; None where nothing varies or nothing can be paired.
    """
    table = np.asarray(counts, np.float64)
    votes = table.sum(axis=1)
    table, votes = table[votes >= 2], votes[votes >= 2]
    total, per_category = float(table.sum()), table.sum(axis=0)
    same = float(((table * (table - 1)).sum(axis=1) / (votes - 1)).sum())  # the coincidence matrix's diagonal
    by_chance = float((per_category * (per_category - 1)).sum())
    possible = total * (total - 1) - by_chance
    return None if possible <= 0 else ((total - 1) * same - by_chance) / possible


def _vector(values: ArrayLike) -> Floats:
    """Finite values as a float64 vector."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not bool(np.isfinite(array).all()):
        raise ValueError(
            f"statistics need a vector of finite numbers, not the shape {array.shape} with NaN or infinity"
        )
    return array
