"""Semantic flipping: how often a translation shows another class than its input, where A and B share classes unevenly.

python scripts/flipping.py --out results/flipping --methods cut,srunit,cutcam --seeds 0,1,2

The scenes are generated: A holds every class equally often, B mostly one of them, which tempts a discriminator to ask
for that class everywhere. Each method is trained with each seed. Then scripts/evaluate.py asks a classifier that has
learned from real images of B, evenly shared, so that it favours no class itself. A run that was interrupted goes on
where it was, and one that has been measured is not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, Python looks beside it only

from options.schema import OptionError
from scripts.comparing.comparison import Comparison
from scripts.comparing.report import report_of
from scripts.comparing.runs import read_methods
from scripts.comparing.tables import FORMATS, Cell, Report, Table, publish, render
from scripts.evaluating.record import record_path
from scripts.reproducing.launching import PHASE, Run, launch, same_settings
from util.errors import exit_code
from util.files import write_atomic
from util.strict_json import read_json

# Flags of each method; {quarter} of the epochs, and the number of {classes}, are filled in.
METHODS: Mapping[str, str] = {
    "cut": "--model cut",
    "fastcut": "--model cut --CUT_mode FastCUT",
    "srunit": "--model srunit --inact_epochs {quarter}",
    "srunit_released": "--model srunit --inact_epochs {quarter} --reg_mode released",
    "srunit_quotient": "--model srunit --inact_epochs {quarter} --reg_mode quotient",
    "cutcam": "--model cutcam --num_classes {classes}",
    "cutcam_sr": "--model cutcam --num_classes {classes} --extra_losses sr --inact_epochs {quarter}",
}
# Of every method: the size of the quickstart, which learns on two cores.
NETWORKS = (
    "--input_nc 1 --output_nc 1 --ngf 16 --ndf 16 --load_size 76 --crop_size 72 --batch_size 4 --lr 0.0004 "
    "--num_threads 2 --display_id 0 --no_html --panel_freq 0 --monitor_freq 0"
)
# What is measured: flips; what the classifier makes of translations, of inputs that nobody has translated and of real
# images; and, as a translator that changes nothing may flip nothing, likeness to the truth and to the input.
MEASURES = "semantics,ssim"
SHOWN = (
    *("flip_rate", "acc_fake_real_judge", "acc_source_real_judge", "acc_real_real_judge"),
    *("ssim", "ssim_input"),
)


@dataclass(frozen=True)
class Settings:
    """What all runs of a folder have in common.

    Attributes:
        classes: names, as `datasets/make_infrared.py --classes` takes them.
        prior_B: their weights in B.
        epochs: of each training, half of them at the first learning rate.
        flags: more flags of train.py, over NETWORKS and those of the method.
    """

    classes: str = "car,bus,tank"
    prior_B: str = "8,1,1"
    size: int = 128
    train: int = 600
    test: int = 90
    epochs: int = 16
    flags: str = ""

    @property
    def count(self) -> int:
        """The number of classes."""
        return len(self.classes.split(","))

    @property
    def leading(self) -> int:
        """The class that B holds most of."""
        return int(np.argmax([float(weight) for weight in self.prior_B.split(",")]))

    def flags_of(self, method: str) -> list[str]:
        """Flags of train.py beside name, folders and seed."""
        own = METHODS[method].format(quarter=self.epochs // 4, classes=self.count)
        decay = self.epochs // 2
        time = f"--n_epochs {self.epochs - decay} --n_epochs_decay {decay} --save_epoch_freq {self.epochs}"
        return shlex.split(f"{NETWORKS} {time} {own} {self.flags}")


@dataclass(frozen=True)
class Bench:
    """A folder with data sets, runs and their evaluations."""

    out: Path
    settings: Settings

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return self.out / "checkpoints"

    def data(self, kind: str) -> Path:
        """The data set `unmatched`, for training, or `matched`: the same but for evenly shared classes in B."""
        return self.out / "data" / kind

    def prepare(self) -> None:
        """Make the data sets, and note the settings.

        Raises:
            OptionError: the folder was begun with other settings.
        """
        file, at, asked = self.out / "settings.json", self.settings, asdict(self.settings)
        if same_settings(file, asked):
            return
        for kind, prior in (("unmatched", at.prior_B), ("matched", "")):
            sizes = ["--size", at.size, "--train", at.train, "--test", at.test, "--classes", at.classes]
            weights = ["--prior_B", prior] if prior else []
            launch("datasets/make_infrared.py", "--out", self.data(kind), *sizes, *weights)
        write_atomic(file, (json.dumps(asked, indent=1) + "\n").encode())

    def run(self, method: str, seed: int) -> str:
        """Train and measure, as far as that has not been done; the run's name.

        Raises:
            UserError: a program failed, or the training was stopped before its end.
        """
        train = ["--dataroot", self.data("unmatched"), "--seed", seed, *self.settings.flags_of(method)]
        measure = ["--metrics", MEASURES, "--report_images", 40]
        folders = ["--dataroot", self.data("matched"), "--results_dir", self.out / "images"]
        run = Run(self.runs, f"{method}_s{seed}", train, [*folders, *measure], self.settings.epochs)
        run.finish(launch)
        return run.name


def table_of(bench: Bench, runs: Mapping[str, Sequence[str]]) -> Report:
    """Methods side by side, and where their flips lead."""
    groups = [f"{method}={','.join(names)}" for method, names in runs.items()]
    methods = read_methods(bench.runs, [], groups, PHASE)
    report = report_of(Comparison(methods, str(bench.settings.epochs), SHOWN))
    leading = bench.settings.classes.split(",")[bench.settings.leading]
    shares = {method: [into_leading(bench, run) for run in names] for method, names in runs.items()}
    rows = [[Cell(method), _mean_and_spread(found)] for method, found in shares.items()]
    title = f"Of the inputs of another class, those seen as {leading}, which leads in B"
    data = {**report.data, "seen_as_leading": shares}
    return replace(report, tables=[*report.tables, Table(title, ["method", "share ↓"], rows)], data=data)


def into_leading(bench: Bench, run: str) -> float:
    """Of the inputs of other classes than B's leading one, the share whose translation is taken for that one."""
    record = record_path(bench.runs / run, PHASE, str(bench.settings.epochs))
    counts = np.array(read_json(record)["tables"]["flips"]["counts"])
    others = [row for label, row in enumerate(counts) if label != bench.settings.leading]
    return float(sum(row[bench.settings.leading] for row in others) / max(1, np.sum(others)))


