"""The independent classifiers of an evaluation: trained on real images, and kept for the next evaluation."""

from __future__ import annotations

from pathlib import Path

import torch

from models.judge import TrainedJudge, fit_judge, judge_options, load_judge
from options.groups import Evaluation
from options.parse import RunOptions, extra
from util.metrics.base import UNKNOWN, ImageSet
from util.visual.progress import bar

JUDGES = "judges"  # below --checkpoints_dir


class Judges:
    """Trains classifiers on image sets, once for each content and seed.

    Args:
        run: the evaluated run; its channels and mirroring are the judges' too.
        num_classes: of all image sets together.
    """

    def __init__(self, run: RunOptions, num_classes: int, names: dict[int, str], device: torch.device) -> None:
        flip = ("--no_flip",) if run.data.no_flip else ()
        wanted = extra(run, Evaluation)
        seed = run.experiment.seed if wanted.judge_seed < 0 else wanted.judge_seed
        schedule = ("--seed", seed, "--n_epochs", wanted.judge_epochs)
        self._options = judge_options("--input_nc", run.networks.output_nc, *schedule, *flip)
        self._classes, self._names, self._device = num_classes, names, device
        self._quiet = run.log.quiet
        self._kept = Path(run.experiment.checkpoints_dir) / JUDGES  # all runs on the same images share them

    def fit(self, images: ImageSet, name: str) -> TrainedJudge:
        """A judge of the images' labels, with a bar while it learns.

        Raises:
            DataError: labels of fewer than two classes.
        """
        with bar(None, f"classifier of {name}", "step", quiet=self._quiet) as shown:

            def progress(done: int, total: int) -> None:
                shown.total = total
                shown.update(done - shown.n)

            return fit_judge(
                images,
                self._classes,
                name,
                run=self._options,
                device=self._device,
                progress=progress,
                class_names=self._names,
                keep_in=self._kept,
            )

    def fit_where_labelled(self, images: ImageSet | None) -> TrainedJudge | None:
        """A judge, or None where there are not two classes to tell apart."""
        if images is None or len({label for label in images.labels if label != UNKNOWN}) < 2:
            return None
        return self.fit(images, images.name)


def judge_of_run(run: RunOptions, wanted: Evaluation, device: torch.device) -> TrainedJudge | None:
    """The judge that --classifier names, of the same --checkpoints_dir; None where none is named."""
    if wanted.classifier is None:
        return None
    return load_judge(Path(run.experiment.checkpoints_dir) / wanted.classifier, device)
