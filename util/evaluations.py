"""Evaluations of a run, read strictly, and the protocol: last, best, or mean of the last five.

scripts/evaluate.py writes `<run>/evaluations/<phase>_<epoch>.json`, and the features that set metrics came from as
`<phase>_<epoch>_features.npz` beside it. What lies in folders below is no evaluation of the run any more.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from util.errors import UserError, printable
from util.metrics.base import Value
from util.registry import did_you_mean
from util.strict_json import Fields, is_number_or_none, read_json

FOLDER = "evaluations"
RULES = {"last": "the last", "best": "the best", "mean5": "the mean of the last five"}
_OF_MEAN5 = 5
_BETTER = ("lower", "higher", "")


class EvaluationError(UserError, ValueError):
    """Evaluations that are missing, damaged or cannot be compared; the message names the files and the remedy."""


@dataclass(frozen=True)
class Images:
    """Which images were evaluated: how many, and a digest of their content."""

    count: int
    digest: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation file.

    Args:
        run: name of the run's folder.
        dataroot: the folder of the images; empty where the file does not say.
        source, target: the images of both domains; no target: none were there.
        metrics: numbers by name, in the file's order.
        files: the translated images; `per_image` has, by metric, one number or None for each of them.
        features: name of the network behind the features; empty where there was none.
        basis: digests of what else the numbers come from, by name; evaluations of earlier versions have none.
    """

    path: Path
    run: str
    model: str
    seed: int
    epoch: str
    step: int
    phase: str
    dataroot: str
    source: Images
    target: Images | None
    options: Mapping[str, Any]
    metrics: Mapping[str, Value]
    files: tuple[str, ...]
    per_image: Mapping[str, tuple[float | None, ...]]
    features: str
    basis: Mapping[str, Any]

    @property
    def features_path(self) -> Path:
        """Where the features lie, if they were kept."""
        return self.path.with_name(f"{self.path.stem}_features.npz")


@dataclass(frozen=True)
class Features:
    """What set metrics were computed from: `fake` (N, d), in the order of the translations, and `real` (M, d)."""

    fake: NDArray[np.float32]
    real: NDArray[np.float32]
    kind: str


# --- reading


def read_evaluation(path: Path) -> Evaluation:
    """One evaluation file.

    Raises:
        JsonError: it is damaged, or a field is missing or of another type.
    """
    where = printable(path)
    top = Fields(read_json(path), where)
    data = top.object("data")
    files, per_image = _per_image(top.object("per_image"))
    found = Evaluation(
        path=path,
        run=path.parent.parent.name,
        model=top.text("model"),
        seed=top.whole("seed"),
        epoch=top.text("epoch"),
        step=top.whole("step"),
        phase=top.text("phase"),
        dataroot=data.text("dataroot") if "dataroot" in data.content else "",
        source=_images(data.object("source")),
        target=None if data.content.get("target") is None else _images(data.object("target")),
        options=top.object("options").content,
        metrics={name: _value(top.object("metrics").object(name)) for name in top.object("metrics").content},
        files=files,
        per_image=per_image,
        features=str(top.content.get("features") or ""),
        basis=top.object("basis").content if "basis" in top.content else {},
    )
    if path.stem != f"{found.phase}_{found.epoch}":
        raise EvaluationError(f"{where}: holds phase {found.phase!r}, epoch {found.epoch!r}; give it back its name")
    return found


def read_evaluations(run: Path, phase: str) -> list[Evaluation]:
    """All evaluations of a phase, in the order of training steps; of equal steps (latest and 100) one.

    Raises:
        EvaluationError: there are none.
        JsonError: one is damaged.
    """
    folder = run / FOLDER
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in files if path.name.startswith(f"{phase}_") and path.suffix == ".json"]
    read = [found for path in paths if (found := read_evaluation(path)).phase == phase]
    if not read:
        raise EvaluationError(
            f"{printable(folder)}: has no evaluation {phase}_EPOCH.json; run scripts/evaluate.py --name {run.name}"
        )
    # The same weights under two names count once; the number comes before the word `latest`.
    read.sort(key=lambda found: (found.step, found.epoch))
    return [found for number, found in enumerate(read) if number == 0 or found.step != read[number - 1].step]


