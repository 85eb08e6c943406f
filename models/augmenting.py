"""Random changes of what networks see in training, keyed by seed, step, purpose and sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from models.losses.diff_augment import diff_augment

if TYPE_CHECKING:
    from data.base import Batch
    from util.seeding import StepInfo


def augmented(images: Tensor, words: Sequence[str], batch: Batch, info: StepInfo, purpose: str) -> Tensor:
    """Images (N, C, H, W) changed at random by `words` of AUGMENTATIONS; they themselves where there are none.

    Args:
        batch: of which they are, or are translations of: the place of a sample in the epoch's order keys its draws, so
            that neither batch size nor ranks matter.
        purpose: tells the draws of two uses in one step apart.
    """
    if not words:
        return images
    places = batch.index.tolist()
    return diff_augment(images, words, lambda number: info.generator(purpose, places[number]))
