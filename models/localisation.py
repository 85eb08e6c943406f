"""Choosing an epoch of a run, with and without boxes or masks: what classifiers and F-CAM share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.wsol_truth import truths_of
from util import ranks
from util.metrics.base import MetricError
from util.metrics.wsol import Localiser, unit_map

if TYPE_CHECKING:
    from data.base import Batch

SELECTIONS = ("last", "best_cls", "best_loc")
MEASURES = ("auto", "MaxBoxAcc", "MaxBoxAccV2", "PxAP")
SHOWN = ("MaxBoxAcc", "MaxBoxAccV2", "BoxAcc_fixed", "PxAP", "IoU_fixed", "top1_loc")
LOC = "val_loc"
SELECT_HELP = "whose weights the run ends with; best_loc looks at boxes or masks of held-out images"
MEASURE_HELP = "what --select best_loc goes by; auto: MaxBoxAccV2 with boxes, else PxAP"
BEST_BY = {"last": "val_acc", "best_cls": "val_acc", "best_loc": LOC}


class HeldOutMaps:
    """Localisation of held-out images, over all ranks.

    Args:
        measure: one of MEASURES, which `val_loc` is.
    """

    def __init__(self, measure: str = "auto") -> None:
        self._measure, self._counter = measure, Localiser()

    def add(self, maps: Tensor, batch: Batch, logits: Tensor | None = None, scale: bool = True) -> None:
        """Count a batch; images without truth do not count.

        Args:
            maps: (N, h, w) of the true classes, of any size; resized to the images', bicubic.
            batch: of a data set that knows the truth (--dataset_mode wsol).
            logits: (N, K), for localisation among the rightly named.
            scale: the smallest value of each map becomes 0 and its largest 1; otherwise maps lie in [0, 1].
        """
        height, width = batch.A.shape[-2:]
        rankings = None if logits is None else logits.argsort(1, descending=True).tolist()
        for number, (one, truth) in enumerate(zip(maps.detach().float().cpu().numpy(), truths_of(batch), strict=True)):
            if truth is None:
                continue
            ranking = () if rankings is None else rankings[number]
            ready = unit_map(one, (height, width)) if scale else one
            self._counter.add(ready, truth, label=int(batch.label_A[number]), ranking=ranking)

    def values(self) -> dict[str, float]:
        """`val_MaxBoxAcc` and the like in percent, with `val_loc`, the same on every rank; {} without any truth."""
        counts = torch.from_numpy(self._counter.counts).to(ranks.device())
        self._counter.counts = ranks.sum_over_ranks(counts).cpu().numpy()
        try:
            found = self._counter.scores().values
        except MetricError:
            return {}
        shown = {f"val_{name}": float(found[name].value or 0.0) for name in SHOWN if name in found}
        wanted = self._measure if self._measure != "auto" else "MaxBoxAccV2" if "MaxBoxAccV2" in found else "PxAP"
        if wanted in found:
            shown[LOC] = float(found[wanted].value or 0.0)
        return shown
