"""In a step the host waits for nothing from the device, and leaves nothing behind: seen on one that computes nothing.

It stands in for a GPU, so that this is known where there is none; what only a GPU can show is in test_cuda.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from models import MODELS
from models.classifier_model import ClassifierModel
from tests.elsewhere import ELSEWHERE, MIXED, noting
from tests.models.test_every_model import FULL
from util.engine.ema import WeightAverage
from util.engine.late import LateCheck
from util.engine.step import Precision, train_step
from util.transfer import send

if TYPE_CHECKING:
    from tests.conftest import BenchMaker

MORE: dict[str, tuple[object, ...]] = {
    "cut, wgangp": ("cut", "--gan_mode", "wgangp", "--diffaug", "color,translation,cutout"),
    "cut, entropy": ("cut", "--netF", "reshape", "--nce_query", "entropy", "--nce_weighting", "monce"),
    "cut, images made there": ("cut", "--augment_on_device", "--netF", "sample"),
    "cut, R1": ("cut", "--netF", "sample", "--lambda_R1", 1, "--nce_weighting", "hdce"),
    "cutcam, contrast": (
        "cutcam",
        "--extra_losses",
        "sr,src",
        "--cam_norm",
        "contrast",
        "--lambda_CAM",
        1,
        "--pseudo_labels",
        "argmax",
    ),
    "cutcam, queries": ("cutcam", "--nce_query", "cam", "--cls_augment", "color,blur,noise", "--head_learns", "both"),
    "srunit, quotient": ("srunit", "--reg_mode", "quotient", "--reg_type", "v1"),
    "cycle_gan, wgangp": ("cycle_gan", "--gan_mode", "wgangp"),
    "dclgan, pool": ("dclgan", "--pool_size", 1),
}
# The grid of F-CAM's CRF is as large as the colours of the images are many.
KNOWN = {"fcam": ("models/losses/crf.py",)}


class Still(Optimizer):
    """Says that it is fused, as those on a GPU are, and steps nowhere: the stand-in has no fused kernels."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "fused": True})

    def step(self, closure: Any = None) -> Any:
        pass


@pytest.mark.parametrize("case", [*MODELS.names(), *MORE])
def test_a_step_waits_for_nothing(bench: BenchMaker, case: str) -> None:
    model, *flags = MORE.get(case, (case,))
    made = bench("--model", model, *FULL[str(model)], *flags)
    nets = made.model.to(ELSEWHERE).nets
    optimizers: dict[str, Optimizer] = {
        name: Still(net.parameters()) for name, net in nets.items() if any(True for _ in net.parameters())
    }
    late, average = LateCheck(ELSEWHERE), WeightAverage(made.model.nets, 0.99)
    average.restart()
    precision = Precision("off", torch.device("cpu"))
    # In the first step some things are found out once; in every tenth the watchmen of a class head look.
    for number in (1, 2):
        with noting() as found:
            batch = made.batch(number).to(ELSEWHERE)
            result = train_step(made.model, batch, made.info(number), optimizers, precision, late=late)
            average.update()
    assert result.scalars
    assert all(value.device == ELSEWHERE for value in result.scalars.values())
    assert [line for line in found if not any(file in line for file in KNOWN.get(str(model), ()))] == []
    with noting() as found:  # reading is what these are for
        made.model.monitors(result.state)
        made.model.visuals(result.state)
        made.model.panel(batch.A)
    assert [line for line in found if MIXED in line] == []


def test_the_stand_in_notices() -> None:
    there, here = torch.ones(3, device=ELSEWHERE), torch.ones(3)
    for act in (
        lambda: float(there.sum()),
        lambda: bool(there.any()),
        lambda: there.tolist(),
        lambda: here.to(ELSEWHERE),
        lambda: torch.tensor([1.0, 2.0], device=ELSEWHERE),
        lambda: there[torch.tensor([0, 2])],
        lambda: there[there > 0],
        lambda: torch.bincount(there.long(), minlength=4),
    ):
        with noting() as found, suppress(NotImplementedError):  # bincount: it knows none
            act()
        assert len(found) == 1
        assert "tests/engine/test_waiting.py" in found[0]
    with noting() as found:
        assert send(here, ELSEWHERE).device == ELSEWHERE
        there += 2 * there.sum() + torch.rand(3, device=ELSEWHERE)
    assert found == []


def test_reading_a_loss_in_a_step_would_be_seen(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench("--model", "classifier", *FULL["classifier"])
    forward = ClassifierModel.forward_train

    def curious(self: ClassifierModel, batch: Any, info: Any) -> Any:
        state = forward(self, batch, info)
        logits: Tensor = state.logits
        assert float(logits.mean()) < 1e6
        return state

    monkeypatch.setattr(ClassifierModel, "forward_train", curious)
    made.model.to(ELSEWHERE)
    optimizers: dict[str, Optimizer] = {name: Still(net.parameters()) for name, net in made.model.nets.items()}
    with noting() as found:
        batch, late = made.batch().to(ELSEWHERE), LateCheck(ELSEWHERE)
        train_step(made.model, batch, made.info(), optimizers, Precision("off", torch.device("cpu")), late=late)
    assert len(found) == 1
    assert "__float__ waits" in found[0]
