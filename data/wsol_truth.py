"""Samples that may say where the target is, for those who measure maps; no training looks at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from data.base import Batch, Sample
from util.metrics.wsol import Truth

Ask = Callable[[], Truth | None]  # reads the truth of one image when it is called


@dataclass(frozen=True)
class WsolSample(Sample):
    """A sample that can be asked for its truth, in the geometry of the image `A`; None: there is nobody to ask."""

    truth: Ask | None = None


@dataclass(frozen=True)
class WsolBatch(Batch):
    """A batch of them."""

    truths: tuple[Ask | None, ...] = ()


def with_truth(plain: Batch, samples: Sequence[Sample]) -> WsolBatch:
    """A batch that can be asked for the truth of its samples, of those that are a `WsolSample`."""
    truths = tuple(getattr(sample, "truth", None) for sample in samples)
    return WsolBatch(**{item.name: getattr(plain, item.name) for item in fields(plain)}, truths=truths)


def truths_of(batch: Batch) -> tuple[Truth | None, ...]:
    """One truth for each image of any batch, read now; None where it is not known.

    Raises:
        DataError, ImageError: a table or mask is damaged.
    """
    if not isinstance(batch, WsolBatch):
        return (None,) * len(batch.path_A)
    return tuple(None if ask is None else ask() for ask in batch.truths)


def truth_of(batch: Batch) -> list[NDArray[np.bool_] | None]:
    """(H, W) the target's pixels in each image of any batch, or None: masks where there are any, else boxes filled."""
    height, width = batch.A.shape[-2:]
    return [None if truth is None else truth.region((height, width)) for truth in truths_of(batch)]
