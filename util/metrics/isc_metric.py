"""Inception Score: exp of the mean divergence of p(y|x) from p(y) (Salimans et al. 2016, section 4)."""

from __future__ import annotations

from typing import ClassVar

from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from util.errors import printable
from util.metrics.base import METRICS, Material, Metric, MetricError, Scores, Value
from util.metrics.features import outputs_of

_SPLITS = 10  # of the paper
_LEAST = 10  # images of a split: of one alone p(y) is p(y|x), and the score 1 whatever the images are
_ENOUGH = 100  # images of a split, however many classes there are
_SEED = 2020  # torch-fidelity's


@METRICS.register("isc")
class InceptionScore(Metric):
    """`isc` of the translations alone, 1 to the number of classes: mean and deviation over ten splits.

    A split of N images cannot score above N, so that each needs as many as there are classes, at least ten; of a
    network of many classes, such as Inception, a hundred: the note says that the score grows with N.
    """

    needs: ClassVar[tuple[str, ...]] = ("features",)

    def compute(self, material: Material) -> Scores:
        logits = outputs_of(material, material.fake, _SPLITS * _LEAST)[1]
        if logits is None:
            raise MetricError("the Inception Score needs class logits, which these features come without")
        classes = min(logits.shape[1], _ENOUGH)
        if len(logits) < (least := _SPLITS * classes):
            raise MetricError(
                f"{printable(material.fake.name)} has too few images ({len(logits)}), at least {least} are needed: in "
                f"{_SPLITS} splits, each {classes}: as many as the feature network has classes, or {_ENOUGH}"
            )
        found = isc_features_to_metric(logits, _SPLITS, shuffle=True, rng_seed=_SEED)
        note = f"{_SPLITS} splits of {len(logits) / _SPLITS:g} images; grows with N, compare only at equal N"
        mean, spread = float(found[KEY_METRIC_ISC_MEAN]), float(found[KEY_METRIC_ISC_STD])
        return Scores({"isc": Value(mean, spread, material.feature_kind, note, "higher")})
