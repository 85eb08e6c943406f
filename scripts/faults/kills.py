"""Kill training at random and at chosen moments, continue it each time, and compare the end with an unbroken run."""

from __future__ import annotations

import csv
import random
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from scripts.faults.victim import Moment, Order, Server, moments
from util.checkpoint import STATE_FILE, load_state
from util.errors import UserError
from util.visual.jsonl import read_log

BATCH, SAVE_EVERY = 2, 4  # images
IMAGES = (6, 5)  # of A and B: three steps an epoch
CLOCKS = ("seconds", "data_seconds")  # columns of the log that differ from run to run
ANY_TIME = "at any time"
TRIES = 6  # at a moment that a process did not reach

FLAGS = (
    *("--model", "cutcam", "--num_classes", "4", "--lambda_IDT", "10", "--lambda_EDGE", "5", "--cam_weight_adv"),
    *("--cls_start_epoch", "0", "--cam_start_epoch", "0", "--n_epochs", "2", "--n_epochs_decay", "2"),
    *("--ngf", "8", "--ndf", "8", "--netF_nc", "16", "--num_patches", "16", "--netG", "resnet_6blocks"),
    *("--load_size", "36", "--crop_size", "32", "--batch_size", str(BATCH), "--gpu_ids", "-1", "--display_id", "0"),
    *("--print_freq", "1", "--monitor_freq", "4", "--save_latest_freq", str(SAVE_EVERY), "--save_epoch_freq", "2"),
)
# Name -> whether its images have labels, and its flags.
VARIANTS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "labels": (True, ("--num_threads", "0", "--no_html", "--panel_freq", "2", "--save_by_iter")),
    "k-means, page": (
        False,
        ("--num_threads", "0", "--panel_freq", "1", "--update_html_freq", "6", "--pseudo_every", "1"),
    ),
    "workers, dropout, bf16": (
        True,
        ("--num_threads", "2", "--no_html", "--panel_freq", "0", "--no_dropout", "False", "--amp", "bf16"),
    ),
}


class PromiseBroken(AssertionError):
    """Something was lost, torn or doubled; the message says what, where, and after which kill."""


@dataclass
class Report:
    """What was done; whatever went wrong has raised.

    Attributes:
        kills: by moment.
        runs: finished and compared with unbroken ones.
        starts: of processes.
        lost: most images that one kill cost.
        missed: moments that no process reached.
    """

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    starts: int = 0
    lost: int = 0
    seconds: float = 0.0
    missed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"  {count:4d}  {name}" for name, count in sorted(self.kills.items())]
        lines += [f"     0  {name}: never reached" for name in self.missed]
        return "\n".join(
            [
                f"{self.kills.total()} kills in {self.runs} runs ({self.starts} starts, {self.seconds:.0f} s); at most "
                f"{self.lost} images lost at once, {SAVE_EVERY} allowed; every run ended as if unbroken:",
                *lines,
            ]
        )


