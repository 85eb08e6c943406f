"""Methods side by side, from the evaluations of their runs: mean and spread over seeds, intervals, tests.

python scripts/compare.py cutcam_s1 cutcam_s2 cutcam_s3 cut_s1 cut_s2 cut_s3 --metrics kid,ssim_input --format markdown
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from scripts.comparing.comparison import Comparison
from scripts.comparing.report import report_of
from scripts.comparing.runs import read_methods
from scripts.comparing.tables import FORMATS, publish, render
from util.errors import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="runs; those that differ in the seed only are one method"
    )
    parser.add_argument("--checkpoints_dir", type=Path, default=Path("checkpoints"), help="folder that holds the runs")
    parser.add_argument("--phase", default="test", help="which split was evaluated")
    parser.add_argument("--epoch", default="last", help="last, best, mean5 (of the last five), or an epoch's name")
    parser.add_argument("--best_by", help="metric that best goes by; none: kid, fid, or the first with a direction")
    parser.add_argument("--metrics", type=lambda text: text.split(","), help="which, in this order: fid,kid; none: all")
    parser.add_argument(
        "--group", nargs="+", action="extend", default=[], metavar="NAME=RUN1,RUN2", help="runs that are one method"
    )
    parser.add_argument("--baseline", help="method that the others are compared with; none: the first")
    parser.add_argument("--format", choices=tuple(FORMATS), default="terminal")
    parser.add_argument("--output", type=Path, help="file to write; none: print")
    wanted = parser.parse_args(argv)

    methods = read_methods(wanted.checkpoints_dir, wanted.runs, wanted.group, wanted.phase)
    comparison = Comparison(methods, wanted.epoch, wanted.metrics, wanted.baseline, wanted.best_by)
    for text in comparison.warnings:  # also on the console where the report, which holds them, goes into a file
        print(f"WARNING: {text}", file=sys.stderr)
    publish(render(report_of(comparison), wanted.format), wanted.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
