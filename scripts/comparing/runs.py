"""From names on the command line to methods: runs that differ in nothing but the seed are one method."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from options.groups import Log, Runtime
from options.schema import OptionError, fields_of
from util.errors import printable
from util.evaluations import Evaluation, read_evaluations
from util.registry import did_you_mean

# What changes neither the images a run is trained on nor how: names, folders, speed, what is logged.
OF_NO_EFFECT = frozenset(
    {
        *("name", "seed", "checkpoints_dir", "results_dir", "continue_train", "epoch", "suffix", "verbose"),
        *("num_threads", "cache", "cache_gb", "cache_dir"),
        *fields_of(Log),
        *fields_of(Runtime),
    }
)
_SEED_AT_THE_END = re.compile(r"([\W_]+(seed|s)?|seed)?[\W_]*\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """One training with its evaluations of a phase, in the order of steps."""

    name: str
    evaluations: tuple[Evaluation, ...]

    @property
    def seed(self) -> int:
        """The seed it was trained with."""
        return self.evaluations[-1].seed


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seeds only, or that --group calls one method."""

    name: str
    runs: tuple[Run, ...]


def read_methods(checkpoints_dir: Path, names: Sequence[str], groups: Sequence[str], phase: str) -> list[Method]:
    """The methods of a comparison, in the order they were named; groups first where a run stands in both.

    Args:
        names: run folders below `checkpoints_dir`.
        groups: `NAME=RUN1,RUN2`; their runs need not be among `names`.

    Raises:
        OptionError: no run, an unknown or a doubled one, a group that is none, two runs of one seed in a method.
        EvaluationError, JsonError: a run without evaluations, or with damaged ones.
    """
    grouped = dict(_parse_group(text) for text in groups)
    if len(grouped) < len(groups):
        raise OptionError("--group: two groups have one name; name them apart")
    in_groups = [name for runs in grouped.values() for name in runs]
    single = [name for name in names if name not in in_groups]
    _check_unique([*single, *in_groups])
    runs = {name: _read_run(checkpoints_dir, name, phase) for name in [*single, *in_groups]}
    if not runs:
        raise OptionError("name at least one run: compare.py RUN_A RUN_B, or --group NAME=RUN1,RUN2")
    methods = [Method(name, tuple(runs[run] for run in members)) for name, members in grouped.items()]
    methods += _group_by_options([runs[name] for name in single])
    for method in methods:
        _check_seeds(method)
    if doubled := {method.name for method in methods if sum(m.name == method.name for m in methods) > 1}:
        raise OptionError(f"two methods have the name {printable(min(doubled))}; name them apart with --group")
    order = [*names, *in_groups]
    return sorted(methods, key=lambda method: min(order.index(run.name) for run in method.runs))


def _parse_group(text: str) -> tuple[str, list[str]]:
    name, sign, members = text.partition("=")
    runs = [run for run in members.split(",") if run]
    if not (name and sign and runs):
        raise OptionError(f"--group {printable(text)}: should be NAME=RUN1,RUN2")
    return name, runs


def _check_unique(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"the run {printable(name)} is named twice; it counts once")


def _read_run(checkpoints_dir: Path, name: str, phase: str) -> Run:
    folder = checkpoints_dir / name
    if not folder.is_dir():
        known = sorted(item.name for item in checkpoints_dir.iterdir()) if checkpoints_dir.is_dir() else []
        raise OptionError(
            f"run {printable(name)}: there is no folder {printable(folder)}{did_you_mean(name, known)}; "
            "--checkpoints_dir names the folder that holds the runs"
        )
    return Run(name, tuple(read_evaluations(folder, phase)))


def _group_by_options(runs: Sequence[Run]) -> list[Method]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_settings(run.evaluations[-1]), []).append(run)
    names = [_common_name([run.name for run in members]) for members in groups.values()]
    return [
        Method(name if names.count(name) == 1 else "+".join(run.name for run in members), tuple(members))
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _settings(evaluation: Evaluation) -> str:
    """What makes a method: model and options that matter. Of the data root its last folder: disks differ."""
    options: Mapping[str, Any] = {name: value for name, value in evaluation.options.items() if name not in OF_NO_EFFECT}
    root = {"dataroot": PurePath(str(options["dataroot"])).name} if "dataroot" in options else {}
    return json.dumps([evaluation.model, {**options, **root}], sort_keys=True)


def _common_name(names: Sequence[str]) -> str:
    """`cutcam` of cutcam_s1 and cutcam_s2; one run keeps its name."""
    if len(names) == 1:
        return names[0]
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return _SEED_AT_THE_END.sub("", "".join(letters[0] for letters in shared)) or names[0]


def _check_seeds(method: Method) -> None:
    seeds: dict[int, str] = {}
    for run in method.runs:
        if run.seed in seeds:
            raise OptionError(
                f"{printable(seeds[run.seed])} and {printable(run.name)} are one method with one seed, {run.seed}: "
                "leave one out, or make them two methods with --group A=RUN1 and --group B=RUN2"
            )
        seeds[run.seed] = run.name
