"""Evaluation files: read strictly, and chosen by the protocol: last, best, mean of the last five."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.comparing.conftest import (
    DIMENSIONS,
    IMAGES,
    REALS,
    Content,
    cloud,
    content,
    curve,
    features_file,
    number,
    per_image,
    write,
)
from util.errors import UserError
from util.evaluations import (
    EvaluationError,
    choose,
    criterion,
    mean_value,
    read_evaluation,
    read_evaluations,
    read_features,
)
from util.strict_json import JsonError


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    metrics = {"ssim": number(0.5, "higher", "range 1", "small"), "lpips": number(None, note="no weights")}
    path = write(tmp_path, content("a", 3, "20", metrics=metrics, per_image=per_image("ssim", [0.25, None, 0.75])))
    found = read_evaluation(path)
    assert (found.run, found.seed, found.epoch, found.step, found.phase) == ("a", 3, "20", 2000, "test")
    assert (found.metrics["ssim"].value, found.metrics["ssim"].better) == (0.5, "higher")
    assert (found.metrics["lpips"].value, found.metrics["lpips"].note) == (None, "no weights")
    assert found.per_image == {"ssim": (0.25, None, 0.75)}
    assert (found.source.count, found.target and found.target.digest) == (IMAGES, "bb")
    assert list(found.metrics) == ["ssim", "lpips"]


DAMAGE: dict[str, Callable[[Content], Any]] = {
    "seed": lambda c: c.update(seed=True),
    "step": lambda c: c.update(step=-1),
    "options": lambda c: c.pop("options"),
    "epoch": lambda c: c.update(epoch=10),
    "better": lambda c: c["metrics"]["fid"].update(better="smaller"),
    "value": lambda c: c["metrics"]["fid"].update(value="50"),
    "spread": lambda c: c["metrics"]["fid"].pop("spread"),
    "fid": lambda c: c["metrics"].update(fid=50),
    "digest": lambda c: c["data"]["source"].pop("digest"),
    "count": lambda c: c["data"]["target"].update(count=2.5),
    "file": lambda c: c.update(per_image={"ssim": [1.0]}),
    "names": lambda c: c.update(per_image={"file": ["a", "a"], "ssim": [1, 2]}),
    "ssim": lambda c: c.update(per_image={"file": ["a", "b"], "ssim": [1.0]}),
    "numbers": lambda c: c.update(per_image={"file": ["a"], "ssim": ["1"]}),
    "phase": lambda c: c.update(phase="val"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_evaluation_is_named(tmp_path: Path, what: str) -> None:
    made = content("a")
    path = write(tmp_path, made)
    read_evaluation(path)
    DAMAGE[what](made)
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"test_10\.json.*") as caught:
        read_evaluation(path)
    assert what in str(caught.value) or what in ("names", "numbers")
    assert "\n" not in str(caught.value)


# What takes the place of the value of fid, which may be null, in a file that is good but for that; then whole files.
VALUES = {
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "beyond": b"1e999",
    "digits": b"9" * 5000,
    "twice": b'1, "value": 2',
    "no utf-8": b'1, "name": "\xff"',
    "deep": b'1, "name": ' + b"[" * 100_000 + b"]" * 100_000,
}
WHOLE = {"empty": b"", "a list": b"[]"}


@pytest.mark.parametrize("what", [*VALUES, *WHOLE])
def test_what_is_no_strict_json_is_one_line(tmp_path: Path, what: str) -> None:
    path = write(tmp_path, content("a"))
    whole = path.read_bytes()
    path.write_bytes(WHOLE[what] if what in WHOLE else whole.replace(b"50.0", VALUES[what]))
    with pytest.raises(JsonError, match=r"test_10\.json") as caught:
        read_evaluation(path)
    assert len(str(caught.value).splitlines()) == 1


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, content("a", per_image=per_image("ssim", [0.5] * 3)))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(JsonError, match=r"test_10\.json"):
            read_evaluation(path)


def test_features_are_read_strictly(tmp_path: Path) -> None:
    found = read_evaluation(write(tmp_path, content("a")))
    assert read_features(found) is None
    features_file(tmp_path, "a", cloud(0, IMAGES), cloud(1, REALS))
    read = read_features(found)
    assert read is not None
    assert (read.fake.shape, read.real.shape, read.kind) == ((IMAGES, DIMENSIONS), (REALS, DIMENSIONS), "inception")
    wrong: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (cloud(0, IMAGES - 1), cloud(1, REALS)),
        (cloud(0, IMAGES), cloud(1, REALS)[:, 1:]),
        (cloud(0, IMAGES).astype(np.float64), cloud(1, REALS)),
        (cloud(0, IMAGES) * np.nan, cloud(1, REALS)),
        (np.array([{}], object), cloud(1, REALS)),
    ]
    for fake, real in wrong:
        features_file(tmp_path, "a", fake, real)
        with pytest.raises(EvaluationError, match=r"test_10_features\.npz"):
            read_features(found)
    for damage in (b"", b"PK\x03\x04", found.features_path.read_bytes()[:-40]):
        found.features_path.write_bytes(damage)
        with pytest.raises(EvaluationError, match=r"test_10_features\.npz: is damaged"):
            read_features(found)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_features_that_carry_code_are_refused_and_not_run(tmp_path: Path) -> None:
    found = read_evaluation(write(tmp_path, content("a")))
    features_file(tmp_path, "a", np.array([Bomb(tmp_path / "ran")], object), cloud(1, REALS))
    with pytest.raises(EvaluationError, match=r"test_10_features\.npz: is damaged"):
        read_features(found)
    assert not (tmp_path / "ran").exists()


# --- protocol


def test_last_best_and_mean_of_the_last_five(tmp_path: Path) -> None:
    curve(tmp_path, "a", {"5": 0.9, "10": 0.1, "15": 0.2, "20": 0.3, "100": 0.4, "95": 0.5})
    found = read_evaluations(tmp_path / "a", "test")
    assert [evaluation.epoch for evaluation in found] == ["5", "10", "15", "20", "95", "100"]
    values = {rule: mean_value(choose(found, rule, "acc"), "acc") for rule in ("last", "best", "mean5", "20")}
    assert {rule: value and value.value for rule, value in values.items()} == pytest.approx(
        {"last": 0.4, "best": 0.9, "mean5": 0.3, "20": 0.3}
    )
    with pytest.raises(
        EvaluationError, match=r"--epoch 21: a has no such evaluation.*there are 5, 10, 15, 20, 95, 100"
    ):
        choose(found, "21")


def test_best_goes_down_where_lower_is_better(tmp_path: Path) -> None:
    for epoch, value in (("1", 3.0), ("2", 1.0), ("3", 2.0)):
        write(tmp_path, content("a", 1, epoch, metrics={"fid": number(value), "count": number(value, "")}))
    found = read_evaluations(tmp_path / "a", "test")
    assert [evaluation.epoch for evaluation in choose(found, "best", "fid")] == ["2"]
    with pytest.raises(EvaluationError, match="--best_by count: neither high nor low"):
        choose(found, "best", "count")
    with pytest.raises(EvaluationError, match="--best_by ssim: a has no value of it"):
        choose(found, "best", "ssim")


def test_the_same_step_counts_once_and_latest_is_its_lesser_name(tmp_path: Path) -> None:
    for epoch in ("10", "latest"):
        write(tmp_path, content("a", 1, epoch))
    write(tmp_path, content("a", 1, "5"))
    write(tmp_path, content("a", 1, "7", phase="val"))
    assert [found.epoch for found in read_evaluations(tmp_path / "a", "test")] == ["5", "10"]


def test_best_goes_by_kid_first_then_fid_then_any_that_all_have(tmp_path: Path) -> None:
    def by(*tables: Content) -> str | None:
        paths = [write(tmp_path, content("a", 1, str(n), metrics=table)) for n, table in enumerate(tables)]
        return criterion([read_evaluation(path) for path in paths])

    acc, fid, kid = ({name: number(1.0)} for name in ("acc", "fid", "kid"))
    assert by(acc | fid | kid, acc | fid | kid) == "kid"
    assert by(acc | fid | kid, acc | fid | {"kid": number(None)}) == "fid"
    assert by(acc | fid, acc) == "acc"
    assert by({"n": number(1.0, "")}) is None
