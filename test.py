"""Translate a split with a trained run: `python test.py --dataroot DIR --name RUN`."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from data.base import DataError
from data.checkup import scan_folder
from data.images import DomainFormat, ImageError, decode
from data.single_dataset import SingleDataset
from models import load_trained
from options.groups import Inference
from options.parse import RunOptions, extra, inference_options
from util.engine.build import choose_device
from util.engine.inference import translate_image
from util.errors import exit_code, printable
from util.visual.results import Results, Stored


def main() -> int:
    run = inference_options((Inference,), prog="test.py")
    wanted = extra(run, Inference)
    model = load_trained(run, choose_device(run.runtime.gpu_ids), evaluate=wanted.eval, tile=wanted.tile)
    model.check_translates()
    dataset = SingleDataset.for_phase(run, wanted.phase, wanted.num_test, model.size_multiple, labelled=False)
    label = f"{wanted.phase}_{run.experiment.epoch}"
    results = Results(Path(wanted.results_dir) / run.experiment.name / label, "images/{kind}/{stem}")
    targets, left_out = target_files(dataset, run), []

    for whole in tqdm(dataset.images(), total=len(dataset), unit="image", disable=None):
        fake = translate_image(model, whole.sample.A, whole.size)
        pictures: dict[str, Stored] = {"real_A": (whole.image, dataset.source), "fake_B": (fake, dataset.target)}
        if whole.number < len(targets):
            try:
                pictures["real_B"] = read_target(targets[whole.number], run, dataset.target)
            except ImageError as error:
                left_out.append(str(error))
        results.add(whole.file, pictures, printable(whole.file))

    note = "real_B is the target image of the same number; it is the truth only where the folders are paired."
    page = results.write_page(f"{run.experiment.name}, {label}", note if targets else "")
    dataset.list_bad_images(results.folder)
    if left_out:
        print(f"real_B is left out for {len(left_out)} images, first because {left_out[0]}")
    print(f"{dataset.outcome('translated')}; page: {page}")
    return 0


def target_files(dataset: SingleDataset, run: RunOptions) -> list[Path]:
    """Target images to show beside the translations, from the same split, if there are any; none are needed."""
    if dataset.folder == dataset.root:
        return []
    name = dataset.folder.name.removesuffix(run.data.direction[0]) + run.data.direction[-1]
    try:
        return scan_folder(dataset.folder.with_name(name))
    except DataError:
        return []


def read_target(file: Path, run: RunOptions, fmt: DomainFormat) -> Stored:
    """A target image as it is stored."""
    return decode(file, run.networks.output_nc, fmt), fmt


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
