"""Labels for source images that have none, made again every few epochs from what the encoder sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from util.transfer import send

MODES = ("kmeans", "sinkhorn", "argmax", "none")
# Whitening lifts every direction it keeps to the same weight, noise too: of 96 toy images, 32 directions drowned the
# classes (NMI 0.04), 8 found them (0.90).
WHITENED = 8
EARLY_ROUNDS, LATER_EVERY = 5, 5  # rounds made every epoch; then so many epochs apart


@dataclass(frozen=True)
class Survey:
    """What a round reads from M source files, in file order."""

    files: list[str]  # paths relative to the data root
    known: Tensor  # (M,) int64, -1 unknown
    statistics: Tensor  # (M, D), of the encoder's feature
    logits: Tensor  # (M, K), of the head


class PseudoLabels:
    """One label per source file, kept by the file's path; known labels always win.

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
        self._labels: dict[str, int] = {}
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

        Every rank encodes its share of the files, so that none waits long for another.

        Args:
            images: batches with `A` (n, C, H, W), `label_A` and `file_A` (n,), and `path_A`: all source files, or
                at least those that are this rank's.
            encode: images -> feature (n, C', h, w) and logits (n, K).
        """
        survey = gathered(survey_of(images, encode))
        previous = torch.tensor([self._labels.get(file, -1) for file in survey.files])
        # Every rank could cluster, but processors that round differently must not label differently.
        found = self._cluster(survey, previous) if ranks.is_first() else torch.zeros_like(previous)
        found = ranks.from_first(found.to(ranks.device())).cpu()
        changed = float((found != previous).float().mean())
        self._labels = dict(zip(survey.files, found.tolist(), strict=True))
        self._rounds, self._last_epoch = self._rounds + 1, epoch
        counts = torch.bincount(found, minlength=self._k).tolist()
        return f"pseudo-labels ({self.mode}), round {self._rounds}: images per class {counts}, {changed:.0%} changed"

    def _cluster(self, survey: Survey, previous: Tensor) -> Tensor:
        true = survey.known
        if self.mode == "kmeans":
            points = pca_whiten(standardise(survey.statistics), max(self._k, WHITENED))
            new, _ = balanced_kmeans(points, self._k, self._seed, true)
        else:
            new = torch.where(true >= 0, true, sinkhorn_assign(survey.logits))
        fixed = set(true[true >= 0].tolist())
        return torch.where(true >= 0, true, match_clusters(new, previous, self._k, fixed))

    def resolve(self, labels: Tensor, files: Sequence[str], logits: Tensor) -> Tensor:
        """Labels to train with.

        Args:
            labels: (N,) true ones, -1 unknown.
            files: paths of the N source files, as in `refresh`.
            logits: (N, K) of the head, for argmax.

        Returns:
            (N,), -1 where there is none yet: before the first round, and for files it did not see.
        """
        if self.mode == "argmax":
            guess = logits.detach().argmax(1)
        else:
            guess = send(torch.tensor([self._labels.get(file, -1) for file in files]), labels.device)
        return torch.where(labels >= 0, labels, guess)

    def state(self) -> dict[str, Any]:
        labels = torch.tensor(list(self._labels.values()), dtype=torch.long)
        files = list(self._labels)
        return {"labels": labels, "files": files, "rounds": self._rounds, "last_epoch": self._last_epoch}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned. Labels belong to paths: files that were added or moved since have none."""
        files = state.get("files", ())  # absent in early checkpoints: then a new round is made
        self._labels = dict(zip(files, state["labels"].tolist(), strict=False))
        self._rounds, self._last_epoch = int(state["rounds"]) if files else 0, int(state["last_epoch"])


def survey_of(images: Iterable[Any], encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Survey, Tensor]:
    """What this rank's share of the files (every world_size-th) says, and the files' numbers (m,)."""
    files: list[str] = []
    parts: list[tuple[Tensor, ...]] = []
    for batch in images:
        numbers = batch.file_A.cpu()
        own = (numbers % ranks.world_size() == ranks.rank()).nonzero().flatten()
        if len(own):
            feature, scores = encode(batch.A[own.to(batch.A.device)])
            parts.append(
                (numbers[own], batch.label_A.cpu()[own], pooled_statistics(feature).cpu(), scores.float().cpu())
            )
            files += [batch.path_A[i] for i in own]
    if not parts:  # more ranks than files
        nothing = torch.zeros(0, dtype=torch.long)
        return Survey(files, nothing, torch.zeros(0, 0), torch.zeros(0, 0)), nothing
    numbers, known, statistics, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Survey(files, known, statistics, logits), numbers


def gathered(share: tuple[Survey, Tensor]) -> Survey:
    """The surveys of all ranks as one, the same on every rank."""
    mine, numbers = share
    if ranks.world_size() == 1:
        return mine
    names = [torch.tensor(list(os.fsencode(file)), dtype=torch.uint8) for file in mine.files]
    count = int(_sum(torch.tensor(len(names))))
    widths = torch.tensor(
        [[len(name), mine.statistics.shape[1], mine.logits.shape[1]] for name in names], dtype=torch.long
    )
    longest, dims, classes = _together(widths.view(-1, 3), numbers, (count, 3)).amax(0).tolist()
    padded = torch.zeros(len(names), longest, dtype=torch.uint8)
    for row, name in zip(padded, names, strict=True):
        row[: len(name)] = name
    letters = _together(padded, numbers, (count, longest))
    return Survey(
        [os.fsdecode(bytes(row.tolist()).rstrip(b"\0")) for row in letters],
        _together(mine.known, numbers, (count,)),
        _together(mine.statistics, numbers, (count, dims)),
        _together(mine.logits, numbers, (count, classes)),
    )


def _together(rows: Tensor, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows of all ranks in file order: each row is one rank's, so their sum over zeros is exact."""
    table = torch.zeros(shape, dtype=rows.dtype)
    if len(rows):
        table[numbers] = rows
    return _sum(table)


def _sum(value: Tensor) -> Tensor:
    return ranks.sum_over_ranks(value.to(ranks.device())).cpu()
