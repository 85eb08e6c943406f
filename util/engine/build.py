"""From options to a trainer: loader, optimisers, schedules and sinks of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from data.sampler import GlobalBatchSampler
from util import ranks
from util.engine.inference import together
from util.engine.late import LateCheck
from util.engine.loading import Loader
from util.engine.optimizers import OPTIMIZERS
from util.engine.run_state import Position
from util.engine.schedule import Plateau, make_scheduler
from util.engine.step import Precision
from util.engine.trainer import Evaluate, Frequencies, Outputs, Trainer
from util.errors import UserError
from util.visual.base import Sink, Sinks
from util.visual.console import ConsoleSink
from util.visual.html import HtmlSink
from util.visual.jsonl import JsonlSink, read_log
from util.visual.panel import PanelWriter
from util.visual.progress import Plan
from util.visual.tensorboard_sink import TensorBoardSink
from util.visual.visdom_sink import VisdomSink

if TYPE_CHECKING:
    from data.base import Dataset
    from models.base import Model
    from options.parse import RunOptions

PANEL_INPUTS = 4
MOST_WRITERS = 8
Work = TypeVar("Work")


class DeviceError(UserError, ValueError):
    """A device that this machine does not have."""


def choose_device(gpu_ids: str) -> torch.device:
    """The device of this process: -1 the CPU, a number that GPU, auto the best there is.

    Under torchrun every process takes the GPU of its local rank.

    Raises:
        DeviceError: a GPU that is not there, or several for one process.
    """
    text = gpu_ids.strip()
    if text.startswith("-"):
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK")
    if text == "auto" or (local is not None and torch.cuda.is_available()):
        if torch.cuda.is_available():
            if int(local or 0) >= torch.cuda.device_count():
                raise DeviceError(
                    f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                    "lower --nproc_per_node, or use --gpu_ids -1"
                )
            return torch.device("cuda", int(local or 0))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not text.replace(",", "").isdigit():
        raise DeviceError(f"--gpu_ids {gpu_ids or repr(gpu_ids)}: give the number of a GPU, -1 (the CPU) or auto")
    if not text.isdigit():
        raise DeviceError(
            f"--gpu_ids {gpu_ids}: one process uses one GPU; for several start "
            f"torchrun --nproc_per_node {len(text.split(','))} train.py ... without --gpu_ids"
        )
    if not torch.cuda.is_available() or int(text) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"--gpu_ids {gpu_ids}: this machine shows {count} usable GPUs; --gpu_ids -1 uses the CPU")
    return torch.device("cuda", int(text))


def loading_processes(wanted: int) -> int:
    """How many processes read images: of --num_threads, what this process's share of the cores can keep busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def writing_threads() -> int:
    """How many threads encode and write results beside the networks."""
    return loading_processes(MOST_WRITERS)


@dataclass(frozen=True)
class Pace:
    """How whole images go through a trained model.

    Attributes:
        together: images of one size at once.
        processes: that read ahead.
        amp: number format of the networks; that of the training is not taken over.
    """

    together: int
    processes: int
    amp: str


def pace(run: RunOptions, model: Model[Any], tile: int) -> Pace:
    """What --batch_size, --num_threads and --amp of test.py and cam_infer.py ask for.

    Without --batch_size and --amp images go one by one, in float32: those of the training do not count.
    """
    wanted = run.data.batch_size if "batch_size" in run.given else 1
    size = together(model, wanted, tile)
    if size < wanted and ranks.is_first():
        why = "with --tile" if tile else "since batch normalisation or dropout would mix them; --eval prevents it"
        print(f"--batch_size {wanted}: images go one by one, {why}")
    return Pace(size, loading_processes(run.data.num_threads), run.optim.amp if "amp" in run.given else "off")


def progress(images: Iterable[Work], total: int, quiet: bool) -> Iterable[Work]:
    """The same with a bar of rate and remaining time, on a terminal and without --quiet."""
    bar: Iterable[Work] = tqdm(images, total=total, unit="image", dynamic_ncols=True, disable=quiet or None)
    return bar


