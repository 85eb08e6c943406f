"""SRUNIT against its steps written out slowly, with two backward passes, and what its flags do."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest
import torch
from torch import Tensor, nn

from models.terms.sr_term import SrOptions, SrTerm
from options.parse import inference_options, train_options
from options.schema import OptionError
from tests import commands
from tests.conftest import TINY, TINY_CUT, make_data
from util.engine.step import only_trains
from util.seeding import StepInfo, generator

if TYPE_CHECKING:
    from data.base import Batch
    from tests.conftest import Bench, BenchMaker, DataMaker, Trained

SR = ("--model", "srunit", "--inact_epochs", 0)


# --- the slow, obvious version


def slow_loss(made: Bench, batch: Batch, step: int, mirrored: bool) -> Tensor:
    """Steps 1 to 6 of the method, image by image and patch by patch, with modules of G one after the other.

    The draws alone are the program's own, made again from what they are keyed by.
    """
    model: Any = made.model
    (term,) = model.extras
    seed, modules = made.run.experiment.seed, list(model.nets["G"].model)
    which = int(torch.randint(len(term.layers), (), generator=generator(seed, "SR layer", step)))
    index = made.run.terms[0].reg_layers[which]  # type: ignore[attr-defined]
    layer = made.run.model.nce_layers[index]  # type: ignore[attr-defined]
    mlp = model.nets["F"].get_submodule(f"mlp_{index}")

    def through(x: Tensor, part: list[nn.Module]) -> Tensor:
        for module in part:
            x = module(x)
        return x

    def embedding(feature: Tensor, place: int) -> Tensor:
        row: Tensor = mlp(feature[0, :, place // feature.shape[3], place % feature.shape[3]])
        unit: Tensor = row / (row.norm() + 1e-7)
        return unit

    encoder, rest = modules[: layer + 1], modules[layer + 1 :]
    losses: list[Tensor] = []
    for image, sample in zip(batch.A, batch.index.tolist(), strict=True):
        x = image[None].flip(-1) if mirrored else image[None]
        z = through(x, encoder)
        normal = torch.randn(z.shape[1:], generator=generator(seed, "SR directions", step, sample)).to(z)
        drawn = torch.rand((1, *z.shape[2:]), generator=generator(seed, "SR magnitudes", step, sample)).to(z)
        direction = normal / normal.square().sum(dim=0).sqrt()
        recorded = term.noise * 0.1 + (term.noise - term.noise * 0.1) * drawn
        size = recorded
        if term.mode == "released":  # the largest is added, another one is recorded
            recorded, size = 1e-7 + (term.noise - 1e-7) * drawn, torch.full_like(drawn, term.noise)
        length = z.detach().square().sum(dim=1).sqrt() if term.relative else 1.0
        noise = size * length * direction
        again = through(through(z + noise, rest), encoder)
        compared = through(through(z, rest), encoder) if term.mode == "quotient" else z
        places = z.shape[2] * z.shape[3]
        ids = torch.randperm(places, generator=generator(seed, "SR patches", step, 0))[: model.num_patches]
        for place in ids.tolist():
            target = embedding(compared, place)
            target = target.detach() if term.detach else target
            away = (embedding(again, place) - target).square().sum().sqrt()
            losses.append(away / recorded.flatten()[place])
    mean = torch.stack(losses).mean()
    return mean / 5 if term.mode == "released" else mean


def in_double(made: Bench) -> Batch:
    """Its networks, and its first batch, in double precision, so that only the formulas can differ."""
    for net in made.model.nets.values():
        net.double()
    batch = made.batch()
    return replace(batch, A=batch.A.double(), B=batch.target.double())


def parameters(model: Any) -> dict[str, Tensor]:
    return {f"{name} {key}": p for name in ("G", "F") for key, p in model.nets[name].named_parameters()}


def gradients(model: Any) -> dict[str, Tensor]:
    """The gradients that backward passes have left, which are then cleared."""
    found = {}
    for key, parameter in parameters(model).items():
        found[key] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        parameter.grad = None
    return found


METHODS: dict[str, tuple[object, ...]] = {
    "released": ("--reg_mode", "released"),
    "released FastCUT": ("--reg_mode", "released", "--CUT_mode", "FastCUT"),
    "matched": (),
    "matched, detached, relative": ("--reg_detach", "--reg_relative", "--reg_noise", 0.1),
    "quotient": ("--reg_mode", "quotient"),
    "quotient FastCUT": ("--reg_mode", "quotient", "--CUT_mode", "FastCUT", "--reg_relative", False),
    "quotient, detached": ("--reg_mode", "quotient", "--reg_detach", "--nce_idt", False),
}


@pytest.mark.parametrize("reg_type", ["v1", "v2"])
@pytest.mark.parametrize("method", METHODS)
def test_one_backward_pass_gives_what_two_give(bench: BenchMaker, method: str, reg_type: str) -> None:
    """v1 as published: backward of CUT's loss, then F frozen, then backward of reg * SR."""
    seen = set()
    for step in (0, 1, 5):
        flags = ("--batch_size", 2, "--num_patches", 4, "--reg", 0.01, *METHODS[method])
        made = bench(*SR, "--reg_type", reg_type, *flags)
        model: Any = made.model
        batch, info = in_double(made), made.info(step)
        with only_trains(model.nets, ("G", "F")):
            state = model.forward_train(batch, info)
            terms = model.g_losses(state)
            torch.stack(list(terms.values())).sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            fast, robust = gradients(model), terms.pop("SR").item()

            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            model.nets["F"].requires_grad_(reg_type == "v2")
            loss = slow_loss(made, batch, step, state.mirrored)
            (0.01 * loss).backward()  # type: ignore[no-untyped-call]
            slow = gradients(model)
        assert robust == pytest.approx(0.01 * loss.item(), rel=1e-6)
        for key, value in slow.items():
            most = max(float(other.abs().max()) for name, other in slow.items() if name[0] == key[0])
            assert torch.allclose(fast[key], value, atol=1e-9 * most, rtol=1e-5), key
        seen.add((model.extras[0].drawn_layer(info), state.mirrored))
    assert len(seen) > 1


