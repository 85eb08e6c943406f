"""Everything that is measured of maps, image by image: where they lie, and whether the network goes by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from models.cam.functional import resize_map
from models.cam.tap import running
from util.metrics import faithfulness as by
from util.metrics.base import Boxes
from util.metrics.imputation import road
from util.metrics.localisation import THRESHOLD, box_around, box_iou, energy, heat_of, pointing
from util.metrics.maps import target_of

Row = dict[str, float | None]  # of one image, by column
Ask = Callable[[Tensor], Tensor]  # (R, C, H, W) in [0, 1] -> probabilities (R, K)


@dataclass(frozen=True)
class Column:
    """A measure: its heading, which end is better if any, what it means, and whether the table has room for it."""

    heading: str
    better: str
    meaning: str
    shown: bool = True


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "pointing": Column("pointing", "higher", "share of images whose strongest point lies in the target"),
        "energy": Column("energy", "higher", "share of the map's sum inside the target"),
        "box_iou": Column("box IoU", "higher", "of the box around the strong part of the map with the nearest box"),
        "drop": Column("drop", "lower", "share of the probability that is lost when only what the map shows is seen"),
        "increase": Column("incr", "higher", "share of images whose probability grows then"),
        "deletion": Column("del", "lower", "area under the probability while the strongest pixels turn black"),
        "insertion": Column("ins", "higher", "area while the strongest pixels of the blurred image turn sharp"),
        "road": Column("ROAD", "higher", "half of the probability without the least relevant less without the most"),
        "complexity": Column("complexity", "lower", "share of the image that the map covers", shown=False),
        "coherency": Column("coherency", "higher", "likeness to the map of the image seen through it", shown=False),
        "adcc": Column("ADCC", "higher", "harmonic mean of coherency, 1 - complexity and 1 - drop"),
        "sanity": Column("sanity", "", "rank correlation with maps of the network made random; near 1 is a failure"),
        "seconds": Column("s/img", "lower", "time of the map alone, its forward pass included"),
    }
)


@dataclass(frozen=True)
class Where:
    """What maps are held against to say where they lie.

    Args:
        boxes: of each image, in pixels of the file.
        sizes: (H, W) of the files.
        tolerance: see `localisation.pointing`, in pixels of the file.
        threshold: see `localisation.box_of`.
    """

    boxes: Boxes
    sizes: list[tuple[int, int]]
    tolerance: float = 0.0
    threshold: float = THRESHOLD

    def measure(self, one: Tensor, number: int) -> Row:
        """Of the map (h, w) of an image; nothing where its target is not known."""
        target = target_of(self.boxes, number, self.sizes[number])
        if target is None:
            return {}
        heat = heat_of(resize_map(one[None], self.sizes[number])[0])
        rectangles = self.boxes.rectangles[number] or [box_around(target)]
        return {
            "pointing": pointing(heat, target, self.tolerance),
            "energy": energy(heat, target),
            "box_iou": box_iou(heat, rectangles, self.threshold),
        }

    def area(self, number: int) -> float | None:
        """Share of an image that is target: what a flat map reaches."""
        target = target_of(self.boxes, number, self.sizes[number])
        return None if target is None else float(target.mean())


def probabilities_of(net: torch.nn.Module) -> Ask:
    """What a network that takes images in [-1, 1] thinks of images in [0, 1]."""

    def ask(images: Tensor) -> Tensor:
        with running(net):
            logits: Tensor = net(images * 2 - 1)
        return logits.float().softmax(1)

    return ask


def score_of(ask: Ask, classes: Tensor) -> by.Score:
    """The probability of each image's own class."""

    def score(images: Tensor) -> Tensor:
        wanted = classes.repeat(len(images) // len(classes)).to(images.device)
        return ask(images).gather(1, wanted[:, None])[:, 0]

    return score


def faithful(images: Tensor, maps: Tensor, score: by.Score, before: Tensor, seed: int) -> dict[str, Tensor]:
    """What can be measured of maps without knowing how they were made, each (N,).

    Args:
        images: (N, C, H, W) in [0, 1].
        maps: (N, H, W) in [0, 1].
        before: (N,), the score of the images.
    """
    after = score(by.seen_through(images, maps))
    places = by.ranks(maps, seed)
    return {
        "drop": by.drop(before, after),
        "increase": by.increase(before, after),
        "deletion": by.deletion(images, places, score),
        "insertion": by.insertion(images, places, score),
        "road": road(images, places, score, seed=seed).combined,
        "complexity": by.complexity(maps),
    }


def rows_of(found: Mapping[str, Tensor]) -> list[Row]:
    """One row an image."""
    columns = {name: values.double().tolist() for name, values in found.items()}
    count = len(next(iter(columns.values()), []))
    return [{name: values[number] for name, values in columns.items()} for number in range(count)]
