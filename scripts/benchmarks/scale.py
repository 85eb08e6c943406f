"""`benchmark.py scale`: a training step by one process and by several on this machine, and ways to average gradients.

Every process has one thread and its own batch. While few processes work the others wait, and the rounds of all numbers
of processes interleave: what else the machine does slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import start_processes

from scripts.benchmarks.material import about, save, where
from scripts.benchmarks.step import SUBJECTS, Sizes, Subject
from util import ranks
from util.errors import UserError

HELP = "a training step by one process and by several, and flat, bucketed and single messages of gradients"

LOCAL = "127.0.0.1"
BUCKET = 25 * 2**20  # bytes, of DistributedDataParallel
WARM_UP = 1
METHOD = "spawn"  # a process that has used threads or a GPU cannot be forked
T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    parser.add_argument("--ranks", type=int, default=2, help="most processes; 1, 2, 4, ... up to it are measured")
    parser.add_argument("--model", choices=[name for name in SUBJECTS if "published" not in name], default="cutcam")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--ngf", type=int, default=32, help="channels of G's first convolution")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain, per process")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--json", type=Path, help="write the results here as well")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print and write."""
    for name, least in (("ranks", 2), ("rounds", 1), ("batch", 1)):
        if getattr(wanted, name) < least:
            raise UserError(f"--{name} {getattr(wanted, name)}: must be at least {least}")
    result = about("scale", {name: value for name, value in vars(wanted).items() if name != "json"})
    result["machine"] |= {"threads": 1, "cores": len(os.sched_getaffinity(0))}  # of each process
    result |= measured(wanted)
    print("\n".join(table(result)))
    save(result, wanted.json)
    return 0


