"""--fast, --channels_last, --compile and --checkpoint_blocks: they change no result, and say what they chose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from models import load_trained, speed
from models.networks import fast_conv
from models.networks.blocks import ResnetBlock
from models.networks.fast_conv import Conv2d
from models.speed import Speed, speed_up
from options.parse import inference_options
from options.schema import OptionError
from tests.runs import make_run
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
    "flags",
    [
        ("--model", "cut", "--no_dropout", "False"),
        ("--model", "cut", "--no_antialias", "--no_antialias_up", "--nce_layers", "0,2,3,9,12"),
        ("--model", "cutcam"),
        ("--model", "srunit", "--inact_epochs", "0"),
        ("--model", "cycle_gan"),
    ],
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


@pytest.mark.parametrize("fewer", [True, False])
def test_fast_is_the_same_step_to_rounding_and_says_what_it_chose(
    bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, fewer: bool
) -> None:
    monkeypatch.setattr(speed, "keep_memory", lambda: True)  # the tests' own process stays as it is
    if not fewer:
        monkeypatch.setattr(fast_conv, "available", lambda: False)
    elif not fast_conv.available():
        pytest.skip("this PyTorch has no NNPACK for this processor")
    case = bench("--model", "cut")
    wanted = {name: float(v) for name, v in case.step(0).scalars.items()}
    other = bench("--model", "cut", "--fast")
    said = speed_up(other.model, Speed(fast=True))
    found = {name: float(v) for name, v in other.step(0).scalars.items()}
    assert found == pytest.approx(wanted, rel=1e-4)
    assert said == [
        f"--fast on cpu: {'convolutions with fewer products' if fewer else 'channels_last'}, "
        "one fused step of the optimisers, freed memory is kept; the precision is --amp's"
    ]
    weight = next(p for p in other.model.nets["G"].parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last) is not fewer
    convolutions = [m for m in other.model.nets["G"].modules() if isinstance(m, Conv2d)]
    assert {conv.fewer_products for conv in convolutions if conv.can_save_products} == {fewer}
    assert other.optimizers["G"].param_groups[0]["fused"]


@pytest.mark.parametrize("flags", [("--fast",), ("--fast", "--amp", "bf16"), ("--channels_last",), ()])
def test_fast_of_inference_is_what_its_own_command_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setattr(speed, "keep_memory", lambda: False)
    make_run(tmp_path / "run", "--model", "cut", "--fast")  # that of the training does not count
    run = inference_options((), ["--checkpoints_dir", str(tmp_path), "--name", "run", *flags])
    net = load_trained(run, torch.device("cpu")).nets["G"]
    fewer = flags == ("--fast",) and fast_conv.available()
    assert any(m.fewer_products for m in net.modules() if isinstance(m, Conv2d)) is fewer
    weight = next(p for p in net.parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last) is (bool(flags) and not fewer)
    assert capsys.readouterr().out.startswith("--fast on cpu: ") is ("--fast" in flags)


def test_with_sixteen_bits_fast_is_channels_last(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "keep_memory", lambda: False)
    model = bench("--model", "cut").model
    assert "channels_last" in speed_up(model, Speed(fast=True, sixteen_bits=True))[0]
    assert not any(m.fewer_products for m in model.nets["G"].modules() if isinstance(m, Conv2d))


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
