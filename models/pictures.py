"""Single pictures for a trained run: a file, a PIL image or an array in, counts at the target's depth out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from data.decoders import ImageError, pixels_of, read_raw
from data.domain import load_classes, load_formats, preprocess_from, target_format
from data.images import DomainFormat, Window, parse_window, to_counts, unit_to_uint8, windowed
from data.transforms import Preprocess
from util.engine.inference import explain_image, translate_image
from util.seeding import generator
from util.visual.overlay import heat_map, overlay

if TYPE_CHECKING:
    from models.base import Model
    from options.parse import RunOptions

# What `Model.translate` takes for a picture; arrays hold counts as a file would: (H, W), (H, W, 3) or (3, H, W).
Picture = str | os.PathLike[str] | Image.Image | NDArray[Any]
_PLAIN_MODES = {"1": "L", "L": "L", "LA": "L", "La": "L"}  # every other mode of 8 bits becomes RGB


@dataclass(frozen=True)
class PictureCam:
    """Where a picture and its translation show a class.

    Attributes:
        class_id, class_name: the class explained; its number where it has no name.
        probability, probability_fake: the head's share for it, on input and translation.
        probabilities, probabilities_fake: (K,) float32, of all classes.
        raw, raw_fake: (h, w) float32 >= 0, at the resolution of the head's layer, not normalised.
        heat, heat_fake: (H, W) float32 in [0, 1], at the picture's own size, each scaled by its own ends.
        picture, picture_fake: (H, W, 3) uint8, both as a display shows them.
    """

    class_id: int
    class_name: str
    probabilities: NDArray[np.float32]
    probabilities_fake: NDArray[np.float32]
    raw: NDArray[np.float32]
    raw_fake: NDArray[np.float32]
    heat: NDArray[np.float32]
    heat_fake: NDArray[np.float32]
    picture: NDArray[np.uint8]
    picture_fake: NDArray[np.uint8]

    @property
    def probability(self) -> float:
        """Of the class explained, on the input."""
        return float(self.probabilities[self.class_id])

    @property
    def probability_fake(self) -> float:
        """Of the same class, on the translation."""
        return float(self.probabilities_fake[self.class_id])

    def overlays(self, strength: float = 0.5, colours: str = "jet") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The maps over input and translation, (H, W, 3) uint8.

        Args:
            strength: share of the map's colours, 0 to 1.
            colours: a name of `util.visual.overlay.COLORMAPS`.
        """
        sides = (self.picture, self.heat), (self.picture_fake, self.heat_fake)
        first, second = (overlay(picture, heat, strength, colours) for picture, heat in sides)
        return first, second


