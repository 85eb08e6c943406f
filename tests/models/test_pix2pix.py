"""pix2pix against its formulas written out, its published defaults, and its use on pairs and on single images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import load_trained
from options.groups import Inference
from options.parse import inference_options, train_options
from options.schema import OptionError
from tests.commands import run as run_script
from tests.conftest import make_data
from util.checkpoint import export_weights

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, Trained

PAIRS = ("--model", "pix2pix", "--batch_size", 2, "--normG", "instance", "--normD", "instance", "--no_dropout")


@pytest.mark.parametrize("weights", [(1.0, 100.0), (0.5, 7.0)])
def test_losses_and_gradients_are_those_of_the_formulas(bench: BenchMaker, weights: tuple[float, float]) -> None:
    made = bench(*PAIRS, "--init_gain", 0.2, "--lambda_GAN", weights[0], "--lambda_L1", weights[1])
    for net in made.model.nets.values():
        net.double()
    batch = replace(made.batch(), A=made.batch().A.double(), B=made.batch().target.double())
    x, y, G, D = batch.A, batch.target, made.model.nets["G"], made.model.nets["D"]
    state = made.model.forward_train(batch, made.info())
    terms = {name: term for phase in made.model.phases for name, term in phase.losses(state).items()}
    fake_pair, real_pair = torch.cat([x, G(x)], dim=1), torch.cat([x, y], dim=1)
    judged, zeros, ones = D(fake_pair), torch.zeros_like(D(fake_pair)), torch.ones_like(D(fake_pair))
    cross_entropy = F.binary_cross_entropy_with_logits
    expected = {
        "D_fake": 0.5 * cross_entropy(judged, zeros),
        "D_real": 0.5 * cross_entropy(D(real_pair), ones),
        "G_GAN": weights[0] * cross_entropy(judged, ones),
        "L1": weights[1] * (G(x) - y).abs().mean(),
    }
    assert {n: t.item() for n, t in terms.items()} == pytest.approx(
        {n: t.item() for n, t in expected.items()}, rel=1e-9
    )
    parameters = list(G.parameters())
    losses = (terms["G_GAN"] + terms["L1"], expected["G_GAN"] + expected["L1"])
    fast, slow = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]) for loss in losses)
    assert float((fast - slow).norm() / slow.norm()) < 1e-9


def test_the_discriminator_judges_a_translation_by_its_input(bench: BenchMaker) -> None:
    made = bench(*PAIRS, "--init_gain", 1)
    assert made.model.nets["D"].model[0].weight.shape == (8, 6, 4, 4)  # type: ignore[union-attr, index]
    model: Any = made.model
    state = model.forward_train(made.batch(), made.info())
    others = replace(state, batch=replace(state.batch, A=state.batch.A.flip(0)))
    verdicts = [model.d_losses(s)["D_real"].item() for s in (state, others)]
    assert abs(verdicts[0] - verdicts[1]) > 1e-4


def test_source_and_target_of_different_channels(bench: BenchMaker) -> None:
    made = bench(*PAIRS, "--input_nc", 1)
    made.step()
    assert made.model.nets["D"].model[0].weight.shape[1] == 4  # type: ignore[union-attr, index]


def test_the_defaults_are_the_published_ones() -> None:
    run = train_options(["--dataroot", "x", "--model", "pix2pix"])
    here = {name: value for group in run.groups() for name, value in vars(group).items()}
    expected = {
        "netG": "unet_256",
        "netD": "basic",
        "normG": "batch",
        "normD": "batch",
        "no_dropout": False,
        "no_antialias": True,
        "init_type": "normal",
        "init_gain": 0.02,
        "gan_mode": "vanilla",
        "lambda_L1": 100.0,
        "dataset_mode": "aligned",
        "lr": 0.0002,
        "beta1": 0.5,
        "batch_size": 1,
        "n_epochs": 100,
        "n_epochs_decay": 100,
        "direction": "AtoB",
        "load_size": (286, 286),
        "crop_size": (256, 256),
    }
    assert {name: here[name] for name in expected} == expected
    wasserstein = train_options(["--dataroot", "x", "--model", "pix2pix", "--gan_mode", "wgangp"])
    assert (wasserstein.networks.normG, wasserstein.networks.normD) == ("batch", "instance")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--dataset_mode", "unaligned"),
            "--dataset_mode unaligned: pix2pix learns from pairs .*--dataset_mode aligned",
        ),
        (("--netG", "unet_256"), "--crop_size 32,32: --netG unet_256 needs multiples of 256, for example 256,256"),
        (("--gan_mode", "wgangp", "--normD", "batch"), "--gan_mode wgangp: .*use --normD instance"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    bench: BenchMaker, flags: tuple[object, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        bench(*PAIRS, *flags)


def test_it_learns_what_the_pairs_show(bench: BenchMaker) -> None:
    """B is A's negative with its left half brightened: no unpaired loss could know that."""
    made = bench(*PAIRS, "--lr", 0.002, "--lambda_GAN", 0, "--init_gain", 0.2)
    batch = made.batch()
    ramp = torch.linspace(0.3, -0.3, 32)
    batch = replace(batch, B=(-0.7 * batch.A + ramp).clamp(-1, 1))
    first = float(made.step(0, batch).scalars["L1"])
    for step in range(1, 60):
        last = float(made.step(step, batch).scalars["L1"])
    assert last < 0.35 * first


