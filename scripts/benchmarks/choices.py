"""`benchmark.py choices`: what one training step of every model, and of CUT with every option, takes beside plain CUT.

Operations and bytes are counts, the same on every machine; times, of its CPU, are ratios of medians of interleaved
runs. What a step does now and then only (R1) is averaged over all steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import MODELS
from options.parse import train_options
from scripts.benchmarks.counting import SavedTensors, operations
from scripts.benchmarks.machine import machine, versions
from scripts.benchmarks.step import Sizes, time_ratios
from util.engine.build import optimizers_from
from util.engine.ema import WeightAverage
from util.engine.step import Precision, train_step
from util.errors import UserError

HELP = "operations, memory and time of a step of every model, and of CUT's options, beside plain CUT, on the CPU"
PLAIN = "cut"
WARM_UP = 2  # rounds
R1_EVERY = 16  # the default of --r1_every


@dataclass(frozen=True)
class Flags:
    """What is trained. It acts in a `share` of the steps; in the others the step is plain CUT's."""

    words: str
    share: float = 1.0


# Begun in the middle of a run: what begins late is on.
CHOICES: dict[str, Flags] = {
    PLAIN: Flags("--model cut"),
    "FastCUT": Flags("--model cut --CUT_mode FastCUT"),
    "cutcam": Flags("--model cutcam"),
    "srunit": Flags("--model srunit --inact_epochs 0"),
    "cycle_gan": Flags("--model cycle_gan"),
    "dclgan": Flags("--model dclgan"),
    "ema": Flags("--model cut --ema_decay 0.999"),
    "diffaug": Flags("--model cut --diffaug color,translation,cutout"),
    "r1": Flags("--model cut --lambda_R1 1 --r1_every 1", 1 / R1_EVERY),
    "spectral": Flags("--model cut --spectral_norm"),
    "monce": Flags("--model cut --nce_weighting monce"),
    "hdce": Flags("--model cut --nce_weighting hdce"),
    "src": Flags("--model cut --extra_losses src"),
    "pair": Flags("--model cut --dataset_mode aligned --extra_losses pair"),
    "pair_nce": Flags("--model cut --dataset_mode aligned --extra_losses pair --pair_mode nce"),
    "entropy": Flags("--model cut --nce_query entropy"),
    "cutcam_cam": Flags("--model cutcam --nce_query cam"),
    "cls_augment": Flags("--model cutcam --cls_augment color,blur,noise"),
}


class Choice:
    """A model built by its flags, trained on a batch of noise.

    Args:
        name: one of CHOICES.
    """

    def __init__(self, name: str, sizes: Sizes) -> None:
        if name not in CHOICES:
            raise UserError(f"--choices {name}: choose of {', '.join(CHOICES)}")
        run = train_options(["--dataroot", "none", *sizes.flags(), *CHOICES[name].words.split()])
        self._name, self._sizes, self._batch = name, sizes, sizes.draw_batch()
        self.model = MODELS.get(run.experiment.model).from_options(run)
        self.model.train()
        self._optimizers = optimizers_from(run, self.model)
        self._average = WeightAverage(self.model.nets, run.optim.ema_decay if name == "ema" else 0)

    @property
    def name(self) -> str:
        return self._name

    def step(self, number: int) -> None:
        """One step, as number n of a run."""
        precision, info = Precision("off", self.model.device), self._sizes.info(number)
        train_step(self.model, self._batch, info, self._optimizers, precision)
        self._average.update()

    def counted(self) -> tuple[int, int]:
        """Operations of a step, and the most bytes it holds for backward at any moment."""
        self.step(0)  # the first one makes what optimisers remember
        own = [tensor for net in self.model.nets.values() for tensor in (*net.parameters(), *net.buffers())]
        with SavedTensors(own) as saved:
            self.step(1)
        return operations(lambda: self.step(1)), saved.peak


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    parser.add_argument("--size", type=int, default=128, help="pixels of the square images")
    parser.add_argument("--ngf", type=int, default=32, help="channels of G's first convolution")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain in a step")
    parser.add_argument("--netG", default="resnet_9blocks")
    parser.add_argument("--choices", default=",".join(CHOICES), help="some of them, by comma")
    parser.add_argument("--rounds", type=int, default=16, help="timed rounds; 0: count only")
    parser.add_argument("--json", type=Path, help="write the results here as well")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print the table and write the JSON; the exit status."""
    sizes = Sizes(wanted.size, wanted.ngf, wanted.batch, wanted.netG)
    names = list(dict.fromkeys([PLAIN, *wanted.choices.split(",")]))
    counted = {name: Choice(name, sizes).counted() for name in names}
    times: dict[str, float] = {}
    if wanted.rounds:
        times = time_ratios([Choice(name, sizes) for name in names], wanted.rounds, WARM_UP, PLAIN)
    flops, saved = counted[PLAIN]
    result = {
        "benchmark": "choices",
        "settings": {**vars(sizes), "rounds": wanted.rounds},
        "versions": versions(),
        "machine": machine(),
        "choices": {
            name: {
                "flags": CHOICES[name].words,
                "share": CHOICES[name].share,
                "flops_ratio": averaged(counted[name][0] / flops, name),
                "saved_peak_ratio": counted[name][1] / saved,
                "time_ratio": averaged(times[name], name) if times else None,
            }
            for name in names
        },
    }
    print("\n".join(table(result)))
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def averaged(ratio: float, name: str) -> float:
    """Over the steps in which a choice acts and those in which it does not."""
    return 1 + CHOICES[name].share * (ratio - 1)


def table(result: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    settings, made = result["settings"], result["machine"]
    where = f"torch {result['versions']['torch']}, {made['cpu']}, {made['threads']} thread(s)"
    sizes = f"{settings['size']} px, batch {settings['batch']}, {settings['netG']}, ngf {settings['ngf']}, float32"
    yield f"one training step, {sizes}, beside plain CUT; {where}"
    yield ""
    yield "| | flags | operations | memory for backward | time |"
    yield "|---|---|---|---|---|"
    yield from _rows(result["choices"].items())


def _rows(entries: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    for name, entry in entries:
        timed = "-" if entry["time_ratio"] is None else f"{entry['time_ratio']:.2f}"
        rarely = "" if entry["share"] == 1 else f", in {entry['share']:.2%} of the steps"
        numbers = f"{entry['flops_ratio']:.2f} | {entry['saved_peak_ratio']:.2f} | {timed}"
        yield f"| {name} | `{entry['flags']}`{rarely} | {numbers} |"
