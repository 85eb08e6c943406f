"""What data set is asked for: its arguments, checked, and the list of pictures that follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .scene import Key
from .vehicles import VEHICLES

CLASS_NAMES: tuple[str, ...] = tuple(VEHICLES)
FOLDERS = ("trainA", "trainB", "testA", "testB")
_TRAIN_A, _TRAIN_B, _TEST = range(3)  # splits of the scene keys; paired training uses those of trainA
_GOLDEN = (math.sqrt(5) - 1) / 2
_LARGEST_COUNT = 100_000  # the stems have five digits


class RecipeError(ValueError):
    """An argument that cannot be met."""


@dataclass(frozen=True)
class Recipe:
    """The arguments of a data set.

    Counts are pictures per domain. ``vehicles`` names the classes, in the order of their ids; empty means the first
    ``classes`` of CLASS_NAMES. ``prior_B`` weighs the classes in trainB; empty means uniform.
    """

    size: int = 128
    train: int = 300
    test: int = 60
    bits: int = 8
    seed: int = 0
    classes: int = len(CLASS_NAMES)
    prior_B: tuple[float, ...] = ()
    paired_train: bool = False
    vehicles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise RecipeError(f"--size {self.size}: pictures are from 32 to 1024 pixels wide")
        for flag, count in (("--train", self.train), ("--test", self.test)):
            if not 1 <= count <= _LARGEST_COUNT:
                raise RecipeError(f"{flag} {count}: give a number of pictures from 1 to {_LARGEST_COUNT}")
        if self.bits not in (8, 16):
            raise RecipeError(f"--bits {self.bits}: pictures have 8 or 16 bits")
        if self.seed < 0:
            raise RecipeError(f"--seed {self.seed}: the seed is 0 or more")
        if not 2 <= self.classes <= len(CLASS_NAMES):
            raise RecipeError(f"--classes {self.classes}: choose from 2 to {len(CLASS_NAMES)} classes")
        if self.vehicles:
            self._check_vehicles()
        if self.prior_B:
            self._check_prior()

    def _check_vehicles(self) -> None:
        unknown = [name for name in self.vehicles if name not in CLASS_NAMES]
        if unknown or len(set(self.vehicles)) != len(self.vehicles) or len(self.vehicles) != self.classes:
            raise RecipeError(
                f"--classes {','.join(self.vehicles)}: name two or more different ones of {', '.join(CLASS_NAMES)}"
            )

    def _check_prior(self) -> None:
        text = ",".join(f"{p:g}" for p in self.prior_B)
        if len(self.prior_B) != self.classes:
            raise RecipeError(f"--prior_B {text}: give {self.classes} numbers, one for each class")
        if not all(math.isfinite(p) and p >= 0 for p in self.prior_B) or sum(self.prior_B) <= 0:
            raise RecipeError(f"--prior_B {text}: weights are 0 or more, and one at least is not 0")
        if self.paired_train:
            raise RecipeError("--prior_B goes without --paired_train: paired scenes have the same classes in A and B")

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of their label ids."""
        return self.vehicles or CLASS_NAMES[: self.classes]

    def arguments(self) -> dict[str, Any]:
        """The arguments as plain values, for the manifest."""
        return asdict(self) | {"prior_B": list(self.prior_B), "vehicles": list(self.vehicles)}


@dataclass(frozen=True)
class Shot:
    """One scene to make: in which folders it is seen, under which stem, with which class."""

    key: Key
    label_id: int
    stem: str
    folder_a: str | None
    folder_b: str | None


def class_of(seed: int, split: int, index: int, weights: tuple[float, ...]) -> int:
    """The class of a scene: a golden-ratio sequence through the cumulated prior.

    Any first n scenes of a split hold the classes in the proportions of the prior, to about one picture or two,
    and scene ``index`` keeps its class however many are made.
    """
    start = float(np.random.default_rng([seed, split, 15485863]).random())
    share = np.cumsum(weights) / sum(weights)
    position = (start + index * _GOLDEN) % 1.0
    chosen = int(np.searchsorted(share, position, side="right"))
    return min(chosen, max(i for i, weight in enumerate(weights) if weight > 0))


def shots(recipe: Recipe) -> Iterator[Shot]:
    """All scenes of a data set, training ones first. Unpaired stems differ between the domains."""
    uniform = (1.0,) * recipe.classes

    def shot(split: int, index: int, weights: tuple[float, ...], letter: str, a: str | None, b: str | None) -> Shot:
        label = class_of(recipe.seed, split, index, weights)
        return Shot(Key(recipe.seed, split, index), label, f"scene_{letter}{index:05d}", a, b)

    for i in range(recipe.train):
        if recipe.paired_train:
            yield shot(_TRAIN_A, i, uniform, "", "trainA", "trainB")
        else:
            yield shot(_TRAIN_A, i, uniform, "a", "trainA", None)
            yield shot(_TRAIN_B, i, recipe.prior_B or uniform, "b", None, "trainB")
    for i in range(recipe.test):
        yield shot(_TEST, i, uniform, "", "testA", "testB")