# --- in use


def look(file: Path) -> np.ndarray:
    image = cv2.imread(str(file))
    assert image is not None
    return image.astype(np.uint8)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """`data` with pairs side by side in `train` and `test`, and `photos` of one domain."""
    parts = make_data(tmp_path / "parts", count=(4, 4))
    for number in range(4):
        pair = [look(parts / f"train{side}/{number:02d}.png") for side in "AB"]
        for phase in ("train", "test"):
            (tmp_path / "data" / phase).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "data" / phase / f"{number}.png"), np.hstack(pair))
    (parts / "trainA").rename(tmp_path / "photos")
    return tmp_path


def test_trained_on_pairs_side_by_side_it_is_tested_on_them_and_on_single_images(
    home: Path, train_run: Trained
) -> None:
    flags = ("--model", "pix2pix", "--netG", "unet_128", "--load_size", 128, "--crop_size", 128)
    folder = train_run("ck", home / "data", *flags, "--n_epochs", 1, "--n_epochs_decay", 0)
    words = ["--checkpoints_dir", str(folder.parent), "--name", "run", "--gpu_ids", "-1"]
    outcome = run_script("test", [*words, "--dataroot", "data"], home)
    assert outcome.status == 0, outcome.err
    pictures = home / "results/run/test_latest/images"
    whole = look(home / "data/test/2.png")
    for kind, expected in (("real_A", whole[:, :44]), ("real_B", whole[:, 44:])):
        np.testing.assert_array_equal(look(pictures / kind / "2.png"), expected)
    assert look(pictures / "fake_B/2.png").shape == (40, 44, 3)
    outcome = run_script("test", [*words, "--dataroot", "photos", "--dataset_mode", "single", "--eval"], home)
    assert outcome.status == 0, outcome.err
    assert "4 images translated" in outcome.out


def test_published_weights_load_by_their_model_s_name_alone(tmp_path: Path, bench: BenchMaker) -> None:
    made = bench("--model", "pix2pix", "--netG", "unet_256", "--load_size", 256, "--crop_size", 256, "--ngf", 2)
    (tmp_path / "zoo").mkdir()
    export_weights(tmp_path / "zoo/latest_net_G.pth", made.model.nets["G"].state_dict())
    words = ["--checkpoints_dir", str(tmp_path), "--name", "zoo", "--model", "pix2pix", "--ngf", "2"]
    run = inference_options((Inference,), words)
    assert (run.published, run.data.dataset_mode, run.networks.normG) == (True, "aligned", "batch")
    image = torch.rand(1, 3, 256, 256)
    model = load_trained(run, torch.device("cpu"))
    made.model.train(False)
    assert torch.equal(model.translate(image), made.model.translate(image))