def test_v1_gives_f_the_gradient_of_cut_alone(bench: BenchMaker) -> None:
    found = {}
    for reg_type, reg in (("v1", 1), ("v2", 1), ("v1", 0)):
        made = bench(*SR, "--batch_size", 2, "--reg_type", reg_type, "--reg", reg)
        with only_trains(made.model.nets, ("G", "F")):
            terms = made.model.phases[1].losses(made.model.forward_train(made.batch(), made.info()))
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        found[reg_type, reg] = gradients(made.model)
    model: Any = made.model
    drawn = f"F mlp_{model.extras[0].drawn_layer(made.info())}."
    for key, value in found["v1", 0].items():
        alike = {kind: torch.allclose(found[kind, 1][key], value, rtol=1e-5, atol=1e-8) for kind in ("v1", "v2")}
        if not key.endswith("bias") or key.startswith("F"):  # those before a norm have no effect
            assert alike == {"v1": key[0] == "F", "v2": key[0] == "F" and not key.startswith(drawn)}, key


# --- what is drawn


def test_every_layer_asked_for_is_drawn_about_equally_often() -> None:
    term = SrTerm((0, 2, 3))
    drawn = Counter(term.drawn_layer(StepInfo(3, step)) for step in range(600))
    assert set(drawn) == {0, 2, 3}
    assert max(abs(count - 200) for count in drawn.values()) < 50  # more than four deviations
    assert drawn == Counter(term.drawn_layer(StepInfo(3, step, rank=1, world_size=2)) for step in range(600))


def test_equal_steps_are_equal_and_each_step_and_sample_has_its_own_noise(bench: BenchMaker) -> None:
    def loss(step: int, batch: Batch | None = None) -> float:
        made = bench(*SR, "--batch_size", 2, "--reg_layers", 1)
        model: Any = made.model
        (term,) = model.extras
        state = model.forward_train(made.batch() if batch is None else batch, made.info(step))
        return float(term.loss(model, state).item())

    torch.manual_seed(5)
    first = loss(3)
    torch.manual_seed(6)  # the global generator has no say
    assert loss(3) == first
    assert loss(4) != first
    batch = bench(*SR, "--batch_size", 2).batch()
    moved = replace(batch, index=batch.index + 100)
    assert loss(3, moved) != loss(3, batch)


# --- when it is on


def test_while_inactive_training_is_plain_cut_bit_for_bit(bench: BenchMaker) -> None:
    cases: tuple[tuple[tuple[object, ...], tuple[object, ...]], ...] = (
        ((), ()),
        (("--CUT_mode", "FastCUT"), ("--reg_type", "v1")),
    )
    for common, own in cases:
        plain = bench("--model", "cut", "--batch_size", 2, *common)
        ours = bench("--model", "srunit", "--batch_size", 2, *common, *own)
        for step in range(3):
            expected, found = (made.step(step).scalars for made in (plain, ours))
            assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in expected.items()}
        for name, net in plain.model.nets.items():
            for key, value in net.state_dict().items():
                assert torch.equal(ours.model.nets[name].state_dict()[key], value), (name, key)


