"""Pictures given by --input, without a data set: translated by test.py, translated and explained by cam_infer.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from data.bad_images import write_list
from data.base import Sample
from data.domain import check_classes, load_formats, target_format
from data.images import DomainFormat, unit_to_uint8
from data.single_dataset import WholeImage
from models import load_trained
from models.base import Model
from options.groups import Explanation, Given, Inference
from options.parse import RunOptions, extra
from options.schema import Group, OptionError, shorten
from scripts.explaining.inputs import Inputs, given_inputs
from scripts.explaining.sizes import say_sizes
from scripts.explaining.translation import drawings, explain_group, translate_group
from scripts.explaining.video import explain_video, is_video, translate_video
from util.engine.build import Pace, choose_device, pace, progress
from util.engine.inference import by_size
from util.errors import counted, printable
from util.visual.cam_table import CamTable
from util.visual.results import Results

Result = TypeVar("Result")


def with_given(run: RunOptions) -> RunOptions:
    """The options with --input as the --image of explainers, and --output as the --results_dir that they write to.

    Raises:
        OptionError: --input beside an option that chooses images of a split, --output beside another --results_dir.
    """
    given = extra(run, Given)
    if given.input is None:
        return run
    elsewhere = extra(run, Inference).results_dir
    if given.output is not None and "results_dir" in run.given and Path(elsewhere) != Path(given.output):
        raise OptionError(f"--output {shorten(given.output)}: names the folder, and so does --results_dir; give one")
    if both := sorted({"image", "random", "index", "grid", "phase"} & run.given):
        raise OptionError(f"--input {shorten(given.input)}: names the pictures, and so does --{both[0]}; give one")

    def changed(group: Group) -> Group:
        if isinstance(group, Explanation):
            return replace(group, image=given.input)
        if isinstance(group, Inference) and given.output is not None:
            return replace(group, results_dir=given.output)
        return group

    return replace(run, extra=tuple(changed(group) for group in run.extra))


def translate_given(run: RunOptions) -> int:
    """Write the translation of each picture of --input as `STEM.png` (a video's as `STEM.mp4`); returns 0.

    Raises:
        UserError: weights or pictures cannot be used, or a picture would be overwritten.
    """
    wanted, given, device = extra(run, Inference), _source(run), choose_device(run.runtime.gpu_ids)
    model = load_trained(run, device, evaluate=wanted.eval, tile=wanted.tile)
    model.check_translates()
    folder, speed = _folder(run), pace(run, model, wanted.tile)
    if is_video(given):
        print(f"video: {translate_video(model, run, Path(given), folder, speed)}")
        return 0
    inputs = given_inputs(run, given, model.size_multiple, flag="--input")
    target, results = target_of(run, inputs.domain.format), Results(folder, "{stem}")
    check_apart(results, inputs)
    files = [
        results.store(whole.file, "fake", fake, target)[0]
        for whole, fake in _worked_on(inputs, run, model, partial(translate_group, model, run, speed.amp), speed)
    ]
    write_list(folder, inputs.bad)
    print(f"{counted(len(files), 'picture')} translated: {files[0] if len(files) == 1 else folder}")
    return 0


def explain_given(run: RunOptions, device: torch.device, below: str = "") -> None:
    """Write translations, maps, overlays, `cams.csv` and a page of the pictures of --input.

    Args:
        below: sub-folder of --output; none: the folder itself.

    Raises:
        UserError: weights or pictures cannot be used, or the model has no class head.
    """
    wanted, look, given = extra(run, Inference), extra(run, Explanation), _source(run)
    model = load_trained(run, device, evaluate=wanted.eval, tile=wanted.tile)
    model.check_class(look.class_idx)
    folder, speed = _folder(run) / below, pace(run, model, wanted.tile)
    if is_video(given):
        for name in explain_video(model, run, Path(given), folder, speed):
            print(f"video: {name}")
        return
    inputs = given_inputs(run, given, model.size_multiple, flag="--input")
    if look.class_idx < 0:
        check_classes(run, inputs.domain.labels, inputs.domain.files)
    target, table = target_of(run, inputs.domain.format), CamTable(inputs.domain.class_names)
    results, count = Results(folder, "{stem}_{kind}"), 0
    explain = partial(explain_group, model, run, speed.amp)
    for whole, (fake, seen) in _worked_on(inputs, run, model, explain, speed):
        caption = table.add(whole.file, whole.sample.label_A, seen)
        shown = {"input": unit_to_uint8(whole.image)}
        drawn: dict[str, Any] = {"fake": (fake, target), **drawings(whole, fake, seen, look)}
        results.add(whole.file, drawn, printable(caption), first=shown)
        if look.save_raw:  # float32 (h, w), not normalised, at cam_layer's resolution
            results.add_array(whole.file, "cam_input", seen.cam[0].numpy())
            results.add_array(whole.file, "cam_output", seen.cam_fake[0].numpy())
        count += 1
    table.write(results.folder / "cams.csv")
    write_list(folder, inputs.bad)
    page = results.write_page(f"{run.experiment.name}, {run.experiment.epoch}: what the generator looks at")
    print(f"{counted(count, 'picture')} translated and explained; table: {folder / 'cams.csv'}; page: {page}")


def target_of(run: RunOptions, source: DomainFormat) -> DomainFormat:
    """The format that translations are written in: the run's, or what follows from the source's without a run."""
    formats = load_formats(run.folder)
    if formats:
        return formats[not run.turned]
    return target_format(run.data.window_B if run.data.direction == "AtoB" else run.data.window_A, source)


def check_apart(results: Results, inputs: Inputs) -> None:
    """Raise an OptionError where a translation would take the place of an input."""
    there = {os.path.realpath(file) for file in inputs.domain.files}
    for file in inputs.domain.files:
        stem = results.stem_of(file.relative_to(inputs.domain.folder))
        for suffix in (".png", ".tif"):
            if os.path.realpath(results.path("fake", stem, suffix)) in there:
                name = printable(file.name)
                raise OptionError(f"--output {results.folder}: {name} would be overwritten; give another folder")


def _source(run: RunOptions) -> str:
    given = extra(run, Given)
    assert given.input is not None
    if not given.input.strip():
        raise OptionError("--input '': is empty; give a file, a folder or a pattern")
    return given.input


def _folder(run: RunOptions) -> Path:
    """Where the results go."""
    output = extra(run, Given).output
    return Path(output) if output else Path(extra(run, Inference).results_dir) / run.experiment.name / "given"


def _worked_on(
    inputs: Inputs,
    run: RunOptions,
    model: Model[Any],
    work: Callable[[list[WholeImage]], Sequence[Result]],
    speed: Pace,
) -> Iterable[tuple[WholeImage, Result]]:
    """Each picture that can be read, with its result."""
    images = say_sizes(_whole(inputs), run, model.size_multiple)
    return progress(by_size(images, work, speed.together), len(inputs), run.log.quiet)


def _whole(inputs: Inputs) -> Iterator[WholeImage]:
    for number, one in enumerate(inputs):
        sample = Sample(one.sample, None, one.file.as_posix(), "", one.label, number, number)
        yield WholeImage(one.image, sample, one.file, number)
