"""Translate a split with a trained run: `python test.py --dataroot DIR --name RUN`."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from data.base import DataError, domain_folder, scan_folder
from data.images import DomainFormat, decode
from data.single_dataset import SingleDataset
from models import load_trained
from options.groups import Inference
from options.parse import RunOptions, extra, inference_options
from util.engine.build import choose_device
from util.engine.inference import translate_image
from util.errors import exit_code
from util.visual.results import Results, Stored


def main() -> int:
    run = inference_options((Inference,), prog="test.py")
    wanted = extra(run, Inference)
    model = load_trained(run, choose_device(run.runtime.gpu_ids), evaluate=wanted.eval)
    dataset = SingleDataset.for_phase(run, wanted.phase, wanted.num_test, model.size_multiple)
    label = f"{wanted.phase}_{run.experiment.epoch}"
    results = Results(Path(wanted.results_dir) / run.experiment.name / label, "images/{kind}/{stem}")
    targets = target_files(run, wanted.phase)

    for number in tqdm(range(len(dataset)), unit="image", disable=None):
        whole = dataset.whole(number)
        fake = translate_image(model, whole.sample.A, whole.size)
        pictures = {"real_A": (whole.image, dataset.source), "fake_B": (fake, dataset.target)}
        if number < len(targets):
            pictures["real_B"] = read_target(targets[number], run, dataset.target)
        results.add(whole.file, pictures)

    note = "real_B is the target image of the same number; it is the truth only where the folders are paired."
    page = results.write_page(f"{run.experiment.name}, {label}", note if targets else "")
    print(f"{len(dataset)} images translated; page: {page}")
    return 0


def target_files(run: RunOptions, phase: str) -> list[Path]:
    """Target images to show beside the translations, if there are any; none are needed."""
    try:
        return scan_folder(domain_folder(Path(run.data.dataroot), phase, run.data.direction[-1]))
    except DataError:
        return []


def read_target(file: Path, run: RunOptions, fmt: DomainFormat) -> Stored:
    """A target image as it is stored."""
    return decode(file, run.networks.output_nc, fmt), fmt


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
