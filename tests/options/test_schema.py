"""Groups of options: types, ranges, choices, and the words of their messages."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest

from options.schema import Group, OptionError, Size, build, convert, fields_of, option, show, spec_of


@dataclass(frozen=True)
class Sample(Group):
    """sample: one option of each type"""

    flag: bool = option(False, "a switch")
    count: int = option(3, "how many", low=1, high=9)
    rate: float = option(0.5, "how fast", low=0)
    word: str = option("one", "which", choices=("one", "Two"))
    text: str = option("", "anything")
    maybe: int | None = option(None, "a number or none")
    size: Size = option((8, 8), "height and width", low=1)
    layers: tuple[int, ...] = option((0, 4), "a list", low=0)


def one(name: str, value: Any) -> Any:
    """What a text given for one option becomes."""
    return getattr(build(Sample, {name: value}), name)


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "yes", "1"])
def test_words_for_true(text: str) -> None:
    assert one("flag", text) is True


@pytest.mark.parametrize("text", ["False", "false", "no", "0"])
def test_words_for_false(text: str) -> None:
    assert one("flag", text) is False


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "7", 7),
        ("rate", "2e-4", 2e-4),
        ("rate", "inf", math.inf),
        ("text", " padded ", "padded"),
        ("text", "None", "None"),
        ("maybe", "none", None),
        ("maybe", "null", None),
        ("maybe", "-1", -1),
        ("size", "286", (286, 286)),
        ("size", "286 512", (286, 512)),
        ("size", "286,512", (286, 512)),
        ("size", ["286", "512"], (286, 512)),
        ("size", 286, (286, 286)),
        ("size", [286, 512], (286, 512)),
        ("layers", "0,4,8", (0, 4, 8)),
        ("layers", ["0,", "4,", "8"], (0, 4, 8)),
        ("layers", 4, (4,)),
        ("word", "ONE", "one"),
        ("word", "two", "Two"),
    ],
)
def test_texts_become_values(name: str, text: Any, value: Any) -> None:
    got = one(name, text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("flag", "maybe", "--flag maybe: expected True or False"),
        ("count", "2.5", "--count 2.5: expected a whole number"),
        ("count", "0", "--count 0: must be between 1 and 9"),
        ("count", "10", "--count 10: must be between 1 and 9"),
        ("count", True, "--count True: expected a whole number"),
        ("rate", "fast", "--rate fast: expected a number"),
        ("rate", "-0.1", "--rate -0.1: must be at least 0"),
        ("rate", "nan", "--rate nan: is no number"),
        ("word", "three", "--word three: choose one of one, Two"),
        ("text", None, "--text: has no value; expected text"),
        ("size", "1,2,3", "--size 1,2,3: expected one size in pixels, or height and width"),
        ("size", "0", "--size 0,0: must be at least 1"),
        ("layers", "0,x", "--layers 0,x: expected a comma list of whole numbers"),
        ("layers", "0,-4", "--layers 0,-4: must be at least 0"),
    ],
)
def test_a_bad_value_is_named_with_its_flag_and_what_would_do(name: str, text: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        one(name, text)
    assert str(caught.value) == message


def test_bounds_are_inclusive() -> None:
    assert (one("count", "1"), one("count", "9")) == (1, 9)


def test_a_group_checks_values_that_do_not_come_from_texts_too() -> None:
    with pytest.raises(OptionError, match="--count 99"):
        Sample(count=99)
    with pytest.raises(OptionError, match="--rate nan"):
        dataclasses.replace(Sample(), rate=math.nan)


def test_a_group_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sample().count = 4  # type: ignore[misc]


def test_a_field_that_is_no_option_is_an_error_of_the_programmer() -> None:
    @dataclass(frozen=True)
    class Plain(Group):
        """plain"""

        count: int = 3

    with pytest.raises(TypeError, match="count of a group of options must be made by option"):
        Plain()


def test_build_leaves_names_of_other_groups_alone() -> None:
    assert build(Sample, {"count": "4", "lr": "0.1"}) == Sample(count=4)


def test_show_is_what_would_be_typed() -> None:
    assert [show(value) for value in ((0, 4, 8), (286, 512), 0.5, True, None)] == [
        "0,4,8",
        "286,512",
        "0.5",
        "True",
        "None",
    ]
    for name, (kind, item) in fields_of(Sample).items():
        assert convert(name, kind, spec_of(item), show(item.default)) == item.default
