"""From the command line to the frozen options of a run: flags over YAML over preset over default."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from data import DATASETS
from models import MODELS
from options import groups as g
from options.schema import Group, OptionError, build, describe_range, fields_of, show, spec_of, type_name
from options.yaml_config import dump_yaml, read_yaml

# Flags of the published codes that have nothing to set here. They are accepted, with the reason printed once.
MEANINGLESS = {
    "easy_label": "runs are listed by --name",
    "display_winsize": "pictures are shown at their own size",
    "random_scale_max": "no preprocess mode uses it",
    "stylegan2_G_num_downsampling": "there is no StyleGAN2 generator here",
    "evaluation_freq": "scores come from the logs of the run, not from inside the training loop",
    "pool_size": "CUT's loop has no image pool",
    "load_model": "the networks to load follow from the run",
}


@dataclass(frozen=True)
class RunOptions:
    """Every option of a run, group by group. Goes no further than the builders."""

    experiment: g.Experiment
    data: g.Data
    networks: g.Networks
    optim: g.Optim
    schedule: g.Schedule
    log: g.Log
    runtime: g.Runtime
    model: Group
    dataset: Group
    extra: tuple[Group, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(self.experiment.checkpoints_dir) / self.experiment.name

    def groups(self) -> list[Group]:
        """All groups but the extra ones, in the order of the YAML file."""
        named = [getattr(self, item.name) for item in fields(self) if item.name != "extra"]
        return [group for group in named if fields(group)]


X = TypeVar("X", bound=Group)


def extra(options: RunOptions, kind: type[X]) -> X:
    """The group of that kind among the extra ones (inference scripts add some)."""
    return next(group for group in options.extra if isinstance(group, kind))


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are one line that suggests the nearest flag."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def train_options(argv: Sequence[str] | None = None) -> RunOptions:
    """The options of train.py. `--help` and `--dry_run` print and exit.

    Raises:
        OptionError: an unknown flag, a bad value, or a contradiction.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = _first_look(argv)
    config = read_yaml(Path(first["config"])) if first.get("config") else {}
    model = first.get("model") or config.get("model") or _model_of_flags(argv)
    dataset = first.get("dataset_mode") or config.get("dataset_mode") or MODELS.get(model).DATASET_MODE
    kinds = _kinds(model, dataset)
    given = _parse(kinds, argv, prog="train.py", examples=_TRAIN_EXAMPLES)
    options = assemble(kinds, {"model": model, "dataset_mode": dataset}, config, given)
    if first.get("dry_run"):
        print(dump_yaml(options.groups()), end="")
        raise SystemExit(0)
    if not options.data.dataroot:
        raise OptionError("--dataroot: give the folder that holds trainA and trainB")
    return options


def inference_options(
    extras: tuple[type[Group], ...], argv: Sequence[str] | None = None, prog: str = "test.py"
) -> RunOptions:
    """The options of test.py and cam_infer.py: the run's own, read from its folder, with flags over them.

    Raises:
        OptionError: no such run, or a flag that contradicts what the weights were trained with.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = _first_look(argv)
    base = g.Experiment()
    if "help" in first and "name" not in first:
        _parse(_kinds(g.Experiment().model, g.Data().dataset_mode) + extras, argv, prog, _TEST_EXAMPLES)
    folder = Path(first.get("checkpoints_dir", base.checkpoints_dir)) / first.get("name", base.name)
    if not (folder / OPTIONS_FILE).is_file():
        raise OptionError(
            f"--name {first.get('name', base.name)}: {folder / OPTIONS_FILE} does not exist; "
            "give --name and --checkpoints_dir of a run that train.py has started"
        )
    saved = read_yaml(folder / OPTIONS_FILE)
    kinds = _kinds(saved["model"], saved["dataset_mode"])
    given = _parse(kinds + extras, argv, prog, _TEST_EXAMPLES)
    fixed = {
        "model": g.Experiment,
        **{name: kind for kind in (kinds[2], kinds[-2]) for name in fields_of(kind)},
    }
    before, after = assemble(kinds, {}, saved, {}), assemble(kinds, {}, saved, given, extras)
    for name in fixed:
        old, new = _value(before, name), _value(after, name)
        if name in given and old != new:
            raise OptionError(
                f"--{name} {show(new)}: the run {folder} was trained with {show(old)}; leave the flag out"
            )
    return after


OPTIONS_FILE = "options.yaml"


def assemble(
    kinds: tuple[type[Group], ...],
    chosen: Mapping[str, Any],
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    extras: tuple[type[Group], ...] = (),
) -> RunOptions:
    """Build every group, flags over YAML over preset over default.

    Raises:
        OptionError: a YAML key that is no option of this run, or a value that cannot be used.
    """
    known = [name for kind in kinds + extras for name in fields_of(kind)]
    for key in config:
        if key not in known:
            raise OptionError(f"{key}: no option of this run{_suggest(key, known)} (in the YAML file)")
    explicit = {**config, **chosen, **given}
    values: dict[str, Any] = {}
    for kind in kinds:
        values.update(kind.preset(explicit))
    built: list[Any] = [build(kind, {**values, **explicit}) for kind in kinds]
    named = dict(zip([item.name for item in fields(RunOptions)], built, strict=False))  # all but `extra`
    return RunOptions(**named, extra=tuple(build(kind, explicit) for kind in extras))


def _kinds(model: str, dataset: str) -> tuple[type[Group], ...]:
    kinds = (*g.COMMON, MODELS.get(model).Options, DATASETS.get(dataset).Options)
    seen: dict[str, type[Group]] = {}
    for kind in kinds:
        for name in fields_of(kind):
            if name in seen:
                raise TypeError(f"the option {name} is in both {seen[name].__name__} and {kind.__name__}")
            seen[name] = kind
    return kinds


def _value(options: RunOptions, name: str) -> Any:
    return next(getattr(group, name) for group in options.groups() if hasattr(group, name))


def _first_look(argv: list[str]) -> dict[str, Any]:
    """The few flags that decide which other flags there are."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in ("model", "dataset_mode", "config", "name", "checkpoints_dir"):
        parser.add_argument(f"--{flag}", default=argparse.SUPPRESS)
    for flag in ("dry_run", "help"):
        parser.add_argument(f"--{flag}", action="store_true", default=argparse.SUPPRESS)
    return vars(parser.parse_known_args(argv)[0])


