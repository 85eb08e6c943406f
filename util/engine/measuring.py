"""Running the metrics over what there is to measure by."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from util.metrics import METRICS
from util.metrics.base import Material, MetricError, Scores, Value

_LABELLED = "training images of the source with labels of two classes or more (labels.csv, --labels_A)"
# What a metric's `needs` are in words, with the remedy.
LACKS: Mapping[str, str] = {
    "real": "images of the target in this split",
    "features": "a feature network (--features)",
    "pairs": "a table of true pairs (--pairs)",
    "maps": "a class head (--model cutcam)",
    "boxes": "boxes or masks of the target (--boxes, --masks)",
    "segmenter": "a segmenter (--segmenter MODULE:FUNCTION)",
    "fake_train": _LABELLED,
    "fit_judge": _LABELLED,
}


@dataclass
class Clock:
    """Seconds by stage of work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to the stage's."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def measure(material: Material, names: Sequence[str], clock: Clock, required: bool = True) -> Scores:
    """The scores of the named metrics.

    Args:
        required: each must be possible; otherwise one that lacks what it needs stands among the values as None, with
            the reason.

    Raises:
        MetricError: one that is required cannot be computed.
        UnknownNameError: there is no metric of that name.
    """
    total = Scores({})
    for name in names:
        metric = METRICS.get(name)()
        try:
            # Two needs can be for want of the same thing, which is said once.
            lacking = list(dict.fromkeys(LACKS[need] for need in metric.needs if getattr(material, need) is None))
            if lacking:
                raise MetricError(f"needs {' and '.join(lacking)}")
            with clock.stage(name):
                total = total.and_also(finite(metric.compute(material)))
        except MetricError as error:
            if required:
                raise MetricError(f"--metrics {name}: {error}") from error
            total = total.and_also(Scores({name: Value(None, note=str(error))}))
    return total


def finite(scores: Scores) -> Scores:
    """The scores with None, and a note, in the place of what is no finite number."""
    values: dict[str, Value] = {}
    for name, value in scores.values.items():
        if value.value is not None and not math.isfinite(value.value):
            value = Value(None, None, value.kind, f"came out as {value.value}; {value.note}", value.better)
        elif value.spread is not None and not math.isfinite(value.spread):
            value = Value(value.value, None, value.kind, value.note, value.better)
        values[name] = value
    per_image: dict[str, Any] = {
        name: [None if x is None or not math.isfinite(x) else float(x) for x in column]
        for name, column in scores.per_image.items()
    }
    return Scores(values, per_image, scores.tables, scores.better)
