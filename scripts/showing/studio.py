"""A trained run asked about one picture at a time: what the handlers of the page do, without the page."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.images import DomainFormat, encode, unit_to_uint8
from models import load_trained
from models.base import Model
from models.pictures import PictureReader
from options.groups import Explanation
from options.parse import RunOptions
from options.schema import OptionError
from scripts.explaining.drawing import percent
from scripts.explaining.generator import GeneratorExplainer
from scripts.explaining.inputs import Input
from util.engine.inference import explain_image, translate_image
from util.errors import UserError, printable
from util.visual.overlay import heat_map, overlay

Picture = NDArray[np.uint8]  # (H, W, 3)
HEADS_CHOICE, OWN = "the class it sees", "the run's own"
# Methods that cost a few passes at most; cam_infer.py has them all.
METHODS = (OWN, "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam")


@dataclass(frozen=True)
class Seen:
    """A picture, its translation, and where both show a class.

    Attributes:
        picture, fake: as a display shows them.
        heats: (H, W) in [0, 1] of both; None: the run has no class head.
        words: what the head says, in Markdown.
        file: the translation at full depth.
    """

    picture: Picture
    fake: Picture
    heats: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    words: str
    file: Path

    def drawn(self, strength: float) -> tuple[Picture, Picture]:
        """The maps over input and translation; without maps, the pictures alone."""
        if self.heats is None:
            return self.picture, self.fake
        return overlay(self.picture, self.heats[0], strength), overlay(self.fake, self.heats[1], strength)


class Studio:
    """A run, loaded once.

    Args:
        run: options of the run.
        place: folder of the files to download, and of what is uploaded.

    Raises:
        UserError: weights are missing, or the run translates nothing.
    """

    def __init__(self, run: RunOptions, device: torch.device, place: Path) -> None:
        self.model: Model[Any] = load_trained(run, device)
        self.model.check_translates()
        self.reader = PictureReader.from_options(run, self.model.size_multiple)
        self.name, self.place = run.experiment.name, place
        try:
            self.model.check_class(-1)
            count = int(getattr(run.model, "num_classes", 0))
        except OptionError:
            count = 0
        self.classes = [self.reader.class_names.get(number, f"class {number}") for number in range(count)]

    @property
    def methods(self) -> list[str]:
        """What maps can be made by; none without a class head."""
        return list(METHODS) if self.classes else []

    @property
    def about(self) -> str:
        """One line on what the run takes and gives."""
        source, target = self.reader.source, self.reader.target
        sizes = f" Pictures are {self.reader.resizing}." if self.reader.resizing else ""
        return f"Takes {_depth(source)}, gives {_depth(target)}.{sizes}"

    def look(self, file: str | None, chosen: str = HEADS_CHOICE, method: str = OWN) -> Seen:
        """Translate and explain a file.

        Args:
            chosen: a name of `classes`, or HEADS_CHOICE.
            method: one of `methods`.

        Raises:
            UserError: there is no file, it cannot be read, or it is not of the run's depth.
        """
        if not file:
            raise UserError("Choose a picture first.")
        image, fmt = self.reader.read(file)
        sample, size = self.reader.taken(image), (image.shape[-2], image.shape[-1])
        class_id = self.classes.index(chosen) if chosen in self.classes else -1
        heats, words = None, ""
        if not self.classes:
            fake = translate_image(self.model, sample, size)
        else:
            fake, seen = explain_image(self.model, sample, size, class_id)
            shares = seen.probabilities[0].cpu(), seen.probabilities_fake[0].cpu()
            words = self._words(int(seen.classes[0]), *shares)
            if method == OWN:
                first, second = (heat_map(cam[0].float().cpu().numpy(), size) for cam in (seen.cam, seen.cam_fake))
            else:
                first, second = self._by(method, Path(file), image, sample, int(seen.classes[0]))
            heats = first, second
        stored = self._store(Path(file), fake, self.reader.target_of(fmt))
        return Seen(unit_to_uint8(image), unit_to_uint8(fake), heats, words, stored)

    def _by(self, method: str, file: Path, image: Tensor, sample: Tensor, class_id: int) -> tuple[Any, Any]:
        """The maps of an explainer of the head."""
        asked = GeneratorExplainer(self.model, Explanation(explain_with=(method,), class_idx=class_id), "head")
        views = asked.views(Input(Path(file.name), file, image, sample, -1, None))
        first, second = (view.maps[method][0].heat for view in views)
        return first, second

    def _words(self, class_id: int, before: Tensor, after: Tensor) -> str:
        best = [int(shares.argmax()) for shares in (before, after)]
        lines = [f"Explained: **{printable(self.classes[class_id])}**"]
        for side, shares, top in zip(("input", "translation"), (before, after), best, strict=True):
            share = percent(float(shares[class_id]))
            other = (
                f"; it sees {printable(self.classes[top])}, {percent(float(shares[top]))}" if top != class_id else ""
            )
            lines.append(f"on the {side}: {share}{other}")
        return "  \n".join(lines)

    def _store(self, file: Path, fake: Tensor, fmt: DomainFormat) -> Path:
        """The translation in a folder of its own, so that two visitors' files of one name stay apart."""
        folder = Path(tempfile.mkdtemp(dir=self.place))
        return encode(folder / f"{file.stem}_fake", fake, fmt)[-1]


def _depth(fmt: DomainFormat | None) -> str:
    if fmt is None:
        return "any depth"
    names = {"uint8": "8 bits", "uint16": "16 bits", "float32": "float"}
    window = "every picture's own window" if fmt.window is None else f"{fmt.window.low:g} to {fmt.window.high:g}"
    return f"{names[fmt.depth]} ({window})"
