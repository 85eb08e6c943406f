"""--fast, --channels_last, --compile and --checkpoint_blocks: they change no result, and say what they chose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from models import speed
from models.networks.blocks import ResnetBlock
from models.speed import Speed, speed_up
from options.schema import OptionError
from util.engine.step import train_step

if TYPE_CHECKING:
    from tests.conftest import BenchMaker


def after_two_steps(bench: BenchMaker, wanted: Speed, *flags: str) -> tuple[dict[str, Tensor], list[str]]:
    case = bench(*flags)
    said = speed_up(case.model, wanted)
    for number in range(2):
        result = case.step(number)
    weights = {
        f"{name}.{key}": value for name, net in case.model.nets.items() for key, value in net.state_dict().items()
    }
    assert all(bool(torch.isfinite(value)) for value in result.scalars.values())
    return weights, said


@pytest.mark.parametrize(
    "flags", [("--model", "cut", "--no_dropout", "False"), ("--model", "cutcam"), ("--model", "cycle_gan")]
)
def test_forgetful_blocks_train_to_the_same_bit(bench: BenchMaker, flags: tuple[str, ...]) -> None:
    plain, _ = after_two_steps(bench, Speed(), *flags)
    forgetful, _ = after_two_steps(bench, Speed(checkpoint_blocks=True), *flags)
    assert plain.keys() == forgetful.keys()
    assert all(forgetful[key].equal(value) for key, value in plain.items())


def test_forgetful_blocks_bear_gradient_norms_and_sixteen_bits(bench: BenchMaker) -> None:
    case = bench("--model", "cutcam", "--amp", "bf16")
    speed_up(case.model, Speed(checkpoint_blocks=True))
    result = train_step(case.model, case.batch(), case.info(), case.optimizers, case.precision, watch_gradients=True)
    assert any(name.startswith("grad_") for name in result.scalars)


def test_fast_is_the_same_step_to_rounding_and_says_what_it_chose(
    bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "keep_memory", lambda: True)  # the tests' own process stays as it is
    case = bench("--model", "cut")
    wanted = {name: float(v) for name, v in case.step(0).scalars.items()}
    other = bench("--model", "cut", "--fast")
    said = speed_up(other.model, Speed(fast=True))
    found = {name: float(v) for name, v in other.step(0).scalars.items()}
    assert found == pytest.approx(wanted, rel=1e-4)
    assert said == [
        "--fast on cpu: channels_last, one fused step of the optimisers, freed memory is kept; the precision is --amp's"
    ]
    weight = next(p for p in other.model.nets["G"].parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert other.optimizers["G"].param_groups[0]["fused"]


def test_no_residual_blocks_and_batch_norm_are_refused(bench: BenchMaker) -> None:
    unet = bench("--model", "pix2pix", "--netG", "unet_128", "--crop_size", "128", "--load_size", "128").model
    with pytest.raises(OptionError, match="--checkpoint_blocks: no network"):
        speed_up(unet, Speed(checkpoint_blocks=True))
    with pytest.raises(OptionError, match="--normG batch"):
        speed_up(bench("--model", "cut", "--normG", "batch").model, Speed(checkpoint_blocks=True))


def test_without_a_compiler_a_warning_says_so(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    said = speed_up(bench("--model", "cut").model, Speed(compile=True))
    assert len(said) == 1
    assert said[0].startswith("WARNING: --compile: it needs a C++ compiler")


def test_compiling_goes_to_every_block_with_static_shapes(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **given: asked.append((self, given)))
    monkeypatch.setattr(speed, "missing_compiler", lambda device: "")
    model = bench("--model", "cut").model
    speed_up(model, Speed(compile=True))
    blocks = [part for part in model.nets["G"].modules() if isinstance(part, ResnetBlock)]
    assert [part for part, _ in asked] == [block.conv_block for block in blocks]
    assert all(given == {"dynamic": False} for _, given in asked)
