"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from data.base import Batch
from tests.models.fcam_bench import JUDGE, SMALL, classifier_run
from util.engine.build import optimizers_from
from util.engine.late import LateCheck
from util.engine.step import Precision, train_step
from util.ranks import device as rank_device

if TYPE_CHECKING:
    from tests.conftest import BenchMaker

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
CUTCAM = ("--model", "cutcam", "--num_classes", "4", "--cam_weight_adv", "--lambda_IDT", "1", "--lambda_EDGE", "1")
FCAM = ("--model", "fcam", "--classifier_run", str(classifier_run(*JUDGE)), *map(str, SMALL))
SRUNIT = ("--model", "srunit", "--inact_epochs", "0", "--D_noise", "0.1", "--reg_mode")


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("flags", [("--model", "cut"), CUTCAM, FCAM, (*SRUNIT, "released"), (*SRUNIT, "quotient")])
def test_steps_are_finite_and_move_every_network(bench: BenchMaker, flags: tuple[str, ...], amp: str) -> None:
    case = bench(*flags, "--amp", amp)
    device = torch.device("cuda")
    case.model.to(device)
    optimizers, precision = optimizers_from(case.run, case.model), Precision(amp, device)
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in case.model.nets.items()}
    for step in range(12):
        batch: Batch = case.batch(step).to(device)
        result = train_step(case.model, batch, case.info(step), optimizers, precision, watch_gradients=step == 3)
    assert all(bool(torch.isfinite(value)) for value in result.scalars.values())
    case.model.monitors(result.state)
    case.model.visuals(result.state)
    for name, net in case.model.nets.items():
        moved = [not p.equal(old) for p, old in zip(net.parameters(), before[name], strict=True)]
        assert any(moved) or not moved, name  # F-CAM's classifier has none to move


@pytest.mark.parametrize("flags", [("--model", "cut"), CUTCAM, ("--model", "cycle_gan"), (*SRUNIT, "quotient")])
def test_the_host_waits_for_nothing_in_a_step(bench: BenchMaker, flags: tuple[str, ...]) -> None:
    """What test_waiting.py sees without a GPU, PyTorch's own guard sees here."""
    case = bench(*flags, "--amp", "bf16")
    device = torch.device("cuda")
    case.model.to(device)
    optimizers, precision, late = optimizers_from(case.run, case.model), Precision("bf16", device), LateCheck(device)
    assert LateCheck.serves(list(optimizers.values()))
    for step in (1, 2, 3):  # in the first some things are found out once; in every tenth watchmen look
        batch = case.batch(step).pin_memory()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            result = train_step(case.model, batch.to(device), case.info(step), optimizers, precision, late=late)
            late.note(batch, 1, step, result.scalars)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert late.overdue() is None


def test_16_bits_take_less_memory(bench: BenchMaker) -> None:
    device, peaks = torch.device("cuda"), {}
    for amp in ("off", "bf16"):
        before = torch.cuda.memory_allocated()
        case = bench("--model", "cut", "--amp", amp, "--load_size", 128, "--crop_size", 128)
        case.model.to(device)
        optimizers, precision = optimizers_from(case.run, case.model), Precision(amp, device)
        for step in range(2):
            torch.cuda.reset_peak_memory_stats()
            train_step(case.model, case.batch(step).to(device), case.info(step), optimizers, precision)
        peaks[amp] = torch.cuda.max_memory_allocated() - before
    assert peaks["bf16"] < peaks["off"]


@pytest.mark.parametrize("flags", [CUTCAM, FCAM])
def test_the_gpu_computes_what_the_cpu_does(bench: BenchMaker, flags: tuple[str, ...]) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    terms = {}
    for name in ("cpu", "cuda"):
        case = bench(*flags)
        device = torch.device(name)
        case.model.to(device)
        batch = case.batch().to(device)
        optimizers = optimizers_from(case.run, case.model)
        result = train_step(case.model, batch, case.info(), optimizers, Precision("off", device))
        terms[name] = {key: float(value) for key, value in result.scalars.items()}
    assert terms["cuda"] == pytest.approx(terms["cpu"], rel=1e-3)


def test_one_process_sends_from_the_cpu() -> None:
    assert rank_device() == torch.device("cpu")
