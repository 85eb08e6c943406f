"""From the command line to the frozen options of a run: flags over YAML over preset over default."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from data import DATASETS
from data.images import parse_window
from models import MODELS
from models.builders import check_judged_size
from models.terms import TERMS
from options import groups as g
from options import help_page, presets
from options.flags import Parser, flag_of, parse_flags, suggest
from options.owners import brought_by, model_of, terms_of
from options.schema import (
    Group,
    OptionError,
    build,
    check_given,
    check_name,
    check_place,
    convert,
    fields_of,
    shorten,
    show,
    spec_of,
)
from options.suffix import with_suffix
from options.tiles import tiled_at_own_size
from options.yaml_config import check_whole, dump_yaml, read_config, read_yaml
from util.checkpoint import STATE_FILE, CheckpointError

OPTIONS_FILE = "options.yaml"
# What weights and saved windows belong to, beside the options of networks and model.
FIXED = ("model", "direction", "window_A", "window_B")
_WHOLE_NAME = "--suffix {}: give the run's whole name, suffix included, by --name"
# What says where a run lies. A run may have been copied or come from a stranger, so the command alone decides.
PLACE = ("name", "checkpoints_dir", "suffix")
# What only the first start of a run reads: CUT's users repeat it when they continue, and it must not be kept as theirs.
FIRST = ("pretrained_name", "epoch", "epoch_count")


@dataclass(frozen=True)
class RunOptions:
    """Every option of a run, group by group. Goes no further than the builders.

    Attributes:
        terms: of the extra losses, in the order of --extra_losses.
        given: names of the options that this command gave as flags.
        published: there is no run behind the weights: all options are flags and defaults.
        turned: the weights were trained in the other direction, and their way back is used.
        untiled: --preprocess without --tile, which has set it to none; empty: it has not.
    """

    experiment: g.Experiment
    data: g.Data
    networks: g.Networks
    optim: g.Optim
    schedule: g.Schedule
    log: g.Log
    runtime: g.Runtime
    model: Group
    dataset: Group
    terms: tuple[Group, ...] = ()
    extra: tuple[Group, ...] = ()
    given: frozenset[str] = field(default=frozenset(), compare=False)
    published: bool = field(default=False, compare=False)
    turned: bool = field(default=False, compare=False)
    untiled: str = field(default="", compare=False)

    @property
    def channels(self) -> tuple[int, int]:
        """Of source and target images, in this command's direction."""
        trained = self.networks.input_nc, self.networks.output_nc
        return (trained[1], trained[0]) if self.turned else trained

    @property
    def folder(self) -> Path:
        """The run's folder, which holds its checkpoints, logs and pages."""
        return Path(self.experiment.checkpoints_dir) / self.experiment.name

    def groups(self) -> list[Group]:
        """All groups but the extra ones, in the order of the YAML file."""
        named = [*(getattr(self, name) for name in _GROUPS), *self.terms]
        return [group for group in named if fields(group)]

    def lasting(self) -> list[Group]:
        """The groups as a file keeps them: that a command has continued a run is no property of the run."""
        return replace(self, experiment=replace(self.experiment, continue_train=False)).groups()


_NOT_GROUPS = ("terms", "extra", "given", "published", "turned", "untiled")
_GROUPS = [item.name for item in fields(RunOptions) if item.name not in _NOT_GROUPS]
X = TypeVar("X", bound=Group)


def extra(options: RunOptions, kind: type[X]) -> X:
    """The group of that kind among the extra ones (inference scripts add some)."""
    return next(group for group in options.extra if isinstance(group, kind))


