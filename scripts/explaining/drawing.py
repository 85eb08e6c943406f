"""What is drawn of an image's maps: heat maps, overlays, and the figures of papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from options.groups import Explanation
from scripts.explaining.maps import COMPANIONS, Map
from util.visual.cam_figures import Cell, gallery, name_of
from util.visual.overlay import colormap, overlay

Picture = np.ndarray  # uint8 (H, W, 3)
COLUMNS = 4  # at most, of a figure of classes, methods or layers


@dataclass(frozen=True)
class Words:
    """What figures say of an image, beside the methods' names.

    Attributes:
        picture: what the picture is: `Input`, `Translation`.
        true: `true: cat`.
        predicted: `predicted: dog, 81.2 %`, or what else the network says of the image.
        explained: by rank, `cat, 18.8 %`, or what else is explained.
    """

    picture: str
    true: str
    predicted: str
    explained: Sequence[str]


def percent(probability: float) -> str:
    """`81.2 %`; what is nearly certain is not rounded up to certain."""
    share = 100 * probability
    return "> 99.9 %" if 99.95 <= share < 100 else f"{share:.1f} %"


class Drawing:
    """Draws the maps of one picture.

    Args:
        picture: uint8 (H, W, 3), at its own size.
    """

    def __init__(self, picture: Picture, words: Words, look: Explanation) -> None:
        self._picture, self._words = picture, words
        self._colours, self._strength = look.colormap, look.overlay_strength

    def heat(self, one: Map) -> Picture:
        """The map alone: in colours, or as the picture that a method in pixels gives."""
        return colormap(one.heat, self._colours) if one.pixels is None else one.pixels

    def overlay(self, one: Map) -> Picture:
        """The map over the picture."""
        return overlay(self._picture, one.heat, self._strength, self._colours)

    def shown(self, one: Map) -> Picture:
        """The overlay, or the picture that a method in pixels gives, of which an overlay shows little."""
        return self.overlay(one) if one.pixels is None else one.pixels

    def panel(self, maps: Mapping[str, Sequence[Map]], method: str, rank: int = 0) -> Picture:
        """The figure of a method: input, map and overlay.

        Of guided methods with a map: input, overlay of the map, guided backpropagation, and their product; of guided
        backpropagation alone: input and map; of the counterfactual: input, and what speaks for and against.

        Args:
            maps: of the method and its companions.
        """
        one, others = maps[method][rank], [maps[name][rank] for name in COMPANIONS.get(method, ())]
        words, explained = self._words, self._words.explained[rank]
        if method == "counterfactual":
            cells = [
                self._input(),
                Cell(self.overlay(others[0]), f"Speaks for {explained}{_flat(others[0])}"),
                Cell(self.overlay(one), f"Speaks against {explained}{_flat(one)}\n{words.predicted}"),
            ]
        elif others:
            cells = [
                self._input(),
                Cell(self.overlay(others[0]), f"{name_of(others[0].method)}{_flat(others[0])}\nexplained: {explained}"),
                Cell(self.heat(others[1]), f"{name_of(others[1].method)}{_flat(others[1])}\n{words.predicted}"),
                Cell(self.heat(one), f"{name_of(method)}{_flat(one)}"),
            ]
        elif one.pixels is not None:
            cells = [
                self._input(words.predicted),
                Cell(one.pixels, f"{name_of(method)}{_flat(one)}\nexplained: {explained}"),
            ]
        else:
            cells = [
                self._input(),
                Cell(self.heat(one), f"{name_of(method)}{_flat(one)}\nexplained: {explained}"),
                Cell(self.overlay(one), f"Overlay\n{words.predicted}"),
            ]
        return gallery(cells)

    def classes(self, maps: Sequence[Map]) -> Picture:
        """The input and one method's overlay of each class, the likeliest first."""
        overlays = [
            Cell(self.shown(one), f"{rank}. {explained}{_flat(one)}")
            for rank, (one, explained) in enumerate(zip(maps, self._words.explained, strict=True), 1)
        ]
        return _grid([self._input(name_of(maps[0].method)), *overlays])

    def methods(self, maps: Mapping[str, Sequence[Map]]) -> Picture:
        """The input and every method's overlay of the first class."""
        first = self._input(f"explained: {self._words.explained[0]}\n{self._words.predicted}")
        overlays = [Cell(self.shown(found[0]), f"{name_of(name)}{_flat(found[0])}") for name, found in maps.items()]
        return _grid([first, *overlays])

    def layers(self, maps: Sequence[Map]) -> Picture:
        """The input and one method's overlay at each layer."""
        words = self._words
        first = self._input(f"{name_of(maps[0].method)}\nexplained: {words.explained[0]}")
        overlays = [
            Cell(self.shown(one), f"{one.layer}\n{one.raw.shape[-2]} × {one.raw.shape[-1]}{_flat(one)}") for one in maps
        ]
        return _grid([first, *overlays])

    def _input(self, more: str = "") -> Cell:
        words = self._words
        return Cell(self._picture, "\n".join(line for line in (words.picture, words.true, more) if line))


def _grid(cells: Sequence[Cell]) -> Picture:
    """Rows as long as each other, or nearly so."""
    rows = math.ceil(len(cells) / COLUMNS)
    return gallery(cells, math.ceil(len(cells) / rows))


def _flat(one: Map) -> str:
    return " (flat: says nothing)" if one.flat else ""
