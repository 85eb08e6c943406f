"""Is everything ready for a training? Environment, data, labels, disk; and the command, with the time it will take.

python scripts/doctor.py                                          the environment alone
python scripts/doctor.py --dataroot datasets/my_data              and the data, for --model cutcam
python scripts/doctor.py --dataroot datasets/my_data --preset infrared16 --name run1 --batch_size 2

Flags of its own are --steps and --json; all others are train.py's. Exit status 0: training can start; 1: it cannot, and
the report says why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import torch

from data import DATASETS
from options.flags import flag_of
from options.parse import RunOptions, train_options
from scripts.doctoring.environment import check_device, check_disk, check_environment
from scripts.doctoring.folders import examine
from scripts.doctoring.pace import Pace, measure
from scripts.doctoring.report import Report
from util.engine.build import choose_device
from util.errors import UserError, exit_code, line_of
from util.visual.progress import duration

ROOT = Path(__file__).resolve().parents[1]
MODEL_CHOOSERS = ("model", "preset", "config", "continue_train")
MOST_BATCH = 4  # suggested for a GPU where none was asked for: translations of this kind gain little beyond


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine and report; returns the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python scripts/doctor.py", description=__doc__, formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument(
        "--steps", type=int, default=3, metavar="N", help="trial steps behind the estimate (3; 0: none)"
    )
    parser.add_argument("--json", action="store_true", help="the report for programs")
    given, words = parser.parse_known_args(arguments)
    report = Report()
    check_environment(report, ROOT / "requirements.txt")
    flags = {flag_of(word) for word in words if word.startswith("--")}
    if words and not flags & set(MODEL_CHOOSERS):
        words = ["--model", "cutcam", *words]
    if words:
        diagnose(report, words, given.steps)
    else:
        check_device(report, choose_device("auto"))
    print(report.json() if given.json else report.text())
    return report.status


def diagnose(report: Report, words: list[str], steps: int) -> None:
    """Examine what a command of train.py would use, mend the command, and measure it.

    Args:
        words: flags of train.py.
        steps: of the trial; 0: none.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            run = train_options(words)
        device = choose_device(run.runtime.gpu_ids)
        check_device(report, device)
        if run.data.dataset_mode == "unaligned":
            advice = examine(report, run, run.log.quiet)
            words = words + [word for name, value in advice.flags.items() for word in _flag(name, value)]
        if report.status:
            return
        with contextlib.redirect_stderr(said):
            run = DATASETS.get(run.data.dataset_mode).settled(train_options(words))
        if steps > 0:
            words = _with_pace(report, run, device, words, steps)
    except UserError as error:
        report.fault("plan", str(error))
        return
    report.command = shlex.join(["python", "train.py", *words])


def _flag(name: str, value: str | None) -> list[str]:
    return [f"--{name}"] if value is None else [f"--{name}", value]


def _with_pace(report: Report, run: RunOptions, device: torch.device, words: list[str], steps: int) -> list[str]:
    """Measure, estimate and choose the batch size; returns the words with it.

    Raises:
        UserError: what would stop train.py, too little memory included.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # warnings of the data have been said
        pace = _measured(run, device, steps)
        if device.type == "cuda" and run.data.batch_size == 1 and "batch_size" not in run.given:
            free = sum(torch.cuda.mem_get_info(device)[:1]) + pace.gpu_bytes
            if pace.gpu_bytes * MOST_BATCH < 0.8 * free:
                more = [*words, "--batch_size", str(MOST_BATCH)]
                larger = train_options(more)
                with contextlib.suppress(_OutOfMemory):  # then the batch stays as it is
                    pace = _measured(larger, device, steps)
                    words, run = more, larger
    _say_pace(report, run, device, pace, steps)
    check_disk(report, Path(run.experiment.checkpoints_dir), pace.run_bytes)
    return words


class _OutOfMemory(UserError):
    """The trial steps do not fit into memory."""


def _measured(run: RunOptions, device: torch.device, steps: int) -> Pace:
    try:
        return measure(run, device, steps, run.log.quiet)
    except (MemoryError, RuntimeError) as error:
        line = line_of(error)
        if line is None:
            raise
        raise _OutOfMemory(line) from error


def _say_pace(report: Report, run: RunOptions, device: torch.device, pace: Pace, steps: int) -> None:
    workers = min(run.data.num_threads, os.cpu_count() or 1)
    seconds = pace.seconds(workers)
    memory = f", {pace.gpu_bytes / 2**30:.1f} GiB of GPU memory" if pace.gpu_bytes else ""
    text = (
        f"batch size {run.data.batch_size} at {run.data.crop_size[0]} x {run.data.crop_size[1]}: "
        f"{pace.step_seconds:.2f} s a step on {device.type} (median of {steps}){memory}"
    )
    report.ok("plan", text)
    text = f"{pace.steps:,} steps, {pace.epoch_steps:,} an epoch: about {duration(seconds)} for the whole run"
    if seconds > 3 * 86400:
        remedy = "lower --crop_size, --ngf or --n_epochs and --n_epochs_decay, or begin with --preset demo"
        report.warn("plan", f"{text}, evaluations not counted", remedy)
    else:
        report.ok("plan", f"{text}, evaluations not counted")
    if pace.read_seconds / max(1, workers) > pace.step_seconds:
        text = f"reading a batch takes {pace.read_seconds:.2f} s in one of {workers} processes, longer than a step"
        report.warn("plan", text, "raise --num_threads, or store the images smaller")
    report.estimate = {
        "step_seconds": pace.step_seconds,
        "read_seconds": pace.read_seconds,
        "steps": pace.steps,
        "run_seconds": seconds,
        "run_bytes": pace.run_bytes,
        "gpu_bytes": pace.gpu_bytes,
    }


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
