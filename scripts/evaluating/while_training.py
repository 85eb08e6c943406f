"""`train.py --eval_freq N`: what scripts/evaluate.py says about the weights of every Nth epoch.

It is the same program, in a process of its own: the training's random numbers and memory stay untouched, and an
evaluation that fails is a warning.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from data.base import DataError
from data.pairing import place_of
from models import MODELS
from options.parse import RunOptions
from options.schema import OptionError
from scripts.evaluating.record import record_path
from util.errors import UserError
from util.evaluations import FOLDER, read_evaluation
from util.metrics import METRICS
from util.visual.base import say

PROGRAM = Path(__file__).resolve().parents[1] / "evaluate.py"
LONGEST = ("transfer",)  # trains a classifier on each epoch's translations
GALLERY = 40  # images
POLL_SECONDS = 0.5
# How torchrun tells a process that it is one of several.
OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class EpochEvaluation:
    """Measures exported weights of a run.

    Args:
        run: options of the training.

    Raises:
        OptionError: the model does not translate, or the images are not there.
        UnknownNameError: there is no such metric.
    """

    def __init__(self, run: RunOptions) -> None:
        model = MODELS.get(run.experiment.model)
        if model.translator not in model.inference_nets:
            raise OptionError(f"--eval_freq {run.log.eval_freq}: --model {run.experiment.model} does not translate")
        for name in run.log.eval_metrics:
            METRICS.get(name)
        self._run = run
        self.phase = run.log.eval_phase or ("val" if _has(run, "val") else "test")
        if not _has(run, self.phase):
            raise OptionError(
                f"--eval_freq {run.log.eval_freq}: {run.data.dataroot} has no {self.phase}{run.data.direction[0]}"
            )

    def command(self, epoch: int) -> list[str]:
        """What a user would type, but for the places."""
        run, log = self._run, self._run.log
        flags: dict[str, object] = {
            "dataroot": run.data.dataroot,
            "name": run.experiment.name,
            "checkpoints_dir": run.experiment.checkpoints_dir,
            "epochs": epoch,
            "phase": self.phase,
            "num_test": log.eval_num,
            "gpu_ids": run.runtime.gpu_ids,
            "results_dir": run.folder / FOLDER / "images",
            "on_bad_image": run.data.on_bad_image,
            "report_images": GALLERY,
            "metrics" if log.eval_metrics else "skip_metrics": ",".join(log.eval_metrics or LONGEST),
        }
        return [sys.executable, str(PROGRAM), *(f"--{flag}={value}" for flag, value in flags.items())]

    def __call__(self, epoch: int, stopped: Callable[[], bool]) -> Mapping[str, float]:
        """The measures of an epoch by name; none, and a warning, where the evaluation fails or is left off.

        Args:
            stopped: asked every half second, whether to leave off.
        """
        path = record_path(self._run.folder, self.phase, str(epoch))
        log = path.with_suffix(".log")
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as console:
                code = _run_until(self.command(epoch), console.fileno(), stopped)
            if code is None:
                say(f"the evaluation of epoch {epoch} is left off; to make it: scripts/evaluate.py --epochs {epoch}")
                return {}
            if code:
                say(f"WARNING: the evaluation of epoch {epoch} failed, training goes on: {_last_line(log)}; see {log}")
                return {}
            measured = read_evaluation(path).metrics
        except (OSError, UserError) as error:
            say(f"WARNING: the evaluation of epoch {epoch} failed, training goes on: {error}")
            return {}
        if not self._run.log.quiet:
            say(f"evaluation of epoch {epoch}: {path.with_suffix('')}/report.html", sys.stdout)
        return {name: value.value for name, value in measured.items() if value.value is not None}


def evaluation_of(run: RunOptions) -> EpochEvaluation | None:
    """What --eval_freq asks for, or None."""
    return EpochEvaluation(run) if run.log.eval_freq else None


def _has(run: RunOptions, phase: str) -> bool:
    try:
        # Only the folder of that very name: `test` must not stand for `val`, nor the other way round.
        place = place_of(Path(run.data.dataroot), phase, run.data.direction[0], run.data.dataset_mode)
        return place.folder.name.startswith(phase)
    except DataError:
        return False


def _run_until(command: list[str], console: int, stopped: Callable[[], bool]) -> int | None:
    """The exit code of a command, or None where it was ended because of `stopped`."""
    alone = {key: value for key, value in os.environ.items() if key not in OF_RANKS and "TORCHELASTIC" not in key}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=alone) as process:
        try:
            while process.poll() is None:
                if stopped():
                    return None
                time.sleep(POLL_SECONDS)
            return process.returncode
        finally:
            if process.poll() is None:
                process.kill()  # its files are whole or absent


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
