"""A stage of a suite: its data, its runs, and their order."""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from models import MODELS
from options.parse import train_options
from options.schema import OptionError
from scripts.reproducing.data import Prepared, prepare
from scripts.reproducing.launching import STOPPED, Launch, Quiet, Run, launch, same_settings
from scripts.reproducing.plan import ARMS, METRICS, SUITES, Arm, Budget, Suite
from util.errors import UserError, counted
from util.files import write_atomic
from util.metrics import METRICS as KNOWN_METRICS

SETTINGS = "settings.json"
DOMAINS_RUN = "domains"  # a classifier of horses and zebras, where no classes are known
# Classifiers of A, for the arms whose flags ask for one by its name, and what they are trained with.
TEACHERS = {"teacher": (), "teacher_augmented": ("--cls_augment", "color,blur,noise")}
_ANY_EPOCHS = 4  # of a training whose flags are looked at before its data are there
_ALWAYS = "--num_threads 0 --display_id 0 --no_html --panel_freq 0 --monitor_freq 0 --preprocess none --quiet"


@dataclass(frozen=True)
class Stage:
    """A suite at one stage, below one folder.

    Args:
        out: of the whole experiment.
        flags: more flags of train.py for all runs, such as `--gpu_ids -1`.
        dataroot: of a suite that is not generated.
    """

    out: Path
    suite_name: str
    name: str
    budget: Budget
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    dataroot: Path | None = None
    flags: str = ""
    prepared: Prepared = field(init=False)

    @property
    def suite(self) -> Suite:
        return SUITES[self.suite_name]

    @property
    def folder(self) -> Path:
        """Everything of this stage."""
        return self.out / self.suite_name / self.name

    @property
    def runs(self) -> Path:
        """The folders of its runs."""
        return self.folder / "checkpoints"

    # -- beginning --------------------------------------------------------------------------------------------

    def begin(self, start: Launch = launch) -> None:
        """Note the settings, and make the data.

        Raises:
            OptionError: the folder was begun with other settings, a --dataroot is missing or unused, or train.py would
                refuse --flags.
        """
        if (self.dataroot is None) != bool(self.suite.scenes):
            need = "is generated and takes no --dataroot" if self.suite.scenes else "needs --dataroot DIR"
            raise OptionError(f"--suite {self.suite_name}: {need}")
        self._check_flags()
        begun = same_settings(self.folder / SETTINGS, self._settings)
        where = self.folder / "data"
        data = prepare(self.suite, self.name, self.budget, self.dataroot, where, start)
        object.__setattr__(self, "prepared", data)
        if not begun:
            write_atomic(self.folder / SETTINGS, (json.dumps(self._settings, indent=1) + "\n").encode())
        if not self.suite.labelled:
            self._fit_domains(start)
        for teacher, more in TEACHERS.items():
            if any(f"{{{teacher}}}" in ARMS[arm].flags for arm in self.arms):
                self._fit(start, teacher, self.prepared.train, "--domain", "A", "--direction", "AtoB", *more)

    def _check_flags(self) -> None:
        """What train.py would say of --flags at the end of a wait, said before any work."""
        try:
            words = shlex.split(self.flags)
        except ValueError as error:
            raise OptionError(
                f"--flags {self.flags}: {error}; write them as in a shell, in one pair of quotes"
            ) from None
        if ends := {word for word in words if word in ("-h", "--help", "--dry_run")}:
            raise OptionError(f"--flags {self.flags}: {ends.pop()} trains nothing; leave it out")
        trainings = {arm: flags_of(ARMS[arm], self.suite, self.budget, _ANY_EPOCHS) for arm in self.arms}
        taught = any(f"{{{teacher}}}" in ARMS[arm].flags for arm in self.arms for teacher in TEACHERS)
        if taught or not self.suite.labelled:
            size = ("--input_nc", str(self.suite.channels), "--n_epochs", str(self.budget.judge_epochs))
            trainings["the classifier"] = ["--model", "classifier", *size, *shlex.split(_ALWAYS)]
        for name, flags in trainings.items():
            try:
                train_options(["--dataroot", "data", *flags, *words])
            except OptionError as error:
                raise OptionError(f"--flags {self.flags}: train.py refuses them for {name}: {error}") from error

    @cached_property
    def _settings(self) -> dict[str, object]:
        frozen = list(self.arms) if self.name == "confirm" else []
        # The estimate of seconds changes nothing that is computed.
        budget = {key: value for key, value in asdict(self.budget).items() if not key.endswith("_seconds")}
        budget["budget_flags"] = budget.pop("flags")
        root = str(self.dataroot) if self.dataroot else ""
        return {**budget, "dataroot": root, "flags": self.flags, "arms": frozen}

    def _fit_domains(self, start: Launch) -> None:
        """A classifier that tells A from B, for the features of KID and FID where no classes are known."""
        root = self.folder / "data" / "domains"
        root.mkdir(exist_ok=True)
        for number, domain in enumerate("AB"):
            link = root / "train" / f"{number}_{domain}"
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.symlink_to(self.prepared.train.absolute() / f"train{domain}", target_is_directory=True)
        self._fit(start, DOMAINS_RUN, root)

    def _fit(self, start: Launch, name: str, root: Path, *more: object) -> None:
        """Train a classifier, unless that is done.

        Raises:
            UserError: train.py failed, or was stopped before its end.
        """
        folder, last = self.runs / name, self.budget.judge_epochs
        done = folder / f"{last}_net_C.pth"  # not the latest, which a training that was stopped leaves too
        if done.is_file():
            return
        place = ["--name", name, "--checkpoints_dir", self.runs, "--dataroot", root, "--model", "classifier", *more]
        again = ["--continue_train"] if (folder / "latest_state.pt").exists() else []
        size = ["--input_nc", self.suite.channels, "--n_epochs", last, "--save_epoch_freq", last]
        start("train.py", *place, *size, *shlex.split(f"{_ALWAYS} {self.flags}"), *again)
        if not done.is_file():
            raise UserError(STOPPED.format(folder))

    # -- runs -------------------------------------------------------------------------------------------------

    def epochs_of(self, arm: Arm) -> int:
        """Of an arm's iterations as many whole epochs, at least two."""
        images = max(len(list((self.prepared.train / f"train{domain}").iterdir())) for domain in "AB")
        steps = -(-images // self.budget.batch)
        return max(2, round(self.budget.iterations * arm.iterations / steps))

    def train_flags(self, arm: Arm, seed: int) -> list[str]:
        """Flags of train.py but for name and folder."""
        return [
            *("--dataroot", str(self.prepared.for_training(arm.labels)), "--seed", str(seed)),
            *flags_of(arm, self.suite, self.budget, self.epochs_of(arm)),
            *shlex.split(self.flags),
        ]

    def run(self, arm_name: str, seed: int) -> Run:
        """One training of the plan with its evaluation."""
        arm = ARMS[arm_name]
        return Run(
            self.runs,
            f"{arm_name}_s{seed}",
            self.train_flags(arm, seed),
            self._measure_flags(),
            self.epochs_of(arm),
            MODELS.get(arm.model).inference_nets,
        )

    def _measure_flags(self) -> list[str]:
        left = [name for name in KNOWN_METRICS.names() if name not in METRICS]
        judge = [] if self.suite.labelled else ["--classifier", DOMAINS_RUN]
        gpu = _pairs(shlex.split(self.flags), "--gpu_ids")
        return [
            *("--dataroot", str(self.prepared.measure), "--results_dir", str(self.folder / "images")),
            *("--skip_metrics", ",".join(left), "--features", "classifier", *judge, "--report_images", "0"),
            *("--judge_epochs", str(self.budget.judge_epochs), "--judge_seed", "0", *gpu),
        ]

    def all_runs(self) -> list[Run]:
        """All arms of a seed before the next seed, so that what is there so far can be compared."""
        return [self.run(arm, seed) for seed in self.seeds for arm in self.arms]


def flags_of(arm: Arm, suite: Suite, budget: Budget, epochs: int) -> list[str]:
    """Flags of train.py beside names, folders and seed: what all have in common, and the arm's own, which win."""
    decay = epochs // 2
    size = f"--input_nc {suite.channels} --output_nc {suite.channels} --ngf {budget.ngf} --ndf {budget.ngf}"
    sizes = f"{size} --batch_size {budget.batch} --load_size {budget.size} --crop_size {budget.size}"
    lasts = f"--n_epochs {epochs - decay} --n_epochs_decay {decay} --save_epoch_freq {epochs}"
    teachers = {name: name for name in TEACHERS}
    own = arm.flags.format(classes=suite.classes, quarter=max(1, epochs // 4), **teachers)
    shared = shlex.split(budget.flags)
    if arm.model == "cycle_gan":  # has no contrastive loss
        shared = _without(shared, CONTRASTIVE)
    return [*shlex.split(f"{_ALWAYS} {sizes} {lasts}"), *shared, *shlex.split(own)]


CONTRASTIVE = ("--num_patches", "--netF_nc")


def _without(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The words but for these flags and their values."""
    taken = {words.index(flag) + n for flag in flags if flag in words for n in (0, 1)}
    return [word for number, word in enumerate(words) if number not in taken]


def _pairs(words: Sequence[str], flag: str) -> list[str]:
    return list(words[words.index(flag) : words.index(flag) + 2]) if flag in words else []


def threads_of(jobs: int) -> int:
    """Threads of a job: those that OMP_NUM_THREADS says, else the cores that there are, shared evenly."""
    if given := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(given) if given.isdecimal() else 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def finish_all(stage: Stage, jobs: int, quiet: Quiet) -> dict[str, str]:
    """Finish every run of a stage; returns the reasons of those that failed, by name.

    The first goes alone: its evaluation trains the classifiers that all others share.
    """
    runs = stage.all_runs()
    waiting = [run for run in runs if not run.record.is_file()]
    done = len(runs) - len(waiting)
    say(f"{stage.suite_name}, {stage.name}: {counted(len(runs), 'run')}, {done} of them finished before")
    failed: dict[str, str] = {}
    clock = _Clock(len(waiting), jobs)
    if waiting and len(waiting) == len(runs):
        _finish(waiting.pop(0), stage, quiet, failed, clock)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for task in as_completed([pool.submit(_finish, run, stage, quiet, failed, clock) for run in waiting]):
                task.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            quiet.end()
            raise
    return failed


def _finish(run: Run, stage: Stage, quiet: Quiet, failed: dict[str, str], clock: _Clock) -> None:
    started = time.monotonic()
    try:
        run.finish(quiet.into(stage.folder / "consoles" / f"{run.name}.txt"))
    except (UserError, OSError) as error:
        failed[run.name] = str(error)
        say(f"{run.name}: FAILED: {error}")
    say(clock.after(run.name, time.monotonic() - started))


class _Clock:
    """How many runs are done, and how long the others may take."""

    def __init__(self, total: int, jobs: int) -> None:
        self._total, self._jobs, self._spent = total, jobs, [0.0][:0]
        self._lock = threading.Lock()

    def after(self, name: str, seconds: float) -> str:
        with self._lock:
            self._spent.append(seconds)
            done = len(self._spent)
            left = (self._total - done) * sum(self._spent) / done / self._jobs
        return f"[{done}/{self._total}] {name}: {seconds / 60:.1f} min; about {left / 60:.0f} min left"


def say(text: str) -> None:
    """A line on the console, at once."""
    print(text, flush=True)