def _model_of_flags(argv: list[str]) -> str:
    """`cut`, or the one model that owns a given flag that cut does not know."""
    flags = {arg[2:].split("=")[0] for arg in argv if arg.startswith("--")}
    default = g.Experiment().model
    common = {name for kind in (*g.COMMON, MODELS.get(default).Options) for name in fields_of(kind)}
    unknown = flags - common
    owners = [
        name
        for name in MODELS.names()
        if name != default and unknown & set(fields_of(MODELS.get(name).Options))
    ]
    if len(owners) != 1:
        return default
    print(
        f"--model {owners[0]}: chosen because of --{sorted(unknown & set(fields_of(MODELS.get(owners[0]).Options)))[0]}"
    )
    return owners[0]


def _parse(kinds: Sequence[type[Group]], argv: list[str], prog: str, examples: str) -> dict[str, Any]:
    """The given flags by option name, as texts; a flag that is not given is absent."""
    parser = Parser(
        prog=prog,
        allow_abbrev=False,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"python {prog} --dataroot DIR --name RUN [flags]",
    )
    tools = parser.add_argument_group("configuration")
    tools.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="options from a YAML file")
    tools.add_argument(
        "--dry_run", action="store_true", default=argparse.SUPPRESS, help="print the options as YAML and stop"
    )
    for kind in kinds:
        _add_group(parser, kind)
    for flag in MEANINGLESS:
        parser.add_argument(f"--{flag}", nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    namespace, rest = parser.parse_known_args(argv)
    known = [name for kind in kinds for name in fields_of(kind)]
    if rest:
        flag = rest[0].split("=")[0].lstrip("-")
        if not rest[0].startswith("--"):
            raise OptionError(f"{rest[0]}: belongs to no flag; flags begin with --")
        raise OptionError(f"--{flag}: no such flag{_suggest(flag, known)}; --help lists them all")
    given = vars(namespace)
    for flag in sorted(set(given) & set(MEANINGLESS)):
        print(f"--{flag} does nothing here: {MEANINGLESS[flag]}")
    return {name: value for name, value in given.items() if name in known}


def _add_group(parser: argparse.ArgumentParser, kind: type[Group]) -> None:
    title = (kind.__doc__ or kind.__name__).strip().splitlines()[0]
    group = parser.add_argument_group(title)
    for name, (type_, item) in fields_of(kind).items():
        spec = spec_of(item)
        notes = [describe_range(spec)] if spec.low is not None or spec.high is not None else []
        text = f"{spec.help} [{show(item.default)}{'; ' if notes else ''}{''.join(notes)}]".replace("%", "%%")
        many = "tuple" in str(type_)
        group.add_argument(
            *[f"--{spelling}" for spelling in (name, *spec.aliases)],
            dest=name,
            nargs="?" if type_ is bool else "+" if many else None,
            const="True" if type_ is bool else None,
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(spec.choices) + "}" if spec.choices else _metavar(type_),
            help=text,
        )


def _metavar(kind: Any) -> str:
    words = {"True or False": "BOOL", "a whole number": "N", "a number": "X", "text": "TEXT"}
    return words.get(type_name(kind), "N,N,...")


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean --{near[0]}?)" if near else ""


_TRAIN_EXAMPLES = """examples
  python train.py --model cutcam --dataroot datasets/my_data --name my_run
  python train.py --model cutcam --dataroot datasets/my_data --name my_run --continue_train
  python train.py --dataroot datasets/my_data --name fast --CUT_mode FastCUT --dry_run
  torchrun --nproc_per_node 2 train.py --model cutcam --dataroot datasets/my_data --name two
"""
_TEST_EXAMPLES = """examples
  python test.py --dataroot datasets/my_data --name my_run
  python cam_infer.py --dataroot datasets/my_data --name my_run --class_idx 2 --save_raw
"""