def train_options(argv: Sequence[str] | None = None) -> RunOptions:
    """The options of train.py. `--help` and `--dry_run` print and exit.

    `--continue_train` without `--config` starts from the options the run was started with.

    Raises:
        OptionError: an unknown flag, a bad value, or a contradiction.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = _first_look(argv)
    if "help" in first and not {"model", "config", "preset", "continue_train"} & set(first):
        print(help_page.overview())
        raise SystemExit(0)
    own = _run_to_continue(first)
    preset = presets.asked_for(first.get("preset"), own is not None)
    if "config" in first:
        check_place("config", first["config"])
    given_file = Path(first["config"]) if "config" in first else None
    file = given_file or own
    words = {flag_of(word) for word in argv if word.startswith("--")}
    config = read_config(given_file, words) if given_file else read_yaml(own) if own else {}
    # Older versions have kept in a run's file that it was continued. The command alone says that, too.
    left_out = ("continue_train", *PLACE) if file == own else ("continue_train",)
    config = {name: value for name, value in config.items() if name not in left_out}
    model = str(
        (config.get("model") if file == own else None)  # a flag that contradicts it is refused below, by its value
        or first.get("model")
        or config.get("model")
        or preset.values.get("model")
        or model_of(words | set(config), first, config)
    )
    dataset = str(first.get("dataset_mode") or config.get("dataset_mode") or MODELS.get(model).DATASET_MODE)
    terms = terms_of(model, first, config)
    kinds = _kinds(model, dataset, terms)
    if own and file == own:  # flags of losses that are asked for no longer
        gone = {name for term in set(TERMS.names()) - set(terms) for name in fields_of(TERMS.get(term).Options)}
        config = {name: value for name, value in config.items() if name not in gone}
    given = parse_flags(kinds, argv, "train.py", help_page.examples(model), brought_by, presets.PRESETS)
    for flag in sorted(set(given) & MODELS.get(model).unread):
        print(f"--{flag} does nothing here: --model {model} has no G and no D", file=sys.stderr)
    if own:
        _check_place(given)
    if own and file == own:
        given = {name: value for name, value in given.items() if name not in FIRST}
    chosen = {"model": model, "dataset_mode": dataset}
    presets.say_overruled(kinds, config, given, str(file))
    rows = presets.in_force(preset, {name for kind in kinds for name in fields_of(kind)}, {**config, **given})
    options = with_suffix(assemble(kinds, chosen, config, given, source=str(file), preset=rows))
    _check_values(options)
    check_judged_size(options)
    if options.experiment.continue_train:
        _check_continued(options, "config" in first)
    else:
        _check_epochs(options.schedule)
    if "dry_run" in first:
        print(dump_yaml(options.lasting()), end="")
        raise SystemExit(0)
    if not options.data.dataroot:
        raise OptionError("--dataroot: give the folder that holds trainA and trainB")
    return options


def inference_options(
    extras: tuple[type[Group], ...],
    argv: Sequence[str] | None = None,
    prog: str = "test.py",
    turns: bool = False,
) -> RunOptions:
    """The options of test.py and cam_infer.py: the run's own, read from its folder, with flags over them.

    A folder that holds nothing but weights, as CUT publishes them, has the defaults of --model under the flags.

    Args:
        turns: --direction may be the other one than that of the training, where the model has a way back.

    Raises:
        OptionError: no such run, or a flag that contradicts what the weights were trained with.
    """
    argv = _at_checkpoint(list(sys.argv[1:] if argv is None else argv))
    first = _first_look(argv)
    folder, base = _run_folder(first), g.Experiment()
    is_run = os.path.lexists(folder / OPTIONS_FILE)
    published = not is_run and _has_weights(folder, str(first.get("model", base.model)))
    if "help" in first and not is_run:
        parse_flags(_kinds(base.model, g.Data().dataset_mode) + extras, argv, prog, help_page.TEST_EXAMPLES, brought_by)
    if not is_run and not published:
        raise OptionError(
            f"--name {folder.name}: {folder / OPTIONS_FILE} does not exist; give --name and --checkpoints_dir "
            f"of a run that train.py has started{_runs_in(folder.parent)}"
        )
    saved = read_yaml(folder / OPTIONS_FILE) if is_run else _of_weights(str(first.get("model", base.model)))
    for name in ("epoch", *PLACE):  # the epoch is that of the weights the training began with
        saved.pop(name, None)
    model = str(saved.get("model", base.model))
    kinds = _kinds(model, str(saved.get("dataset_mode", g.Data().dataset_mode)), terms_of(model, {}, saved))
    given = parse_flags(kinds + extras, argv, prog, help_page.TEST_EXAMPLES, brought_by)
    if given.get("suffix"):
        raise OptionError(_WHOLE_NAME.format(given["suffix"]))
    source = str(folder / OPTIONS_FILE)
    after = replace(assemble(kinds, {}, saved, given, extras, source), published=published)
    if "on_bad_image" not in given:  # what a training may pass over, a result must not lack without being asked
        after = replace(after, data=replace(after.data, on_bad_image=g.Data().on_bad_image))
    DATASETS.get(after.data.dataset_mode)
    _check_values(after)
    if given.get("dataroot") == "":
        raise OptionError("--dataroot '': is empty; give the folder of the images")
    before = assemble(kinds, {}, saved, {}, source=source)
    if turns and after.data.direction != before.data.direction and MODELS.get(model).back_translator:
        after = replace(after, turned=True)
    if is_run:
        check_whole(folder / OPTIONS_FILE, saved, kinds)
        names = [*_fixed(after.networks.netG), *fields_of(type(after.networks)), *fields_of(type(after.model))]
        if fault := _contradiction(before, after, [name for name in names if name != "direction" or not after.turned]):
            raise OptionError(f"{fault}; leave the flag out")
    after = tiled_at_own_size(after)
    if "dry_run" in first:
        print(dump_yaml([*after.groups(), *after.extra]), end="")
        raise SystemExit(0)
    return after


def _of_weights(model: str) -> dict[str, Any]:
    """What is known of weights without a run."""
    return {"model": model, "dataset_mode": MODELS.get(model).DATASET_MODE}


def _has_weights(folder: Path, model: str) -> bool:
    """Whether a folder holds a translator's weights, under the model's own name for it or as G."""
    return any(True for net in {MODELS.get(model).translator, "G"} for _ in folder.glob(f"*_net_{net}.pth"))


def _contradiction(before: RunOptions, after: RunOptions, names: Sequence[str]) -> str:
    """The first of these options that a flag has changed since a run was trained, with both values; or nothing."""
    for name in names:
        old, new = _value(before, name), _value(after, name)
        if old != new:
            return f"--{name} {show(new)}: the run {after.folder} was trained with {show(old)}"
    return ""


def _fixed(nets: str) -> tuple[str, ...]:
    """Options that stay as the weights were trained; StyleGAN2's networks have widths by the size of images."""
    return (*FIXED, "crop_size") if "stylegan2" in nets else FIXED


