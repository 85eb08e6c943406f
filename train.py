"""Train a model: `python train.py --model cutcam --dataroot DIR --name RUN` (`--help` lists every option)."""

from __future__ import annotations

import torch
from torch import nn

from data import DATASETS
from data.base import Dataset, histogram
from data.domain import save_formats
from models import MODELS, load_pretrained
from models.networks.frozen_classifier import weights_of
from models.speed import Speed, speed_up
from options.parse import OPTIONS_FILE, RunOptions, train_options
from options.yaml_config import dump_yaml
from scripts.evaluating.while_training import evaluation_of
from util import ranks
from util.engine.build import choose_device, nothing_left, resume_command, trainer_from
from util.engine.run_folder import begun_anew, describe_run, fit, state_to_continue
from util.engine.signals import StopRequest
from util.errors import exit_code
from util.seeding import seed_everything


def main() -> int:
    run = train_options()
    run = DATASETS.get(run.data.dataset_mode).settled(run)
    evaluation = evaluation_of(run)  # what it lacks is said now, not at the end of an epoch
    device = choose_device(run.runtime.gpu_ids)
    ranks.start(device)
    seed_everything(run.experiment.seed)
    state = state_to_continue(run.folder, run.experiment.continue_train)
    model = MODELS.get(run.experiment.model).from_options(run).to(device)
    model.check_training(run)
    model.messages += speed_up(model, Speed.from_options(run.runtime, run.optim.amp))
    # Inside an epoch the order of samples counts the files it began with.
    kept = state.get("files") if state and state["position"]["step_in_epoch"] else None
    dataset = DATASETS.get(run.data.dataset_mode).from_options(run, model.size_multiple, kept)
    model.check_data(dataset.labels)
    if not state:
        model.load_first_weights()
        if run.experiment.pretrained_name:
            load_pretrained(run, model.nets)
    ranks.barrier()  # no rank may meet a folder that the first one has begun to fill
    trainer = trainer_from(run, model, dataset, state, evaluation)
    if state:
        trainer.load(state)  # before anything of the run is written over: the options may not fit
    if ranks.is_first():
        if not state and (note := begun_anew(run.folder, OPTIONS_FILE)):
            print(note)
        describe_run(run.folder, dump_yaml(run.lasting()), OPTIONS_FILE, device, continued=state is not None)
        save_formats(run.folder, dataset.source, dataset.target, dataset.class_names)
        introduce(run, model.nets, dataset, device)
    begun = trainer.position.step
    try:
        finished = fit(trainer, StopRequest().listen())
    finally:
        trainer.close()  # also where a run ends with an error, its curves are whole
    if ranks.is_first() and not finished:
        print(f"stopped after step {trainer.position.step}; to continue: {resume_command(run)}")
    elif ranks.is_first() and state and trainer.position.step == begun:
        print(nothing_left(run, trainer))
    ranks.stop()
    return 0


def introduce(run: RunOptions, nets: dict[str, nn.Module], dataset: Dataset, device: torch.device) -> None:
    """Say what is about to happen."""
    print(f"{run.experiment.model} '{run.experiment.name}' on {device}, {ranks.world_size()} process(es)")
    print("weights: " + ", ".join(f"{name} {weights_of(net)}" for name, net in nets.items()))
    print(f"source: {dataset.source}; labels: {histogram(dataset.labels, dataset.class_names)}")
    if dataset.target is not dataset.source:
        print(f"target: {dataset.target}")
    print(f"{run.data.samples_per_epoch or len(dataset)} samples an epoch of {run.data.dataroot}; folder: {run.folder}")
    if run.experiment.verbose:
        print(*nets.values(), sep="\n")


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