def trainer_from(
    run: RunOptions,
    model: Model[Any],
    dataset: Dataset,
    state: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
) -> Trainer:
    """The trainer of a run.

    Args:
        model: on its device.
        state: of the run that is continued, not loaded here; None for a new run.
        evaluate: measures an epoch's weights at --eval_freq; only the first process asks it.
    """
    data, schedule, device = run.data, run.schedule, model.device
    if run.optim.amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError(f"--amp bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use --amp fp16 or off")
    position = Position(**state["position"]) if state else None
    # CUT's users continue with --epoch_count; here the run knows where it stands, and that flag must not shift it.
    first_epoch = state["first_epoch"] if state else schedule.epoch_count
    sampler = GlobalBatchSampler(
        len(dataset),
        data.batch_size * run.optim.accumulate,
        run.experiment.seed,
        rank=ranks.rank(),
        world_size=ranks.world_size(),
        serial=data.serial_batches,
        per_epoch=data.samples_per_epoch,
    )
    workers = loading_processes(data.num_threads)
    loader: Loader[Any] = Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        persistent_workers=workers > 0,
        pin_memory=model.device.type == "cuda",
    )
    optimizers = optimizers_from(run, model)
    steps = (schedule.last_epoch - first_epoch + 1) * len(sampler)
    model.messages += _cut_short(run, first_epoch, len(sampler))
    plan = Plan(min(steps, schedule.max_iters) if schedule.max_iters else steps, schedule.last_epoch)
    return Trainer(
        model,
        loader,
        sampler,
        optimizers,
        schedulers_from(run, optimizers, first_epoch),
        Precision(run.optim.amp, model.device),
        outputs_from(run, model, dataset, position, plan),
        frequencies_from(run),
        epochs=(first_epoch, schedule.last_epoch),
        max_iters=schedule.max_iters,
        seed=run.experiment.seed,
        skip_nonfinite=run.optim.on_nan == "skip",
        evaluate=evaluate if ranks.is_first() else None,
        ema_decay=run.optim.ema_decay,
        accumulate=run.optim.accumulate,
        late=_late_check(run, device, list(optimizers.values())),
    )


