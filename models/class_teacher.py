"""A trained classifier, kept frozen, that says which class a translation shows: CUTCAM's `T`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.networks.frozen_classifier import FrozenClassifier
from models.trained_classifier import ClassifierSource, classifier_net, folder_of, source_of
from options.schema import OptionError, shorten, show

if TYPE_CHECKING:
    from models.cutcam_options import CutCamOptions
    from options.parse import RunOptions


class ClassTeacher:
    """The classifier of --classifier_run.

    Args:
        run: of the model that is taught; it names the classifier.

    Raises:
        OptionError: there is no such run, or it is no classifier of such images.
    """

    def __init__(self, run: RunOptions) -> None:
        opt: CutCamOptions = run.model  # type: ignore[assignment]
        assert opt.classifier_run is not None
        self._run = run
        self.source: ClassifierSource = source_of(run, opt.classifier_run, opt.classifier_epoch)
        net, multiple = classifier_net(run, self.source)
        if any(side % multiple for side in run.data.crop_size):
            raise OptionError(
                f"--crop_size {show(run.data.crop_size)}: the classifier of {self._flag} needs sides that are "
                f"multiples of {multiple}"
            )
        try:
            self.net = FrozenClassifier(net, (run.networks.input_nc, *run.data.crop_size))
        except ValueError as error:
            raise OptionError(f"{self._flag}: {error}") from error

    @property
    def _flag(self) -> str:
        return f"--classifier_run {shorten(self.source.folder)}"

    def load(self) -> None:
        """Read its weights from the classifier's own folder.

        Raises:
            CheckpointError: they are missing or do not fit.
        """
        folder = folder_of(self._run, self.source.folder)
        self.net.load_state_dict(classifier_net(self._run, self.source, folder)[0].state_dict())

    def judge(self, x: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) of inputs, without gradient, and of translations; both (N, C, H, W) in [-1, 1]."""
        with torch.no_grad():
            seen: Tensor = self.net(x)
        logits: Tensor = self.net(fake)
        return seen, logits

    def check(self, labels: Sequence[int]) -> None:
        """Raise an OptionError where a label is none of its classes."""
        known: int = self.net.net.num_classes  # type: ignore[assignment]
        if max(labels, default=-1) >= known:
            raise OptionError(
                f"{self._flag}: knows the classes 0 to {known - 1}, and an image has the label {max(labels)}; train "
                "the classifier on these classes"
            )
