"""KID resampled through its kernel, against its definition and against torch-fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from scripts.comparing.comparison import Comparison
from scripts.comparing.sampling import KernelDistance
from tests.comparing.conftest import (
    DIMENSIONS,
    IMAGES,
    REALS,
    cloud,
    content,
    features_file,
    methods,
    number,
    write,
)
from util.evaluations import (
    EvaluationError,
    Features,
)
from util.statistics import percentile_interval


def slow_kid(fake: NDArray[Any], real: NDArray[Any]) -> float:
    def k(x: NDArray[Any], y: NDArray[Any]) -> float:
        return float((float(x @ y) / len(x) + 1) ** 3)

    n, m = len(fake), len(real)
    within_fake = sum(k(fake[i], fake[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_real = sum(k(real[i], real[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_fake + within_real - 2 * sum(k(x, y) for x in fake for y in real) / (n * m)


def distance(runs: Mapping[str, Sequence[NDArray[Any]]], real: NDArray[Any], seed: int = 0) -> KernelDistance:
    features = {name: [Features(fake, real, "x") for fake in fakes] for name, fakes in runs.items()}
    return KernelDistance(features, np.random.default_rng(seed))


def test_kid_agrees_with_its_definition_and_with_torch_fidelity() -> None:
    fake, real = cloud(0, 20, 0.3), cloud(1, 20)
    ours = distance({"a": [fake]}, real).point("a")
    assert ours == pytest.approx(slow_kid(fake.astype(float), real.astype(float)), abs=1e-6)
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    theirs = kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=20, verbose=False)
    assert ours == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-4)


def test_contributions_to_kid_are_those_of_exchanged_translations() -> None:
    """Exchanging the translations of some images and computing both distances anew, by the definition."""
    a, b, real = cloud(0, 8, 0.4).astype(float), cloud(1, 8).astype(float), cloud(2, 7).astype(float)
    sampling = distance({"a": [a.astype(np.float32)], "b": [b.astype(np.float32)]}, real.astype(np.float32))
    each = sampling.contributions(["a"], ["b"])
    assert each.mean() == pytest.approx(sampling.point("a") - sampling.point("b"), abs=1e-6)
    random = np.random.default_rng(0)
    for _ in range(5):
        turned = random.integers(2, size=8).astype(bool)
        one, two = np.where(turned[:, None], b, a), np.where(turned[:, None], a, b)
        expected = slow_kid(one, real) - slow_kid(two, real)
        assert (np.where(turned, -1, 1) * each).mean() == pytest.approx(expected, abs=1e-5)


def test_contributions_of_several_seeds_add_up_to_the_difference_of_means() -> None:
    real = cloud(9, 10)
    runs = {name: [cloud(n, 12, n / 10)] for n, name in enumerate("abcde")}
    sampling = distance(runs, real)
    for first, second in ((["a", "b"], ["c", "d"]), (["a", "b"], ["c", "d", "e"])):
        means = [np.mean([sampling.point(run) for run in side]) for side in (first, second)]
        assert sampling.contributions(first, second).mean() == pytest.approx(means[0] - means[1], abs=1e-6)


def test_a_resample_of_kid_leaves_out_pairs_of_an_image_with_itself() -> None:
    fake, real = cloud(0, 11, 0.3).astype(float), cloud(1, 10).astype(float)
    sampling = distance({"a": [fake.astype(np.float32)]}, real.astype(np.float32))

    def k(x: NDArray[Any], y: NDArray[Any]) -> float:
        return float((float(x @ y) / DIMENSIONS + 1) ** 3)

    def within(points: NDArray[Any], drawn: Sequence[int]) -> float:
        pairs = [k(points[i], points[j]) for i in drawn for j in drawn if i != j]
        return float(np.mean(pairs))

    ours = sampling.replicates("a")
    for n in range(20):
        i, j = (np.repeat(np.arange(len(c)), c.astype(int)) for c in (sampling._fake[n], sampling._real[n]))
        crossed = np.mean([k(fake[x], real[y]) for x in i for y in j])
        expected = within(fake, list(i)) + within(real, list(j)) - 2 * float(crossed)
        assert ours[n] == pytest.approx(expected, abs=1e-4)


def test_resampled_kid_has_no_bias_and_the_spread_of_fresh_samples() -> None:
    fresh = [slow_free_kid(cloud(100 + n, 40, 0.3), cloud(900 + n, 40)) for n in range(200)]
    sampled = distance({"a": [cloud(0, 40, 0.3)]}, cloud(1, 40))
    replicates = sampled.replicates("a")
    assert replicates.mean() == pytest.approx(sampled.point("a"), abs=0.15 * replicates.std())
    assert 0.6 < replicates.std() / np.std(fresh) < 1.6


def slow_free_kid(fake: NDArray[Any], real: NDArray[Any]) -> float:
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    return float(
        kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=40, verbose=False)[KEY_METRIC_KID_MEAN]
    )


def kid_runs(folder: Path, kind: str = "inception", shift: float = 0.0) -> None:
    for name, offset in (("a", 0.0), ("b", 0.8)):
        fake, real = cloud(5, IMAGES, offset), cloud(6, REALS)
        value = slow_kid(fake.astype(float), real.astype(float)) + shift
        write(folder, content(name, model=name, metrics={"kid": number(value)}))
        features_file(folder, name, fake, real, kind if name == "b" else "inception")


def test_kid_is_resampled_where_its_features_are_kept(tmp_path: Path) -> None:
    kid_runs(tmp_path)
    comparison = Comparison(methods(tmp_path, "a", "b"))
    (difference,) = comparison.differences
    sampling = comparison.columns["kid"].sampling
    assert isinstance(sampling, KernelDistance)
    assert comparison.scores["a", "kid"].interval == percentile_interval(sampling.replicates("a"))
    assert difference.interval == percentile_interval(sampling.replicates("b") - sampling.replicates("a"))
    assert difference.interval.low > 0
    assert difference.images is not None
    assert difference.images.p < 0.01


def test_features_that_do_not_fit_are_not_used(tmp_path: Path) -> None:
    kid_runs(tmp_path, shift=1.0)
    assert "the features kept of a give" in Comparison(methods(tmp_path, "a", "b")).columns["kid"].reason
    kid_runs(tmp_path, kind="classifier")
    with pytest.raises(EvaluationError, match="hold different features"):
        _ = Comparison(methods(tmp_path, "a", "b")).columns
    for name in "ab":
        features_file(tmp_path, name, cloud(5, IMAGES), cloud(6, 9))
    assert Comparison(methods(tmp_path, "a", "b")).columns["kid"].reason == "fewer than 10 images"
    (tmp_path / "b/evaluations/test_10_features.npz").unlink()
    assert Comparison(methods(tmp_path, "a", "b")).columns["kid"].reason == "the features of b were not kept"