def _check_epochs(schedule: g.Schedule) -> None:
    """Raise where there is no epoch to train."""
    last = schedule.last_epoch
    if last < schedule.epoch_count:
        raise OptionError(f"--epoch_count {schedule.epoch_count}: the last epoch is {last}; raise --n_epochs")


def _check_continued(run: RunOptions, other_file: bool) -> None:
    """Raise where a run to continue has lost its options, or its checkpoint belongs to other ones.

    Args:
        other_file: the options come from a --config.

    Raises:
        OptionError, CheckpointError: as said.
    """
    file = run.folder / OPTIONS_FILE
    if not os.path.lexists(file):
        if not any(run.folder.glob("*")):
            place = Path(run.experiment.checkpoints_dir)
            raise OptionError(
                f"--continue_train: there is no run {run.experiment.name} in {place}{_runs_in(place)}; correct "
                "--name or --checkpoints_dir, or start the run without the flag"
            )
        if not other_file and (run.folder / STATE_FILE).exists():
            raise OptionError(f"--continue_train: {file} does not exist; restore it, or give all options by --config")
        return
    saved = {name: value for name, value in read_yaml(file).items() if name not in PLACE}
    model = str(saved.get("model", run.experiment.model))
    kinds = _kinds(model, run.data.dataset_mode, terms_of(model, {}, saved))
    check_whole(file, saved, kinds)
    known = {name for kind in kinds for name in fields_of(kind)}
    before = assemble(kinds, {}, {name: saved[name] for name in saved if name in known}, {}, source=str(file))
    fixed = _fixed(run.networks.netG + run.networks.netD)
    fault = _contradiction(before, run, [*fixed, *fields_of(type(run.networks)), *run.model.SHAPES])
    if fault:
        raise CheckpointError(f"{fault}, so it does not fit the options of this command; leave out the changed flags")


def _check_place(given: Mapping[str, Any]) -> None:
    """Raise where flags say from which epoch to continue: a run goes on where its newest checkpoint stands."""
    for name, plain in (("epoch", "latest"), ("epoch_count", "1")):
        if given.get(name, plain) != plain:
            raise OptionError(
                f"--{name} {given[name]}: --continue_train goes on where the run stands, its learning rate too; leave "
                "the flag out, or begin a new --name from an epoch's weights by --pretrained_name RUN --epoch N"
            )


def _check_values(run: RunOptions) -> None:
    """Raise where names lead out of their folders, or a window is none: what a type and a range cannot say."""
    for group in (*run.groups(), *run.extra):
        check_given(group)
    experiment = run.experiment
    check_name("name", experiment.name, folders=True)
    check_name("epoch", experiment.epoch)
    if experiment.pretrained_name is not None:
        check_name("pretrained_name", experiment.pretrained_name, folders=True)
    places = {"checkpoints_dir": experiment.checkpoints_dir}
    for wanted in run.extra:
        if isinstance(wanted, g.Inference):
            check_name("phase", wanted.phase)
            places["results_dir"] = wanted.results_dir
    for flag, place in places.items():
        check_place(flag, place)
    for flag, window in (("window_A", run.data.window_A), ("window_B", run.data.window_B)):
        try:
            parse_window(window)
        except ValueError as error:
            raise OptionError(f"--{flag} {shorten(window)}: {shorten(str(error), 200)}") from error