def read_features(evaluation: Evaluation) -> Features | None:
    """The features beside an evaluation; None where they were not kept.

    Raises:
        EvaluationError: the file is damaged or does not belong to the evaluation.
    """
    path = evaluation.features_path
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = Features(stored["fake"], stored["real"], str(stored["kind"]))
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise EvaluationError(f"{printable(path)}: is damaged ({printable(error)}); evaluate again") from error
    for name, array in (("fake", found.fake), ("real", found.real)):
        if array.ndim != 2 or array.dtype != np.float32 or not bool(np.isfinite(array).all()):
            raise EvaluationError(f"{printable(path)}: {name} is no table of finite float32 numbers; evaluate again")
    if len(found.fake) != evaluation.source.count or found.fake.shape[1] != found.real.shape[1]:
        raise EvaluationError(
            f"{printable(path)}: fake {found.fake.shape} and real {found.real.shape} do not fit the "
            f"{evaluation.source.count} images of {evaluation.path.name}; evaluate again"
        )
    return found


def _images(fields: Fields) -> Images:
    return Images(fields.whole("count"), fields.text("digest"))


def _value(fields: Fields) -> Value:
    better = fields.text("better")
    if better not in _BETTER:
        fields.refuse("better", "lower, higher or empty")
    return Value(fields.number("value"), fields.number("spread"), fields.text("kind"), fields.text("note"), better)


def _per_image(fields: Fields) -> tuple[tuple[str, ...], dict[str, tuple[float | None, ...]]]:
    if not fields.content:
        return (), {}
    files = fields.items("file")
    if not all(isinstance(name, str) for name in files) or len(set(files)) < len(files):
        fields.refuse("file", "a list of different names")
    columns = {name: tuple(fields.items(name)) for name in fields.content if name not in ("file", "label")}
    for name, column in columns.items():
        if len(column) != len(files) or not all(map(is_number_or_none, column)):
            fields.refuse(name, f"a list of {len(files)} numbers or nulls, one for each file")
    return tuple(files), columns


# --- the protocol


def choose(evaluations: Sequence[Evaluation], rule: str, by: str | None = None) -> list[Evaluation]:
    """The evaluations of one run that count by a rule: one, or up to five whose mean counts.

    Args:
        evaluations: of one run, in the order of steps.
        rule: `last`, `best`, `mean5`, or an epoch as it stands in the file's name.
        by: the metric that `best` goes by; its direction is the evaluations'.

    Raises:
        EvaluationError: no evaluation of that epoch, or none has the metric.
    """
    if rule == "last":
        return list(evaluations[-1:])
    if rule == "mean5":
        return list(evaluations[-_OF_MEAN5:])
    if rule == "best":
        return [_best(evaluations, by or "")]
    chosen = [found for found in evaluations if found.epoch == rule]
    if not chosen:
        known = [found.epoch for found in evaluations]
        raise EvaluationError(
            f"--epoch {printable(rule)}: {evaluations[0].run} has no such evaluation{did_you_mean(rule, known)}; "
            f"there are {', '.join(known)}, and the rules {', '.join(RULES)}"
        )
    return chosen


def criterion(evaluations: Sequence[Evaluation]) -> str | None:
    """What `best` goes by unless told: KID, which is unbiased for small sets, else FID, else the first metric with a
    direction. Only metrics that every evaluation has a value of are asked; None where there is none."""
    shared = [
        name
        for name, value in evaluations[0].metrics.items()
        if value.better and all((v := found.metrics.get(name)) and v.value is not None for found in evaluations)
    ]
    return next((name for wanted in ("kid", "fid") for name in shared if name == wanted), next(iter(shared), None))


