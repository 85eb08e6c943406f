"""The independent classifiers of an evaluation: trained on real images, and kept for the next evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from data.images import image_size
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
        size: what all images are brought to, see `size_for`; None: they are seen as they are.
    """

    def __init__(
        self,
        run: RunOptions,
        num_classes: int,
        names: dict[int, str],
        device: torch.device,
        size: tuple[int, int] | None = None,
    ) -> None:
        flip = ("--no_flip",) if run.data.no_flip else ()
        wanted = extra(run, Evaluation)
        seed = run.experiment.seed if wanted.judge_seed < 0 else wanted.judge_seed
        schedule = ("--seed", seed, "--n_epochs", wanted.judge_epochs)
        sides = ("--preprocess", "resize", "--load_size", *size, "--crop_size", *size) if size else ()
        self._options = judge_options("--input_nc", run.networks.output_nc, *schedule, *flip, *sides)
        # Part of the judges' names, which stand beside all numbers: those of another size are others.
        self._about = f", all resized to {size[0]} x {size[1]}" if size else ""
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
                name + self._about,
                run=self._options,
                device=self._device,
                progress=progress,
                class_names=self._names,
                keep_in=self._kept,
            )

    def fit_where_labelled(self, images: ImageSet | None) -> TrainedJudge | None:
        """A judge, or None where there are not two classes to tell apart."""
        return self.fit(images, images.name) if images is not None and can_teach(images) else None


def can_teach(images: ImageSet) -> bool:
    """Whether labels tell two classes apart."""
    return len({label for label in images.labels if label != UNKNOWN}) > 1


def size_for(run: RunOptions, sets: Sequence[ImageSet]) -> tuple[int, int] | None:
    """The run's crop_size where the labelled images of a set differ in size, and so cannot be one batch; else None.

    One size for the judges of all sets, since their accuracies stand side by side.
    """
    return run.data.crop_size if any(can_teach(images) and _differ_in_size(images) for images in sets) else None


def _differ_in_size(images: ImageSet) -> bool:
    """By the files' headers."""
    labelled = (file for file, label in zip(images.files, images.labels, strict=True) if label != UNKNOWN)
    return len({image_size(file) for file in labelled}) > 1


def judge_of_run(run: RunOptions, wanted: Evaluation, device: torch.device) -> TrainedJudge | None:
    """The judge that --classifier names, of the same --checkpoints_dir; None where none is named."""
    if wanted.classifier is None:
        return None
    return load_judge(Path(run.experiment.checkpoints_dir) / wanted.classifier, device)
