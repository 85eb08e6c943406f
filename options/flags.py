"""Flags made from groups of options, by argparse; what is given comes back as texts."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NoReturn

from options.groups import COMMON
from options.schema import Group, OptionError, Size, describe_range, fields_of, show, spec_of, type_name

# Flags of the published codes that have nothing to set here. They are accepted, with the reason printed once.
MEANINGLESS = {
    "easy_label": "runs are listed by --name",
    "display_winsize": "pictures are shown at their own size",
    "random_scale_max": "only --dataset_mode singleimage zooms by it",
    "evaluation_freq": "--eval_freq measures while training, in epochs",
    "pool_size": "CUT's loop has no image pool",
    "nfdf": "no network of SRUNIT has that width; its own code does not read it either",
    "load_model": "the networks to load follow from the run",
    "phase": "training reads the folders trainA and trainB",
}

# Flags of CUT's older versions, by what they are called since.
RENAMED = {"niter": "n_epochs", "niter_decay": "n_epochs_decay"}


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are one line that suggests the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage before it ends the process."""
        raise OptionError(re.sub(r"^argument (\S+): expected .*argument$", r"\1: needs a value after it", message))


def flag_of(word: str) -> str:
    """The option's name in `--name` or `--name=value`."""
    return word.removeprefix("--").split("=")[0]


def parse_flags(
    kinds: Sequence[type[Group]],
    argv: Sequence[str],
    prog: str,
    examples: str,
    brought_by: Callable[[str], list[str]] = lambda name: [],
    presets: Collection[str] = (),
) -> dict[str, Any]:
    """The given flags by option name, as texts; one that is not given is absent. `--help` prints and exits.

    Args:
        prog: the script's name; train.py alone takes a --config and a --preset.
        examples: shown at the end of the help.
        brought_by: option name -> flags that bring it, for the message about a flag that is not of this run.
        presets: names that --preset takes.

    Raises:
        OptionError: an unknown flag, or one without its value.
    """
    parser = Parser(
        prog=prog,
        allow_abbrev=False,
        epilog=examples,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        usage=f"python {prog} --dataroot DIR --name RUN [flags]",
        description="Square brackets hold the default and the values that are allowed.",
    )
    tools = parser.add_argument_group("configuration")
    if prog == "train.py":
        tools.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="options from a YAML file")
        names, text = "{" + ",".join(presets) + "}", "a set of options under one name, listed at the end"
        tools.add_argument("--preset", metavar=names, default=argparse.SUPPRESS, help=text)
    else:
        tools.add_argument(
            "--checkpoint",
            metavar="FOLDER",
            default=argparse.SUPPRESS,
            help="the run's folder, in place of --checkpoints_dir and --name",
        )
    tools.add_argument(
        "--dry_run", action="store_true", default=argparse.SUPPRESS, help="print the options as YAML and stop"
    )
    # What cam_infer.py calls --cam_method is no training option of the run, which keeps its own.
    taken = {alias for kind in kinds for _, item in fields_of(kind).values() for alias in spec_of(item).aliases}
    for kind in sorted(kinds, key=COMMON.__contains__):  # what is this command's own comes first
        _add_group(parser, kind, taken)
    known = [name for kind in kinds for name in fields_of(kind)]
    ignored = [flag for flag in MEANINGLESS if flag not in known]
    for flag in ignored:
        parser.add_argument(f"--{flag}", nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    namespace, rest = parser.parse_known_args(_with_negative_values(argv))
    if rest:
        raise OptionError(_unknown(rest[0], known, brought_by(flag_of(rest[0]))))
    given = vars(namespace)
    for flag in sorted(set(given) & set(ignored)):
        print(f"--{flag} does nothing here: {MEANINGLESS[flag]}", file=sys.stderr)
    return {name: value for name, value in given.items() if name in known}


def _with_negative_values(argv: Sequence[str]) -> list[str]:
    """`--window_A -10,40` as `--window_A=-10,40`: argparse takes only a plain negative number for a value."""
    words: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and words and re.fullmatch(r"--\w+", words[-1]):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _unknown(word: str, known: Sequence[str], brought_by: list[str]) -> str:
    """What to say about a word of the command that no flag takes."""
    if not word.startswith("--"):
        return f"{word}: belongs to no flag; flags begin with --"
    flag = flag_of(word)
    if brought_by and flag.casefold() not in map(str.casefold, known):
        return f"--{flag}: belongs to {' or '.join(brought_by)}"
    return f"--{flag}: no such flag{suggest(flag, known)}; --help lists them all"


def _add_group(parser: argparse.ArgumentParser, kind: type[Group], taken: Collection[str]) -> None:
    """The flags of a group, but for those whose name another option has taken as its alias."""
    title = (kind.__doc__ or kind.__name__).strip().splitlines()[0]
    group = parser.add_argument_group(title)
    for name, (type_, item) in fields_of(kind).items():
        if name in taken:
            continue
        spec = spec_of(item)
        default = "none" if item.default is None else show(item.default)
        notes = "; ".join(part for part in (default, describe_range(spec)) if part)
        text = (f"{spec.help} [{notes}]" if notes else spec.help).replace("%", "%%")
        many = "tuple" in str(type_)
        group.add_argument(
            *[f"--{spelling}" for spelling in (name, *spec.aliases)],
            dest=name,
            nargs="?" if type_ is bool else "+" if many else None,
            const="True" if type_ is bool else None,
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(spec.choices) + "}" if spec.choices else _metavar(type_, many),
            help=text,
        )


def _metavar(kind: Any, many: bool) -> str | tuple[str, str]:
    if many:
        word = "NAME" if "str" in str(kind) else "N"
        return ("H", "W") if kind == Size else (f"{word},{word},...", word)
    return {"True or False": "BOOL", "a whole number": "N", "a number": "X"}.get(type_name(kind), "TEXT")


def suggest(name: str, known: Sequence[str]) -> str:
    """` (did you mean --x?)` for the nearest known option, or nothing."""
    name = RENAMED.get(name, name)
    # Letters of the wrong case come before letters that are wrong: lambda_cam is lambda_CAM, and no lambda_R1.
    near = [other for other in known if other.casefold() == name.casefold()]
    near = near or difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean --{near[0]}?)" if near else ""
