"""CycleGAN against its formulas written out, the published networks built by hand, and its two directions in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.images import Window
from data.single_dataset import SingleDataset
from models import MODELS, load_run, load_trained
from options.groups import Inference
from options.parse import inference_options, train_options
from options.schema import OptionError
from scripts.epochs import epochs_of
from tests.commands import run as run_script
from tests.conftest import make_data, tiny_flags
from util.checkpoint import CheckpointError, export_weights, load_state, load_weights
from util.engine.step import only_trains

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker, Trained

CYCLE = ("--model", "cycle_gan", "--batch_size", 2)


def in_double(made: Bench) -> Any:
    for net in made.model.nets.values():
        net.double()
    batch = made.batch()
    object.__setattr__(batch, "A", batch.A.double())
    object.__setattr__(batch, "B", batch.target.double())
    return batch


# --- the formulas


def slow_g(made: Bench, batch: Any, lambda_A: float, lambda_B: float, share: float) -> Tensor:
    """G's loss with lsgan (Zhu et al. 2017, eq. 1 to 3 and section 5.2), every translation made where it is used."""
    G, F, D_Y, D_X = (made.model.nets[name] for name in ("G_A", "G_B", "D_A", "D_B"))  # the paper's names
    x, y = batch.A, batch.B
    adversarial = ((D_Y(G(x)) - 1) ** 2).mean() + ((D_X(F(y)) - 1) ** 2).mean()
    cycle = lambda_A * (F(G(x)) - x).abs().mean() + lambda_B * (G(F(y)) - y).abs().mean()
    identity = lambda_B * share * (G(y) - y).abs().mean() + lambda_A * share * (F(x) - x).abs().mean()
    total: Tensor = adversarial + cycle + identity
    return total


@pytest.mark.parametrize("weights", [(10.0, 10.0, 0.5), (7.0, 3.0, 0.25), (0.0, 4.0, 1.0), (5.0, 2.0, 0.0)])
def test_g_s_loss_and_gradients_are_those_of_the_formulas(
    bench: BenchMaker, weights: tuple[float, float, float]
) -> None:
    names = ("--lambda_A", "--lambda_B", "--lambda_identity")
    made = bench(*CYCLE, "--init_gain", 0.2, *(w for pair in zip(names, weights, strict=True) for w in pair))
    batch = in_double(made)
    terms = made.model.phases[0].losses(made.model.forward_train(batch, made.info()))
    total, slow = torch.stack(list(terms.values())).sum(), slow_g(made, batch, *weights)
    torch.testing.assert_close(total, slow, rtol=1e-10, atol=1e-10)
    parameters = [p for name in ("G_A", "G_B") for p in made.model.nets[name].parameters()]
    both = [torch.autograd.grad(loss, parameters) for loss in (total, slow)]
    fast, expected = (torch.cat([g.flatten() for g in gradients]) for gradients in both)
    assert float((fast - expected).norm() / expected.norm()) < 1e-9


def test_each_discriminator_learns_from_its_own_domain(bench: BenchMaker) -> None:
    made = bench(*CYCLE, "--init_gain", 0.2)
    batch, nets = in_double(made), made.model.nets
    terms = made.model.phases[1].losses(made.model.forward_train(batch, made.info()))
    expected = {
        "D_A_real": 0.5 * (nets["D_A"](batch.B) - 1).square().mean(),
        "D_A_fake": 0.5 * nets["D_A"](nets["G_A"](batch.A)).square().mean(),
        "D_B_real": 0.5 * (nets["D_B"](batch.A) - 1).square().mean(),
        "D_B_fake": 0.5 * nets["D_B"](nets["G_B"](batch.B)).square().mean(),
    }
    assert {n: t.item() for n, t in terms.items()} == pytest.approx({n: t.item() for n, t in expected.items()})


def test_the_translators_are_trained_first(bench: BenchMaker) -> None:
    assert [phase.name for phase in bench(*CYCLE).model.phases] == ["G", "D"]


