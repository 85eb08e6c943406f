"""IS-CAM: Score-CAM integrated over masks of growing strength."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.scorecam_explainer import ScoreCam


@EXPLAINERS.register("iscam")
class IntegratedScoreCam(ScoreCam):
    """The score of channel k is the mean score of x c_i M_k over i = 1..n (Naidu et al. 2020, arXiv:2010.03023).

    Args:
        samples: n, at least 1; the cost of so many Score-CAMs.
        cumulative: c_i = (1 + ... + i) / n, a sum that goes on growing, as torchcam reads the paper: from about half
            way on, masks exceed 1. Otherwise c_i = i / n, the straight path of integrated gradients.
        channels, scale_first, align_corners: see `ScoreCam`.

    Raises:
        ExplainError: samples or channels below 1.
    """

    def __init__(
        self,
        samples: int = 10,
        cumulative: bool = True,
        channels: int | None = None,
        scale_first: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__(channels, scale_first, align_corners)
        if samples < 1:
            raise ExplainError(f"IS-CAM has {samples} samples: give at least 1")
        self.samples, self.cumulative = samples, cumulative

    def variants(self, masks: Tensor, first: int) -> Iterator[Tensor]:
        for i in range(1, self.samples + 1):
            yield masks * ((i * (i + 1) / 2 if self.cumulative else i) / self.samples)
