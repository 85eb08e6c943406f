"""What the tests of CUTCAM share: its flags in miniature, and the model of a bench by its own type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.cutcam_model import CutCamModel

if TYPE_CHECKING:
    from tests.conftest import Bench

HEAD = ("--model", "cutcam", "--num_classes", 4)
README = (*HEAD, "--lambda_IDT", 10, "--lambda_EDGE", 5, "--cam_weight_adv", "--batch_size", 2)


def cutcam(made: Bench) -> CutCamModel:
    assert isinstance(made.model, CutCamModel)
    return made.model
