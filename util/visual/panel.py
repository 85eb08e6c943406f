"""One picture every few epochs of the same inputs, so that a run shows how its translations and maps develop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from util.files import write_atomic
from util.visual.files import png_bytes
from util.visual.grid import panel


class PanelWriter:
    """Writes `<folder>/epoch_005.png`: a row an input, a column a kind of picture.

    Args:
        folder: where the panels go.
        inputs: (1, C, H, W) in [-1, 1] each, on the model's device; sides may differ.
        names: one a row.
    """

    def __init__(self, folder: Path, inputs: list[Tensor], names: list[str]) -> None:
        self._folder, self._inputs, self._names = folder, inputs, names

    def write(self, epoch: int, draw: Callable[[Tensor], Mapping[str, list[np.ndarray]]]) -> Path:
        """Draw all inputs with a model's `panel` and write the picture; returns its path."""
        columns = [draw(image) for image in self._inputs]
        rows = [[pictures[0] for pictures in column.values()] for column in columns]
        path = self._folder / f"epoch_{epoch:03d}.png"
        write_atomic(path, png_bytes(panel(rows, list(columns[0]), self._names)))
        return path
