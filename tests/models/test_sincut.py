from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import pytest
import torch
import torch.nn.functional as F

import test as test_script
from data.base import DataError
from models.losses.patch_nce import patch_nce
from models.networks import StyleGAN2Discriminator, StyleGAN2Generator, TileStyleGAN2Discriminator
from models.sincut_model import SincutModel
from options.parse import train_options
from options.schema import OptionError, fields_of

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

# Small, but otherwise as published.
SINCUT = ("--model", "sincut", "--netG", "stylegan2", "--ngf", 1, "--ndf", 1, "--crops_per_epoch", 8, "--batch_size", 4)
ONE = {"count": (1, 1), "size": (100, 140)}


# --- options


def test_the_published_preset() -> None:
    run = train_options(["--dataroot", "data", "--model", "sincut"])
    here = {name: getattr(group, name) for group in run.groups() for name in fields_of(type(group))}
    published = {
        **{"ngf": 10, "ndf": 8, "netD": "stylegan2", "netG": "stylegan2", "dataset_mode": "singleimage"},
        **{"batch_size": 16, "load_size": (1024, 1024), "crop_size": (64, 64), "preprocess": "zoom_and_patch"},
        **{"save_latest_freq": 20000, "save_epoch_freq": 1, "n_epochs": 8, "n_epochs_decay": 8, "beta1": 0.0},
        **{"beta2": 0.99, "lr": 0.002, "gan_mode": "nonsaturating", "lambda_NCE": 4.0, "nce_layers": (0, 2, 4)},
        **{"nce_includes_all_negatives_from_minibatch": True, "num_patches": 1, "lambda_R1": 1.0},
        **{"lambda_identity": 1.0, "nce_idt": True, "random_scale_max": 3.0, "stylegan2_G_num_downsampling": 1},
        # In that code R1 is part of every step, and D compares no images.
        **{"r1_every": 1, "mbstd_group": 0, "crops_per_epoch": 100_000, "lambda_GAN": 1.0, "nce_T": 0.07},
    }
    assert {name: here[name] for name in published} == published


def test_flags_stand_over_the_preset_and_other_networks_bring_their_layers() -> None:
    base = ["--dataroot", "data", "--model", "sincut"]
    assert train_options([*base, "--lr", "0.001"]).optim.lr == 0.001
    for net, layers in (("resnet_9blocks", (0, 4, 8, 12, 16)), ("unet_128", (0, 1, 2, 3, 4))):
        run = train_options([*base, "--netG", net])
        assert run.model.nce_layers == layers  # type: ignore[attr-defined]
    cut = train_options(["--dataroot", "data", "--netG", "smallstylegan2"])
    assert cut.model.nce_layers == (0, 2, 4)  # type: ignore[attr-defined]


def test_cut_says_whose_flag_it_is() -> None:
    with pytest.raises(OptionError, match=r"lambda_identity: belongs to --model .*sincut"):
        train_options(["--dataroot", "data", "--model", "cut", "--lambda_identity", "1"])