def test_a_weight_of_zero_computes_nothing(bench: BenchMaker) -> None:
    made = bench(*SR, "--reg", 0, "--reg_mode", "quotient", "--lambda_NCE", 0)
    model: Any = made.model
    assert not model.reads_queries
    assert "SR" not in made.step().scalars


@pytest.mark.parametrize("first", [1, 3])
def test_it_begins_after_the_inactive_epochs(train_run: Trained, data: DataMaker, first: int) -> None:
    flags = ("--batch_size", 2, "--n_epochs", 3, "--n_epochs_decay", 1, "--epoch_count", first)
    plain = train_run("plain", data(), "--model", "cut", *flags)
    folder = train_run("srunit", data(), "--model", "srunit", "--init_epochs", 2, *flags)
    cut, ours = (steps_of(run) for run in (plain, folder))
    assert {line["epoch"] for line in ours if "SR" in line} == {3, 4}
    assert {line["epoch"] for line in ours if "SR" not in line} == set(range(first, 3))
    before = [line for line in ours if line["epoch"] <= 2]
    assert before == cut[: len(before)]
    assert ours[len(before)]["NCE"] == cut[len(before)]["NCE"]  # the same weights, the first time
    assert ours[-1]["NCE"] != cut[-1]["NCE"]


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The log's lines of losses, without what a clock measured."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{n: v for n, v in line.items() if "seconds" not in n} for line in lines if "lr" in line]


def test_a_warning_says_where_it_never_begins(bench: BenchMaker) -> None:
    for epochs, warned in (((2, 2), True), ((3, 2), False)):
        flags = ("--n_epochs", epochs[0], "--n_epochs_decay", epochs[1], "--inact_epochs", 4)
        messages = bench("--model", "srunit", *flags).model.messages
        assert bool(messages) == warned
    messages = bench("--model", "srunit", "--n_epochs", 8, "--n_epochs_decay", 4).model.messages
    assert messages == [
        "WARNING: --inact_epochs 100: the run ends with epoch 12, so the robustness loss never begins; "
        "a quarter of the epochs is usual (3)"
    ]
    assert bench("--model", "srunit", "--n_epochs", 1, "--reg", 0).model.messages == []
    (message,) = bench("--model", "srunit", "--n_epochs", 1, "--n_epochs_decay", 0).model.messages
    assert message.endswith("the run ends with epoch 1, so the robustness loss never begins; with 0 it begins at once")