def mean_value(chosen: Sequence[Evaluation], metric: str) -> Value | None:
    """The mean of a metric over evaluations; without a number, with the reason, where one of them has none.

    None: no evaluation knows the metric.
    """
    known = [value for found in chosen if (value := found.metrics.get(metric))]
    if len(known) < len(chosen):
        return None
    numbers = [value.value for value in known if value.value is not None]
    if len(known) == 1 or len(numbers) < len(known):
        return next((value for value in known if value.value is None), known[0])
    return Value(math.fsum(numbers) / len(numbers), None, known[0].kind, known[0].note, known[0].better)


def check_comparable(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> None:
    """Refuse numbers of different images, or of different variants of a metric.

    Raises:
        EvaluationError: names two evaluations that differ, and what they differ in.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        for what in ("source", "target"):
            one, two = getattr(first, what), getattr(other, what)
            if one != two:
                raise _different(first, other, f"images ({what}: {_named(one)} and {_named(two)})")
        if first.files and other.files and first.files != other.files:
            raise _different(first, other, "images (their lists of files differ)")
    for metric in metrics:
        known = [(found, value) for found in evaluations if (value := found.metrics.get(metric))]
        known = [(found, value) for found, value in known if value.value is not None]
        for found, value in known[1:]:
            if (value.kind, value.better) != (known[0][1].kind, known[0][1].better):
                kinds = f"{known[0][1].kind!r} and {value.kind!r}"
                raise _different(known[0][0], found, f"features ({metric} is {kinds})")


def different_networks(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> list[str]:
    """A warning for each network whose weights differ between evaluations, with the metrics that it has measured.

    Their names may be the same: a classifier is named after its images, and not after its seed.
    """
    first: dict[tuple[str, str], Evaluation] = {}
    apart: dict[str, tuple[Evaluation, Evaluation, list[str]]] = {}
    for metric in metrics:
        for found in evaluations:
            value = found.metrics.get(metric)
            name = _network_of(found, metric, value) if value and value.value is not None else ""
            if not name or found.basis.get(name) is None:
                continue
            one = first.setdefault((metric, name), found)
            if one.basis[name] != found.basis[name]:
                measured = apart.setdefault(name, (one, found, []))[2]
                measured += [metric] if metric not in measured else []
    return [
        f"{', '.join(measured)}: {printable(one.path)} and {printable(two.path)} were measured by different networks "
        f"({name}: digests {printable(str(one.basis[name]))[:12]} and {printable(str(two.basis[name]))[:12]}), so part "
        "of a difference may be theirs; evaluate all runs with the same --judge_seed, --judge_epochs, --classifier and "
        "--features"
        for name, (one, two, measured) in apart.items()
    ]


def _network_of(found: Evaluation, metric: str, value: Value) -> str:
    """Which entry of the basis a metric was measured by; empty for a metric without a network of its own."""
    source, target = "classifier of the source", "classifier of the target"
    if metric.endswith("_source_judge") or metric in ("acc_train_source", "acc_train_fake"):
        return source  # the classifier of translations is not in the basis: it has the seed of that of the source
    if metric.endswith("_real_judge") or metric == "acc_train_real":
        return target
    if metric in ("flip_rate", "class_kept"):
        return target if target in found.basis else source
    return "features" if found.features and value.kind.startswith(found.features) else ""


def _best(evaluations: Sequence[Evaluation], metric: str) -> Evaluation:
    scored = [(value.value, found) for found in evaluations if (value := found.metrics.get(metric))]
    known = [(number, found) for number, found in scored if number is not None]
    if not known:
        raise EvaluationError(f"--best_by {printable(metric)}: {evaluations[0].run} has no value of it; name another")
    sign = -1 if known[0][1].metrics[metric].better == "higher" else 1
    if not known[0][1].metrics[metric].better:
        raise EvaluationError(f"--best_by {printable(metric)}: neither high nor low is better; name another")
    return min(known, key=lambda pair: sign * pair[0])[1]


def _different(one: Evaluation, two: Evaluation, what: str) -> EvaluationError:
    return EvaluationError(
        f"{printable(one.path)} and {printable(two.path)} were evaluated on different {what}; "
        "evaluate both anew with the same data and options, or leave one out"
    )


def _named(images: Images | None) -> str:
    return "none" if images is None else f"{images.count} with digest {printable(images.digest)[:12]}"
