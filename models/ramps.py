"""When CUTCAM's class terms and CAM terms are switched on, and how fast."""

from __future__ import annotations

from util.seeding import StepInfo

WARM_UP = 0.05  # share of the run that an automatic warm-up or ramp takes


class Ramps:
    """Two weights from 0 to 1 that never fall, also when a run is made longer.

    Args:
        cls_start, cam_start: epochs before the class terms and the CAM terms start; -1: automatic.

    Attributes:
        reached: what the class terms and the CAM terms have come to; part of a checkpoint.
    """

    def __init__(self, cls_start: float, cam_start: float) -> None:
        self._cls_start, self._cam_start = cls_start, cam_start
        self.reached = (0.0, 0.0)

    def at(self, info: StepInfo, all_labelled: bool) -> tuple[float, float]:
        """How far both are switched on at a step.

        Starts given in epochs are compared with epochs, automatic ones with the share of the run; each ramp takes 5 %
        of the run. With labels the head can learn from the first step.
        """
        per_epoch = info.fraction / info.progress if info.progress > 0 else 0.0
        automatic = 0.0 if all_labelled else WARM_UP
        cls = self._cls_start * per_epoch if self._cls_start >= 0 else automatic
        cam = self._cam_start * per_epoch if self._cam_start >= 0 else cls + WARM_UP
        at_once = self._cls_start <= 0 and cls == 0.0
        cls_ramp = 1.0 if at_once else (info.fraction - cls) / WARM_UP
        cam_ramp = 1.0 if self._cam_start == 0 else (info.fraction - cam) / WARM_UP
        self.reached = (
            max(self.reached[0], min(1.0, max(0.0, cls_ramp))),
            max(self.reached[1], min(1.0, max(0.0, cam_ramp))),
        )
        return self.reached
