"""Does CAM guidance help? The experiment of docs/results.md, so that it can be run again.

python scripts/reproduce.py --suite infrared_unmatched --stage screen --arms short
python scripts/reproduce.py --suite sar --stage confirm --arms cut,cls_5 --seeds 6 --dataroot DIR
python scripts/reproduce.py --report

The plan is in scripts/reproducing/plan.py, fixed before running; --list prints it. A finished run is never repeated,
and one that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, Python looks beside it only

from options.schema import OptionError
from scripts.reproducing import plan
from scripts.reproducing.listing import arms_of, describe
from util.errors import exit_code

OF_BUDGET = {"iterations": "steps of a run", "size": "pixels", "ngf": "channels", "train": "images"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reproduce.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", choices=tuple(plan.SUITES), help="data")
    parser.add_argument("--stage", choices=("screen", "confirm"), default="screen", help="(%(default)s)")
    parser.add_argument("--arms", default="", help="all (screen), short, or names; confirm: what the screen chose")
    parser.add_argument("--seeds", type=int, help="trainings of each arm (2 in the screen, else 6)")
    parser.add_argument("--dataroot", type=Path, help="folder of a suite that is not generated")
    parser.add_argument("--out", type=Path, default=Path("results/reproduce"), help="of everything (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores (%(default)s)")
    parser.add_argument("--budget", choices=tuple(plan.BUDGETS), default="cpu", help="(%(default)s)")
    for name, what in OF_BUDGET.items():
        parser.add_argument(f"--{name}", type=int, help=f"{what}, in place of the budget's")
    parser.add_argument("--flags", default="", help="more flags of train.py, in one pair of quotes")
    parser.add_argument("--list", action="store_true", help="print the plan, and what it costs; run nothing")
    parser.add_argument("--report", action="store_true", help="write <out>/report.md from what is there; run nothing")
    return parser


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    wanted = _parser().parse_args(argv)
    for name in ("jobs", *OF_BUDGET):
        if (value := getattr(wanted, name)) is not None and value < 1:
            raise OptionError(f"--{name} {value}: give a whole number of at least 1")
    given = {name: value for name in OF_BUDGET if (value := getattr(wanted, name)) is not None}
    budget = replace(plan.BUDGETS[wanted.budget], **given)
    usual = 2 if wanted.stage == "screen" else 6
    seeds = plan.seeds_of(wanted.stage, usual if wanted.seeds is None else wanted.seeds)
    if wanted.list:
        print(describe(budget))
        return 0
    from scripts.reproducing.report import write_report  # loads torch

    if wanted.report:
        print(f"written: {write_report(wanted.out.absolute())}")
        return 0
    if wanted.suite is None:
        raise OptionError("--suite: name one, or --list, or --report")
    from scripts.reproducing.bench import Stage, finish_all, threads_of
    from scripts.reproducing.launching import Quiet

    arms = arms_of(wanted.arms, wanted.stage, wanted.out)
    root = wanted.dataroot.absolute() if wanted.dataroot else None
    place = (wanted.out.absolute(), wanted.suite, wanted.stage)
    stage = Stage(*place, budget, arms, seeds, root, wanted.flags)
    signal.signal(signal.SIGTERM, _stop)
    quiet = Quiet(threads_of(wanted.jobs))
    stage.begin(quiet.into(stage.folder / "consoles" / "data.txt"))
    failed = finish_all(stage, wanted.jobs, quiet)
    print(f"written: {write_report(wanted.out.absolute())}")
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
