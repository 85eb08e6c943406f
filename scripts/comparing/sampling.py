"""How much of a number hangs on which images were tested: resampled per image, or through a kernel for KID."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from util.errors import printable
from util.evaluations import Evaluation, EvaluationError, Features, mean_value, read_features
from util.statistics import DRAWS, Floats, bootstrap_means, resamples

KERNEL_DRAWS = 2000  # each costs a product with an N x N matrix
FEWEST = 10  # images: a resample of one image over and over has no pairs, and happens once in 10^9 with ten
MOST_IMAGES = 10_000  # whose kernel matrix takes 400 MB
Kernel = NDArray[np.float32]
Chosen = Mapping[str, Sequence[Evaluation]]  # run -> the evaluations whose mean counts


class Sampling(ABC):
    """A metric whose value can be recomputed for resampled test images, the same for every run."""

    images: int
    draws: int
    how: str

    @abstractmethod
    def point(self, run: str) -> float:
        """The value of a run on all the images."""

    @abstractmethod
    def replicates(self, run: str) -> Floats:
        """(draws,) the value of a run on each resample."""

    @abstractmethod
    def contributions(self, first: Sequence[str], second: Sequence[str]) -> Floats:
        """(images,) whose mean is the difference of the mean values of `first` and of `second`, and whose signs
        turn where an image's two translations change places."""


class PerImage(Sampling):
    """A metric that is the mean of one number per image.

    Args:
        values: (images, runs), without a gap.
        runs: names of the columns.
    """

    draws = DRAWS
    how = "images"

    def __init__(self, values: Floats, runs: Sequence[str], random: np.random.Generator) -> None:
        self.images = len(values)
        self._values = dict(zip(runs, values.T, strict=True))
        self._replicates: dict[str, Floats] = dict(
            zip(runs, bootstrap_means(values, self.draws, random).T, strict=True)
        )

    def point(self, run: str) -> float:
        return float(self._values[run].mean())

    def replicates(self, run: str) -> Floats:
        return self._replicates[run]

    def contributions(self, first: Sequence[str], second: Sequence[str]) -> Floats:
        one, two = (np.mean([self._values[run] for run in runs], axis=0) for runs in (first, second))
        difference: Floats = one - two
        return difference


class KernelDistance(Sampling):
    """KID: unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, eq. 4).

    Of all images at once, where KID is usually a mean over subsets, whose expectation it shares. In a resample, pairs
    of an image with itself are left out, as they are in the estimate; otherwise each resample would be biased.

    Args:
        features: by run, of each evaluation that counts; `fake` in one order of images, `real` of one size everywhere.
    """

    draws = KERNEL_DRAWS
    how = "kernel"

    def __init__(self, features: Mapping[str, Sequence[Features]], random: np.random.Generator) -> None:
        self._features = features
        first = next(iter(features.values()))[0]
        self.images, reals = len(first.fake), len(first.real)
        # A constant in the kernel cancels out of the distance; without it single precision is enough.
        self._shift = float(polynomial_kernel(first.fake[:200], first.real[:200]).mean())
        self._fake = np.concatenate(list(resamples(self.images, self.draws, random))).astype(np.float32)
        self._real = np.concatenate(list(resamples(reals, self.draws, random))).astype(np.float32)

    def point(self, run: str) -> float:
        ones = np.ones((1, self.images), np.float32), np.ones((1, self._real.shape[1]), np.float32)
        return float(np.mean([self._distance(features, *ones)[0] for features in self._features[run]]))

    def replicates(self, run: str) -> Floats:
        sampled = [self._distance(features, self._fake, self._real) for features in self._features[run]]
        mean: Floats = np.mean(sampled, axis=0)
        return mean

    def contributions(self, first: Sequence[str], second: Sequence[str]) -> Floats:
        """As promised; linear although the distance is quadratic.

        With signs s, s_i = -1 where the translations of image i change places, the difference of the two distances is
        the sum over i of s_i c_i / (n (n - 1)), c_i = sum over j != i of k(a_i, a_j) + k(a_i, b_j) - k(b_i, a_j)
        - k(b_i, b_j), and the terms with the real images, so that the test of signs is exact here too.
        """
        ones, twos = ([item for run in runs for item in self._features[run]] for runs in (first, second))
        pairs = list(zip(ones, twos, strict=True)) if len(ones) == len(twos) else list(product(ones, twos))
        mean: Floats = np.mean([self._witness(a, b) for a, b in pairs], axis=0)
        return mean

    def _distance(self, features: Features, fake: Kernel, real: Kernel) -> Floats:
        """(draws,) of images that count `fake` (draws, n) and `real` (draws, m) times."""
        crossed = (fake @ self._kernel(features.fake, features.real) * real).sum(1, dtype=np.float64)
        within = self._within(features.fake, fake) + self._within(features.real, real)
        distance: Floats = within - 2 * crossed / (fake.shape[1] * real.shape[1])
        return distance

    def _within(self, points: Kernel, counts: Kernel) -> Floats:
        """Mean kernel of different points."""
        kernel = self._kernel(points, points)
        np.fill_diagonal(kernel, 0)
        counted = counts.astype(np.float64)
        pairs = counted.sum(1) ** 2 - (counted**2).sum(1)
        mean: Floats = (counts @ kernel * counts).sum(1, dtype=np.float64) / pairs
        return mean

    def _witness(self, one: Features, two: Features) -> Floats:
        a, b, n = one.fake, two.fake, self.images
        mixed, alone = self._kernel(a, b), [self._kernel(x, x) for x in (a, b)]
        for kernel in alone:
            np.fill_diagonal(kernel, 0)
        sums = [kernel.sum(1, dtype=np.float64) for kernel in (alone[0], mixed, mixed.T, alone[1])]
        to_real = [self._kernel(x.fake, x.real).mean(1, dtype=np.float64) for x in (one, two)]
        values: Floats = (sums[0] + sums[1] - sums[2] - sums[3]) / (n - 1) - 2 * (to_real[0] - to_real[1])
        return values

    def _kernel(self, one: Kernel, two: Kernel) -> Kernel:
        return (polynomial_kernel(one, two) - self._shift).astype(np.float32)

    @cached_property
    def kind(self) -> str:
        """The feature network."""
        return next(iter(self._features.values()))[0].kind


