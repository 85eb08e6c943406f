"""Translate a split, or what --input names, with a trained run: `python test.py --dataroot DIR --name RUN`."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from data.images import DomainFormat, ImageError, decode
from data.pairing import cut_half
from data.single_dataset import SingleDataset
from models import load_trained
from options.groups import Given, Inference
from options.parse import RunOptions, extra, inference_options
from scripts.explaining.given import translate_given
from util.engine.build import choose_device
from util.engine.inference import translate_image
from util.errors import exit_code, printable
from util.visual.results import Results, Stored


def main() -> int:
    run = inference_options((Inference, Given), prog="test.py", turns=True)
    wanted = extra(run, Inference)
    if extra(run, Given).input is not None:
        return translate_given(run)
    model = load_trained(run, choose_device(run.runtime.gpu_ids), evaluate=wanted.eval, tile=wanted.tile)
    model.check_translates()
    dataset = SingleDataset.for_phase(run, wanted.phase, wanted.num_test, model.size_multiple, labelled=False)
    label = f"{wanted.phase}_{run.experiment.epoch}" + (f"_{run.data.direction}" if run.turned else "")
    results = Results(Path(wanted.results_dir) / run.experiment.name / label, "images/{kind}/{stem}")
    paired = run.data.dataset_mode == "aligned"
    targets, left_out = dataset.partners(run.data.direction, paired), []

    for whole in tqdm(dataset.images(), total=len(dataset), unit="image", disable=None):
        fake = translate_image(model, whole.sample.A, whole.size)
        pictures: dict[str, Stored] = {"real_A": (whole.image, dataset.source), "fake_B": (fake, dataset.target)}
        if whole.number in targets:
            try:
                pictures["real_B"] = read_target(*targets[whole.number], run, dataset.target)
            except ImageError as error:
                left_out.append(str(error))
        results.add(whole.file, pictures, printable(whole.file))

    note = "real_B is the target image of the same number; it is the truth only where the folders are paired."
    page = results.write_page(f"{run.experiment.name}, {label}", note if targets and not paired else "")
    dataset.list_bad_images(results.folder)
    if left_out:
        print(f"real_B is left out for {len(left_out)} images, first because {left_out[0]}")
    print(f"{dataset.outcome('translated')}; page: {page}")
    return 0


def read_target(file: Path, half: str, run: RunOptions, fmt: DomainFormat) -> Stored:
    """A target image as it is stored."""
    return cut_half(decode(file, run.channels[1], fmt), half, file), fmt


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
