"""What a metric is given, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from util.errors import UserError
from util.registry import Registry

UNKNOWN = -1  # label of an image without one


class MetricError(UserError, ValueError):
    """A metric that was asked for cannot be computed; the message names what is missing and the remedy."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one kind in a fixed order, read when they are needed.

    Args:
        name: what they are, for messages and cache files: for example `testB`, or `translations of epoch 20`.
        files: where each image is stored: what caches are keyed by.
        read: number -> (C, H, W) float32 in [0, 1], in the domain's window.
        labels: class id of each image, -1 unknown.
    """

    name: str
    files: Sequence[Path]
    read: Callable[[int], Tensor]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, size: int) -> Iterator[Tensor]:
        """(N, C, H, W) in order, N at most `size`; images of different sizes never share a batch."""
        held: list[Tensor] = []
        for number in range(len(self)):
            image = self.read(number)
            if held and (len(held) == size or held[0].shape != image.shape):
                yield torch.stack(held)
                held = []
            held.append(image)
        if held:
            yield torch.stack(held)

    def only(self, numbers: Sequence[int], name: str) -> ImageSet:
        """The images of these numbers, in that order."""
        chosen = list(numbers)
        return ImageSet(
            name,
            [self.files[n] for n in chosen],
            lambda number: self.read(chosen[number]),
            [self.labels[n] for n in chosen],
        )


@dataclass(frozen=True)
class Value:
    """One number of a report.

    Args:
        value: None where it could not be computed; `note` then says why.
        spread: standard deviation over what `note` names (subsets, images), where there is one.
        kind: which variant exactly: feature network and resize, `inception-v3-compat, TF1 bilinear resize to 299`.
        better: `lower`, `higher`, or nothing where neither is.
    """

    value: float | None
    spread: float | None = None
    kind: str = ""
    note: str = ""
    better: str = ""


@dataclass(frozen=True)
class Scores:
    """What a metric gives back.

    Args:
        values: numbers by name.
        per_image: by name, one number (None: none) for each translation, in order: for paired tests and sorting.
        tables: by name, anything JSON holds: a confusion matrix with its class names, say.
        better: of the names in `per_image` that are none of `values`: `lower`, `higher`, or nothing where neither is.

    Raises:
        ValueError: a name in `per_image` is in neither, so that nobody knows which of its ends is the worst.
    """

    values: Mapping[str, Value]
    per_image: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    better: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.per_image if name not in self.values and name not in self.better]:
            raise ValueError(f"The per-image scores {', '.join(unknown)} need a direction: name them in `better`.")

    @property
    def directions(self) -> dict[str, str]:
        """`lower`, `higher` or nothing for each name in `per_image`."""
        return {name: self.better[name] if name in self.better else self.values[name].better for name in self.per_image}

    def and_also(self, other: Scores) -> Scores:
        """Both together."""
        return Scores(
            {**self.values, **other.values},
            {**self.per_image, **other.per_image},
            {**self.tables, **other.tables},
            {**self.better, **other.better},
        )


@dataclass(frozen=True)
class Maps:
    """Class activation maps of each input and of its translation, for the same class.

    Args:
        source, fake: per image (h, w) float32, not negative, not normalised.
        randomised: of the inputs by a head with fresh random weights, for the sanity check.
        classes: the class explained.
        confidence: (N, C, H, W) inputs in [0, 1] and a class id -> (N,) the model's probability of that class.
    """

    source: Sequence[NDArray[np.float32]]
    fake: Sequence[NDArray[np.float32]]
    randomised: Sequence[NDArray[np.float32]]
    classes: Sequence[int]
    confidence: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Judge:
    """A classifier that has seen real images only.

    Args:
        name: what it was trained on, for example `classifier trained on trainA (600 images, 10 classes)`.
        accuracy: on held-out real images of its own domain, which no other number means much without.
        logits: (N, C, H, W) in [0, 1] -> (N, K).
    """

    name: str
    accuracy: float
    logits: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Boxes:
    """Where the target is, per image of the source: rectangles, and masks where there are any.

    Args:
        rectangles: per image (x0, y0, x1, y1) in pixels of the file, x1 and y1 exclusive; none: no known target.
        masks: per image (H, W) bool, or None.
        label_maps: per image (H, W) int64, the class of each pixel, where masks are such maps; none: they are not.
    """

    rectangles: Sequence[Sequence[tuple[float, float, float, float]]]
    masks: Sequence[NDArray[np.bool_] | None]
    label_maps: Sequence[NDArray[np.int64] | None] = ()


@dataclass(frozen=True)
class Material:
    """Everything there is to measure by. What is None is not there, and metrics that need it say so.

    Args:
        source: inputs; `fake`: their translations, number by number.
        real: images of the target domain, of the same split, in no relation to `source` but for `pairs`.
        train_source, train_real, fake_train: the training images of both domains, and the source's, translated.
        pairs: (number in fake, number in real).
        features: an image set -> its features (N, d), and logits (N, k) where the network has any; cached.
        feature_kind: name of the feature network and its resize.
        judge_source, judge_real: classifiers trained on the source's and on the target's real training images.
        class_names: by class id.
        fit_judge: trains a classifier on an image set and returns it: for train-on-translated, test-on-real.
        segmenter: (1, C, H, W) in [0, 1] -> (1, H, W) bool, where the target is; or whole numbers, the class of each
            pixel.
        maps, boxes: of each source image.
        lpips_weights: file of AlexNet's weights.
        seed: of every random draw.
    """

    source: ImageSet
    fake: ImageSet
    real: ImageSet | None = None
    train_source: ImageSet | None = None
    train_real: ImageSet | None = None
    fake_train: ImageSet | None = None
    pairs: Sequence[tuple[int, int]] | None = None
    features: Callable[[ImageSet], tuple[Tensor, Tensor | None]] | None = None
    feature_kind: str = ""
    judge_source: Judge | None = None
    judge_real: Judge | None = None
    fit_judge: Callable[[ImageSet, str], Judge] | None = None
    segmenter: Callable[[Tensor], Tensor] | None = None
    maps: Maps | None = None
    boxes: Boxes | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    lpips_weights: Path | None = None
    seed: int = 0


class Metric(ABC):
    """One file `<name>_metric.py`, one class registered under that name.

    Attributes:
        needs: fields of Material that must not be None; the evaluation reports what lacks instead of calling.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def compute(self, material: Material) -> Scores:
        """Measure.

        Raises:
            MetricError: what is there cannot be measured; the evaluation reports the reason beside the name.
        """


METRICS: Registry[Metric] = Registry("metrics", "util.metrics", "_metric")
