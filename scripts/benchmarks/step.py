"""`benchmark.py step`: one training step of each model against `published`, CUT in the published order of passes.

Operations and saved bytes are counts: the same on every machine. Times are ratios of medians of interleaved
runs, to be read on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from data.base import Batch
from models import MODELS
from models.cut_model import CutModel, CutState
from models.cutcam_model import CutCamModel
from models.speed import Speed, speed_up
from options.parse import train_options
from scripts.benchmarks.counting import Cost, cost_of
from scripts.benchmarks.machine import machine, versions
from scripts.benchmarks.published import PublishedCut, PublishedCutCam
from util.engine.build import optimizers_from
from util.engine.step import Precision, StepResult, train_step
from util.errors import UserError
from util.seeding import StepInfo, generator

HELP = "operations, bytes kept for backward and time of one training step (CPU), against the published order of passes"

YARDSTICK = "published"
FLOP_LIMIT = 1.05  # of the yardstick's operations, averaged over the cycle of the gradient cap
BYTES_LIMIT = 1.0  # of the most bytes that the yardstick holds for backward at any moment of its step
CUTCAM_FLAGS = ("--nce_idt", "--lambda_IDT", "10", "--lambda_EDGE", "5", "--cam_weight_adv")  # README's command
SUBJECTS = {  # name -> model whose networks it has, extra flags
    YARDSTICK: ("cut", ()),
    "published_cutcam": ("cutcam", CUTCAM_FLAGS),
    "cut": ("cut", ()),
    "cutcam": ("cutcam", CUTCAM_FLAGS),
}
VARIANTS = {  # CUT with what makes a step faster or smaller
    "fast": ("--fast",),
    "bf16": ("--amp", "bf16"),
    "fast_bf16": ("--fast", "--amp", "bf16"),
    "channels_last": ("--channels_last",),
    "compile": ("--compile",),
    "checkpoint_blocks": ("--checkpoint_blocks",),
    "bf16_checkpoint_blocks": ("--amp", "bf16", "--checkpoint_blocks"),
}
CAP_EVERY = 50  # steps between measurements of CUTCAM's gradient cap


@dataclass(frozen=True)
class Sizes:
    """What is run: square images of `size` pixels, `batch` of each domain."""

    size: int = 128
    ngf: int = 32
    batch: int = 1
    netG: str = "resnet_9blocks"
    seed: int = 0

    def flags(self) -> list[str]:
        named = {"ngf": self.ngf, "ndf": self.ngf, "netG": self.netG, "crop_size": self.size, "seed": self.seed}
        return [word for name, value in named.items() for word in (f"--{name}", str(value))]

    def draw_batch(self) -> Batch:
        """Uniform noise in [-1, 1]: no count depends on what the images show."""
        draw = generator(self.seed, "benchmark images")
        images = torch.rand(2, self.batch, 3, self.size, self.size, generator=draw) * 2 - 1
        numbers = torch.arange(self.batch)
        names = tuple(f"{i}.png" for i in range(self.batch))
        return Batch(images[0], images[1], names, names, numbers % 7, numbers, numbers)

    def info(self, step: int) -> StepInfo:
        """In the middle of a run, where every term has its full weight."""
        return StepInfo(self.seed, step, progress=100.0, fraction=0.5)


class Subject:
    """Networks with one way of training them for a step.

    Args:
        name: one of SUBJECTS or VARIANTS.

    Attributes:
        step: trains once on the benchmark's batch, as step number n of a run.
    """

    def __init__(self, name: str, sizes: Sizes) -> None:
        known = SUBJECTS | {variant: ("cut", flags) for variant, flags in VARIANTS.items()}
        if name not in known:
            raise UserError(f"--models {name}: choose from {', '.join(known)}")
        kind, extra = known[name]
        run = train_options(["--model", kind, "--dataroot", "none", *sizes.flags(), *extra])
        self.name, self.sizes, self.batch = name, sizes, sizes.draw_batch()
        self.model: CutModel = MODELS.get(kind).from_options(run)  # type: ignore[assignment]
        self.model.train()
        self.said = speed_up(self.model, Speed.from_options(run.runtime, run.optim.amp))
        self.precision = Precision(run.optim.amp, self.model.device)
        self.optimizers = optimizers_from(run, self.model)
        self.published: PublishedCut | None = None
        if name.startswith(YARDSTICK):
            cut_cam = isinstance(self.model, CutCamModel)
            self.published = (PublishedCutCam if cut_cam else PublishedCut)(self.model, self.optimizers)  # type: ignore[arg-type]

    @property
    def nets(self) -> dict[str, nn.Module]:
        return self.model.nets

    def step(self, number: int) -> None:
        """Train once on the benchmark's batch, in the order of passes that is this subject's."""
        if self.published is not None:
            self.published.step(self.batch, self.sizes.info(number))
        else:
            self.train_step(number)

    def train_step(self, number: int, watch_gradients: bool = False) -> StepResult:
        """The engine's step (not of a published order)."""
        info = self.sizes.info(number)
        return train_step(self.model, self.batch, info, self.optimizers, self.precision, watch_gradients)

    def cost(self, call: Callable[[], object]) -> Cost:
        return cost_of(call, self.nets.values(), self.model.generator)


