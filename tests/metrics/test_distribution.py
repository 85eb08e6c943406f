"""Distribution metrics against torch-fidelity run end to end, closed forms, obvious loops and cases by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

import util.metrics.kid_metric as kid_metric
from data.images import DomainFormat, Window, decode
from util.metrics import METRICS
from util.metrics.base import ImageSet, Material, MetricError, Scores
from util.metrics.density_coverage_metric import density_and_coverage
from util.metrics.features import JudgeExtractor, cached_features
from util.metrics.fid_metric import small_sets

NAMES = ("fid", "kid", "isc", "precision_recall", "density_coverage")


def drawn(count: int, dimensions: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


def named(name: str, count: int) -> ImageSet:
    return ImageSet(name, [Path(f"{name}/{n}.png") for n in range(count)], lambda _: torch.zeros(1, 1, 1), [-1] * count)


def material(fake: Tensor, real: Tensor, source: Tensor | None = None, logits: Tensor | None = None) -> Material:
    """Image sets whose features are given."""
    features = {"fake": fake, "real": real, "source": fake if source is None else source}
    sets = {name: named(name, len(values)) for name, values in features.items()}
    return Material(
        sets["source"],
        sets["fake"],
        sets["real"],
        features=lambda images: (features[images.name], logits),
        feature_kind="by hand",
    )


def measure(name: str, given: Material) -> Scores:
    return METRICS.get(name)().compute(given)


# --- torch-fidelity, end to end


class TinyExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """Eight features and five logits of uint8 images, by fixed random filters."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        random = torch.Generator().manual_seed(5)
        self.filters = nn.Parameter(torch.randn(8, 3, 5, 5, generator=random) / 10)
        self.head = nn.Parameter(torch.randn(5, 8, generator=random) / 3)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = nn.functional.conv2d(x.float() / 64, self.filters, stride=2).relu().mean((2, 3))
        found = {"features": features, "logits": features @ self.head.T}
        return tuple(found[name] for name in self.features_list)


@pytest.fixture
def registered() -> Iterator[str]:
    torch_fidelity.register_feature_extractor("tiny", TinyExtractor)
    yield "tiny"
    del FEATURE_EXTRACTORS_REGISTRY["tiny"]


def folder_of(folder: Path, count: int, brightness: int) -> ImageSet:
    folder.mkdir()
    files = [folder / f"{n:03d}.png" for n in range(count)]
    for number, file in enumerate(files):
        random = np.random.default_rng(number + brightness)
        pixels = random.normal(brightness + random.normal(0, 25, 3), random.uniform(10, 40), (24, 20, 3))
        cv2.imwrite(str(file), pixels.clip(0, 255).astype(np.uint8))
    fmt = DomainFormat(Window(0, 255), "uint8")
    return ImageSet(folder.name, files, lambda n: decode(files[n], 3, fmt), [-1] * count)


@pytest.mark.parametrize(("count", "names"), [(40, tuple(set(NAMES) - {"isc"})), (110, ("isc",))])
def test_the_numbers_are_those_of_the_library(
    count: int, names: tuple[str, ...], tmp_path: Path, registered: str
) -> None:
    fake, real = folder_of(tmp_path / "fake", count, 110), folder_of(tmp_path / "real", 30, 125)
    expected = torch_fidelity.calculate_metrics(
        **{"input1": str(tmp_path / "fake"), "input2": str(tmp_path / "real"), "feature_extractor": registered},
        **{"fid": True, "kid": True, "isc": True, "prc": True, "kid_subset_size": 30, "prc_neighborhood": 3},
        **{"cuda": False, "cache": False, "verbose": False, "save_cpu_ram": True},
    )
    net = TinyExtractor("tiny", ["features", "logits"])

    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = net((images * 255).round().to(torch.uint8))
        return features, logits

    given = Material(
        fake, fake, real, features=cached_features(JudgeExtractor("tiny", "1", function), None), feature_kind="tiny"
    )
    values = {key: value for name in names for key, value in measure(name, given).values.items()}
    pairs = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "isc": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
        "f_score": "f_score",
    }
    for ours in values.keys() & pairs.keys():
        assert values[ours].value == pytest.approx(expected[pairs[ours]], rel=1e-6), ours
    if "isc" in names:
        assert values["isc"].spread == pytest.approx(expected["inception_score_std"], rel=1e-6)
        return
    assert 0.1 < expected["precision"] < expected["recall"] < 0.99 or 0.1 < expected["recall"] < expected["precision"]
    assert expected["frechet_inception_distance"] > 0.001
    assert {value.kind for value in values.values()} == {"tiny"}


# --- closed forms


def exact(mean: Tensor, deviations: Tensor, count: int, seed: int) -> Tensor:
    """Samples whose own mean and (unbiased) covariance are exactly `mean` and diag(deviations^2)."""
    sample: Tensor = drawn(count, len(mean), seed).double()
    sample -= sample.mean(0)
    left: Tensor = torch.linalg.svd(sample, full_matrices=False).U
    white = left * (count - 1) ** 0.5
    found: Tensor = (white * deviations + mean).float()
    return found