def _mean_and_spread(values: Sequence[float]) -> Cell:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return Cell(f"{np.mean(values):.3f}", spread)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flipping.py", description=(__doc__ or "").splitlines()[0])
    default = Settings()
    parser.add_argument("--out", type=Path, required=True, help="folder of everything; the same again goes on")
    parser.add_argument(
        "--methods", default="cut,srunit,cutcam", help=f"of {', '.join(METHODS)}; the first is the baseline"
    )
    parser.add_argument("--seeds", default="0,1,2", help="a training for each")
    parser.add_argument("--classes", default=default.classes, help="vehicles (%(default)s)")
    parser.add_argument("--prior_B", default=default.prior_B, help="weights of the classes in B (%(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="of the scenes in pixels (%(default)s)")
    parser.add_argument("--train", type=int, default=default.train, help="scenes per domain (%(default)s)")
    parser.add_argument("--test", type=int, default=default.test, help="scenes that are translated (%(default)s)")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="of each training (%(default)s)")
    parser.add_argument("--flags", default="", help="more flags of train.py, in one pair of quotes")
    parser.add_argument("--format", choices=tuple(FORMATS), default="terminal")
    parser.add_argument("--output", type=Path, help="file to write the table to; none: print")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    wanted = _parser().parse_args(argv)
    methods, seeds = wanted.methods.split(","), wanted.seeds.split(",")
    for method in methods:
        if method not in METHODS:
            raise OptionError(f"--methods {method}: choose of {', '.join(METHODS)}")
    if not all(seed.isdecimal() for seed in seeds):
        raise OptionError(f"--seeds {wanted.seeds}: give whole numbers, for example 0,1,2")
    bench = Bench(wanted.out.absolute(), Settings(**{name: getattr(wanted, name) for name in asdict(Settings())}))
    bench.prepare()
    runs: dict[str, list[str]] = {method: [] for method in methods}
    for seed in seeds:  # all methods of a seed before the next seed: what is there so far can be compared
        for method in methods:
            runs[method].append(bench.run(method, int(seed)))
    publish(render(table_of(bench, runs), wanted.format), wanted.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