@dataclass(frozen=True)
class Costs:
    """What a subject's steps cost.

    Attributes:
        plain: the usual step.
        capped: the step that also measures the gradient cap, every CAP_EVERY steps; None without a cap.
        monitors: what the log computes beside the step each time it is written; None without monitors.
        gradient_norms: what a step costs that also logs each term's gradient norm (--monitor_freq).
    """

    plain: Cost
    capped: Cost | None = None
    monitors: Cost | None = None
    gradient_norms: Cost | None = None

    @property
    def flops(self) -> float:
        """Of a step, averaged over the cycle of the gradient cap."""
        extra = 0 if self.capped is None else (self.capped.flops - self.plain.flops) / CAP_EVERY
        return self.plain.flops + extra


def count(subject: Subject) -> Costs:
    """Count a subject's steps."""
    if subject.name != "cutcam":
        return Costs(subject.cost(partial(subject.step, 1)))
    begun = itertools.count(0, CAP_EVERY)  # the first step of every cycle measures the cap
    capped = subject.cost(lambda: subject.step(next(begun)))
    plain = subject.cost(partial(subject.step, 1))
    state = subject.train_step(1).state
    assert isinstance(state, CutState)
    monitors = subject.cost(lambda: subject.model.monitors(state))
    watched = subject.cost(partial(subject.train_step, 2, watch_gradients=True))
    return Costs(plain, capped, monitors, watched)


class Timed(Protocol):
    """What can be timed step by step."""

    @property
    def name(self) -> str: ...

    def step(self, number: int) -> None: ...


CLOCKS = {"wall": "perf_counter", "processor": "process_time"}  # functions of time


def time_ratios(
    subjects: Sequence[Timed], iterations: int, warm_up: int, yardstick: str = YARDSTICK, clock: str = "wall"
) -> dict[str, float]:
    """Median time of each subject's step over the yardstick's; runs interleave, each round beginning elsewhere.

    Args:
        clock: one of CLOCKS; that of the processor counts this process's own threads alone, so that it also serves on
            a machine that others use.
    """
    now: Callable[[], float] = getattr(time, CLOCKS[clock])
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for turn in range(warm_up + iterations):
        shift = turn % len(subjects)
        for subject in (*subjects[shift:], *subjects[:shift]):
            started = now()
            subject.step(1 + turn)
            if turn >= warm_up:
                seconds[subject.name].append(now() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: median / medians[yardstick] for name, median in medians.items()}


# -- the command ------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    sizes = Sizes()
    parser.add_argument("--size", type=_positive, default=sizes.size, help="side of the images in pixels")
    parser.add_argument("--ngf", type=_positive, default=sizes.ngf, help="width of G, and of D")
    parser.add_argument("--batch", type=_positive, default=sizes.batch, help="images of each domain")
    parser.add_argument("--netG", default=sizes.netG, help="generator")
    parser.add_argument("--models", default="cut,cutcam", help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--iterations", type=int, default=20, help="timed rounds; 0: count only")
    parser.add_argument("--warm_up", type=int, default=3, help="rounds before them")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: this process's share, where others work too (CPU)"
    )
    parser.add_argument(
        "--variants", nargs="?", const=",".join(VARIANTS), default="", help=f"cut with these too: {', '.join(VARIANTS)}"
    )
    parser.add_argument("--profile", type=Path, help="write a trace of one step of the last model or variant here")
    parser.add_argument("--json", type=Path, help="write the results here as well")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON and the trace; the exit status."""
    sizes = Sizes(wanted.size, wanted.ngf, wanted.batch, wanted.netG)
    names = list(dict.fromkeys([YARDSTICK, *wanted.models.split(","), *filter(None, wanted.variants.split(","))]))
    costs: dict[str, Costs] = {}
    for name in names:
        costs[name] = count(Subject(name, sizes))
    times: dict[str, float] = {}
    if wanted.iterations > 0:
        subjects = [Subject(name, sizes) for name in names]
        times = time_ratios(subjects, wanted.iterations, wanted.warm_up, clock=wanted.clock)
    result = report(sizes, costs, times, wanted.iterations, wanted.clock)
    print("\n".join(table(result)))
    if wanted.profile:
        print("\n".join(profile(Subject(names[-1], sizes), wanted.profile)))
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def profile(subject: Subject, target: Path) -> Iterable[str]:
    """Write a trace of one step, for chrome://tracing or ui.perfetto.dev; its five largest costs, in words."""
    subject.step(1)
    with torch.profiler.profile() as seen:
        subject.step(2)
    target.parent.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(str(target))
    costs = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in costs)
    yield f"the largest of a step of `{subject.name}` (trace: {target}):"
    for event in costs[:5]:
        yield f"  {event.self_cpu_time_total / whole:6.1%}  {event.key}, {event.count} calls"