def test_fid_of_gaussians_in_closed_form() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances."""
    means = torch.tensor([0.0, 1.0, -2.0, 0.5]), torch.tensor([0.3, 1.0, -1.0, 0.0])
    deviations = torch.tensor([1.0, 2.0, 0.5, 1.5]), torch.tensor([1.5, 1.0, 0.5, 3.0])
    fake, real = (exact(means[n], deviations[n], 300 + 50 * n, n) for n in (0, 1))
    source = exact(means[1] + 2, deviations[1], 200, 7)
    values = measure("fid", material(fake, real, source)).values
    distance = 0.09 + 1 + 0.25 + 0.25 + 1 + 2.25
    assert values["fid"].value == pytest.approx(distance, rel=1e-4)
    assert values["fid_source"].value == pytest.approx(4 * 2.0**2, rel=1e-4), "only the mean moved, by 2 in each of 4"
    assert values["fid"].better == "lower"
    assert "inputs" in values["fid_source"].note


def test_sets_that_are_the_same() -> None:
    features = drawn(60, 8)
    given = material(features, features.clone())
    values = {key: value.value for name in NAMES if name != "isc" for key, value in measure(name, given).values.items()}
    assert values["fid"] == pytest.approx(0, abs=1e-4)
    kernel = (features.double() @ features.double().T / 8 + 1) ** 3
    total, diagonal = float(kernel.sum()), float(kernel.trace())
    assert values["kid"] == pytest.approx(2 * (total - diagonal) / (60 * 59) - 2 * total / 60**2, rel=1e-3)
    for name in ("precision", "recall", "f_score", "density", "coverage"):
        assert values[name] == pytest.approx(1), name


def test_sets_far_apart() -> None:
    given = material(drawn(30), drawn(40, seed=1) + 100)
    values = {key: value.value for name in NAMES if name != "isc" for key, value in measure(name, given).values.items()}
    assert [values[name] for name in ("precision", "recall", "f_score", "density", "coverage")] == [0] * 5
    assert values["fid"] == pytest.approx(4 * 100**2, rel=0.02)


def test_inception_score_of_certain_and_of_undecided_logits() -> None:
    features = drawn(200)
    undecided = measure("isc", material(features, features, logits=torch.zeros(200, 7))).values["isc"]
    assert undecided.value == pytest.approx(1)
    assert undecided.spread == pytest.approx(0, abs=1e-6)
    # Ten splits of twenty images, certain of their classes: as many as a split holds of two classes.
    labels = torch.arange(200) % 2
    certain = measure("isc", material(features, features, logits=torch.eye(2)[labels] * 200)).values["isc"]
    assert certain.value == pytest.approx(2, rel=0.1)
    assert "10 splits of 20 images" in certain.note


@pytest.mark.parametrize(("images", "classes", "least"), [(10, 4, 100), (99, 4, 100), (110, 12, 120)])
def test_splits_too_small_for_an_inception_score_have_none(images: int, classes: int, least: int) -> None:
    """The score of one image a split is 1, and of N at most N, however many classes the images show."""
    features, logits = drawn(images), torch.eye(classes)[torch.arange(images) % classes] * 200
    with pytest.raises(MetricError, match=rf"fake has too few images .{images}., at least {least} are needed"):
        measure("isc", material(features, features, logits=logits))


# --- density and coverage


def slow_density_and_coverage(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """The definition, one pair after the other."""
    inside, covered = 0, 0
    for i, x in enumerate(real):
        radius = sorted(float((x - other).norm()) for j, other in enumerate(real) if j != i)[k - 1]
        hits = sum(float((x - y).norm()) < radius for y in fake)
        inside += hits
        covered += hits > 0
    return inside / (k * len(fake)), covered / len(real)


@pytest.mark.parametrize(("block", "k"), [(1, 5), (7, 5), (1000, 5), (7, 2)])
def test_density_and_coverage_by_the_obvious_loop(block: int, k: int) -> None:
    fake, real = drawn(37, 3).double() * 0.7 + 0.4, drawn(45, 3, seed=1).double()
    expected = slow_density_and_coverage(fake, real, k)
    assert 0.2 < expected[1] < 0.99
    assert density_and_coverage(fake, real, k, block) == pytest.approx(expected)


def test_density_and_coverage_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0]])  # distances to the nearest other: 1, 1, 2
    assert density_and_coverage(torch.tensor([[0.5], [3.0]]), real, 1) == (3 / 2, 1)
    assert density_and_coverage(torch.tensor([[0.25], [0.25]]), real, 1) == (2, 2 / 3)
    assert density_and_coverage(torch.tensor([[-1.0], [5.0]]), real, 1) == (0, 0), "on the edge is outside"


def test_an_outlier_among_the_real_images_costs_little() -> None:
    """What the paper is about: precision takes the outlier's huge ball for the distribution, density hardly does."""
    real = torch.cat([drawn(99, 2), torch.tensor([[30.0, 0.0]])])
    fake = drawn(100, 2, seed=1) * 0.1 + torch.tensor([15.0, 0.0])
    assert measure("precision_recall", material(fake, real)).values["precision"].value == 1
    assert measure("density_coverage", material(fake, real)).values["density"].value == pytest.approx(1 / 5)


