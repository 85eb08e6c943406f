"""Going through pairs of images: what every measure of likeness shares."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from util.metrics.base import ImageSet, Material, MetricError, Scores, Value

Measure = Callable[[Tensor, Tensor], Tensor]  # two (1, C, H, W) in [0, 1] -> one number


def same_channels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two (C, H, W) images with equally many channels: a grey one is repeated beside a colour one."""
    channels = max(len(a), len(b))
    return a.expand(channels, -1, -1), b.expand(channels, -1, -1)


def compare_pairs(
    first: ImageSet, second: ImageSet, pairs: Sequence[tuple[int, int]], measure: Measure
) -> list[float | None]:
    """The measure of each pair, None where an image's size differs from its partner's.

    Args:
        pairs: (number in first, number in second).
    """
    found: list[float | None] = []
    for one, other in pairs:
        a, b = same_channels(first.read(one), second.read(other))
        with torch.inference_mode():
            found.append(float(measure(a[None], b[None])) if a.shape == b.shape else None)
    return found


def summary(found: Sequence[float | None], kind: str, better: str) -> Value:
    """Mean and standard deviation over the images that have a value.

    Raises:
        MetricError: none has.
    """
    known = [value for value in found if value is not None]
    if not known:
        raise MetricError("no image has the size of its partner, so that nothing can be compared")
    left_out = len(found) - len(known)
    note = f"mean and standard deviation over {len(known)} images"
    note += f"; {left_out} left out, whose size differs from the partner's" if left_out else ""
    return Value(statistics.fmean(known), statistics.pstdev(known), kind, note, better)


def aligned(count: int, pairs: Sequence[tuple[int, int]], found: Sequence[float | None]) -> list[float | None]:
    """One value for each of `count` translations; None for those without a partner."""
    values: list[float | None] = [None] * count
    for (number, _), value in zip(pairs, found, strict=True):
        values[number] = value
    return values


def each_with_itself(images: ImageSet) -> list[tuple[int, int]]:
    """Input and translation of the same number."""
    return [(number, number) for number in range(len(images))]


def scores_of(
    name: str, found: Sequence[float | None], pairs: Sequence[tuple[int, int]], count: int, kind: str, better: str
) -> Scores:
    """One measure over all pairs, as value and per translation."""
    return Scores({name: summary(found, kind, better)}, {name: aligned(count, pairs, found)})


def likeness(material: Material, name: str, kind: str, measure: Measure) -> Scores:
    """`<name>_input`: each translation against its own input; `<name>`: against its true target, where pairs are known.

    The first says how much was changed, not how good it is: neither high nor low is better.
    """
    count, own = len(material.fake), each_with_itself(material.fake)
    found = compare_pairs(material.fake, material.source, own, measure)
    scores = scores_of(f"{name}_input", found, own, count, kind, "")
    if material.pairs is None or material.real is None:
        return scores
    true = compare_pairs(material.fake, material.real, material.pairs, measure)
    return scores.and_also(scores_of(name, true, material.pairs, count, kind, "higher"))
