"""`benchmark.py eval`: what the stages of an evaluation take."""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from options.groups import Evaluation, MeasuredInference
from options.parse import inference_options
from scripts.benchmarks.material import NAME, about, add_common, save, untrained_run, where, write_images
from scripts.evaluate import evaluate
from scripts.evaluating.bench import Bench
from util.engine.build import choose_device
from util.errors import UserError

HELP = "seconds of each stage of scripts/evaluate.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    add_common(parser)
    parser.add_argument("--count", type=int, default=16, help="images of each domain")
    parser.add_argument("--ngf", type=int, default=64, help="channels of G's first convolution")
    parser.add_argument("--metrics", default="", help="measures, by comma; none: every one that can be computed")
    parser.add_argument("--gpu_ids", default="auto")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print and write."""
    if wanted.rounds < 1:
        raise UserError(f"--rounds {wanted.rounds}: must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        rounds = [stages(Path(folder) / str(turn), wanted) for turn in range(wanted.rounds)]
    names = dict.fromkeys(name for one in rounds for name in one)
    result = about("eval", vars(wanted))
    result["seconds"] = {name: statistics.median(one.get(name, 0.0) for one in rounds) for name in names}
    print("\n".join(table(result)))
    save(result, wanted.json)
    return 0


def stages(root: Path, wanted: argparse.Namespace) -> dict[str, float]:
    """Seconds by stage of one evaluation of first weights, nothing kept from an earlier one."""
    folders = ("trainA", "trainB", "testA", "testB")
    data = write_images(root / "data", wanted.kind, wanted.size, dict.fromkeys(folders, wanted.count))
    shape = ["--ngf", str(wanted.ngf), "--crop_size", str(wanted.size), "--load_size", str(wanted.size)]
    untrained_run(root, data, shape)
    flags = ["--name", NAME, "--checkpoints_dir", str(root), "--dataroot", str(data), "--gpu_ids", wanted.gpu_ids]
    flags += ["--results_dir", str(root / "results"), "--quiet"]
    flags += ["--metrics", wanted.metrics] if wanted.metrics else []
    run = inference_options((MeasuredInference, Evaluation), flags, "evaluate.py")
    bench = Bench(run, choose_device(run.runtime.gpu_ids))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate(bench, run)
    return dict(bench.clock.seconds)


def table(result: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    settings, seconds = result["settings"], result["seconds"]
    total = sum(seconds.values())
    sizes = f"{settings['count']} images a domain, {settings['size']} px, ngf {settings['ngf']}"
    yield f"stages of an evaluation, {sizes}; {where(result)}"
    yield ""
    yield "| stage | seconds | share |"
    yield "|---|---:|---:|"
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        yield f"| {name} | {value:.2f} | {value / total:.0%} |"
    yield f"| all | {total:.2f} | 100% |"
