"""Statistics against SciPy, closed forms, published examples, and the truth of simulations with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from util.statistics import (
    Interval,
    bootstrap_means,
    cluster_interval,
    fleiss_kappa,
    holm,
    krippendorff_alpha,
    paired_t,
    percentile_interval,
    proportion,
    resamples,
    seed_deviates,
    seed_deviates_of_difference,
    sign_flip_test,
    standard_deviation,
    t_interval,
    welch,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def covers(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    return interval.low <= truth <= interval.high


# --- means


def test_student_by_hand() -> None:
    """1, 2, 3: mean 2, s 1; the 97.5 % quantile of t with 2 degrees is 4.30265."""
    assert standard_deviation([1, 2, 3]) == pytest.approx(1)
    assert t_interval([1, 2, 3]) == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-5)


def test_of_one_value_nothing_is_known() -> None:
    assert standard_deviation([3.0]) is None
    assert t_interval([3.0]) is None
    assert welch([3.0], [1.0, 2.0]) is None
    assert welch([3.0, 3.0], [1.0, 1.0]) is None


def test_differences_that_are_equal_but_for_rounding_test_nothing() -> None:
    differences = [0.5 - 0.4, 0.4 - 0.3, 0.3 - 0.2]
    assert len(set(differences)) > 1
    assert paired_t(differences) is None
    assert paired_t([0.1, 0.1 + 1e-9]) is not None


def test_welch_by_its_formula() -> None:
    a, b = [27.5, 21.0, 19.0, 23.6], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8]
    parts = [np.var(x, ddof=1) / len(x) for x in (a, b)]
    degrees = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    t, error = (np.mean(a) - np.mean(b)) / math.sqrt(sum(parts)), math.sqrt(sum(parts))
    reach = float(stats.t.ppf(0.975, degrees)) * error
    result = welch(a, b)
    assert result is not None
    assert result[0] == pytest.approx((t * error - reach, t * error + reach))
    assert result[1] == pytest.approx(2 * float(stats.t.sf(abs(t), degrees)))


@pytest.mark.parametrize("values", [[1.0, math.nan], [1.0, math.inf], [[1.0], [2.0]]])
def test_what_is_no_vector_of_numbers_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="vector of finite numbers"):
        t_interval(values)


# --- bootstrap


def test_resamples_are_multinomial_and_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("util.statistics._AT_ONCE", 100)
    blocks = list(resamples(7, 1000, random()))
    assert {len(block) for block in blocks} == {100 // 7, 1000 % (100 // 7)}
    counts = np.concatenate(blocks)
    assert counts.shape == (1000, 7)
    assert (counts.sum(1) == 7).all()
    assert counts.mean(0) == pytest.approx(np.ones(7), abs=0.1)
    assert counts.var(0) == pytest.approx(np.full(7, 6 / 7), abs=0.15)
    assert np.corrcoef(counts.T)[0, 1] == pytest.approx(-1 / 6, abs=0.1)


def test_columns_stay_paired() -> None:
    values = random(1).normal(size=(30, 1))
    means = bootstrap_means(np.hstack([values, values + 5]), 200, random())
    assert means[:, 1] - means[:, 0] == pytest.approx(np.full(200, 5.0))
    assert means[:, 0].std() > 0.1


def test_percentile_interval_agrees_with_scipy() -> None:
    values = random(2).exponential(size=60)
    ours = percentile_interval(bootstrap_means(values[:, None], 20_000, random())[:, 0])
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=random(3))
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_intervals_over_images_cover_the_truth() -> None:
    draw = random(4)
    hits = sum(
        covers(percentile_interval(bootstrap_means(draw.exponential(size=(100, 1)), 400, draw)[:, 0]), 1.0)
        for _ in range(600)
    )
    assert 0.92 <= hits / 600 <= 0.97  # by theory about 0.94 for a skewed distribution


def test_intervals_over_seeds_and_images_cover_the_truth_where_resampled_seeds_do_not() -> None:
    draw, ours, resampled = random(5), 0, 0
    for _ in range(600):
        values = draw.normal(size=(40, 1)) + draw.normal(size=(1, 3)) + 0.3 * draw.normal(size=(40, 3))
        means = bootstrap_means(values, 300, draw)
        ours += covers(percentile_interval(means.mean(1) + seed_deviates(values.mean(0), 300, draw)), 0.0)
        chosen = draw.integers(3, size=(300, 3))
        resampled += covers(percentile_interval(np.take_along_axis(means, chosen, axis=1).mean(1)), 0.0)
    assert 0.93 <= ours / 600 <= 0.98
    assert resampled / 600 < 0.85


def test_seed_deviates_alone_are_students_interval() -> None:
    values = [0.3, 0.5, 0.1, 0.2]
    deviates = seed_deviates(values, 200_000, random())
    low, high = percentile_interval(deviates + np.mean(values))
    assert (low, high) == pytest.approx(t_interval(values), abs=0.01)
    assert (seed_deviates([0.3], 5, random()) == 0).all()


def test_deviates_of_a_difference_are_welchs_interval() -> None:
    a, b = [0.3, 0.5, 0.1, 0.2], [0.9, 0.85, 0.95]
    deviates = seed_deviates_of_difference(a, b, 200_000, random())
    result = welch(a, b)
    assert result is not None
    assert percentile_interval(deviates + np.mean(a) - np.mean(b)) == pytest.approx(result[0], abs=0.01)
    one_sided = seed_deviates_of_difference(a, [7.0], 1000, random())
    assert (one_sided == seed_deviates(a, 1000, random())).all()


def test_clusters_are_resampled_whole() -> None:
    """Ten people who always vote alike are ten votes, not a hundred."""
    hits, totals = np.array([10, 0] * 5), np.full(10, 10)
    low, high = cluster_interval(hits, totals, random()) or (0, 0)
    alone = proportion(50, 100).wilson
    assert high - low > 2 * (alone.high - alone.low)
    slow = random(6)
    drawn = [slow.integers(10, size=10) for _ in range(10_000)]
    shares = [hits[chosen].sum() / totals[chosen].sum() for chosen in drawn]
    assert (low, high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.02)


def test_clusters_of_different_sizes_weigh_by_their_votes() -> None:
    low, high = cluster_interval([9, 0, 9, 0], [9, 1, 9, 1], random()) or (0, 0)
    assert low <= 0.9 <= high
    assert (low, high) == (0, 1)
    assert cluster_interval([3], [4], random()) is None
    assert cluster_interval([3, 3, 6], [3, 3, 6], random()) is None  # all alike: not a spread of zero


# --- tests


def test_sign_flips_by_hand() -> None:
    """Of the eight sums of +-1 +-2 +-3, two are as far from zero as 6."""
    test = sign_flip_test([1, 2, 3], random())
    assert (test.p, test.exact, test.draws) == (2 / 8, True, 8)
    assert sign_flip_test([1, 2, 0, 3, 0], random()).p == 2 / 8
    assert sign_flip_test([0.0, 0.0], random()).p == 1


def test_equal_sums_count_as_equal_in_spite_of_rounding() -> None:
    """0.1 + 0.2 - 0.3 is not quite zero, nor 0.1 + 0.2 + 0.3 quite 0.3 + 0.2 + 0.1."""
    values = [0.1, 0.2, -0.3, 0.7]
    sums = [abs(sum(s * v for s, v in zip(signs, [1, 2, -3, 7], strict=True))) for signs in SIGNS]
    assert sign_flip_test(values, random()).p == sum(total >= 7 for total in sums) / 16


SIGNS = list(itertools.product([1, -1], repeat=4))


def test_sign_flips_agree_with_scipy() -> None:
    values = random(7).normal(0.4, 1, size=11)
    theirs = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=math.inf)
    exact = sign_flip_test(values, random())
    assert exact.exact
    assert exact.p == pytest.approx(theirs.pvalue)
    sampled = sign_flip_test(values, random(), draws=2000)
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=0.03)


def test_a_sampled_p_value_is_never_zero() -> None:
    assert sign_flip_test(np.ones(50), random(), draws=999).p == 1 / 1000


def test_sign_flips_reject_as_often_as_they_say() -> None:
    draw = random(8)
    p_values = np.array([sign_flip_test(draw.standard_t(3, size=25), draw, draws=400).p for _ in range(800)])
    assert np.mean(p_values <= 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(p_values <= 0.5) == pytest.approx(0.5, abs=0.05)


def test_holm_by_hand() -> None:
    """Ordered 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


