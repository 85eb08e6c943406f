"""What a trained run has that can be explained, each as one network from images to scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models import SHAPED_BY
from models.base import Model
from models.cam.layers import AUTO
from models.cam.tap import running
from models.cam.targets import DistanceTarget, Negated, PatchTarget, Target, TopK
from models.classifier_model import ClassifierModel
from models.cut_model import CutModel
from models.cutcam_model import CutCamModel
from models.cycle_gan_model import CycleGanModel
from models.networks import Generator
from models.networks.frozen_classifier import GeneratorClassifier
from models.pix2pix_model import Pix2PixModel
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
    - "discriminator": the opposite of D's mean decision: what makes an image look fake. Of two, the one that judges the
      translations; of a conditional one, what in the translation does, beside its input.
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
    if what == "discriminator" and judge_name(model) in model.nets:
        window = (patches[0], patches[1], patches[2], patches[3]) if patches else None
        judge, decision = model.nets[judge_name(model)], Negated(PatchTarget(window))
        if isinstance(model, Pix2PixModel):
            pairs = JudgeOfPairs(judge)
            return ExplainedNet(pairs, AUTO, lambda x: pairs.beside(x, decision), ("translation",))
        return ExplainedNet(judge, AUTO, lambda _: decision, ("translation",))
    if what == "distance" and isinstance(model, CutModel):
        layer = model.nce_layers[model.cam_index if isinstance(model, CutCamModel) else -1]
        encoder = EncoderNet(model.generator, layer)
        return ExplainedNet(encoder, "features", lambda x: DistanceTarget(_seen(encoder, x)), ("translation",))
    raise OptionError(f"--explain {what}: {type(model).__name__} has none; {_remedy(what)}")


_BOTH = ("input", "translation")


def judge_name(model: Model[Any]) -> str:
    """Name of the network that judges the model's translations, whether it has one or not."""
    return model.translates_by.replace("G", "D") if isinstance(model, CycleGanModel) else "D"


def _remedy(what: str) -> str:
    return {
        "head": "train with --model cutcam, or take --explain discriminator or distance",
        "discriminator": "translation runs have one, unless they were trained with --lambda_GAN 0",
        "classifier": "train with --model classifier",
    }.get(what, f"there are {', '.join(SUBJECTS)}")


def load_discriminator(model: Model[Any], run: RunOptions) -> None:
    """Load D's exported weights, which translating does not need.

    Raises:
        CheckpointError: missing, or do not fit.
    """
    name = judge_name(model)
    file = run.folder / f"{run.experiment.epoch}_net_{name}.pth"
    if not file.is_file():
        raise CheckpointError(f"--explain discriminator: {file} does not exist; take an --epoch that has it")
    load_weights(file, model.nets[name], SHAPED_BY["D"])
    model.nets[name].to(model.device)


class JudgeOfPairs(nn.Module):
    """A conditional D as a network of translations alone: (N', C, H, W), row r beside input r mod N -> decisions.

    Args:
        judge: D of input and translation as one image.
    """

    def __init__(self, judge: nn.Module) -> None:
        super().__init__()
        self.judge = judge
        self._inputs: Tensor | None = None

    def beside(self, inputs: Tensor, target: Target) -> Target:
        """From here on the translations judged are of these inputs (N, C, H, W); the target is handed back."""
        self._inputs = inputs.detach()
        return target

    def forward(self, images: Tensor) -> Tensor:
        assert self._inputs is not None, "targets(x) says of which inputs the translations are, and comes first"
        inputs = self._inputs.repeat(-(-len(images) // len(self._inputs)), 1, 1, 1)[: len(images)]
        decisions: Tensor = self.judge(torch.cat([inputs.to(images), images], 1))
        return decisions


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
