"""Watchmen of a class head and its maps: collapse, one term drowning the others, maps that ignore the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.cam.functional import cross_image_correlation, effective_classes, full_precision, resize_map
from util import ranks

# Loss scales to measure 16-bit gradients with, which vanish or overflow otherwise; they drop out of the ratio.
LOSS_SCALES = (1024.0, 1.0)
COLLAPSED = 1.5  # effective classes below which a head counts as collapsed


class CollapseGuard:
    """Remembers the head's predictions and the true labels of the last steps, on the device where they are made.

    What is asked of it waits for that device; watching does not.

    A head that always predicts the same class is no explanation, and its maps are none either. Where the true
    labels of the same steps are as uniform, the head is right, and nothing is wrong.

    Args:
        num_classes: K.
        window: steps remembered, and steps needed before judging.
        label_smoothing: of the loss that the head learns by. It asks for a share of this on all classes, also of a head
            that knows one class only; this share is taken out before the classes are counted.
    """

    def __init__(self, num_classes: int, window: int, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing
        self._predicted = torch.zeros(window, num_classes)
        self._true = torch.zeros(window, num_classes)
        self._seen = 0
        self._step, self._parts = -1, 0

    def watch(self, probabilities: Tensor, labels: Tensor, step: int = -1) -> None:
        """Take one step's head output, or that of a part of it.

        Args:
            probabilities: (N, K), rows sum to 1.
            labels: (N,) int64 true labels, -1 unknown.
            step: number of the step; of the same one as before: one more part (--accumulate) of equal size. -1: a new
                step.
        """
        known = torch.nn.functional.one_hot(labels.clamp_min(0), probabilities.shape[1])
        true = (known * (labels >= 0)[:, None]).float().mean(0)
        smoothed = probabilities.detach().float().mean(0)
        meant = (smoothed - self._smoothing / len(smoothed)).clamp_min(0)
        both = ranks.mean_over_ranks(torch.stack([meant / meant.sum(), true]))
        self._predicted, self._true = self._predicted.to(both.device), self._true.to(both.device)
        if step < 0 or step != self._step:
            self._step, self._parts = step, 0
            self._seen += 1
        row = (self._seen - 1) % len(self._predicted)
        self._parts += 1
        for kept, found in zip((self._predicted, self._true), both, strict=True):
            kept[row] = found if self._parts == 1 else torch.lerp(kept[row], found, 1 / self._parts)

    def _rows(self) -> Tensor:
        """(2, n, K): predictions and labels of the window's steps but for those that were skipped, being not finite."""
        window = torch.stack([self._predicted, self._true])[:, : min(self._seen, len(self._predicted))]
        return window[:, window.isfinite().all(2).all(0)]

    @property
    def effective(self) -> float:
        """Effective number of predicted classes in the window, 1 to K; NaN before the first step."""
        rows = self._rows()[0]
        return float(effective_classes(rows)) if len(rows) else math.nan

    @property
    def shares(self) -> Tensor:
        """(K,) mean share of each class in the window, without the loss's smoothing; NaN before the first step."""
        return self._rows()[0].mean(0)

    @property
    def collapsed(self) -> bool:
        """Whether a full window of predictions names one class although the labels do not."""
        if self._seen < len(self._predicted):
            return False
        predicted, true = self._rows()
        if len(predicted) == 0 or float(effective_classes(predicted)) >= COLLAPSED:
            return False
        labelled = true.sum(1, keepdim=True)
        rows = (true / labelled.clamp_min(1e-12))[labelled[:, 0] > 0]
        return len(rows) == 0 or float(effective_classes(rows)) >= COLLAPSED

    def state(self) -> dict[str, Any]:
        kept = {"predicted": self._predicted, "true": self._true}
        return {name: rows.cpu().clone() for name, rows in kept.items()} | {"seen": self._seen}

    def load(self, state: Mapping[str, Any]) -> None:
        window, before, seen = len(self._predicted), len(state["predicted"]), int(state["seen"])
        if window == before:
            self._predicted, self._true, self._seen = state["predicted"].clone(), state["true"].clone(), seen
            return
        # Another --collapse_window: its newest rows, the oldest first.
        kept = [row % before for row in range(max(0, seen - min(before, window)), seen)]
        for mine, theirs in ((self._predicted, state["predicted"]), (self._true, state["true"])):
            mine[: len(kept)] = theirs[kept]
        self._seen = len(kept)


