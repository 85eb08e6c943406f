"""Whether an exported network computes what PyTorch does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models.base import Model
from scripts.exporting.networks import OUTPUTS, ExplainingTranslator, Translator, example
from scripts.exporting.programs import ExportError, Runner

MOST = 1e-4  # difference of a value, relative to the largest of its output where that is above 1
# (images, rows, columns), rows and columns in multiples of the model's size_multiple of about 32 pixels each.
CASES = ((1, 2, 2), (3, 1, 2), (2, 3, 1))


@dataclass(frozen=True)
class Difference:
    """The greatest difference of one output at one size."""

    shape: tuple[int, ...]  # of the images
    output: str
    value: float

    @property
    def line(self) -> str:
        """For the console."""
        count, channels, height, width = self.shape
        return f"{count} x {channels} x {height} x {width}: {self.output} differs by at most {self.value:.2g}"


def differences(net: Translator, model: Model[Any], channels: int, runner: Runner) -> list[Difference]:
    """PyTorch against the exported network, at sizes other than those it was exported with.

    Raises:
        ExportError: it does not take a size.
    """
    with_cam, found = isinstance(net, ExplainingTranslator), []
    unit = max(1, 32 // model.size_multiple)
    for count, rows, columns in CASES:
        sides = max(2, rows * unit + (rows > 1)), max(2, columns * unit + (columns > 2))
        given = example(model, channels, with_cam, sides, count)
        with torch.no_grad():
            expected = net(*given)
        try:
            got = runner(given)
        except Exception as error:  # onnxruntime's errors have no common type
            raise ExportError(f"the exported network does not take {tuple(given[0].shape)}: {error}") from error
        for name, one, other in zip(OUTPUTS, expected if with_cam else [expected], got, strict=False):
            if one.shape != other.shape:
                raise ExportError(f"{name} has the shape {tuple(other.shape)} instead of {tuple(one.shape)}")
            scale = max(1.0, float(one.abs().max()))
            found.append(Difference(tuple(given[0].shape), name, float((one - other).abs().max()) / scale))
    return found


def check(found: list[Difference]) -> float:
    """The greatest difference.

    Raises:
        ExportError: it is above 1e-4.
    """
    worst = max(found, key=lambda one: one.value)
    if not worst.value <= MOST:  # NaN is no agreement either
        raise ExportError(f"the exported network computes something else: {worst.line}, above {MOST:g}")
    return worst.value