def test_small_distances_at_large_norms() -> None:
    """Features far from the origin: single precision would lose the neighbours."""
    fake, real = drawn(40, 3) * 0.01, drawn(50, 3, seed=1) * 0.01
    offset = 1000.0
    moved = density_and_coverage((fake + offset), (real + offset))
    rounded = (fake + offset).double() - offset, (real + offset).double() - offset
    assert moved == pytest.approx(slow_density_and_coverage(*rounded, 5))


# --- what is said of small sets


def test_fid_says_how_small_the_sets_are() -> None:
    value = measure("fid", material(drawn(50), drawn(40))).values["fid"]
    for part in ("biased upwards", "50", "40", "d = 4", "KID"):
        assert part in value.note
    assert small_sets(torch.zeros(2048, 4), torch.zeros(2048, 4)) == ""
    assert "N = 2047 and 2048" in small_sets(torch.zeros(2047, 4), torch.zeros(2048, 4))
    assert "d = 2048" in small_sets(torch.zeros(2048, 2048), torch.zeros(3000, 2048)), "N must be above d"


def kid_of_library(fake: Tensor, real: Tensor, size: int) -> tuple[float, float]:
    found = kid_features_to_metric(fake, real, kid_subset_size=size, verbose=False)
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def test_kid_of_few_images() -> None:
    fake, real, source = drawn(60), drawn(41, seed=1) + 0.2, drawn(30, seed=2) + 1
    values = measure("kid", material(fake, real, source)).values
    assert values["kid"].value == pytest.approx(kid_of_library(fake, real, 41)[0], rel=1e-6)
    assert values["kid"].spread == pytest.approx(kid_of_library(fake, real, 20)[1], rel=1e-6)
    assert "subsets of 41 (N = 60 and 41 images)" in values["kid"].note
    assert "spread of subsets of 20" in values["kid"].note
    assert values["kid_source"].value == pytest.approx(kid_of_library(source, real, 30)[0], rel=1e-6)
    assert "inputs" in values["kid_source"].note
    least = measure("kid", material(fake[:3], real, source)).values["kid"]
    assert least.spread is None
    assert "too few" in least.note


def test_kid_of_many_images_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (kid_metric.SUBSETS, kid_metric.SUBSET_SIZE) == (100, 1000)
    monkeypatch.setattr(kid_metric, "SUBSET_SIZE", 50)  # the same with sets of 51 in place of 1001
    fake, real = drawn(51), drawn(60, seed=1) + 0.2
    value = measure("kid", material(fake, real)).values["kid"]
    assert (value.value, value.spread) == pytest.approx(kid_of_library(fake, real, 50), rel=1e-6)
    assert value.note == ""
    whole = measure("kid", material(fake[:50], real)).values["kid"]
    assert whole.spread == pytest.approx(kid_of_library(fake[:50], real, 25)[1], rel=1e-6)
    assert whole.note == "spread of subsets of 25"


# --- what cannot be measured


@pytest.mark.parametrize(
    ("name", "fake", "real", "reason"),
    [
        ("fid", 1, 9, "fake has too few images .1., at least 2"),
        ("fid", 9, 1, "real has too few images .1., at least 2"),
        ("kid", 1, 9, "at least 2"),
        ("isc", 99, 9, "at least 100"),
        ("precision_recall", 9, 3, "real has too few images .3., at least 4"),
        ("density_coverage", 9, 5, "real has too few images .5., at least 6"),
    ],
)
def test_too_few_images(name: str, fake: int, real: int, reason: str) -> None:
    with pytest.raises(MetricError, match=reason):
        measure(name, material(drawn(fake), drawn(real), source=drawn(9), logits=drawn(9)))


def test_other_things_that_are_missing() -> None:
    features = drawn(100)
    with pytest.raises(MetricError, match="logits"):
        measure("isc", material(features, features))
    with pytest.raises(MetricError, match="2 dimensions"):
        measure("fid", material(features[:, :1], features[:, :1]))
    alone = Material(named("source", 100), named("fake", 100))
    with pytest.raises(MetricError, match="feature network"):
        measure("isc", alone)
    with pytest.raises(MetricError, match="target domain"):
        measure("density_coverage", Material(alone.source, alone.fake, features=lambda _: (features, None)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_needed_is_declared(name: str) -> None:
    assert METRICS.get(name).needs == (("features",) if name == "isc" else ("real", "features"))
