"""Let the disk run full while a run trains: it goes on, catches up, and ends as if nothing had happened."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.faults.kills import VARIANTS, PromiseBroken, Run, check_log, compare, make_images
from scripts.faults.victim import Server
from util.checkpoint import STATE_FILE, load_state

NEVER = 10**9  # a step that no run reaches
WARNING = r"WARNING: .*latest_state\.pt: cannot be written: .+; the checkpoint of step \d+ stands; training goes on"
ERROR = r"error: .*latest_state\.pt: cannot be written: .+; the checkpoint of step (\d+) stands"


@dataclass
class Report:
    """How often the disk was full for a while, and how often at a run's end; whatever went wrong has raised."""

    for_a_while: int = 0
    at_the_end: int = 0

    def __str__(self) -> str:
        return (
            f"disk full for a while in {self.for_a_while} runs, at the end in {self.at_the_end}: each warned, kept its "
            "checkpoint, and had the state and the log of an unbroken run in the end"
        )


def full_disk_run(times: int, seed: int, folder: Path, variants: Sequence[str] = ("labels", "k-means, page")) -> Report:
    """Let files stop growing (RLIMIT_FSIZE) between two random steps, and from a random step to the end.

    Args:
        times: runs of each of both kinds.
        folder: empty; holds the runs.
        variants: of `scripts.faults.kills.VARIANTS`, taken in turn.

    Raises:
        PromiseBroken: at the first promise that does not hold.
    """
    torch.set_num_threads(1)
    draw, report = random.Random(seed), Report()
    with Server() as server:
        for number in range(times):
            labelled, flags = VARIANTS[variants[number % len(variants)]]
            runs = {}
            for name in ("whole", "for a while", "at the end"):
                home = folder / f"{number} {name}"
                runs[name] = Run(server, home, make_images(home / "data", labelled), flags)
            _expect(runs["whole"], 0, runs["whole"].go())
            steps = runs["whole"].begun()
            first = draw.randint(1, steps - 4)
            _for_a_while(runs["whole"], runs["for a while"], (first, draw.randint(first + 3, steps - 1)))
            report.for_a_while += 1
            _at_the_end(runs["whole"], runs["at the end"], draw.randint(1, steps - 1))
            report.at_the_end += 1
    return report


def _for_a_while(whole: Run, run: Run, full: tuple[int, int]) -> None:
    """Full before the steps `full[0]` to `full[1] - 1`: at least three, so that a checkpoint falls among them."""
    _expect(run, 0, run.go(full=full))
    if not re.search(WARNING, run.printed()):
        raise PromiseBroken(f"{run.folder}: no warning of a checkpoint that could not be written (full {full})")
    check_log(run.folder, whole.begun(), whole.begun())
    compare(whole.folder, run.folder, files=False)


def _at_the_end(whole: Run, run: Run, first: int) -> None:
    _expect(run, 2, run.go(full=(first, NEVER)))
    said = re.search(ERROR, run.printed())
    step = load_state(run.folder / STATE_FILE)["position"]["step"]
    if not said or int(said[1]) != step:
        raise PromiseBroken(f"{run.folder}: the checkpoint is of step {step}, said was {said and said[0]!r}")
    _expect(run, 0, run.go())
    check_log(run.folder, whole.begun(), whole.begun())
    compare(whole.folder, run.folder, files=False)


def _expect(run: Run, wanted: int, status: int) -> None:
    if status != wanted:
        raise PromiseBroken(f"{run.folder}: status {status}, not {wanted}:\n{run.printed()[-2000:]}")