class GradientCap:
    """Keeps one term's gradient on the translation below a multiple of another's.

    Every `every` steps both gradients are measured, and the term is scaled down until the next measurement
    where their ratio exceeds `limit`; it is never scaled up.

    Args:
        limit: largest ratio of the gradients' norms; 0 turns the cap off.
        every: steps between measurements.
    """

    def __init__(self, limit: float, every: int = 50) -> None:
        self.limit, self._every = limit, every
        self.scale = 1.0
        self._measured = False
        self._measured_at = -1  # the step of the last measurement in this process

    def due(self, step: int) -> bool:
        """Whether a measurement is due at a step; there is one for all its parts (--accumulate), which weigh alike."""
        again = step % self._every == 0 and step != self._measured_at
        return self.limit > 0 and (not self._measured or again)

    def measure(self, term: Tensor, reference: Tensor, image: Tensor, count: int, step: int) -> None:
        """Set `scale` from the gradients of two losses on the first `count` rows of `image`; keeps the graphs."""
        if not term.requires_grad or not reference.requires_grad:
            return
        for loss_scale in LOSS_SCALES:
            norms = [
                full_precision(torch.autograd.grad(loss * loss_scale, image, retain_graph=True)[0][:count])
                for loss in (term, reference)
            ]
            squares = torch.stack([norm.square().sum() for norm in norms])
            ours, theirs = ranks.sum_over_ranks(squares).sqrt().tolist()
            if math.isfinite(ours) and math.isfinite(theirs) and ours > 0:
                self.scale = min(1.0, self.limit * theirs / ours)
                self._measured, self._measured_at = True, step
                return

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "measured": self._measured}

    def load(self, state: Mapping[str, Any]) -> None:
        self.scale, self._measured = float(state["scale"]), bool(state["measured"])


class MapMemory:
    """The last few maps, small and where they are made, to tell whether maps depend on the image at all.

    What is asked of it waits for that device; watching does not.
    """

    SIDE, LENGTH = 16, 16

    def __init__(self) -> None:
        self._maps = torch.zeros(0, self.SIDE, self.SIDE)
        self._images = torch.zeros(0, dtype=torch.int64)

    def watch(self, maps: Tensor, images: Tensor | None = None) -> None:
        """Take (N, H, W) rectified maps; one that is not finite is left out of what is asked.

        Args:
            images: (N,) int64, which image each is of; none: N images that have not been seen before.
        """
        small = resize_map(maps.detach(), (self.SIDE, self.SIDE))
        numbers = torch.full((len(small),), -1) if images is None else images
        self._maps = torch.cat([self._maps.to(small.device), small])[-self.LENGTH :]
        self._images = torch.cat([self._images.to(numbers.device), numbers])[-self.LENGTH :]

    def _finite(self) -> tuple[Tensor, Tensor]:
        kept = self._maps.flatten(1).isfinite().all(1)
        return self._maps[kept], self._images[kept.to(self._images.device)]

    @property
    def dead_share(self) -> float:
        """Share of the remembered maps that are zero everywhere; 0 until the memory is full."""
        if len(self._maps) < self.LENGTH:
            return 0.0
        maps, _ = self._finite()
        return float((maps.flatten(1).amax(1) <= 0).float().mean()) if len(maps) else 0.0

    def correlation(self) -> Tensor:
        """Mean Pearson correlation between maps of different images; NaN with fewer than two."""
        return cross_image_correlation(*self._finite())

    def state(self) -> dict[str, Any]:
        return {"maps": self._maps.cpu().clone(), "images": self._images.cpu().clone()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._maps = state["maps"].clone()
        # Checkpoints of earlier versions do not say which images the maps are of.
        self._images = state["images"].clone() if "images" in state else torch.full((len(self._maps),), -1)


class EpochAlarm:
    """Keeps a warning loud without drowning the log: each kind is due once an epoch."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def due(self, kind: str, epoch: int) -> bool:
        """Whether this kind of warning has not been given in this epoch yet; it then has been."""
        if self._said.get(kind) == epoch:
            return False
        self._said[kind] = epoch
        return True

    def state(self) -> dict[str, Any]:
        return {"said": dict(self._said)}

    def load(self, state: Mapping[str, Any]) -> None:
        self._said = {str(kind): int(epoch) for kind, epoch in state["said"].items()}
