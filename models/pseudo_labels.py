"""Labels for source images that have none, made again every few epochs from what the encoder sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from models.clustering import (
    balanced_kmeans,
    match_clusters,
    pca_whiten,
    pooled_statistics,
    sinkhorn_assign,
    standardise,
)
from util import ranks

MODES = ("kmeans", "sinkhorn", "argmax", "none")
# Whitening lifts every direction it keeps to the same weight, noise too: of 96 toy images, 32 directions drowned the
# classes (NMI 0.04), 8 found them (0.90).
WHITENED = 8
EARLY_ROUNDS, LATER_EVERY = 5, 5  # rounds made every epoch; then so many epochs apart


class PseudoLabels:
    """One label per source file; known labels always win.

    kmeans clusters pooled encoder statistics into equal parts and cannot collapse; sinkhorn balances the
    head's own predictions; argmax (the published code's way) takes the head's prediction in every step and
    collapses in most runs, which the collapse guard then reports.

    Args:
        mode: kmeans, sinkhorn, argmax or none.
        num_classes: K.
        every: epochs between rounds; 0: every epoch at first, every fifth later.
        seed: of the clustering.
    """

    def __init__(self, mode: str, num_classes: int, every: int, seed: int) -> None:
        self.mode, self._k, self._every, self._seed = mode, num_classes, every, seed
        self._labels = torch.zeros(0, dtype=torch.long)
        self._rounds = 0
        self._last_epoch = -1

    def due(self, epoch: int) -> bool:
        """Whether a round is due before epoch number `epoch` (from 0)."""
        if self.mode not in ("kmeans", "sinkhorn"):
            return False
        every = self._every or (1 if self._rounds < EARLY_ROUNDS else LATER_EVERY)
        return self._rounds == 0 or epoch - self._last_epoch >= every

    @torch.no_grad()
    def refresh(self, epoch: int, images: Iterable[Any], encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> str:
        """Make a round and say what came out.

        Args:
            images: batches with `A` (n, C, H, W) and `label_A` (n,), all source files in order.
            encode: images -> feature (n, C', h, w) and logits (n, K).
        """
        found = torch.zeros(0, dtype=torch.long)
        if ranks.is_first():
            found = self._cluster(images, encode)
        length = ranks.from_first(torch.tensor([len(found)], device=_comm_device()))
        if not ranks.is_first():
            found = torch.zeros(int(length), dtype=torch.long)
        found = ranks.from_first(found.to(_comm_device())).cpu()
        changed = float((found != self._labels).float().mean()) if len(self._labels) == len(found) else 1.0
        self._labels, self._rounds, self._last_epoch = found, self._rounds + 1, epoch
        counts = torch.bincount(found, minlength=self._k).tolist()
        return f"pseudo-labels ({self.mode}), round {self._rounds}: images per class {counts}, {changed:.0%} changed"

    def _cluster(self, images: Iterable[Any], encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        statistics, logits, known = [], [], []
        for batch in images:
            feature, scores = encode(batch.A)
            statistics.append(pooled_statistics(feature).cpu())
            logits.append(scores.float().cpu())
            known.append(batch.label_A.cpu())
        true = torch.cat(known)
        if self.mode == "kmeans":
            points = pca_whiten(standardise(torch.cat(statistics)), max(self._k, WHITENED))
            new, _ = balanced_kmeans(points, self._k, self._seed, true)
        else:
            new = torch.where(true >= 0, true, sinkhorn_assign(torch.cat(logits)))
        if len(self._labels) != len(new):
            return new
        fixed = set(true[true >= 0].tolist())
        return torch.where(true >= 0, true, match_clusters(new, self._labels, self._k, fixed))

    def resolve(self, labels: Tensor, files: Tensor, logits: Tensor) -> Tensor:
        """Labels to train with.

        Args:
            labels: (N,) true ones, -1 unknown.
            files: (N,) numbers of the source files.
            logits: (N, K) of the head, for argmax.

        Returns:
            (N,), -1 where there is none yet.
        """
        if self.mode == "argmax":
            guess = logits.detach().argmax(1)
        elif len(self._labels):
            guess = self._labels.to(labels.device)[files]
        else:
            return labels
        return torch.where(labels >= 0, labels, guess)

    def state(self) -> dict[str, Any]:
        return {"labels": self._labels.clone(), "rounds": self._rounds, "last_epoch": self._last_epoch}

    def load(self, state: Mapping[str, Any]) -> None:
        self._labels = state["labels"].clone()
        self._rounds, self._last_epoch = int(state["rounds"]), int(state["last_epoch"])


def _comm_device() -> torch.device:
    """Where tensors must be for the ranks' messages."""
    nccl = ranks.world_size() > 1 and torch.distributed.get_backend() == "nccl"
    return torch.device("cuda" if nccl else "cpu")
