"""Asking a judge about an image set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from util.metrics.base import UNKNOWN, ImageSet, Judge, Value

BATCH = 32


def predictions(judge: Judge, images: ImageSet) -> Tensor:
    """(N,) int64: the class the judge sees in each image."""
    with torch.inference_mode():
        return torch.cat([judge.logits(batch).argmax(1).cpu() for batch in images.batches(BATCH)])


def accuracy(predicted: Tensor, labels: Sequence[int], kind: str) -> Value:
    """Share of labelled images that are named rightly; None where none is labelled."""
    wanted = torch.tensor(labels)
    known = wanted != UNKNOWN
    if not bool(known.any()):
        return Value(None, None, kind, "no image has a label", "higher")
    share = float((predicted == wanted)[known].double().mean())
    error = (share * (1 - share) / int(known.sum())) ** 0.5
    return Value(
        share, error, kind, f"of {int(known.sum())} labelled images; spread: binomial standard error", "higher"
    )


def confusion(rows: Sequence[int], predicted: Tensor, names: Mapping[int, str]) -> dict[str, object]:
    """Counts by true class (row) and seen class (column), over images whose row is known."""
    classes = sorted({*names, *(row for row in rows if row != UNKNOWN), *predicted.tolist()})
    place = {class_id: number for number, class_id in enumerate(classes)}
    counts = [[0] * len(classes) for _ in classes]
    for row, seen in zip(rows, predicted.tolist(), strict=True):
        if row != UNKNOWN:
            counts[place[row]][place[seen]] += 1
    return {"classes": [names.get(class_id, str(class_id)) for class_id in classes], "counts": counts}