def make_images(root: Path, labelled: bool, seed: int = 0) -> Path:
    """Small images of four shapes in trainA and trainB, with labels.csv if wanted; returns `root`."""
    draw, rows = np.random.default_rng(seed), [("file", "label", "label_id")]
    for side, count in zip("AB", IMAGES, strict=True):
        (root / f"train{side}").mkdir(parents=True)
        for number in range(count):
            image = draw.uniform(20, 90, (40, 44, 3)).astype(np.uint8)
            corner, kind = draw.integers(4, 18, 2), number % 4
            sides = ((16, 16), (5, 18), (18, 5), (9, 9))[kind]
            image[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]] += 130
            cv2.imwrite(str(root / f"train{side}" / f"{number}.png"), image if side == "A" else 255 - image)
            rows.append((f"train{side}/{number}.png", f"kind{kind}", str(kind)))
    if labelled:
        with (root / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return root


class Run:
    """One run's folder, started and continued until it ends.

    Args:
        home: new folder that holds the run and what it printed.
        data: from `make_images`.
        flags: beside `FLAGS`.
    """

    def __init__(self, server: Server, home: Path, data: Path, flags: Sequence[str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._server, self._flags = server, (*FLAGS, *flags, "--dataroot", str(data))
        self.folder, self.out, self._marks = home / "run", home / "printed.txt", home / "begun"
        self.place = ("--checkpoints_dir", str(home), "--name", "run")

    @property
    def started(self) -> bool:
        """Whether there is a state to continue from."""
        return (self.folder / STATE_FILE).exists()

    def go(self, **end: Any) -> int:
        """Start the run, or continue it where it has a state; returns the exit status (see `Order` for `end`)."""
        argv = (*self.place, *(("--continue_train",) if self.started else self._flags))
        return self._server.run(Order(argv, str(self.out), str(self._marks), **end))

    def begun(self) -> int:
        """Steps that the last process had begun, of the whole run."""
        return int(self._marks.read_text() or 0) if self._marks.exists() else 0

    def printed(self) -> str:
        """Everything that its processes have printed."""
        return self.out.read_text() if self.out.exists() else ""


def after_kill(run: Run) -> int:
    """Check what a kill has left; returns the number of images whose training is lost.

    Raises:
        PromiseBroken: no whole checkpoint, more lost than allowed, or a log that lacks or doubles a step.
    """
    begun, step = run.begun(), 0
    if run.started:
        step = int(load_state(run.folder / STATE_FILE)["position"]["step"])
    elif begun:
        raise PromiseBroken(f"{run.folder}: {begun} steps were begun and there is no state")
    lost = (begun - step) * BATCH
    if lost > SAVE_EVERY:
        raise PromiseBroken(f"{run.folder}: step {begun} was begun, the checkpoint is of step {step}")
    check_log(run.folder, at_least=step, most=begun)
    return max(0, lost)


def check_log(folder: Path, at_least: int, most: int) -> None:
    """Every step from 1 on stands in the log once; `read_log` itself refuses a torn line before the last one."""
    steps = [record["step"] for record in read_log(folder / "log.jsonl")]
    if steps != list(range(1, len(steps) + 1)) or not at_least <= len(steps) <= most:
        raise PromiseBroken(f"{folder}: the log holds the steps {steps}; {at_least} to {most} have been done")


def compare(whole: Path, broken: Path, files: bool = True) -> None:
    """Raise a PromiseBroken where a run that was disturbed has not ended as an unbroken one.

    Args:
        files: compare exported weights, panels and the names of all other files too.
    """
    differ(load_state(whole / STATE_FILE), load_state(broken / STATE_FILE), "state")
    logs = [
        [{k: v for k, v in record.items() if k not in CLOCKS} for record in read_log(folder / "log.jsonl")]
        for folder in (whole, broken)
    ]
    differ(logs[0], logs[1], "log.jsonl")
    if files:
        differ(files_of(whole), files_of(broken), "files")


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a run by name, and what is in those that do not hold a time."""
    names = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    own = {name: file for name, file in names.items() if not re.match(r"web_|log_\d", name)}  # set aside
    return {name: file.read_bytes() if file.suffix in (".pth", ".png") else b"" for name, file in own.items()}


def differ(a: Any, b: Any, where: str) -> None:
    """Raise a PromiseBroken at the first difference between two nested values; tensors are compared bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    elif isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            raise PromiseBroken(f"{where}: {sorted(map(str, set(a) ^ set(b)))} only on one side")
        for key in a:
            differ(a[key], b[key], f"{where}.{key}")
        return
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            differ(x, y, f"{where}[{number}]")
        return
    else:
        same = type(a) is type(b) and a == b
    if not same:
        raise PromiseBroken(f"{where} differs from that of an unbroken run: {a!r:.80} and {b!r:.80}")


class Campaign:
    """Runs of all variants, killed as planned.

    Args:
        folder: empty; holds everything.
        plan: names of moments, in order.
        variants: names in `VARIANTS`, taken in turn.
    """

    def __init__(self, server: Server, folder: Path, plan: Sequence[str], seed: int, variants: Sequence[str]) -> None:
        self._server, self._folder, self._draw = server, folder, random.Random(seed)
        self._plan, self._tries = deque(plan), Counter[str]()
        self._variants, self._moments = variants, moments()
        self._whole: dict[str, tuple[Run, float]] = {}  # unbroken runs, and the seconds they took
        self.report = Report()

    def go(self) -> Report:
        """Carry the plan out."""
        started = time.monotonic()
        while self._plan:
            self._one_run(self._variant_for(self._plan[0]))
        self.report.seconds = time.monotonic() - started
        return self.report

    def _variant_for(self, moment: str) -> str:
        """The next variant in turn in which a moment occurs."""
        unlabelled = moment != ANY_TIME and self._moments[moment].unlabelled
        fitting = [name for name in self._variants if not (unlabelled and VARIANTS[name][0])]
        return fitting[self.report.runs % len(fitting)]

    def whole(self, variant: str) -> tuple[Run, float]:
        """The unbroken run of a variant, made once, and how long it took."""
        if variant not in self._whole:
            labelled, flags = VARIANTS[variant]
            home = self._folder / f"whole {len(self._whole)}"
            run = Run(self._server, home, make_images(home / "data", labelled), flags)
            started = time.monotonic()
            status = run.go()
            if status != 0:
                raise PromiseBroken(f"a run that nobody touched ended with status {status}:\n{run.printed()[-2000:]}")
            self._whole[variant] = run, time.monotonic() - started
        return self._whole[variant]

    def _one_run(self, variant: str) -> None:
        whole, seconds = self.whole(variant)
        labelled, flags = VARIANTS[variant]
        home = self._folder / f"run {self.report.runs}"
        run, history = Run(self._server, home, make_images(home / "data", labelled), flags), list[str]()
        try:
            while not self._process(run, labelled, seconds, history):
                self.report.lost = max(self.report.lost, after_kill(run))
            steps = whole.begun()
            check_log(run.folder, steps, steps)
            compare(whole.folder, run.folder)
        except (PromiseBroken, UserError) as broken:  # a checkpoint or log that cannot be read is a promise too
            raise PromiseBroken(f"{broken}\nrun '{variant}' in {home}, killed: {', then '.join(history)}") from None
        self.report.runs += 1

    def _process(self, run: Run, labelled: bool, seconds: float, history: list[str]) -> bool:
        """One process of a run; True if it came to the run's end."""
        moment = self._next(run.started, labelled)
        end: dict[str, Any] = {}
        if moment == ANY_TIME:
            end = {"seconds": self._draw.uniform(0, seconds)}
        elif moment:
            end = {"moment": moment, "count": self._draw.randint(1, self._moments[moment].most)}
        history.append(f"{moment} {list(end.values())}")
        status = run.go(**end)
        self.report.starts += 1
        if status == -signal.SIGKILL and moment:
            self.report.kills[moment] += 1
        elif moment:
            self._again(moment)
        if status not in (0, -signal.SIGKILL) or (status and not moment):
            raise PromiseBroken(f"status {status}:\n{run.printed()[-2000:]}")
        return status == 0

    def _next(self, started: bool, labelled: bool) -> str:
        """The first planned moment that this process may come to; empty: none is left, it shall end."""
        for moment in self._plan:
            if moment == ANY_TIME or _possible(self._moments[moment], started, labelled):
                self._plan.remove(moment)
                return moment
        # What is left needs a run that was killed before.
        return "state: before the weights" if self._plan and not started else ""

    def _again(self, moment: str) -> None:
        self._tries[moment] += 1
        if self._tries[moment] < TRIES * (1 + self.report.kills[moment]):
            self._plan.append(moment)
        else:
            self.report.missed.append(moment)


def _possible(moment: Moment, started: bool, labelled: bool) -> bool:
    return moment.only in ("", "continue" if started else "start") and not (moment.unlabelled and labelled)


def plan_of(kills: int, seed: int) -> list[str]:
    """Half of the kills at any time, the others spread evenly over the targeted moments."""
    draw, targeted = random.Random(seed), list(moments())
    named = [targeted[number % len(targeted)] for number in range(kills // 2)]
    plan = named + [ANY_TIME] * (kills - len(named))
    draw.shuffle(plan)
    return plan


def kill_run(
    kills: int,
    seed: int,
    folder: Path,
    plan: Sequence[str] = (),
    variants: Sequence[str] = tuple(VARIANTS),
) -> Report:
    """Kill training `kills` times with SIGKILL, and check all that README promises about it.

    Args:
        folder: empty; holds the runs.
        plan: names of moments in place of `plan_of(kills, seed)`; `ANY_TIME` is one.
        variants: of `VARIANTS`.

    Raises:
        PromiseBroken: at the first promise that does not hold.
    """
    torch.set_num_threads(1)
    with Server() as server:
        return Campaign(server, folder, plan or plan_of(kills, seed), seed, variants).go()
