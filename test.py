"""Translate a split, or what --input names, with a trained run: `python test.py --dataroot DIR --name RUN`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data.images import ImageError
from data.single_dataset import SingleDataset
from models import load_trained
from options.groups import Given, Inference
from options.parse import extra, inference_options
from scripts.explaining.given import translate_given, with_given
from scripts.explaining.places import check_output
from scripts.explaining.sizes import say_sizes
from scripts.explaining.translation import read_target, translate_group
from util.engine.build import choose_device, pace, progress, writing_threads
from util.engine.inference import by_size
from util.errors import counted, exit_code, printable
from util.sharing import as_one, in_order, is_first, mine
from util.visual.results import Results, Stored


@as_one
def main() -> int:
    run = with_given(inference_options((Inference, Given), prog="test.py", turns=True))
    wanted = extra(run, Inference)
    check_output(run)
    if extra(run, Given).input is not None:
        return translate_given(run) if is_first() else 0
    model = load_trained(run, choose_device(run.runtime.gpu_ids), evaluate=wanted.eval, tile=wanted.tile)
    model.check_translates()
    dataset = SingleDataset.for_phase(
        run, wanted.phase, wanted.num_test, model.size_multiple, labelled=False, smallest=model.smallest_side
    )
    label = f"{wanted.phase}_{run.experiment.epoch}" + (f"_{run.data.direction}" if run.turned else "")
    folder = Path(wanted.results_dir) / run.experiment.name / label
    results = Results(folder, "images/{kind}/{stem}", threads=writing_threads(), files=dataset.names)
    paired = run.data.dataset_mode == "aligned"
    targets, left_out = dataset.partners(run.data.direction, paired), {}
    speed = pace(run, model, wanted.tile)
    share, done = mine(len(dataset)), []
    found = dataset.images(speed.processes, partial(read_target, targets, run, dataset.target), share)
    images = say_sizes(found, run, model.size_multiple)
    translated = by_size(images, partial(translate_group, model, run, speed.amp), speed.together)
    with results:
        for whole, fake in progress(translated, len(share), run.log.quiet):
            pictures: dict[str, Stored] = {"real_A": (whole.image, dataset.source), "fake_B": (fake, dataset.target)}
            if isinstance(whole.beside, ImageError):
                left_out[whole.sample.file_A] = str(whole.beside)
            elif whole.beside is not None:
                pictures["real_B"] = whole.beside, dataset.target
            results.add(whole.file, pictures, printable(whole.file))
            done.append(whole.sample.file_A)

    results.gather(done)
    dataset.gather()
    reasons = in_order(list(left_out), list(left_out.values()))
    if not is_first():
        return 0
    note = "real_B is the target image of the same number; it is the truth only where the folders are paired."
    page = results.write_page(f"{run.experiment.name}, {label}", note if targets and not paired else "")
    dataset.list_bad_images(results.folder)
    if left := results.left_over():
        print(left)
    if reasons:
        print(f"real_B is left out for {counted(len(reasons), 'image')}, first because {reasons[0]}")
    print(f"{dataset.outcome('translated')}; page: {page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
