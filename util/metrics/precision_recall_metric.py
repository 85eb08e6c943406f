"""Improved precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2)."""

from __future__ import annotations

from typing import ClassVar

from torch_fidelity.metric_prc import (
    KEY_METRIC_F_SCORE,
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    prc_features_to_metric,
)

from util.metrics.base import METRICS, Material, Metric, Scores, Value
from util.metrics.features import features_of

_K = 3  # neighbours, of the paper


@METRICS.register("precision_recall")
class PrecisionRecall(Metric):
    """`precision`: share of translations within a real image's ball to its third neighbour; `recall`: the reverse;
    `f_score`: their harmonic mean. The paper measures with VGG-16; the kind says what was used here.
    """

    needs: ClassVar[tuple[str, ...]] = ("real", "features")

    def compute(self, material: Material) -> Scores:
        fake, real = (features_of(material, images, _K + 1) for images in (material.fake, material.real))
        # save_cpu_ram: the same numbers, in blocks once there are more than 10,000 images.
        found = prc_features_to_metric(fake, real, prc_neighborhood=_K, save_cpu_ram=True, verbose=False)
        note = f"k = {_K}, {len(fake)} translations, {len(real)} real images"
        keys = {"precision": KEY_METRIC_PRECISION, "recall": KEY_METRIC_RECALL, "f_score": KEY_METRIC_F_SCORE}
        return Scores(
            {
                name: Value(float(found[key]), kind=material.feature_kind, note=note, better="higher")
                for name, key in keys.items()
            }
        )
