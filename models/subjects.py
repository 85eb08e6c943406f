"""What a trained run has that can be explained, each as one network from images to scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from models import SHAPED_BY
from models.base import Model
from models.cam.layers import AUTO
from models.cam.tap import running
from models.cam.targets import DistanceTarget, Negated, PatchTarget, Target, TopK
from models.classifier_model import ClassifierModel
from models.cut_model import CutModel
from models.cutcam_model import CutCamModel
from models.networks import Generator
from models.networks.frozen_classifier import GeneratorClassifier
from options.parse import RunOptions
from options.schema import OptionError, show
from util.checkpoint import CheckpointError, load_weights

SUBJECTS = ("head", "discriminator", "distance", "classifier")


class ExplainedNet(NamedTuple):
    """A network for `models.cam.explain.explain`.

    Attributes:
        net: images (N, C, H, W) in [-1, 1], sides multiples of the model's `size_multiple` -> logits or scores.
        layer: the layer to explain at, unless the user names one; see `models.cam.layers.find_layer`.
        targets: what is explained, given the inputs x (N, C, H, W) in [-1, 1] that the images were made from.
        images: "input" and "translation": which of x and G(x) it may be asked about.
    """

    net: nn.Module
    layer: str
    targets: Callable[[Tensor], Target]
    images: tuple[str, ...]


def subject_of(model: Model[Any], what: str, patches: Sequence[int] = ()) -> ExplainedNet:
    """What is explained of a model.

    - "classifier": its logits, for the class predicted.
    - "head": the logits of CUTCAM's class head on G's encoder, for the class it predicts.
    - "discriminator": the opposite of D's mean decision: what makes an image look fake.
    - "distance": the mean squared difference of E(image) to E(x), at G's deepest contrasted layer (CUTCAM: the head's).

    Args:
        patches: of the discriminator, (top, left, bottom, right) in cells of its decisions; none: all of them.

    Raises:
        OptionError: the model has no such part, or `patches` are no window.
    """
    if patches and len(patches) != 4:
        raise OptionError(f"--patches {show(patches)}: give TOP,LEFT,BOTTOM,RIGHT")
    if what == "classifier" and isinstance(model, ClassifierModel):
        return ExplainedNet(model.classifier, AUTO, lambda _: TopK(1), ("input",))
    if what == "head" and isinstance(model, CutCamModel):
        layer = model.nce_layers[model.cam_index]
        return ExplainedNet(GeneratorClassifier(model.generator, model.head, layer), "hidden", lambda _: TopK(1), _BOTH)
    if what == "discriminator" and "D" in model.nets:
        window = (patches[0], patches[1], patches[2], patches[3]) if patches else None
        return ExplainedNet(model.nets["D"], AUTO, lambda _: Negated(PatchTarget(window)), ("translation",))
    if what == "distance" and isinstance(model, CutModel):
        layer = model.nce_layers[model.cam_index if isinstance(model, CutCamModel) else -1]
        encoder = EncoderNet(model.generator, layer)
        return ExplainedNet(encoder, "features", lambda x: DistanceTarget(_seen(encoder, x)), ("translation",))
    raise OptionError(f"--explain {what}: {type(model).__name__} has none; {_remedy(what)}")


_BOTH = ("input", "translation")


def _remedy(what: str) -> str:
    return {
        "head": "train with --model cutcam, or take --explain discriminator or distance",
        "discriminator": "a run has one with --lambda_GAN above 0",
        "classifier": "train with --model classifier",
    }.get(what, f"there are {', '.join(SUBJECTS)}")


def load_discriminator(model: Model[Any], run: RunOptions) -> None:
    """Load D's exported weights, which translating does not need.

    Raises:
        CheckpointError: missing, or do not fit.
    """
    file = run.folder / f"{run.experiment.epoch}_net_D.pth"
    if not file.is_file():
        raise CheckpointError(f"--explain discriminator: {file} does not exist; take an --epoch that has it")
    load_weights(file, model.nets["D"], SHAPED_BY["D"])
    model.nets["D"].to(model.device)


class EncoderNet(nn.Module):
    """G's encoder up to a layer: images (N, C, H, W) -> its features, flattened to (N, d).

    Args:
        layer: id of a layer of G.
    """

    def __init__(self, generator: Generator, layer: int) -> None:
        super().__init__()
        self.generator, self._layer = generator, layer
        self.features = nn.Identity()  # a name for what the layer puts out, whatever kind of generator it is in

    def feature_map(self, images: Tensor) -> Tensor:
        """(N, C', h, w)."""
        seen: Tensor = self.features(self.generator.encode(images, [self._layer])[0])
        return seen

    def forward(self, images: Tensor) -> Tensor:
        return self.feature_map(images).flatten(1)


def _seen(encoder: EncoderNet, images: Tensor) -> Tensor:
    """Features (N, d) to compare with."""
    with running(encoder):
        features: Tensor = encoder(images)
    return features