def polynomial_kernel(one: Kernel, two: Kernel) -> Floats:
    """(n, m) of (x.y / d + 1)^3 for features (n, d) and (m, d)."""
    values: Floats = (one.astype(np.float64) @ two.astype(np.float64).T / one.shape[1] + 1) ** 3
    return values


# --- which of them a metric allows


def sampling_of(metric: str, chosen: Chosen, random: np.random.Generator) -> tuple[Sampling | None, str]:
    """How a metric can be resampled, or None and the reason.

    Args:
        chosen: runs that have a value of the metric.

    Raises:
        EvaluationError: stored features are damaged or of different networks.
    """
    if metric == "kid":
        return _kernel_of(metric, chosen, random)
    if metric == "fid":
        return None, "FID depends on the number of different images, so that resampling them would bias it"
    columns = {run: _column(metric, found) for run, found in chosen.items()}
    if any(column is None for column in columns.values()):
        return None, "no value per image"
    table = np.array([column for column in columns.values() if column is not None], np.float64).T
    for run, column in zip(columns, table.T, strict=True):
        if not _agree(float(np.nanmean(column)), metric, chosen[run]):
            return None, f"not the mean of its values per image (run {printable(run)})"
    shared = table[~np.isnan(table).any(axis=1)]
    if len(shared) < 2:
        return None, f"{len(shared)} of {len(table)} images have a value in every run"
    return PerImage(shared, list(columns), random), ""


def _column(metric: str, found: Sequence[Evaluation]) -> Floats | None:
    """Per image the mean over a run's evaluations, NaN where one has none; None where nothing was kept."""
    stored = [evaluation.per_image.get(metric) for evaluation in found]
    if any(values is None or all(value is None for value in values) for values in stored):
        return None
    numbers = [[math.nan if value is None else value for value in values or ()] for values in stored]
    mean: Floats = np.mean(numbers, axis=0)
    return None if bool(np.isnan(mean).all()) else mean


def _agree(number: float, metric: str, found: Sequence[Evaluation]) -> bool:
    value = mean_value(found, metric)
    return (
        value is not None and value.value is not None and math.isclose(number, value.value, rel_tol=1e-3, abs_tol=1e-6)
    )


def _kernel_of(metric: str, chosen: Chosen, random: np.random.Generator) -> tuple[Sampling | None, str]:
    if max(evaluation.source.count for found in chosen.values() for evaluation in found) > MOST_IMAGES:
        return None, f"more than {MOST_IMAGES:,} images, whose kernel would not fit into memory"
    features: dict[str, list[Features]] = {}
    for run, found in chosen.items():
        read = [read_features(evaluation) for evaluation in found]
        if any(item is None for item in read):
            return None, f"the features of {printable(run)} were not kept"
        features[run] = [item for item in read if item is not None]
    _check_alike({found[0].features_path.as_posix(): features[run][0] for run, found in chosen.items()})
    if min(len(side) for found in features.values() for item in found for side in (item.fake, item.real)) < FEWEST:
        return None, f"fewer than {FEWEST} images"
    sampling = KernelDistance(features, random)
    for run, found in chosen.items():
        value, spread = _stated(metric, found)
        if abs(sampling.point(run) - value) > max(spread, 0.02 * abs(value), 1e-4):
            return None, f"the features kept of {printable(run)} give {sampling.point(run):.4g}, not {value:.4g}"
    return sampling, ""


def _stated(metric: str, found: Sequence[Evaluation]) -> tuple[float, float]:
    """What the evaluations say: the mean value, and the largest spread over subsets."""
    values = [evaluation.metrics[metric] for evaluation in found]
    return float(np.mean([value.value for value in values])), max(value.spread or 0.0 for value in values)


def _check_alike(features: Mapping[str, Features]) -> None:
    (first, one), *others = features.items()
    for path, two in others:
        if (one.kind, one.real.shape) != (two.kind, two.real.shape):
            raise EvaluationError(
                f"{printable(first)} and {printable(path)} hold different features ({one.kind}, {one.real.shape} and "
                f"{two.kind}, {two.real.shape}); evaluate both anew with the same --features"
            )
