"""How good are the maps? Every explainer on a split of images, measured, in one table.

python scripts/explainers_table.py --dataroot DIR --name RUN --methods all --against pytorch-grad-cam --format markdown
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from options.parse import extra, inference_options
from scripts.comparing.tables import publish, render
from scripts.faithfulness.cases import case_of
from scripts.faithfulness.makers import makers_of
from scripts.faithfulness.options import Tabulation
from scripts.faithfulness.table import measure, report_of
from util.engine.build import choose_device
from util.errors import exit_code


def main() -> int:
    run = inference_options((Tabulation,), prog="explainers_table.py")
    wanted, seed = extra(run, Tabulation), run.experiment.seed
    makers = makers_of(wanted.methods, wanted.against, seed)  # an unknown name before any work
    case = case_of(run, choose_device(run.runtime.gpu_ids))
    methods = measure(case, makers, wanted, seed, run.log.quiet)
    publish(render(report_of(case, methods, wanted, seed), wanted.format), wanted.place)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