def _cut_short(run: RunOptions, first_epoch: int, steps: int) -> list[str]:
    """Said where --max_iters, in steps, leaves out epochs in which the learning rate was to fall.

    Args:
        steps: of an epoch.
    """
    schedule = run.schedule
    reached = first_epoch - 1 + -(-schedule.max_iters // steps)
    falling = ("linear", "cosine") if schedule.n_epochs_decay else ("cosine",)
    if not schedule.max_iters or reached >= schedule.last_epoch or schedule.lr_policy not in falling:
        return []
    return [
        f"--max_iters {schedule.max_iters} ends the run in epoch {reached} of {schedule.last_epoch}; the learning "
        "rate falls by epochs, so that it will not reach its end: shorten --n_epochs and --n_epochs_decay, or "
        "epochs by --samples_per_epoch"
    ]


def _late_check(run: RunOptions, device: torch.device, optimizers: Sequence[Optimizer]) -> LateCheck | None:
    """Only where waiting costs something; fp16's scaler looks for itself, and a skipped step must be known at once."""
    wanted = device.type == "cuda" and run.optim.on_nan == "stop" and run.optim.amp != "fp16"
    return LateCheck(device) if wanted and LateCheck.serves(optimizers) else None


def optimizers_from(run: RunOptions, model: Model[Any]) -> dict[str, Optimizer]:
    """One optimiser for each network that has parameters."""
    opt = run.optim
    own: dict[str, Any] = {"betas": (opt.beta1, opt.beta2)}
    if opt.optimizer == "sgd":
        own = {"momentum": opt.momentum, "nesterov": opt.nesterov}
    make = partial(OPTIMIZERS[opt.optimizer], lr=opt.lr, weight_decay=opt.weight_decay, **own)
    trained = {
        name: [
            {"params": found, "lr": opt.lr * factor, "initial_lr": opt.lr * factor}
            for found, factor in model.parameter_groups(name)
            if found
        ]
        for name in model.nets
    }
    # One kernel for all weights; on a GPU it also leaves a step out on the word of `LateCheck`. That of SGD takes its
    # momentum for written after a first step that fp16's scaler left out, and goes on from whatever was in that memory.
    unsafe = opt.amp == "fp16" and opt.optimizer == "sgd" and opt.momentum > 0
    if (run.runtime.fast or model.device.type == "cuda") and not unsafe:
        make = partial(make, fused=True)
    return {name: make(groups) for name, groups in trained.items() if groups}


def schedulers_from(run: RunOptions, optimizers: Mapping[str, Optimizer], first_epoch: int) -> dict[str, LRScheduler]:
    """The learning rate's schedule of each optimiser, from the epoch of that number on."""
    schedule = run.schedule
    plateau = Plateau(
        schedule.plateau_factor, schedule.plateau_patience, schedule.plateau_threshold, schedule.plateau_min_lr
    )
    return {
        name: make_scheduler(
            optimizer,
            schedule.lr_policy,
            schedule.n_epochs,
            schedule.n_epochs_decay,
            first_epoch,
            schedule.lr_decay_iters,
            plateau,
            schedule.lr_gamma,
        )
        for name, optimizer in optimizers.items()
    }


def frequencies_from(run: RunOptions) -> Frequencies:
    log = run.log
    return Frequencies(
        print=log.print_freq,
        display=log.display_freq,
        html=log.update_html_freq,
        save_latest=log.save_latest_freq,
        save_epochs=log.save_epoch_freq,
        panel_epochs=log.panel_freq,
        monitor_steps=log.monitor_freq,
        save_by_iter=log.save_by_iter,
        eval_epochs=log.eval_freq,
    )


def outputs_from(
    run: RunOptions, model: Model[Any], dataset: Dataset, position: Position | None, plan: Plan | None = None
) -> Outputs:
    """Sinks of a run; only the first rank has any.

    Args:
        position: where a run goes on; None for a new one.
        plan: how long it will be.
    """
    log, folder, name = run.log, run.folder, run.experiment.name
    resume_step = position.step if position else None
    if not ranks.is_first():
        return Outputs(folder, Sinks([]), Sinks([]), quiet=True)
    sinks: list[Sink] = [JsonlSink(folder, resume_step), ConsoleSink(folder, log.quiet)]
    if "tensorboard" in log.sinks:
        sinks.append(TensorBoardSink(folder / "tensorboard", position.total_iters if position else None))
    if "visdom" in log.sinks and (log.display_id is None or log.display_id > 0):
        sinks.append(
            VisdomSink(
                name,
                log.display_server,
                log.display_port,
                name if log.display_env == "main" else log.display_env,
                display_id=log.display_id or 1,
                ncols=log.display_ncols,
                history=read_log(folder / "log.jsonl") if resume_step is not None else (),
                plan=plan,
            )
        )
    pages: list[Sink] = [] if log.no_html else [HtmlSink(folder, name, resume_step)]
    panel = _panel_from(run, model, dataset) if log.panel_freq else None
    return Outputs(folder, Sinks(sinks), Sinks(pages), panel, log.quiet)


def resume_command(run: RunOptions) -> str:
    """What to type to continue: such a run brings its own options."""
    start = f"torchrun --nproc_per_node {ranks.world_size()}" if ranks.world_size() > 1 else "python"
    flags = ["--name", run.experiment.name, "--checkpoints_dir", run.experiment.checkpoints_dir]
    return f"{start} train.py {shlex.join(flags)} --continue_train"


def nothing_left(run: RunOptions, trainer: Trainer) -> str:
    """Why a run that was continued has not done a step, and what makes it longer."""
    schedule = run.schedule
    if trainer.early_stopping.over:
        done, longer = f"it stopped early, after step {trainer.position.step}", "--early_stopping_patience"
    elif trainer.position.epoch > schedule.last_epoch:
        done, longer = f"all {schedule.last_epoch} epochs are done", "--n_epochs or --n_epochs_decay"
    else:
        done, longer = f"all {schedule.max_iters} steps of --max_iters are done", "--max_iters"
    return f"nothing is left to do for '{run.experiment.name}': {done}; a greater {longer} makes the run longer"


def _panel_from(run: RunOptions, model: Model[Any], dataset: Dataset) -> PanelWriter:
    """A panel of training inputs spread over the file list, so that classes sorted by name are all shown."""
    count = min(PANEL_INPUTS, len(dataset.source_files))
    files = [i * len(dataset.source_files) // count for i in range(count)]
    samples = [dataset.whole_source(file) for file in files]
    inputs = [sample.A[None].to(model.device) for sample in samples]
    return PanelWriter(run.folder / "panels", inputs, [sample.path_A.rsplit("/", 1)[-1] for sample in samples])