def test_discriminators_see_earlier_translations_and_translators_never_do(bench: BenchMaker) -> None:
    made = bench(*CYCLE, "--pool_size", 1, "--init_gain", 0.2)
    model: Any = made.model
    earlier = 0
    for step in range(8):
        state: Any = made.step(step).state
        for shown, new in ((state.shown_A, state.fake_A), (state.shown_B, state.fake_B)):
            assert not shown.requires_grad
            earlier += sum(not torch.equal(a, b) for a, b in zip(shown, new, strict=True))
    assert 4 < earlier < 28  # of 32 images about half
    assert [len(pool) for pool in model.pools.values()] == [1, 1]
    for step in range(9, 30):
        state = model.forward_train(made.batch(), made.info(step))
        if not (torch.equal(state.shown_B, state.fake_B) or torch.equal(state.shown_A, state.fake_A)):
            break
    terms, nets = model.d_losses(state), model.nets
    assert terms["D_A_fake"].item() == pytest.approx(0.5 * nets["D_A"](state.shown_B).square().mean().item())
    assert terms["D_B_fake"].item() == pytest.approx(0.5 * nets["D_B"](state.shown_A).square().mean().item())
    assert terms["D_A_fake"].item() != pytest.approx(0.5 * nets["D_A"](state.fake_B).square().mean().item(), rel=1e-4)
    with only_trains(model.nets, ("G_A", "G_B")):
        terms = model.g_losses(state)
    judged = model.nets["D_A"](state.fake_B)
    assert terms["G_GAN_A"].item() == pytest.approx((judged - 1).square().mean().item())


# --- options


