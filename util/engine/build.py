"""From options to a trainer: loader, optimisers, schedules and sinks of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from data.sampler import GlobalBatchSampler
from util import ranks
from util.engine.late import LateCheck
from util.engine.run_state import Position
from util.engine.schedule import Plateau, make_scheduler
from util.engine.signals import left_to_the_main_process
from util.engine.step import Precision
from util.engine.trainer import Evaluate, Frequencies, Outputs, Trainer
from util.errors import UserError
from util.visual.base import Sink, Sinks
from util.visual.console import ConsoleSink
from util.visual.html import HtmlSink
from util.visual.jsonl import JsonlSink, read_log
from util.visual.panel import PanelWriter
from util.visual.tensorboard_sink import TensorBoardSink
from util.visual.visdom_sink import VisdomSink

if TYPE_CHECKING:
    from data.base import Dataset
    from models.base import Model
    from options.parse import RunOptions

PANEL_INPUTS = 4


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
    )
    workers = min(data.num_threads, os.cpu_count() or 1)  # more only wait for each other
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        worker_init_fn=left_to_the_main_process,
        persistent_workers=workers > 0,
        pin_memory=model.device.type == "cuda",
    )
    optimizers = optimizers_from(run, model)
    return Trainer(
        model,
        loader,
        sampler,
        optimizers,
        schedulers_from(run, optimizers, first_epoch),
        Precision(run.optim.amp, model.device),
        outputs_from(run, model, dataset, position),
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


def _late_check(run: RunOptions, device: torch.device, optimizers: Sequence[Optimizer]) -> LateCheck | None:
    """Only where waiting costs something; fp16's scaler looks for itself, and a skipped step must be known at once."""
    wanted = device.type == "cuda" and run.optim.on_nan == "stop" and run.optim.amp != "fp16"
    return LateCheck(device) if wanted and LateCheck.serves(optimizers) else None


def optimizers_from(run: RunOptions, model: Model[Any]) -> dict[str, Optimizer]:
    """One optimiser for each network that has parameters."""
    opt = run.optim
    betas = (opt.beta1, opt.beta2)
    kinds: dict[str, Any] = {
        "adam": partial(Adam, betas=betas),
        "adamw": partial(AdamW, betas=betas),
        "sgd": partial(SGD, momentum=opt.momentum, nesterov=opt.nesterov),
    }
    make = partial(kinds[opt.optimizer], lr=opt.lr, weight_decay=opt.weight_decay)
    trained = {
        name: [{"params": found, "lr": opt.lr * factor} for found, factor in model.parameter_groups(name) if found]
        for name in model.nets
    }
    # One kernel for all weights; on a GPU it also leaves a step out on the word of `LateCheck`.
    if run.runtime.fast or model.device.type == "cuda":
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


def outputs_from(run: RunOptions, model: Model[Any], dataset: Dataset, position: Position | None) -> Outputs:
    """Sinks of a run; only the first rank has any.

    Args:
        position: where a run goes on; None for a new one.
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


def _panel_from(run: RunOptions, model: Model[Any], dataset: Dataset) -> PanelWriter:
    """A panel of training inputs spread over the file list, so that classes sorted by name are all shown."""
    count = min(PANEL_INPUTS, len(dataset.source_files))
    files = [i * len(dataset.source_files) // count for i in range(count)]
    samples = [dataset.whole_source(file) for file in files]
    inputs = [sample.A[None].to(model.device) for sample in samples]
    return PanelWriter(run.folder / "panels", inputs, [sample.path_A.rsplit("/", 1)[-1] for sample in samples])
