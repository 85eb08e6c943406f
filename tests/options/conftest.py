"""Random values of options, and every group of options there is."""

from __future__ import annotations

import random
import string
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest

from data import DATASETS
from models import MODELS
from options import groups
from options.schema import Group, Size, fields_of, spec_of

EXTRAS = (groups.Inference, groups.Explanation)


@pytest.fixture(scope="session")
def all_groups() -> list[type[Group]]:
    """Every group of every model and data set, common ones first."""
    models = [MODELS.get(name).Options for name in MODELS.names()]
    datasets = [DATASETS.get(name).Options for name in DATASETS.names()]
    return list(dict.fromkeys([*groups.COMMON, *EXTRAS, *models, *datasets]))


def random_value(kind: Any, item: Any, draw: random.Random) -> Any:
    """A value of an option's type inside its range, awkward ones among them."""
    spec = spec_of(item)
    if isinstance(kind, types.UnionType):
        if draw.random() < 0.3:
            return None
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    if kind == Size:
        return (draw.randint(1, 999), draw.randint(1, 999))
    if typing.get_origin(kind) is tuple and spec.choices:
        return tuple(draw.sample(spec.choices, draw.randint(1, len(spec.choices))))
    if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] is str:
        return tuple(str(draw.randint(0, 99)) for _ in range(draw.randint(1, 6)))
    if typing.get_origin(kind) is tuple:
        return tuple(draw.randint(0, 99) for _ in range(draw.randint(1, 6)))
    if kind is bool:
        return draw.random() < 0.5
    if spec.choices:
        return draw.choice(spec.choices)
    if kind is str:
        words = ["yes", "12", "1e3", "0x1F", "2024-01-01", "~", "a: b # c", "[1, 2]", "'", '"', "é{}", "a\\b"]
        return draw.choice([*words, "".join(draw.choices(string.printable[:95], k=8)).strip() or "x"])
    low = spec.low if spec.low is not None else -50.0
    high = spec.high if spec.high is not None else low + 10 ** draw.uniform(0, 6)
    return draw.randint(int(low), int(high)) if kind is int else draw.uniform(low, high)


@pytest.fixture
def random_group() -> Callable[[type[Group]], Group]:
    """Makes a group with random values: other ones in every call, the same in every test."""
    draw = random.Random(20)

    def make(group: type[Group]) -> Group:
        values = {name: random_value(kind, item, draw) for name, (kind, item) in fields_of(group).items()}
        for name in ("input_nc", "output_nc"):  # 2 channels are no image
            if name in values:
                values[name] = draw.choice([1, 3])
        if "output_stride" in values:
            values["output_stride"] = draw.choice([8, 16, 32])
        return group(**values)

    return make
