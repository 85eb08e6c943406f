"""Comparing the map of a translation with its input's, or with its input's rather than with those of other images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.cam.functional import dead, normalize, rectify, resize_map
from models.losses.cam import CONTRAST, cam_contrast, cam_invariance
from util import ranks


class MapBank:
    """The inputs' maps of the last images of all ranks, small and of length 1. Only the mode CONTRAST fills it.

    Args:
        mode: of `cam_invariance` with its `eps` and `tau`, or CONTRAST with its `temperature`.

    Attributes:
        rows: (M, SIDE*SIDE), M at most LENGTH.
        images: (M,) int64, which image each is of; -1 for a map that points nowhere.
    """

    SIDE, LENGTH = 16, 64

    def __init__(self, mode: str, eps: float, tau: float, temperature: float) -> None:
        self.rows = torch.zeros(0, self.SIDE * self.SIDE)
        self.images = torch.zeros(0, dtype=torch.int64)
        self._mode, self._eps, self._tau, self._temperature = mode, eps, tau, temperature

    def compare(self, cam_x: Tensor, cam_fake: Tensor, images: Tensor) -> Tensor:
        """How badly the raw maps of translations fit those of their inputs, images (N,): (N, H, W) x 2 -> (N,)."""
        if self._mode != CONTRAST:
            return cam_invariance(cam_x, cam_fake, self._mode, self._eps, self._tau)
        self.take(cam_x, images)
        rows, differ = self.others(images)
        return cam_contrast(self._small(cam_x), self._small(cam_fake), rows, differ, self._temperature, self._eps)

    def take(self, maps: Tensor, images: Tensor) -> None:
        """Remember raw maps (N, H, W) of images (N,); one that is dead or not finite will never be compared with."""
        small = self._small(maps.detach())
        rows = normalize(small, "l2", self._eps).flatten(1)
        finite = rows.isfinite().all(1)
        known = torch.where(finite & ~dead(small, self._eps), images.to(rows.device), -1)
        rows = torch.where(finite[:, None], rows, 0.0)
        self.rows = torch.cat([self.rows.to(rows), ranks.rows_of_all(rows)])[-self.LENGTH :]
        self.images = torch.cat([self.images.to(known), ranks.rows_of_all(known)])[-self.LENGTH :]

    def others(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What is remembered, (M, SIDE*SIDE), and whether each row is of another image than these, (N, M) bool."""
        images = images.to(self.images.device)
        return self.rows, (self.images[None] != images[:, None]) & (self.images >= 0)[None]

    def _small(self, maps: Tensor) -> Tensor:
        return resize_map(rectify(maps), (self.SIDE, self.SIDE))

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows.clone(), "images": self.images.clone()}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Take a state; none, as checkpoints from before there was a bank have, leaves it as it is."""
        if state is not None:
            self.rows, self.images = state["rows"].clone(), state["images"].clone()
