"""Label-free map: where the features are active, whatever the class."""

from __future__ import annotations

from torch import Tensor

from models.cam.base import EXPLAINERS, Explainer, for_every_target
from models.cam.functional import label_free_map
from models.cam.subject import Subject


@EXPLAINERS.register("labelfree")
class LabelFree(Explainer):
    """See `models.cam.functional.label_free_map`; the same map for every target."""

    def maps(self, subject: Subject) -> Tensor:
        return for_every_target(label_free_map(subject.activations), subject)