def assemble(
    kinds: tuple[type[Group], ...],
    chosen: Mapping[str, Any],
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    extras: tuple[type[Group], ...] = (),
    source: str = "the YAML file",
    preset: Mapping[str, Any] | None = None,
) -> RunOptions:
    """Build every group, flags over YAML over preset over default.

    Args:
        source: what `config` was read from.
        preset: values of --preset; what follows from a given mode goes before them.

    Raises:
        OptionError: a YAML key that is no option of this run, or a value that cannot be used.
    """
    known = [name for kind in (*kinds, *extras) for name in fields_of(kind)]
    for key in config:
        if key not in known:
            near = suggest(key, known)
            raise OptionError(f"{source}: {shorten(key)}: no option of this run{near}; correct or remove the line")
    explicit = {**config, **chosen, **given}
    values: dict[str, Any] = {}
    for kind in kinds:
        values.update(kind.preset({**(preset or {}), **explicit}))
    values.update(preset or {})
    for kind in kinds:
        values.update(kind.preset(explicit))
    try:
        built: list[Any] = [build(kind, {**values, **explicit}) for kind in kinds]
        more = tuple(build(kind, explicit) for kind in extras)
    except OptionError as error:
        flag = flag_of(re.split("[ :]", str(error))[0])
        raise OptionError(f"{source}: {error}" if flag in set(config) - set(given) else str(error)) from error
    fixed, terms = built[: len(_GROUPS)], tuple(built[len(_GROUPS) :])
    return RunOptions(**dict(zip(_GROUPS, fixed, strict=True)), terms=terms, extra=more, given=frozenset(given))


def _kinds(model: str, dataset: str, terms: Sequence[str] = ()) -> tuple[type[Group], ...]:
    kinds = (*g.COMMON, MODELS.get(model).Options, DATASETS.get(dataset).Options)
    kinds += tuple(TERMS.get(name).Options for name in terms)
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
    for flag in ("model", "dataset_mode", "extra_losses", "config", "preset", *PLACE):
        parser.add_argument(f"--{flag}", default=argparse.SUPPRESS)
    parser.add_argument("--continue_train", nargs="?", const="True", default=argparse.SUPPRESS)
    parser.add_argument("--dry_run", action="store_true", default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true", default=argparse.SUPPRESS)
    return vars(parser.parse_known_args(argv)[0])


def _at_checkpoint(argv: list[str]) -> list[str]:
    """The command with `--checkpoint FOLDER` as the two flags that it stands for.

    Raises:
        OptionError: it is given beside one of them, or is no folder's name.
    """
    if not any(flag_of(word) == "checkpoint" and word.startswith("--") for word in argv):
        return argv
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint")
    found, rest = parser.parse_known_args(argv)
    both = {"name", "checkpoints_dir"} & {flag_of(word) for word in rest if word.startswith("--")}
    if both:
        raise OptionError(f"--checkpoint {shorten(found.checkpoint)}: stands for --{min(both)}; give one of them")
    check_place("checkpoint", found.checkpoint)
    folder = Path(os.path.normpath(found.checkpoint))
    if folder.is_file():
        raise OptionError(f"--checkpoint {shorten(found.checkpoint)}: is a file; give its folder, {folder.parent}")
    if folder.name in ("", ".."):  # also of `.`
        folder = Path(os.path.abspath(folder))
    return [f"--checkpoints_dir={folder.parent}", f"--name={folder.name}", *rest]


def _run_folder(first: Mapping[str, str]) -> Path:
    base = g.Experiment()
    place, name = first.get("checkpoints_dir", base.checkpoints_dir), first.get("name", base.name)
    check_place("checkpoints_dir", place)
    check_name("name", name, folders=True)
    return Path(place) / name


def _runs_in(folder: Path) -> str:
    """`; there are: a, b` for the newest runs of a folder, or nothing."""
    files = sorted(folder.glob(f"*/{OPTIONS_FILE}"), key=lambda file: -file.stat().st_mtime)
    names = [file.parent.name for file in files]
    return f"; there are: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ""


def _run_to_continue(first: Mapping[str, str]) -> Path | None:
    """The options that a run to be continued was started with, where it has some."""
    _, item = fields_of(g.Experiment)["continue_train"]
    own = _run_folder(first) / OPTIONS_FILE
    again = convert("continue_train", bool, spec_of(item), first.get("continue_train", "False"))
    if again and first.get("suffix"):
        raise OptionError(_WHOLE_NAME.format(first["suffix"]))
    return own if again and os.path.lexists(own) else None
