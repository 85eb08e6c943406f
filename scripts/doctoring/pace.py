"""How long a training takes on this machine: a few steps on the user's own images, without a run folder."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from data import DATASETS
from data.base import Batch, Dataset
from data.sampler import GlobalBatchSampler
from models import MODELS
from options.parse import RunOptions
from util.engine.build import optimizers_from
from util.engine.step import Precision, train_step
from util.seeding import StepInfo
from util.visual.progress import with_bar

WARM_UP = 1  # steps that are not counted: the first ones choose algorithms and ask for memory
_STATE_COPIES = 4  # of the weights in a state to continue from: themselves, Adam's two moments, the average


@dataclass(frozen=True)
class Pace:
    """What was measured.

    Attributes:
        step_seconds: the median step.
        read_seconds: reading and cropping one batch, in one process.
        steps: of the whole run.
        epoch_steps: of an epoch.
        run_bytes: the run's weights and state on the disk.
        gpu_bytes: the most memory in use on a GPU; 0 on a CPU.
    """

    step_seconds: float
    read_seconds: float
    steps: int
    epoch_steps: int
    run_bytes: int
    gpu_bytes: int

    def seconds(self, workers: int) -> float:
        """Of the whole run: steps wait where reading is slower."""
        return self.steps * max(self.step_seconds, self.read_seconds / max(1, workers))


def measure(run: RunOptions, device: torch.device, steps: int, quiet: bool = False) -> Pace:
    """Build the model and data of a run as train.py does and do some steps; nothing is written.

    Raises:
        UserError: what would stop train.py.
    """
    torch.manual_seed(run.experiment.seed)
    model = MODELS.get(run.experiment.model).from_options(run).to(device)
    dataset = DATASETS.get(run.data.dataset_mode).from_options(run, model.size_multiple)
    model.check_data(dataset.labels)
    model.train()
    size, seed = run.data.batch_size * run.optim.accumulate, run.experiment.seed
    sampler = GlobalBatchSampler(len(dataset), size, seed, per_epoch=run.data.samples_per_epoch)
    optimizers, precision = optimizers_from(run, model), Precision(run.optim.amp, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken, read = list[float](), list[float]()
    for number in with_bar(range(WARM_UP + steps), "trial steps", "step", quiet=quiet):
        started = time.monotonic()
        batch = _batch(dataset, sampler, number).to(device)
        read.append(time.monotonic() - started)
        _wait(device)
        started = time.monotonic()
        # In the middle of a run, where every term has its full weight.
        info = StepInfo(run.experiment.seed, number, progress=100.0, fraction=0.5)
        train_step(model, batch, info, optimizers, precision, accumulate=run.optim.accumulate)
        _wait(device)
        taken.append(time.monotonic() - started)
    model.messages.clear()
    weights = sum(p.numel() * 4 for net in model.nets.values() for p in net.parameters())
    schedule = run.schedule
    epochs = schedule.last_epoch - schedule.epoch_count + 1
    total = epochs * len(sampler)
    total = min(total, schedule.max_iters) if schedule.max_iters else total
    exports = 1 + (epochs if not schedule.max_iters else total // max(1, len(sampler))) // run.log.save_epoch_freq
    return Pace(
        statistics.median(taken[WARM_UP:]),
        statistics.median(read[WARM_UP:]),
        total,
        len(sampler),
        weights * (_STATE_COPIES + exports),
        torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0,
    )


def _batch(dataset: Dataset, sampler: GlobalBatchSampler, number: int) -> Batch:
    sampler.set_epoch(1)
    batches = list(sampler)
    return dataset.collate([dataset[key] for key in batches[number % len(batches)]])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