def test_the_defaults_are_the_published_ones() -> None:
    run = train_options(["--dataroot", "x", "--model", "cycle_gan"])
    here = {name: value for group in run.groups() for name, value in vars(group).items()}
    expected = {
        "lambda_A": 10.0,
        "lambda_B": 10.0,
        "lambda_identity": 0.5,
        "pool_size": 50,
        "netG": "resnet_9blocks",
        "netD": "basic",
        "normG": "instance",
        "normD": "instance",
        "no_dropout": True,
        "no_antialias": True,
        "no_antialias_up": True,
        "init_type": "normal",
        "init_gain": 0.02,
        "gan_mode": "lsgan",
        "lr": 0.0002,
        "beta1": 0.5,
        "batch_size": 1,
        "n_epochs": 100,
        "n_epochs_decay": 100,
        "dataset_mode": "unaligned",
        "load_size": (286, 286),
        "crop_size": (256, 256),
    }
    assert {name: here[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--input_nc", 1), r"--input_nc 1 and --output_nc 3: .*both must be equal; .* or use --lambda_identity 0"),
        (("--gan_mode", "wgangp", "--normD", "batch"), r"--gan_mode wgangp: .*use --normD instance"),
        (("--netG", "unet_128"), r"--crop_size 32,32: --netG unet_128 needs multiples of 128"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    bench: BenchMaker, flags: tuple[object, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        bench(*CYCLE, *flags)


def test_domains_of_different_channels(bench: BenchMaker) -> None:
    made = bench(*CYCLE, "--input_nc", 1, "--lambda_identity", 0)
    state: Any = made.step().state
    assert [t.shape[1] for t in (state.fake_B, state.rec_A, state.fake_A, state.rec_B)] == [3, 1, 1, 3]
    assert made.model.panel(made.batch().A)["and back"][0].shape == (32, 32, 3)


# --- the published networks


def block() -> nn.Module:
    """R256 of the paper's appendix."""
    layers = [layer for _ in range(2) for layer in (nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32))]
    return nn.Sequential(*layers[:3], nn.ReLU(), *layers[3:])


class Published(nn.Module):
    """c7s1-64, d128, d256, nine R256, u128, u64, c7s1-3 (appendix 7.2) at an eighth of the width."""

    def __init__(self) -> None:
        super().__init__()

        def part(conv: nn.Module, width: int) -> list[nn.Module]:
            return [conv, nn.InstanceNorm2d(width), nn.ReLU()]

        self.before = nn.Sequential(
            nn.ReflectionPad2d(3),
            *part(nn.Conv2d(3, 8, 7), 8),
            *part(nn.Conv2d(8, 16, 3, 2, 1), 16),
            *part(nn.Conv2d(16, 32, 3, 2, 1), 32),
        )
        self.blocks = nn.ModuleList(block() for _ in range(9))
        self.after = nn.Sequential(
            *part(nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1), 16),
            *part(nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), 8),
            nn.ReflectionPad2d(3),
            nn.Conv2d(8, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for residual in self.blocks:
            x = x + residual(x)
        image: Tensor = self.after(x)
        return image

    def file(self) -> dict[str, Tensor]:
        """Its weights under the published names: one count of all modules, `conv_block` in a residual block."""
        named = [(f"model.{n}", layer) for n, layer in enumerate(self.before)]
        for n, residual in enumerate(self.blocks, start=10):
            assert isinstance(residual, nn.Sequential)
            named += [(f"model.{n}.conv_block.{m}", layer) for m, layer in enumerate(residual)]
        named += [(f"model.{n}", layer) for n, layer in enumerate(self.after, start=19)]
        return {f"{name}.{key}": value for name, layer in named for key, value in layer.state_dict().items()}


def test_published_names_are_these() -> None:
    names = list(Published().file())
    assert names[:3] == ["model.1.weight", "model.1.bias", "model.4.weight"]
    assert names[-2:] == ["model.26.weight", "model.26.bias"]
    assert {"model.10.conv_block.1.weight", "model.18.conv_block.5.bias", "model.19.weight", "model.22.bias"} <= set(
        names
    )


PLACE = ("--name", "zoo", "--gpu_ids", "-1", "--ngf", "8", "--crop_size", "32")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    (tmp_path / "zoo").mkdir()
    return tmp_path


def opened(zoo: Path, *flags: str) -> Any:
    run = inference_options((Inference,), ["--checkpoints_dir", str(zoo), *PLACE, *flags], turns=True)
    assert run.published
    return load_trained(run, torch.device("cpu"))


@pytest.mark.parametrize("file", ["latest_net_G.pth", "latest_net_G_A.pth"])
def test_published_generators_load_by_either_name_and_translate_as_there(zoo: Path, file: str) -> None:
    torch.manual_seed(4)
    published = Published()
    export_weights(zoo / "zoo" / file, published.file())
    model, image = opened(zoo, "--model", "cycle_gan"), torch.rand(1, 3, 32, 40) * 2 - 1
    torch.testing.assert_close(model.translate(image), published(image), atol=1e-5, rtol=1e-5)


def test_they_load_as_cut_s_generator_too_with_two_flags(zoo: Path) -> None:
    published = Published()
    export_weights(zoo / "zoo/latest_net_G.pth", published.file())
    flags = ("--model", "cut", "--no_antialias", "--no_antialias_up")
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(opened(zoo, *flags).translate(image), published(image), atol=1e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: does not fit"):
        opened(zoo, "--model", "cut")


def test_the_way_back_has_weights_of_its_own(zoo: Path) -> None:
    nets = Published(), Published()
    for name, net in zip(("G_A", "G_B"), nets, strict=True):
        export_weights(zoo / f"zoo/latest_net_{name}.pth", net.file())
    image = torch.rand(1, 3, 32, 32)
    back = opened(zoo, "--model", "cycle_gan", "--direction", "BtoA")
    torch.testing.assert_close(back.translate(image), nets[1](image), atol=1e-5, rtol=1e-5)
    (zoo / "zoo/latest_net_G_B.pth").unlink()
    with pytest.raises(CheckpointError, match=r"latest_net_G_B\.pth does not exist"):
        opened(zoo, "--model", "cycle_gan", "--direction", "BtoA")


def test_files_from_before_pytorch_0_4_carry_statistics_that_nothing_reads(zoo: Path) -> None:
    published = Published()
    old = published.file() | {"model.2.running_mean": torch.zeros(8), "model.2.running_var": torch.ones(8)}
    export_weights(zoo / "zoo/latest_net_G.pth", old)
    image = torch.rand(1, 3, 32, 32)
    found = opened(zoo, "--model", "cycle_gan").translate(image)
    torch.testing.assert_close(found, published(image), atol=1e-5, rtol=1e-5)
    batch_norm = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    weights = {key: value for key, value in batch_norm.state_dict().items() if "running_var" not in key}
    export_weights(zoo / "x.pth", weights)
    with pytest.raises(CheckpointError, match=r"lacks 1\.running_var"):  # there they are read
        load_weights(zoo / "x.pth", batch_norm)


def test_discriminators_have_the_published_names(bench: BenchMaker) -> None:
    shapes = {n: tuple(v.shape) for n, v in bench(*CYCLE).model.nets["D_A"].state_dict().items()}
    widths = {0: (8, 3), 2: (16, 8), 5: (32, 16), 8: (64, 32), 11: (1, 64)}
    assert shapes == {
        f"model.{n}.{kind}": ((*width, 4, 4) if kind == "weight" else width[:1])
        for n, width in widths.items()
        for kind in ("weight", "bias")
    }


# --- in use


@pytest.fixture
def home(train_run: Trained, tmp_path: Path) -> Path:
    """A folder with `data` (3 channels in A, read as one) and a trained `run` of one channel to three."""
    data = make_data(tmp_path / "data")
    for side in "AB":
        (data / f"train{side}").rename(data / f"test{side}")
    make_data(tmp_path / "more")
    for side in "AB":
        (tmp_path / "more" / f"train{side}").rename(data / f"train{side}")
    short = ("--n_epochs", 1, "--n_epochs_decay", 0, "--input_nc", 1, "--lambda_identity", 0, "--save_epoch_freq", 1)
    folder = train_run("ck", data, "--model", "cycle_gan", "--window_B", "0,200", *short)
    assert folder == tmp_path / "ck" / "run"
    return tmp_path


def look(file: Path, how: int = cv2.IMREAD_COLOR) -> np.ndarray:
    image = cv2.imread(str(file), how)
    assert image is not None
    return image.astype(np.uint8)


def test_both_directions_are_translated_into_folders_of_their_own(home: Path) -> None:
    words = ["--dataroot", "data", "--checkpoints_dir", "ck", "--name", "run", "--gpu_ids", "-1", "--num_test", "2"]
    for direction, folder, inputs in (("AtoB", "test_latest", 1), ("BtoA", "test_latest_BtoA", 3)):
        outcome = run_script("test", [*words, "--direction", direction], home)
        assert outcome.status == 0, outcome.err
        pictures = home / "results/run" / folder / "images"
        shown = [look(pictures / kind / "00.png", cv2.IMREAD_UNCHANGED) for kind in ("real_A", "fake_B")]
        channels = [1 if image.ndim == 2 else image.shape[2] for image in shown]
        assert channels == ([1, 3] if inputs == 1 else [3, 1])
        assert all(image.shape[:2] == (40, 44) for image in shown)
        target = look(home / "data" / f"test{direction[-1]}/00.png")
        kept = look(pictures / "real_B/00.png")
        if direction == "BtoA":  # which is shown in grey
            target = cv2.cvtColor(cv2.cvtColor(target, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        assert np.abs(kept.astype(int) - target.clip(0, 200 if direction == "AtoB" else 255)).max() <= 1
    flags = ["--dataroot", str(home / "data"), "--checkpoints_dir", str(home / "ck"), "--name", "run"]
    run = inference_options((Inference,), [*flags, "--direction", "BtoA"], turns=True)
    assert (run.turned, run.channels) == (True, (3, 1))
    split = SingleDataset.for_phase(run, "test", 1)
    assert (split.source.window, split.target.window) == (Window(0, 200), Window(0, 255))  # B's, then A's


def test_a_run_is_brought_back_in_either_direction(home: Path) -> None:
    image = torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32)
    there, back = (load_run(home / "ck/run", direction=direction) for direction in ("", "BtoA"))
    weights = [torch.load(home / f"ck/run/latest_net_{name}.pth") for name in ("G_A", "G_B")]
    for model, name, expected, x in zip((there, back), ("G_A", "G_B"), weights, image, strict=True):
        assert all(torch.equal(value, expected[key]) for key, value in model.nets[name].state_dict().items())
        assert torch.equal(model.translate(x), model.nets[name](x))


def test_other_scripts_and_models_keep_the_direction_of_the_training(home: Path) -> None:
    words = ["--checkpoints_dir", str(home / "ck"), "--name", "run"]
    with pytest.raises(OptionError, match=r"^--direction BtoA: the run .* was trained with AtoB; leave the flag out$"):
        inference_options((), [*words, "--direction", "BtoA"])
    flags = ["--dataroot", str(home / "data"), "--checkpoints_dir", str(home / "ck"), "--name", "plain"]
    (home / "ck/plain").mkdir()
    (home / "ck/plain/latest_net_G.pth").touch()
    run = inference_options((), [*flags, "--direction", "BtoA"], turns=True)
    assert not run.turned  # weights of one direction are what --direction says
    with pytest.raises(OptionError, match="CutModel translates in one direction only"):
        MODELS.get("cut").from_options(run).turn_round()


def test_exported_epochs_are_found_by_the_translator(home: Path) -> None:
    words = ["--checkpoints_dir", str(home / "ck"), "--name", "run"]
    run = inference_options((Inference,), words)
    assert epochs_of(run, (), every=True) == ["1"]  # latest is a copy of it
    assert epochs_of(run, ("1", "latest")) == ["1", "latest"]
    with pytest.raises(OptionError, match=r"--epochs 7: .* there are 1, latest"):
        epochs_of(run, ("7",))


def test_both_translators_are_exported_as_averages(home: Path) -> None:
    state = load_state(home / "ck/run/latest_state.pt")
    assert set(state["average"]["averages"]) == {"G_A", "G_B"}


def test_a_run_begins_with_another_s_weights(home: Path) -> None:
    words = (
        "--pretrained_name",
        "run",
        "--n_epochs",
        "1",
        "--n_epochs_decay",
        "0",
        "--input_nc",
        "1",
        "--max_iters",
        "1",
    )
    flags = tiny_flags(home / "ck", home / "data", "--model", "cycle_gan", "--lambda_identity", 0, *words)
    flags[flags.index("--name") + 1] = "second"
    assert run_script("train", flags, home).status == 0
    (home / "ck/run/latest_net_G_A.pth").unlink()
    flags[flags.index("second")] = "third"
    outcome = run_script("train", flags, home)
    assert outcome.status == 2
    assert "latest_net_G_A.pth does not exist" in outcome.err


def test_either_direction_works_in_tiles(bench: BenchMaker) -> None:
    model, image = bench(*CYCLE, "--init_gain", 0.2).model, torch.rand(1, 3, 96, 80) * 2 - 1
    model.turn_round()
    with torch.inference_mode():
        whole = model.translate(image)
        model.in_tiles(64)
        assert torch.allclose(model.translate(image), whole, atol=1e-4)
        assert not torch.allclose(whole, model.nets["G_A"](image), atol=1e-2)


def test_pictures_show_both_ways(bench: BenchMaker) -> None:
    made = bench(*CYCLE)
    pictures = made.model.visuals(made.step().state)
    assert list(pictures) == ["real_A", "fake_B", "rec_A", "idt_B", "real_B", "fake_A", "rec_B", "idt_A"]
    assert all(picture.shape == (32, 32, 3) for picture in pictures.values())
