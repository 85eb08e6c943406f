"""A user study without a server: which of two pictures do people prefer?

python scripts/user_study.py build --pair cutcam=results/cutcam_run/test_latest/images/fake_B \
  cut=results/cut_run/test_latest/images/fake_B --question "Which looks more like a real infrared image?" --output study
python scripts/user_study.py score study/key.json votes/*.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from options.schema import OptionError
from scripts.comparing.tables import FORMATS, publish, render
from scripts.studying.building import KEY, PAGE, Plan, build
from scripts.studying.scoring import Scoring, report_of
from scripts.studying.votes import collect, read_key
from util.errors import exit_code, printable


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="user_study.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add_build(commands.add_parser("build", help="write the page for participants, and its key"))
    add_score(commands.add_parser("score", help="preference and agreement from the votes sent back"))
    wanted = parser.parse_args(argv)
    return run_build(wanted) if wanted.command == "build" else run_score(wanted)


def add_build(parser: argparse.ArgumentParser) -> None:
    """Arguments of `build`."""
    parser.add_argument(
        "--pair", nargs=2, required=True, metavar="NAME=FOLDER", help="two methods' pictures of one split"
    )
    parser.add_argument("--input", type=Path, help="folder of the inputs, shown above each pair")
    parser.add_argument("--reference", type=Path, help="folder of real pictures of the same names, shown above too")
    parser.add_argument("--question", required=True, help="what participants are asked at each pair")
    parser.add_argument("--n", type=at_least(1), default=40, help="pairs that count, drawn from the common images")
    parser.add_argument("--catch", type=at_least(0), default=4, help="pairs of which one picture is broken")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the choice of images")
    parser.add_argument("--window", default="auto", help="how more than 8 bits are shown, as --window_B of train.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")


def add_score(parser: argparse.ArgumentParser) -> None:
    """Arguments of `score`."""
    parser.add_argument("key", type=Path, help="key.json of the study")
    parser.add_argument("votes", type=Path, nargs="+", help="files that participants sent back")
    parser.add_argument("--allowed_misses", type=at_least(0), default=0, help="checks a participant may miss and count")
    parser.add_argument("--format", choices=tuple(FORMATS), default="terminal")
    parser.add_argument("--output", type=Path, help="file to write; none: print")


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `low`."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return value

    return whole_number


def run_build(wanted: argparse.Namespace) -> int:
    """Write a study."""
    methods = dict(parse_pair(text) for text in wanted.pair)
    if len(methods) != 2:
        raise OptionError(f"--pair: both methods are called {printable(next(iter(methods)))}; name them apart")
    given = {"input": wanted.input, "reference": wanted.reference}
    context = {name: folder for name, folder in given.items() if folder}
    if clash := set(methods) & set(context):
        raise OptionError(f"--pair: a method may not be called {clash.pop()}, like what is shown above it")
    plan = Plan(methods, context, wanted.question, wanted.n, wanted.catch, wanted.seed, wanted.window)
    size = build(plan, wanted.output)
    print(f"for participants: {printable(wanted.output / PAGE)} ({size / 2**20:.1f} MB; this file and nothing else)")
    print(f"for you alone: {printable(wanted.output / KEY)}, which says what picture is whose")
    return 0


def parse_pair(text: str) -> tuple[str, Path]:
    """NAME and FOLDER of `NAME=FOLDER`."""
    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise OptionError(f"--pair {printable(text)}: should be NAME=FOLDER")
    return name, Path(folder)


def run_score(wanted: argparse.Namespace) -> int:
    """Score the votes of a study."""
    key = read_key(wanted.key)
    scoring = Scoring(key, collect(wanted.votes, key, wanted.allowed_misses), wanted.allowed_misses)
    publish(render(report_of(scoring), wanted.format), wanted.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