def report(
    sizes: Sizes, costs: dict[str, Costs], times: dict[str, float], iterations: int, clock: str = "wall"
) -> dict[str, Any]:
    """Everything measured, as it is written to JSON."""
    base = costs[YARDSTICK]
    return {
        "benchmark": "step",
        "settings": {**vars(sizes), "iterations": iterations, "clock": clock, "yardstick": YARDSTICK},
        "limits": {"flops_ratio": FLOP_LIMIT, "saved_peak_ratio": BYTES_LIMIT},
        "versions": versions(),
        "machine": machine(),
        "models": {name: _entry(cost, base, times.get(name)) for name, cost in costs.items()},
    }


def _entry(costs: Costs, base: Costs, time_ratio: float | None) -> dict[str, Any]:
    plain, yardstick = costs.plain, base.plain
    entry: dict[str, Any] = {
        "flops": costs.flops,
        "flops_ratio": costs.flops / base.flops,
        "plain_step": {
            "forward_flops": plain.forward_flops,
            "backward_flops": plain.backward_flops,
            "other_flops": plain.other_flops,
            "flops": plain.flops,
            "flops_ratio": plain.flops / yardstick.flops,
        },
        "saved_peak_bytes": plain.saved_peak,
        "saved_peak_ratio": plain.saved_peak / yardstick.saved_peak,
        "saved_at_backward_bytes": plain.saved_at_backward,
        "saved_at_backward_ratio": plain.saved_at_backward / yardstick.saved_at_backward,
        "full_passes": plain.full_passes,
        "encoder_passes": plain.encoder_passes,
        "time_ratio": time_ratio,
    }
    if costs.capped and costs.monitors and costs.gradient_norms:
        entry["now_and_then"] = {
            "gradient_cap_flops_ratio": (costs.capped.flops - plain.flops) / yardstick.flops,
            "gradient_cap_every_steps": CAP_EVERY,
            "gradient_cap_saved_peak_ratio": costs.capped.saved_peak / yardstick.saved_peak,
            "monitors_flops_ratio": costs.monitors.flops / yardstick.flops,
            "gradient_norms_flops_ratio": (costs.gradient_norms.flops - plain.flops) / yardstick.flops,
        }
    return entry


def table(result: dict[str, Any]) -> Iterable[str]:
    """Lines of text."""
    settings, made = result["settings"], result["machine"]
    yield (
        f"one training step, {settings['size']} px, batch {settings['batch']}, {settings['netG']}, "
        f"ngf {settings['ngf']}, float32 unless named; ratios to `{YARDSTICK}`"
    )
    yield f"torch {result['versions']['torch']}, {made['cpu']}, {made['threads']} thread(s)"
    yield ""
    heads = (
        "model",
        "passes",
        "GFLOP",
        "forward",
        "backward",
        "ratio",
        "saved MB",
        "ratio",
        "peak MB",
        "ratio",
        "time",
    )
    form = "{:<23}{:>8}{:>10}{:>9}{:>10}{:>8}{:>10}{:>8}{:>9}{:>8}{:>7}"
    yield form.format(*heads)
    for name, entry in result["models"].items():
        yield form.format(name, *_cells(entry))
    yield ""
    yield "passes: images through all of G + through its encoder alone. Forward, backward: of convolutions."
    yield "saved: held for backward when the backward pass of G begins; peak: the most held at any moment of the step."
    limits = result["limits"]
    if seen := [name for name in result["models"] if name in VARIANTS]:
        yield "variants of cut: " + ", ".join(f"{name} ({' '.join(VARIANTS[name])})" for name in seen)
        yield "Memory that --fast keeps is kept for all rows. What is computed twice is not counted as saved."
        yield "GFLOP of --fast: as if its convolutions saved no products; gradients of their inputs count as forward."
    yield f"limits of cut and cutcam: GFLOP {limits['flops_ratio']:.2f}, peak {limits['saved_peak_ratio']:.2f}"
    for name, entry in result["models"].items():
        if rare := entry.get("now_and_then"):
            yield (
                f"{name}: GFLOP are the average over {rare['gradient_cap_every_steps']} steps; a plain step "
                f"has the ratio {entry['plain_step']['flops_ratio']:.3f}. To it come, in steps of "
                f"`{YARDSTICK}`: {rare['gradient_cap_flops_ratio']:.3f} when the gradient cap is measured, "
                f"{rare['monitors_flops_ratio']:.3f} when monitors are logged (--print_freq), "
                f"{rare['gradient_norms_flops_ratio']:.3f} when gradient norms are (--monitor_freq)"
            )


def _cells(entry: dict[str, Any]) -> list[str]:
    plain, timed = entry["plain_step"], entry["time_ratio"]
    return [
        f"{entry['full_passes']}+{entry['encoder_passes']}",
        f"{entry['flops'] / 1e9:.2f}",
        f"{plain['forward_flops'] / 1e9:.2f}",
        f"{plain['backward_flops'] / 1e9:.2f}",
        f"{entry['flops_ratio']:.3f}",
        f"{entry['saved_at_backward_bytes'] / 1e6:.1f}",
        f"{entry['saved_at_backward_ratio']:.4f}",
        f"{entry['saved_peak_bytes'] / 1e6:.1f}",
        f"{entry['saved_peak_ratio']:.4f}",
        "-" if timed is None else f"{timed:.2f}",
    ]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
