"""How maps and translations develop: one image a row, one epoch a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.single_dataset import WholeImage
from options.groups import Explanation, Inference
from options.parse import RunOptions, extra
from util.errors import counted
from util.files import check_writable, write_atomic
from util.sharing import in_order
from util.visual.embedded import data_uri
from util.visual.files import png_bytes
from util.visual.html import render
from util.visual.montage import epoch_grid, evenly_spaced

Picture = NDArray[np.uint8]

FOLDER = "epochs"  # beside the results of each epoch
SMALLEST, LARGEST = 128, 256  # longer side of a picture in a grid, in pixels
KINDS: Mapping[str, str] = {
    "overlay_input": "class activation map over the input",
    "overlay_output": "class activation map over the translation",
    "fake": "translation",
}
_SCALE = "Each map is scaled to its own range: colours compare places in one picture, not strengths between pictures."
_BY_LABEL = (
    "Explained is the label of the input; of an input without one, the class that the head sees in it at that epoch, "
    "which may change from one epoch to the next."
)


@dataclass
class _Row:
    """One image: its input, and by kind what each epoch made of it."""

    number: int
    start: Picture
    made: dict[str, dict[str, Picture]] = field(default_factory=lambda: {kind: {} for kind in KINDS})


class EpochGrids:
    """Collects some images of every epoch, evenly spaced in the split, and writes one picture for each kind.

    Args:
        run: options of the run, with those of inference and explanation.

    Raises:
        UserError: nothing can be written in the results folder.
    """

    def __init__(self, run: RunOptions) -> None:
        self.folder = Path(extra(run, Inference).results_dir) / run.experiment.name / FOLDER
        check_writable(self.folder, "--results_dir")
        look = extra(run, Explanation)
        self._name, self._most = run.experiment.name, look.grid_images
        self._explained = f"Explained is class {look.class_idx}." if look.class_idx >= 0 else _BY_LABEL
        self._rows: dict[str, _Row] = {}
        self._epochs: list[str] = []

    def add(self, epoch: str, whole: WholeImage, pictures: Mapping[str, Picture], count: int) -> None:
        """Keep what an epoch made of an image, if it is one of those shown.

        Args:
            pictures: `input` and all of KINDS, uint8 (H, W, 3).
            count: images of the split.
        """
        if whole.sample.file_A not in evenly_spaced(count, self._most):
            return
        row = self._rows.setdefault(whole.file.as_posix(), _Row(whole.sample.file_A, fitted(pictures["input"])))
        for kind, made in row.made.items():
            made[epoch] = fitted(pictures[kind])
        if epoch not in self._epochs:
            self._epochs.append(epoch)

    def gather(self) -> None:
        """Put the images that the processes have kept of their shares into order; all must call it."""
        numbers = [row.number for row in self._rows.values()]
        self._rows = dict(in_order(numbers, list(self._rows.items())))
        first = range(len(self._epochs))
        self._epochs = list(dict.fromkeys(in_order(first, self._epochs)))

    def write(self) -> Path:
        """Write each grid as PNG and PDF, and a page that holds them all; returns the page's path."""
        from util.visual.figures import save_figure  # matplotlib loads slowly, and only this needs it

        names, inputs = list(self._rows), [{"input": row.start} for row in self._rows.values()]
        grids = {kind: epoch_grid([row.made[kind] for row in self._rows.values()], names, inputs) for kind in KINDS}
        for kind, grid in grids.items():
            save_figure(grid, self.folder / kind)
        page = self.folder / "index.html"
        content = render(
            "results.html",
            title=f"{self._name}: what the generator looks at, by epoch",
            state=f"{counted(len(names), 'image')}, epochs {', '.join(self._epochs)}",
            refresh=None,
            paragraphs=[self._explained, _SCALE],
            facts={},
            rows=[(title, [_embedded(kind, grids[kind])]) for kind, title in KINDS.items()],
            curves="",
        )
        write_atomic(page, content)
        print(f"{counted(len(names), 'image')} by {len(self._epochs)} epochs: {self.folder}; page: {page}")
        return page


def fitted(picture: Picture) -> Picture:
    """A picture for a grid: large ones reduced to LARGEST by averaging, small ones enlarged by a whole factor."""
    height, width = picture.shape[:2]
    longest = max(height, width)
    if longest > LARGEST:
        size = (max(1, round(width * LARGEST / longest)), max(1, round(height * LARGEST / longest)))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    factor = -(-SMALLEST // longest)
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _embedded(kind: str, grid: Picture) -> dict[str, object]:
    """A grid as the page shows it: inside the file, at its own size."""
    source = data_uri("png", png_bytes(grid))
    return {"label": f"{kind}.png, {kind}.pdf", "source": source, "width": grid.shape[1], "height": grid.shape[0]}