@pytest.mark.parametrize("model", [("srunit",), ("cutcam", "--num_classes", 4, "--extra_losses", "sr")])
def test_a_warning_says_where_max_iters_ends_before_it(
    model: tuple[object, ...], train_run: Trained, data: DataMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", *model, "--max_iters", 6)  # of 5 in an epoch
    train_run("a", data(), *flags)
    said = "WARNING: --inact_epochs 100: the run ends with epoch 2 by --max_iters, so the robustness loss never begins"
    assert capsys.readouterr().err.count(said) == 1
    train_run("b", data(), *flags, "--inact_epochs", 1)
    assert "inact_epochs" not in capsys.readouterr().err


# --- numbers


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, torch.dtype, bool]]:
    """Number formats of the feature and the image, and whether TF32 is allowed, of every pass from inside G on."""
    from models.networks import ResnetGenerator

    seen, decode = [], ResnetGenerator.decode

    def watching(self: ResnetGenerator, feature: Tensor, layer: int) -> Tensor:
        image = decode(self, feature, layer)
        seen.append((feature.dtype, image.dtype, torch.backends.cudnn.allow_tf32))
        return image

    monkeypatch.setattr(ResnetGenerator, "decode", watching)
    return seen


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ((), 1),
        (("--amp", "bf16"), 1),
        (("--reg_mode", "released", "--amp", "bf16"), 1),
        (("--reg_mode", "quotient"), 1),  # the state has E(G(x))
        (("--reg_mode", "quotient", "--amp", "bf16"), 2),  # ... but not as exactly as the noise needs it
        (("--reg_mode", "quotient", "--normG", "batch"), 2),  # ... nor with the statistics of x alone
    ],
)
def test_its_pass_is_in_single_precision_and_no_more_passes_than_needed(
    bench: BenchMaker,
    passes: list[tuple[torch.dtype, torch.dtype, bool]],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[object, ...],
    count: int,
) -> None:
    made = bench(*SR, *flags, "--batch_size", 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    value = float(made.step().scalars["SR"])
    assert math.isfinite(value)
    assert value > 0
    assert passes == [(torch.float32, torch.float32, "quotient" not in flags)] * count
    assert torch.backends.cudnn.allow_tf32


def test_the_quotient_of_small_noise_is_a_derivative(bench: BenchMaker) -> None:
    """Halving the noise hardly changes it; the published size in float32 would be half rounding."""
    found = {}
    for noise in (0.02, 0.01, 0.005):
        made = bench(*SR, "--reg_mode", "quotient", "--reg_noise", noise, "--reg_layers", 3, "--init_gain", 0.5)
        model: Any = made.model
        found[noise] = model.extras[0].loss(model, model.forward_train(made.batch(), made.info())).item()
    assert found[0.01] == pytest.approx(found[0.02], rel=0.05)
    assert found[0.005] == pytest.approx(found[0.01], rel=0.05)


# --- where it fits


@pytest.mark.parametrize(
    "flags",
    [
        ("--input_nc", 1, "--output_nc", 1),
        ("--CUT_mode", "FastCUT", "--batch_size", 3),
        ("--netG", "resnet_4blocks", "--nce_layers", "0,4,8", "--reg_layers", "1,2"),
        ("--lambda_NCE", 0),
        ("--no_dropout", False),
    ],
)
def test_it_trains_in_other_settings(bench: BenchMaker, flags: tuple[object, ...]) -> None:
    made = bench(*SR, *flags)
    for step in range(3):
        assert 0 < float(made.step(step).scalars["SR"]) < math.inf


def test_cutcam_and_cut_take_it_on(bench: BenchMaker) -> None:
    for model in (("--model", "cutcam", "--num_classes", 4), ("--model", "cut")):
        made = bench(*model, "--batch_size", 2, "--extra_losses", "sr", "--inact_epochs", 0, "--reg", 0.002)
        scalars = made.step().scalars
        assert float(scalars["SR"]) > 0
        assert ("CAM" in scalars) == ("cutcam" in model)
    assert made.run.terms == (SrOptions(reg=0.002, inact_epochs=0),)
    assert made.run.log.save_epoch_freq == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--netG", "unet_128", "--load_size", 128, "--crop_size", 128),
            r"--netG unet_128: .*use resnet_9blocks or resnet_6blocks .* or stylegan2 or smallstylegan2$",
        ),
        (("--reg_layers", "0,5"), r"--reg_layers 0,5: indices .* from 0 to 4 .*--reg_layers 0,1,2,3,4$"),
        (("--nce_layers", "0,4"), r"from 0 to 1 here; .*--reg_layers 0,1$"),
        (("--reg_layers", ""), r"--reg_layers: indices"),
        (("--input_nc", 1, "--lambda_NCE", 0), r"--input_nc 1 and --output_nc 3: the robustness loss"),
        (("--reg_mode", "quotient", "--no_dropout", False), r"--reg_mode quotient: dropout"),
        (("--reg_noise", 0), r"--reg_noise 0.0: must be at least 1e-06"),
        (("--reg_type", "v3"), r"--reg_type v3: choose one of v1, v2"),
        (("--extra_losses", "absent"), r"--extra_losses absent: unknown"),
    ],
)
def test_what_cannot_be_is_said(bench: BenchMaker, flags: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        bench(*SR[:2], *flags)
    assert "\n" not in str(caught.value)


# --- flags


def options_of(*flags: str) -> Any:
    return train_options(["--dataroot", "data", *flags])


def test_the_published_defaults() -> None:
    run = options_of("--model", "srunit")
    term = run.terms[0]
    assert (term.reg, term.reg_noise, term.reg_type, term.inact_epochs) == (0.001, 0.001, "v2", 100)
    assert term.reg_layers == (0, 1, 2, 3, 4)
    assert (run.model.D_noise, run.model.netF, run.optim.gan_mode) == (0.0, "mlp_sample", "lsgan")
    assert run.log.save_epoch_freq == 25
    assert options_of("--model", "srunit", "--save_epoch_freq", "3").log.save_epoch_freq == 3
    fast = options_of("--model", "srunit", "--CUT_mode", "FastCUT")
    assert (fast.model.lambda_NCE, fast.log.save_epoch_freq) == (10.0, 25)


def test_a_quotient_has_noise_above_rounding_unless_told() -> None:
    term = options_of("--model", "srunit", "--reg_mode", "quotient").terms[0]
    assert (term.reg, term.reg_noise, term.reg_relative) == (0.01, 0.01, True)
    term = options_of("--model", "srunit", "--reg_mode", "quotient", "--reg_relative", "False").terms[0]
    assert (term.reg_noise, term.reg_relative) == (0.01, False)


def test_the_model_follows_from_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert options_of("--reg_layers", "0,1").experiment.model == "srunit"
    assert capsys.readouterr().err == "--model srunit: chosen because of --reg_layers\n"
    assert options_of("--reg", "0.1", "--extra_losses", "sr").experiment.model == "cut"
    mixed = options_of("--lambda_CAM", "5", "--init_epochs", "3", "--extra_losses", "sr")
    assert (mixed.experiment.model, mixed.terms[0].inact_epochs) == ("cutcam", 3)
    with pytest.raises(OptionError, match="--reg: belongs to --model srunit"):
        options_of("--model", "cut", "--reg", "0.1")


# --- noise on D's input


def test_d_sees_noise_of_that_deviation_of_its_own_for_every_image(bench: BenchMaker) -> None:
    def seen(*flags: object) -> list[Tensor]:
        made = bench("--model", "srunit", "--batch_size", 2, *flags)
        inputs: list[Tensor] = []
        made.model.nets["D"].register_forward_pre_hook(lambda net, args: inputs.append(args[0].detach()))
        state = made.model.forward_train(made.batch(), made.info())
        for phase in made.model.phases:
            phase.losses(state)
        return inputs

    noisy, again, clean = seen("--D_noise", 0.1), seen("--D_noise", 0.1), seen()
    assert [len(images) for images in clean] == [4, 2]  # fake and real together where D learns, fake where G does
    assert all(torch.equal(a, b) for a, b in zip(noisy, again, strict=True))
    noise = torch.cat([a - b for a, b in zip(noisy, clean, strict=True)]).flatten(1)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    alike = torch.corrcoef(noise).fill_diagonal_(0)
    assert float(alike.abs().max()) < 0.08  # no two of the six images share theirs


# --- the two commands of the published code


def test_the_published_commands_run(tmp_path: Path) -> None:
    make_data(tmp_path / "D", count=(4, 3))
    (tmp_path / "D" / "valA").mkdir()
    for number in range(2):  # valA alone
        (tmp_path / "D" / "valA" / f"{number}.png").write_bytes((tmp_path / "D/trainA" / f"0{number}.png").read_bytes())
    train = (
        "--dataroot=D --preprocess=crop --n_epochs=2 --n_epochs_decay=1 --reg_layers=0,1,2,3,4 --reg_noise=0.001 "
        "--reg=0.001 --init_epochs=1 --name=N"
    )
    outcome = commands.run("train", [*train.split(), *TINY, *TINY_CUT, "--nfdf", 64], tmp_path)
    assert outcome.status == 0, outcome.err
    assert "--model srunit: chosen because of --init_epochs" in outcome.err
    assert "--nfdf does nothing here" in outcome.err
    lines = [json.loads(line) for line in (tmp_path / "checkpoints/N/log.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in lines if "SR" in line} == {2, 3}

    test = "--dataroot=D --name=N --preprocess=none --output_path=OUT --phase=val"
    outcome = commands.run("test", test, tmp_path)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "OUT" / "N" / "val_latest"
    made = cv2.imread(str(folder / "images" / "fake_B" / "0.png"))
    assert made is not None
    assert made.shape == (40, 44, 3)
    assert sorted(file.name for file in (folder / "images").iterdir()) == ["fake_B", "real_A"]
    assert (folder / "index.html").is_file()


def test_the_published_name_of_the_results_folder(train_run: Trained, data: DataMaker) -> None:
    from options.groups import Inference

    folder = train_run("run", data(), "--model", "srunit", "--n_epochs", 1, "--n_epochs_decay", 0, "--max_iters", 1)
    place = ["--checkpoints_dir", str(folder.parent), "--name", "run"]
    for flag in ("--results_dir", "--output_path"):
        (wanted,) = inference_options((Inference,), [*place, flag, "there"]).extra
        assert wanted == Inference(results_dir="there")
