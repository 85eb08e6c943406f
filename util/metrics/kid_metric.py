"""KID: unbiased squared maximum mean discrepancy with a cubic kernel (Binkowski et al. 2018, section 4)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from util.metrics.base import METRICS, Material, Metric, Scores, Value
from util.metrics.features import features_of

SUBSETS, SUBSET_SIZE = 100, 1000  # of the paper and of torch-fidelity
_SEED = 2020  # torch-fidelity's: the same features give the same number there


@METRICS.register("kid")
class Kid(Metric):
    """`kid` of translations against real images; `kid_source` of inputs against them: how far it was before.

    The mean over random subsets, and their standard deviation as `spread`. No bias at any N; may be slightly negative.
    """

    needs: ClassVar[tuple[str, ...]] = ("real", "features")

    def compute(self, material: Material) -> Scores:
        fake, real, source = (features_of(material, s, 2) for s in (material.fake, material.real, material.source))
        return Scores(
            {
                "kid": _value(fake, real, material.feature_kind, "", "lower"),
                "kid_source": _value(source, real, material.feature_kind, "inputs against real images", ""),
            }
        )


def _value(features: Tensor, real: Tensor, kind: str, note: str, better: str) -> Value:
    fewest = min(len(features), len(real))
    size = min(SUBSET_SIZE, fewest)
    mean, spread = _kid(features, real, size)
    notes = [note, f"subsets of {size} (N = {len(features)} and {len(real)} images)" if size < SUBSET_SIZE else ""]
    if fewest <= SUBSET_SIZE:
        # Every subset holds all of the smaller set: the spread would be 0, or that of the other set alone.
        half = fewest // 2
        spread = _kid(features, real, half)[1] if half >= 2 else None
        notes.append(f"spread of subsets of {half}" if half >= 2 else "too few images for a spread")
    return Value(mean, spread, kind, "; ".join(filter(None, notes)), better)


def _kid(features: Tensor, real: Tensor, size: int) -> tuple[float, float | None]:
    """Mean and standard deviation over the subsets, each of `size` images."""
    found = kid_features_to_metric(
        features, real, kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=_SEED, verbose=False
    )
    return float(found[KEY_METRIC_KID_MEAN]), float(found[KEY_METRIC_KID_STD])