def measured(wanted: argparse.Namespace) -> dict[str, Any]:
    """What the first process has measured; all are started anew, with one thread each."""
    store = TCPStore(LOCAL, 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        start_processes(_live, (wanted, store.port, found), nprocs=wanted.ranks, start_method=METHOD)  # type: ignore[no-untyped-call]
        content: dict[str, Any] = json.loads(found.read_text())
    return content


def worlds_up_to(most: int) -> list[int]:
    """1, 2, 4, ... and the most."""
    return sorted({*(2**power for power in range(most.bit_length())), most})


def _live(rank: int, wanted: argparse.Namespace, port: int, found: Path) -> None:
    """One process."""
    torch.set_num_threads(1)
    subject = Subject(wanted.model, Sizes(wanted.size, wanted.ngf, wanted.batch))
    subject.step(1)
    phases = trained(subject)
    gradients = [_gradients(phase) for phase in phases]
    bench = _Bench(TCPStore(LOCAL, port, is_master=False), rank, wanted.ranks)
    steps: dict[int, list[float]] = {world: [] for world in worlds_up_to(wanted.ranks)}
    averaging: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(WARM_UP + wanted.rounds):
        for world in _turned(list(steps), turn):
            steps[world].append(bench.seconds(partial(subject.step, turn + 2), world))
        for way in _turned(list(WAYS), turn):
            averaging[way].append(bench.seconds(partial(_average, WAYS[way], phases), wanted.ranks))
    if rank == 0:
        median = statistics.median
        result = {
            "step_seconds": {str(world): median(times[WARM_UP:]) for world, times in steps.items()},
            "averaging_seconds": {way: median(times[WARM_UP:]) for way, times in averaging.items()},
            "bytes_per_step": sum(g.numel() * g.element_size() for phase in gradients for g in phase),
            "tensors_per_step": sum(map(len, gradients)),
        }
        found.write_text(json.dumps(result))


class _Bench:
    """Times one piece of work by some of the processes, while the others wait."""

    def __init__(self, store: TCPStore, rank: int, ranks: int) -> None:
        self._store, self._rank, self._ranks, self._turn = store, rank, ranks, 0

    def seconds(self, work: Callable[[], object], world: int) -> float:
        """Of the first process; the groups of every call are new, so that one process has none."""
        self._turn += 1
        taken = 0.0
        if self._rank < world:
            if world > 1:
                place = PrefixStore(str(self._turn), self._store)
                dist.init_process_group("gloo", store=place, rank=self._rank, world_size=world)
            ranks.barrier()
            started = time.perf_counter()
            work()
            taken = time.perf_counter() - started
            ranks.barrier()
            ranks.stop()
        self._store.add(f"end {self._turn}", 1)
        while self._store.add(f"end {self._turn}", 0) < self._ranks:
            time.sleep(0.002)
        return taken


def _turned(names: list[T], turn: int) -> list[T]:
    """Each round begins with another one."""
    first = turn % len(names)
    return names[first:] + names[:first]


# --- averaging


def trained(subject: Subject) -> list[list[Tensor]]:
    """The parameters that a step has given gradients, phase by phase: what is averaged together."""
    nets, phases = subject.model.nets, subject.model.phases
    return [[p for net in phase.nets for p in nets[net].parameters() if p.grad is not None] for phase in phases]


def in_buckets(parameters: Sequence[Tensor], most_bytes: int = BUCKET) -> None:
    """Messages of at most so many bytes (or one tensor), the last gradients first, all under way at once."""
    gradients = _gradients(parameters)
    buckets: list[list[Tensor]] = [[]]
    for gradient in reversed(gradients):
        if buckets[-1] and sum(_bytes(one) for one in buckets[-1]) + _bytes(gradient) > most_bytes:
            buckets.append([])
        buckets[-1].append(gradient)
    sent = [torch.cat([gradient.reshape(-1) for gradient in bucket]) for bucket in buckets]
    for waiting in [dist.all_reduce(message, async_op=True) for message in sent]:
        waiting.wait()
    for bucket, message in zip(buckets, sent, strict=True):
        message /= dist.get_world_size()
        for gradient, mean in zip(bucket, torch.split(message, [one.numel() for one in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def one_by_one(parameters: Sequence[Tensor]) -> None:
    """A message for each tensor."""
    for gradient in _gradients(parameters):
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()


WAYS: Mapping[str, Callable[[Sequence[Tensor]], None]] = {
    "flat": ranks.average_gradients,
    "buckets of 25 MiB": in_buckets,
    "tensor by tensor": one_by_one,
}


def _average(way: Callable[[Sequence[Tensor]], None], phases: Sequence[Sequence[Tensor]]) -> None:
    for phase in phases:
        way(phase)


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _bytes(gradient: Tensor) -> int:
    return gradient.numel() * gradient.element_size()


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Markdown; ratios only, since the machine may have other work."""
    settings, steps, averaging = result["settings"], result["step_seconds"], result["averaging_seconds"]
    sizes = f"{settings['size']} px, ngf {settings['ngf']}, batch {settings['batch']} a process, gloo"
    yield f"a step of {settings['model']}, {sizes}; {where(result)} each, {result['machine']['cores']} cores"
    yield ""
    yield "| processes | time of a step, to one process | efficiency | images/s, to one process |"
    yield "|---:|---:|---:|---:|"
    for world, seconds in steps.items():
        ratio = seconds / steps["1"]
        yield f"| {world} | {ratio:.2f} | {1 / ratio:.2f} | {int(world) / ratio:.2f} |"
    yield ""
    megabytes, tensors = result["bytes_per_step"] / 1e6, result["tensors_per_step"]
    last = steps[str(settings["ranks"])]
    many = settings["ranks"]
    yield f"averaging {megabytes:.1f} MB in {tensors} tensors over {many} processes, without a step around it"
    yield ""
    yield "| messages | time, to flat | share of a step |"
    yield "|---|---:|---:|"
    for way, seconds in averaging.items():
        yield f"| {way} | {seconds / averaging['flat']:.2f} | {seconds / last:.1%} |"