# --- votes


def test_nine_of_ten() -> None:
    result = proportion(9, 10)
    assert result.p == pytest.approx(2 * (10 + 1) / 1024)  # nine or ten heads, or as many tails
    z = 1.959964
    middle, reach = (
        (0.9 + z * z / 20) / (1 + z * z / 10),
        z * math.sqrt(0.9 * 0.1 / 10 + z * z / 400) / (1 + z * z / 10),
    )
    assert result.wilson == pytest.approx((middle - reach, middle + reach), abs=1e-6)
    beta = stats.beta
    assert result.clopper_pearson == pytest.approx((beta.ppf(0.025, 9, 2), beta.ppf(0.975, 10, 1)))
    assert result.share == 0.9


# Fleiss 1971, table 1: 30 patients, 6 psychiatrists, 5 diagnoses; kappa 0.430.
DIAGNOSES = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
# A textbook example: 10 subjects, 14 raters, 5 categories; kappa 0.210.
TEXTBOOK = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_fleiss_kappa_of_published_tables() -> None:
    diagnoses = [list(map(int, row)) for row in DIAGNOSES.split()]
    assert len(diagnoses) == 30
    assert fleiss_kappa(diagnoses) == pytest.approx(0.430, abs=5e-4)
    assert fleiss_kappa(TEXTBOOK) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_by_hand_and_where_it_is_not_defined() -> None:
    assert fleiss_kappa([[3, 0], [0, 3]]) == pytest.approx(1)
    assert fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1)  # never agree, by chance a half would
    assert fleiss_kappa([[3, 0], [3, 0]]) is None
    assert fleiss_kappa([[3, 0], [1, 1]]) is None
    assert fleiss_kappa([[1, 0], [0, 1]]) is None


# Krippendorff 2011, section C: 4 observers, 12 units, 5 values, some missing; nominal alpha 0.743.
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def test_krippendorff_alpha_of_the_published_example() -> None:
    units = list(zip(*OBSERVERS, strict=True))
    counts = [[unit.count(value) for value in "12345"] for unit in units]
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)


def test_krippendorff_alpha_by_its_definition() -> None:
    """One minus observed over expected disagreement, pair by pair of votes."""
    votes = [["a", "b", "a"], ["b", "b"], ["a"], ["a", "a", "a", "b"], ["b", "b", "a"]]
    paired = [unit for unit in votes if len(unit) > 1]
    flat = [vote for unit in paired for vote in unit]
    observed = sum(sum(x != y for x, y in itertools.permutations(u, 2)) / (len(u) - 1) for u in paired) / len(flat)
    expected = sum(x != y for x, y in itertools.permutations(flat, 2)) / (len(flat) * (len(flat) - 1))
    counts = [[unit.count("a"), unit.count("b")] for unit in votes]
    assert krippendorff_alpha(counts) == pytest.approx(1 - observed / expected)
    assert krippendorff_alpha([[3, 0], [4, 0]]) is None
    assert krippendorff_alpha([[1, 0], [0, 1]]) is None