@dataclass(frozen=True)
class PictureReader:
    """How pictures become what a run's networks take, and back.

    Attributes:
        source: format of the pictures; None: weights without a run, where every picture settles its own by `window`.
        target: format of translations; None: it follows from the source's.
        window, window_target: the rules of --window_A and --window_B.
        channels: of the networks' input.
        preprocess: geometry without random changes.
        class_names: by id.
    """

    source: DomainFormat | None
    target: DomainFormat | None
    window: str
    window_target: str
    channels: int
    preprocess: Preprocess
    class_names: Mapping[int, str]

    @classmethod
    def from_options(cls, run: RunOptions, size_multiple: int) -> PictureReader:
        """That of a run, from what it has kept.

        Raises:
            UserError: what it has kept is damaged, or its geometry cannot be.
        """
        data, formats = run.data, load_formats(run.folder) or (None, None)
        source, target = (formats[1], formats[0]) if run.turned else formats
        windows = (data.window_A, data.window_B) if data.direction == "AtoB" else (data.window_B, data.window_A)
        return cls(
            source,
            target,
            windows[0],
            windows[1],
            run.channels[0],
            preprocess_from(run, size_multiple).for_inference(),
            load_classes(run.folder) or {},
        )

    def translate(self, model: Model[Any], source: Picture | Tensor) -> NDArray[Any] | Tensor:
        """The translation of one picture, at its size: counts at the target's depth, (H, W) or (H, W, 3).

        Args:
            source: a picture, or (C, H, W) in [-1, 1], of which the translation is such a tensor too.

        Raises:
            ImageError: a picture that cannot be read, or is not of the run's depth.
        """
        if isinstance(source, Tensor):
            self.check_tensor(source)
            return translate_image(model, source, (source.shape[-2], source.shape[-1])) * 2 - 1
        image, fmt = self.read(source)
        return self._counts(translate_image(model, self._taken_by(model, image), _size(image)), fmt)

    def explain(
        self, model: Model[Any], source: Picture | Tensor, class_id: int = -1
    ) -> tuple[NDArray[Any] | Tensor, PictureCam]:
        """What `translate` gives, and where both show a class.

        Args:
            class_id: the class; -1: the head's choice on the input.

        Raises:
            UserError: as `translate`; there is no such class, or no class head.
        """
        model.check_class(class_id)
        if isinstance(source, Tensor):
            self.check_tensor(source)
            image, sample, fmt = source.float().cpu().add(1).div(2).clamp(0, 1), source, None
        else:
            image, fmt = self.read(source)
            sample = self._taken_by(model, image)
        fake, seen = explain_image(model, sample, _size(image), class_id)
        number = int(seen.classes[0])
        raw, raw_fake = (cam[0].float().cpu().numpy() for cam in (seen.cam, seen.cam_fake))
        cam = PictureCam(
            class_id=number,
            class_name=self.class_names.get(number, str(number)),
            probabilities=seen.probabilities[0].float().cpu().numpy(),
            probabilities_fake=seen.probabilities_fake[0].float().cpu().numpy(),
            raw=raw,
            raw_fake=raw_fake,
            heat=heat_map(raw, _size(image)),
            heat_fake=heat_map(raw_fake, _size(image)),
            picture=unit_to_uint8(image),
            picture_fake=unit_to_uint8(fake),
        )
        return (fake * 2 - 1 if fmt is None else self._counts(fake, fmt)), cam

    def read(self, picture: Picture) -> tuple[Tensor, DomainFormat]:
        """A picture as (C, H, W) in [0, 1] at its own size, and the format that its counts were read in."""
        raw, name = raw_of(picture)
        fmt = self.source or self._own_format(raw)
        if isinstance(picture, np.ndarray) and raw.dtype not in (fmt.depth, picture.dtype):  # int32 is read as float32
            raise ImageError(
                f"the array is {picture.dtype} but its domain was set up as {fmt.depth}; where it holds counts of that "
                f"depth, give array.astype(np.{fmt.depth})"
            )
        return windowed(raw, self.channels, fmt, name), fmt

    def check_tensor(self, images: Tensor) -> None:
        """Raise an ImageError where (C, H, W) or (N, C, H, W) are of another number format or other channels."""
        halved = images.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(images.device.type)
        if images.dtype != torch.float32 and not halved:
            name = str(images.dtype).removeprefix("torch.")
            remedy = "convert it by .float()" if images.is_floating_point() else "give the picture's counts as an array"
            raise ImageError(f"a tensor of {name}: the run takes float32 in [-1, 1]; {remedy}")
        if images.ndim not in (3, 4) or images.shape[-3] != self.channels:
            shape = "(C, H, W)" if images.ndim < 4 else "(N, C, H, W)"
            found = _channels(images.shape[-3]) if images.ndim in (3, 4) else f"{images.ndim} axes"
            raise ImageError(
                f"a tensor of shape {tuple(images.shape)} has {found}, but the run takes {shape} with "
                f"{_channels(self.channels)}; give such a tensor, or the picture as an array"
            )

    def taken(self, image: Tensor) -> Tensor:
        """(C, H, W) in [0, 1] as the network takes it: in [-1, 1], not yet padded."""
        return self.preprocess(image, generator(0, "whole")) * 2 - 1  # nothing is drawn in inference

    @property
    def resizing(self) -> str:
        """What is done to pictures that do not go through the networks at their own size; nothing: all of them do."""
        if not self.preprocess.resizes:
            return ""
        size = " x ".join(str(side) for side in self.preprocess.load_size)
        words = "_and_".join(self.preprocess.words)
        return f"brought to {size} (height x width) by --preprocess {words}, and back to their size afterwards"

    def _taken_by(self, model: Model[Any], image: Tensor) -> Tensor:
        """As `taken`; at its own size by a model that works in tiles, as with --tile; else a resized one is said."""
        if model.works_in_tiles:
            return replace(self, preprocess=self.preprocess.at_own_size()).taken(image)
        taken, rounded = self.taken(image), tuple(map(self.preprocess.round_side, _size(image)))
        if self.resizing and _size(taken) != rounded:
            advice = 'load_run(FOLDER, preprocess="none") translates them at their own size'
            warnings.warn(f"pictures are {self.resizing}; {advice}", stacklevel=4)  # of who calls `Model.translate`
        return taken

    def target_of(self, source: DomainFormat) -> DomainFormat:
        """The format of the translation of a picture that was read in some format."""
        return self.target or target_format(self.window_target, source)

    def _counts(self, fake: Tensor, fmt: DomainFormat) -> NDArray[Any]:
        counts = to_counts(fake, self.target_of(fmt))
        return counts[:, :, 0] if counts.shape[2] == 1 else counts

    def _own_format(self, raw: NDArray[Any]) -> DomainFormat:
        """Of a picture for weights without a run: the window given in counts, 0..255, or the picture's own."""
        rule = parse_window(self.window)
        if rule.kind == "counts":
            return DomainFormat(Window(rule.low, rule.high), str(raw.dtype))
        plain = rule.kind == "auto" and raw.dtype == np.uint8
        return DomainFormat(Window(0.0, 255.0) if plain else None, str(raw.dtype))


def raw_of(picture: Picture) -> tuple[NDArray[Any], str]:
    """A picture's own counts, (H, W) or (H, W, 3), uint8, uint16 or float32, and what messages call it.

    Raises:
        ImageError: it cannot be read, or is no picture.
    """
    if isinstance(picture, str | os.PathLike):
        return read_raw(picture), repr(os.fspath(picture))
    if isinstance(picture, Image.Image):
        return pixels_of(_of_pil(picture), f"the PIL image of mode {picture.mode}"), "the PIL image"
    if isinstance(picture, np.ndarray):
        return pixels_of(picture, "the array"), "the array"
    raise ImageError(f"{type(picture).__name__}: is no picture; give a path, a PIL image, a NumPy array or a tensor")


def _of_pil(image: Image.Image) -> NDArray[Any]:
    """What Pillow holds; upright, without alpha, a palette expanded. 16 bits stay 16 bits."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.asarray(upright).astype(np.uint16)
    if upright.mode in ("I", "F"):
        values = np.asarray(upright)
        deep = upright.mode == "I" and values.min() >= 0 and values.max() <= 65535  # how Pillow opens some 16-bit files
        return values.astype(np.uint16) if deep else values
    return np.asarray(upright.convert(_PLAIN_MODES.get(upright.mode, "RGB")))


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"
