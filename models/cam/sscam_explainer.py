"""SS-CAM: Score-CAM with masks that are disturbed by noise, averaged."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.scorecam_explainer import ScoreCam
from util.seeding import generator


@EXPLAINERS.register("sscam")
class SmoothScoreCam(ScoreCam):
    """The score of channel k is the mean score of x (M_k + noise) (Wang et al. 2020, arXiv:2006.14255, section 3).

    The noise of a sample and channel is the same for every image, so that a map does not depend on its batch.

    Args:
        samples: noisy masks a channel, at least 1; the cost of so many Score-CAMs.
        std: standard deviation of the noise, >= 0; masks are in [0, 1].
        seed: of the noise.
        channels, scale_first, align_corners: see `ScoreCam`.

    Raises:
        ExplainError: samples or channels below 1, std below 0.
    """

    def __init__(
        self,
        samples: int = 35,
        std: float = 2.0,
        seed: int = 0,
        channels: int | None = None,
        scale_first: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__(channels, scale_first, align_corners)
        if samples < 1 or std < 0:
            raise ExplainError(f"SS-CAM has {samples} samples and std {std}: give at least 1 and at least 0")
        self.samples, self.std, self.seed = samples, std, seed

    def variants(self, masks: Tensor, first: int) -> Iterator[Tensor]:
        for sample in range(self.samples):
            noise = [self._noise(masks, sample, first + k) for k in range(masks.shape[1])]
            yield masks + torch.stack(noise).to(masks)

    def _noise(self, masks: Tensor, sample: int, channel: int) -> Tensor:
        """(H, W), in float64 so that it does not depend on the precision of the masks."""
        source = generator(self.seed, "sscam", sample, channel)
        return self.std * torch.randn(masks.shape[-2:], generator=source, dtype=torch.float64)
