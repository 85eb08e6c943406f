"""What keeps watch over a class head during training, and when it speaks up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.guards import CollapseGuard, EpochAlarm, MapMemory
from util.errors import UserError

LOOK_EVERY = 10  # steps: looking waits for a GPU, and what is looked for does not come and go
DEAD_SHARE = 0.5  # of the last maps, from which on they are warned about
COLLAPSE_REMEDY = "Give labels (--labels_A), use --pseudo_labels kmeans, or --lambda_CLS 0 --lambda_CAM 0"


class CollapseError(UserError, RuntimeError):
    """The class head predicts one class for everything, and --on_collapse says stop."""


class HeadWatch:
    """Warns, once an epoch while it lasts, of a head that has collapsed and of maps that are dead.

    Args:
        num_classes: K of the head.
        window: steps that a judgement of collapse looks back on.
        stop: end the run at a collapse, instead of going on without the terms that need the head.
        label_smoothing: of the loss that the head learns by.

    Attributes:
        collapsed: the head has been found collapsed; stays so.
    """

    def __init__(self, num_classes: int, window: int, stop: bool, label_smoothing: float = 0.0) -> None:
        self.guard, self.memory = CollapseGuard(num_classes, window, label_smoothing), MapMemory()
        self.collapsed = False
        self._alarm, self._window, self._stop = EpochAlarm(), window, stop

    def see_maps(self, maps: Tensor, epoch: int, used: bool, images: Tensor | None = None, step: int = 0) -> list[str]:
        """Take a step's rectified maps (N, h, w); what there is to say.

        Args:
            used: a loss or weight goes by the maps in this step.
            step: its number; maps of all steps are taken, and every `LOOK_EVERY` steps they are looked at.
            images: (N,) int64, which image each map is of; none: of images that have not been seen before.
        """
        self.memory.watch(maps, images)
        said = []
        dead = self.memory.dead_share if used and step % LOOK_EVERY == 0 else 0.0
        if dead >= DEAD_SHARE and self._alarm.due("dead", epoch):
            said.append(
                f"WARNING: {dead:.0%} of the last {MapMemory.LENGTH} class activation maps are dead "
                "(no evidence for their class anywhere): the CAM terms and --cam_weight_adv have nothing to go by. "
                "Give labels (--labels_A), start the terms later (--cam_start_epoch), choose another --cam_layer, or "
                "lower --lambda_CAM"
            )
        if self.collapsed and self._alarm.due("collapsed", epoch):
            said.append(f"WARNING: the class head is collapsed, and the terms that need it are off. {COLLAPSE_REMEDY}")
        return said

    def see_head(self, probabilities: Tensor, labels: Tensor, epoch: int, step: int = -1) -> list[str]:
        """Take a step's predictions (N, K) and true labels (N,), -1 unknown; what there is to say.

        Args:
            step: its number, see `CollapseGuard.watch`; every `LOOK_EVERY` steps the head is judged, without it always.

        Raises:
            CollapseError: the head has collapsed, and that ends the run.
        """
        self.guard.watch(probabilities, labels, step)
        if (step >= 0 and step % LOOK_EVERY) or not self.guard.collapsed:
            return []
        text = (
            f"the class head has collapsed: {self.guard.effective:.2f} effective classes over the last {self._window} "
            f"steps; its maps explain nothing. {COLLAPSE_REMEDY}"
        )
        if self._stop:
            raise CollapseError(text)
        self.collapsed = True
        self._alarm.due("collapsed", epoch)  # said with this
        return [f"WARNING: {text}. The terms that need the head are off from here on."]

    def state(self) -> dict[str, Any]:
        return {
            "guard": self.guard.state(),
            "memory": self.memory.state(),
            "alarm": self._alarm.state(),
            "collapsed": self.collapsed,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.guard.load(state["guard"])
        self.memory.load(state["memory"])
        self._alarm.load(state["alarm"])
        self.collapsed = bool(state["collapsed"])
