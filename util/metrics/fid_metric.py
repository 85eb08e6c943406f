"""FID: Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, equation 6)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from util.metrics.base import METRICS, Material, Metric, MetricError, Scores, Value
from util.metrics.features import features_of

_ENOUGH = 2048  # images; below, and wherever there are no more images than dimensions, the covariances lack rank


@METRICS.register("fid")
class Fid(Metric):
    """`fid` of translations against real images; `fid_source` of inputs against them: how far it was before."""

    needs: ClassVar[tuple[str, ...]] = ("real", "features")

    def compute(self, material: Material) -> Scores:
        fake, real, source = (features_of(material, s, 2) for s in (material.fake, material.real, material.source))
        if fake.shape[1] < 2:
            raise MetricError("FID needs features of 2 dimensions at least, the feature network gives 1")
        statistics = fid_features_to_statistics(real)

        def distance(features: Tensor) -> float:
            found = fid_statistics_to_metric(fid_features_to_statistics(features), statistics, verbose=False)
            return float(found[KEY_METRIC_FID])

        def value(features: Tensor, note: str, better: str) -> Value:
            said = "; ".join(filter(None, (note, small_sets(features, real))))
            return Value(distance(features), kind=material.feature_kind, note=said, better=better)

        return Scores({"fid": value(fake, "", "lower"), "fid_source": value(source, "inputs against real images", "")})


def small_sets(features: Tensor, real: Tensor) -> str:
    """What to say of FID's bias (Binkowski et al. 2018, section 4); nothing for sets that are large enough."""
    fewest, dimensions = min(len(features), len(real)), real.shape[1]
    if fewest >= _ENOUGH and fewest > dimensions:
        return ""
    return (
        f"biased upwards by small samples (N = {len(features)} and {len(real)} images, d = {dimensions}): "
        "trust KID first, compare only at equal N"
    )
