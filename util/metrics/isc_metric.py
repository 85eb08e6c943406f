"""Inception Score: exp of the mean divergence of p(y|x) from p(y) (Salimans et al. 2016, section 4)."""

from __future__ import annotations

from typing import ClassVar

from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from util.metrics.base import METRICS, Material, Metric, MetricError, Scores, Value
from util.metrics.features import outputs_of

_SPLITS = 10  # of the paper
_SEED = 2020  # torch-fidelity's


@METRICS.register("isc")
class InceptionScore(Metric):
    """`isc` of the translations alone, 1 to the number of classes: mean and deviation over ten splits."""

    needs: ClassVar[tuple[str, ...]] = ("features",)

    def compute(self, material: Material) -> Scores:
        logits = outputs_of(material, material.fake, _SPLITS)[1]
        if logits is None:
            raise MetricError("the Inception Score needs class logits, which these features come without")
        found = isc_features_to_metric(logits, _SPLITS, shuffle=True, rng_seed=_SEED)
        note = f"{_SPLITS} splits of {len(logits) / _SPLITS:g} images; grows with N, compare only at equal N"
        mean, spread = float(found[KEY_METRIC_ISC_MEAN]), float(found[KEY_METRIC_ISC_STD])
        return Scores({"isc": Value(mean, spread, material.feature_kind, note, "higher")})