REFUSED = {
    "--crop_size 48": "--crop_size 48,48: --netD stylegan2 judges squares .* for example 64; --netD tilestylegan2",
    "--crop_size 64,32": "judges squares",
    "--preprocess zoom": "--preprocess zoom: .*must end with crop or patch",
    "--preprocess resize": "--preprocess resize: .*must end with crop or patch",
    "--netD tilestylegan2 --D_patch_size 24": "--D_patch_size 24: must be a power of two",
    "--netD tilestylegan2 --D_patch_size 128": "--D_patch_size 128: is larger than images of --crop_size 64",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_sizes_that_d_cannot_judge_are_refused_at_once(flags: str) -> None:
    with pytest.raises(OptionError, match=REFUSED[flags]):
        train_options(["--dataroot", "data", "--model", "sincut", *flags.split()])


@pytest.mark.parametrize(
    "flags",
    [
        "--netD basic --crop_size 48 --preprocess none",
        "--netD tilestylegan2 --D_patch_size 32 --crop_size 100",
        "--netD tilestylegan2 --preprocess none",
        "--preprocess resize --load_size 64",
    ],
)
def test_sizes_that_it_can_are_not(flags: str) -> None:
    train_options(["--dataroot", "data", "--model", "sincut", *flags.split()])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--normG", "batch"), "--normG batch: --netG stylegan2 has no such layers"),
        (("--no_dropout", False), "--no_dropout False: --netG stylegan2"),
        (("--normD", "batch"), "normD batch"),
        (("--spectral_norm",), "--spectral_norm: --netD stylegan2 has no such layers"),
        (("--netG", "stylegan3"), "--netG stylegan3: .*choose one of resnet_9blocks.*unet_128, stylegan2, small"),
        (("--netD", "stylegan3"), "--netD stylegan3: .*choose one of basic.*pixel, stylegan2, tilestylegan2"),
        (("--nce_layers", "0,2,16"), "--nce_layers 0,2,16: no layer 16 in StyleGAN2Generator: valid ids are 0, .*, 11"),
        (("--stylegan2_G_num_downsampling", 3, "--crop_size", 36, "--netD", "basic"), "needs multiples of 8"),
        (("--output_nc", 1), "--input_nc 3 and --output_nc 1: the identity loss"),
    ],
)
def test_combinations_that_do_not_go_are_refused(
    bench: BenchMaker, data: DataMaker, flags: tuple[object, ...], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        bench(*SINCUT, *flags, data=data(**ONE))


def test_a_patch_without_negatives_is_said(bench: BenchMaker, data: DataMaker) -> None:
    def messages(*flags: object) -> list[str]:
        return bench(*SINCUT, "--num_patches", 1, *flags, data=data(**ONE)).model.messages

    assert messages() == []
    for flags in (("--batch_size", 1), ("--nce_includes_all_negatives_from_minibatch", False)):
        assert "--num_patches 1: a patch has no negatives" in messages(*flags)[0]


# --- terms


def test_terms_against_the_definition(bench: BenchMaker, data: DataMaker) -> None:
    made = bench(*SINCUT, "--num_patches", 1, "--lambda_identity", 3, data=data(**ONE))
    model, batch = made.model, made.batch()
    assert isinstance(model, SincutModel)
    assert isinstance(model.nets["G"], StyleGAN2Generator)
    assert isinstance(model.nets["D"], StyleGAN2Discriminator)
    state = model.forward_train(batch, made.info())
    losses = {name: value.item() for phase in model.phases for name, value in phase.losses(state).items()}
    made_b, copied = model.translate(batch.A), model.translate(batch.target)
    assert losses["IDT"] == pytest.approx(3 * float((copied - batch.target).detach().abs().mean()), rel=1e-4)
    critic = model.nets["D"]
    real = batch.target.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(real).sum(), real)
    assert losses["D_R1"] == pytest.approx(0.5 * float(slope.square().sum()) / 4, rel=1e-3)
    with torch.no_grad():
        assert losses["G_GAN"] == pytest.approx(float(F.softplus(-critic(made_b)).mean()), rel=1e-4)
        # One patch of each of four images: its negatives are the other three.
        ids = model.query_ids(state, state.key_A, "A")
        assert [len(one) for one in ids] == [1, 1, 1]
        keys = model.sampler(model.generator.encode(batch.A, (0, 2, 4)), ids)
        queries = model.sampler(model.generator.encode(made_b, (0, 2, 4)), ids)
        logits = [q @ k.T / 0.07 for q, k in zip(queries, keys, strict=True)]
        expected = torch.stack([F.cross_entropy(one, torch.arange(4)) for one in logits]).mean()
    assert losses["NCE"] == pytest.approx(0.5 * 4.0 * float(expected), rel=1e-3)
    assert float(patch_nce(queries[0], keys[0], 4, 0.07, False).mean()) == pytest.approx(0, abs=1e-5)  # none of its own


def test_the_identity_term_turns_images_back(bench: BenchMaker, data: DataMaker) -> None:
    made = bench(*SINCUT, "--flip_equivariance", data=data(**ONE))
    batch, seen = made.batch(), set()
    for step in range(8):
        state = made.model.forward_train(batch, made.info(step))
        terms = made.model.phases[1].losses(state)
        images = batch.target.flip(-1) if state.mirrored else batch.target
        expected = (made.model.translate(images) - images).abs().mean()
        assert float(terms["IDT"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
        seen.add(state.mirrored)
    assert seen == {True, False}


def test_tiles_of_an_image(bench: BenchMaker, data: DataMaker) -> None:
    flags = ("--netD", "tilestylegan2", "--D_patch_size", 8, "--crop_size", 20)
    made = bench(*SINCUT, *flags, data=data(**ONE))
    critic = made.model.nets["D"]
    assert isinstance(critic, TileStyleGAN2Discriminator)
    assert critic(made.batch().A).shape == (4, 1, 2, 2)
    assert "D_R1" in made.step().scalars


# --- a run on two images


def test_it_trains_on_two_images_and_translates_the_whole(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data(**ONE)
    run = train_run("one", images, *SINCUT, "--n_epochs", 1, "--n_epochs_decay", 1)
    assert {file.name for file in run.glob("1_net_*.pth")} == {f"1_net_{net}.pth" for net in "GFD"}
    results = run.parent / "results"
    place = ("--dataroot", images, "--name", "run", "--checkpoints_dir", run.parent, "--results_dir", results)
    flags = [str(word) for word in (*place, "--phase", "train", "--gpu_ids", -1)]
    monkeypatch.setattr(sys, "argv", ["test.py", *flags])
    assert test_script.main() == 0
    (translation,) = Path(results).glob("run/train_latest/images/fake_B/*.png")
    pixels = cv2.imread(str(translation))
    assert pixels is not None
    assert pixels.shape == (100, 140, 3)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["test.py", *flags, "--crop_size", "64"])
    with pytest.raises(OptionError, match=r"--crop_size 64,64: .* was trained with 32,32"):
        test_script.main()


def test_several_images_are_refused(bench: BenchMaker, data: DataMaker) -> None:
    with pytest.raises(DataError, match=r"trainA: holds 2 images.*--max_dataset_size 1.*--dataset_mode unaligned"):
        bench(*SINCUT, data=data(count=(2, 1)))
    assert bench(*SINCUT, "--max_dataset_size", 1, data=data(count=(2, 1))).step().scalars
