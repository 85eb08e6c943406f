"""A trained run as one network with plain tensors in and out, and what must be known to use it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data.domain import load_classes, load_formats
from data.images import DomainFormat
from models.base import Model
from options.parse import RunOptions
from options.schema import OptionError

OUTPUTS = ("translation", "cam", "cam_translation", "probabilities", "probabilities_translation")


class Translator(nn.Module):
    """image (N, C, H, W) in [-1, 1] -> translation like it; H and W multiples of the model's size_multiple."""

    def __init__(self, model: Model[Any]) -> None:
        super().__init__()
        self._model, self.nets = model, nn.ModuleDict({name: model.nets[name] for name in model.inference_nets})

    def forward(self, image: Tensor) -> Tensor:
        return self._model.translate_batch(image)


class ExplainingTranslator(Translator):
    """The same, with where both show a class.

    image, class_id (N,) int64 (-1: the head's choice on the image) -> translation, cam and cam_translation (N, h, w)
    >= 0 of that class, not normalised, probabilities and probabilities_translation (N, K).
    """

    def forward(self, image: Tensor, class_id: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        fake = self._model.translate_batch(image)
        seen = self._model.explain(image, fake, class_id)
        return fake, seen.cam, seen.cam_fake, seen.probabilities, seen.probabilities_fake


def network_of(model: Model[Any], with_cam: bool) -> Translator:
    """The network to export, in evaluation mode.

    Raises:
        OptionError: the model translates nothing, or has no class head where maps are wanted.
    """
    model.check_translates()
    if with_cam:
        try:
            model.check_class(-1)
        except OptionError as error:
            raise OptionError(f"--with_cam: {error}") from error
    return (ExplainingTranslator if with_cam else Translator)(model).eval()


def example(
    model: Model[Any], channels: int, with_cam: bool, sides: tuple[int, int], count: int = 2
) -> tuple[Any, ...]:
    """Arguments of the network: noise, and the head's choice.

    Args:
        sides: in multiples of the model's size_multiple.
    """
    height, width = (side * model.size_multiple for side in sides)
    draws = torch.Generator().manual_seed(count * height + width)
    image = torch.rand(count, channels, height, width, generator=draws) * 2 - 1
    return (image, torch.full((count,), -1)) if with_cam else (image,)


def facts_of(run: RunOptions, model: Model[Any], with_cam: bool) -> dict[str, Any]:
    """What must be known to use the file: windows, sizes, classes; plain values for JSON."""
    formats = load_formats(run.folder)
    source, target = (None, None) if formats is None else formats if not run.turned else formats[::-1]
    classes = load_classes(run.folder) or {}
    channels = run.channels
    return {
        "run": run.experiment.name,
        "model": run.experiment.model,
        "epoch": run.experiment.epoch,
        "netG": run.networks.netG,
        "ngf": run.networks.ngf,
        "direction": run.data.direction,
        "input_nc": channels[0],
        "output_nc": channels[1],
        "size_multiple": model.size_multiple,
        "source": _format(source),
        "target": _format(target),
        "preprocess": run.data.preprocess,
        "crop_size": list(run.data.crop_size),
        "input": "(N, input_nc, H, W) float32: 2 * clip((counts - low) / (high - low), 0, 1) - 1 with the window of "
        "source; H and W multiples of size_multiple",
        "translation": "(N, output_nc, H, W) float32 in [-1, 1]: counts = low + (value + 1) / 2 * (high - low) with "
        "the window of target, rounded, at its depth",
        "outputs": list(OUTPUTS if with_cam else OUTPUTS[:1]),
        "classes": {str(number): name for number, name in sorted(classes.items())},
    }


def _format(fmt: DomainFormat | None) -> dict[str, Any] | None:
    return None if fmt is None else fmt.to_dict()
