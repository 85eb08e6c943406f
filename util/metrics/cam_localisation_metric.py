"""Whether a class activation map lies on the target: energy in boxes or masks, and the pointing game."""

from __future__ import annotations

from collections.abc import Sequence

from util.metrics.base import METRICS, Boxes, Material, Metric, MetricError, Scores, Value
from util.metrics.localisation import energy, heat_of, pointing
from util.metrics.maps import Array, at_size, target_of
from util.metrics.paired import summary

Found = list[float | None]


@METRICS.register("cam_localisation")
class CamLocalisation(Metric):
    """`CAM_energy`: share of a map's sum inside the target (Wang et al., Score-CAM, CVPRW 2020, sec. 4.3).

    `CAM_pointing`: share of images whose strongest point lies in the target (Zhang et al., IJCV 126, 2018; without
    their tolerance). Both for inputs, for translations (`_fake`) and, as a sanity check, with a randomised head
    (`_random`). `box_area` is what a flat map would reach. Boxes of the input hold for the translation too: it must
    not move the target.
    """

    needs = ("maps", "boxes")

    def compute(self, material: Material) -> Scores:
        assert material.maps is not None
        assert material.boxes is not None
        sizes = [_size(material, number) for number in range(len(material.source))]
        kind = "masks" if any(mask is not None for mask in material.boxes.masks) else "boxes"
        values: dict[str, Value] = {"box_area": summary(_areas(material.boxes, sizes), kind, "")}
        per_image: dict[str, Sequence[float | None]] = {}
        sides = {"": material.maps.source, "_fake": material.maps.fake, "_random": material.maps.randomised}
        for side, maps in sides.items():
            shares, hits = _measure(maps, material.boxes, sizes)
            better = "" if side == "_random" else "higher"
            values[f"CAM_energy{side}"] = summary(shares, kind, better)
            values[f"CAM_pointing{side}"] = summary(hits, kind, better)
            if side != "_random":
                per_image |= {f"CAM_energy{side}": shares, f"CAM_pointing{side}": hits}
        return Scores(values, per_image)


def _size(material: Material, number: int) -> tuple[int, int]:
    height, width = material.source.read(number).shape[-2:]
    return height, width


def _areas(boxes: Boxes, sizes: Sequence[tuple[int, int]]) -> Found:
    targets = [target_of(boxes, number, size) for number, size in enumerate(sizes)]
    if all(target is None for target in targets):
        raise MetricError("no image of the split has a box or mask in the tables that were given")
    return [None if target is None else float(target.mean()) for target in targets]


def _measure(maps: Sequence[Array], boxes: Boxes, sizes: Sequence[tuple[int, int]]) -> tuple[Found, Found]:
    """Energy and hit of each image; a map without any evidence has energy 0 and misses."""
    shares: Found = []
    hits: Found = []
    for number, (one, size) in enumerate(zip(maps, sizes, strict=True)):
        target = target_of(boxes, number, size)
        heat = heat_of(at_size(one, size))
        shares.append(None if target is None else energy(heat, target))
        hits.append(None if target is None else pointing(heat, target))
    return shares, hits
