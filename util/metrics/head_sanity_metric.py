"""The sanity check that a map depends on what the head has learnt (Adebayo et al., NeurIPS 2018)."""

from __future__ import annotations

from models.cam.functional import correlation
from util.metrics.base import METRICS, Material, Metric, Scores, Value
from util.metrics.maps import SIDE, stacked


@METRICS.register("head_sanity")
class HeadSanity(Metric):
    """`CAM_corr_random_head`: correlation of each input's map with the one a randomised head draws.

    Near 1 the picture shows the network's features whatever the head has learnt, and explains no class.
    """

    needs = ("maps",)

    def compute(self, material: Material) -> Scores:
        assert material.maps is not None
        found = correlation(stacked(material.maps.source), stacked(material.maps.randomised))
        note = f"over {len(found)} images; near 1 the map does not depend on the head"
        value = Value(
            float(found.mean()), float(found.std(unbiased=False)), f"Pearson at {SIDE} x {SIDE}", note, "lower"
        )
        return Scores({"CAM_corr_random_head": value})
