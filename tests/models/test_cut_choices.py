"""Options that change how CUT and CUTCAM contrast and judge: what each one does to a step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.cut_model import CutModel
from models.losses.gan import r1_penalty
from models.queries import ids_by_map, sharpest_ids
from options.schema import OptionError
from util.checkpoint import load_state
from util.seeding import generator

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker, DataMaker, Trained

CUT = ("--model", "cut", "--batch_size", 2)
CUTCAM = ("--model", "cutcam", "--num_classes", 4, "--batch_size", 2)


def losses(made: Bench, step: int = 0) -> dict[str, Tensor]:
    state = made.model.forward_train(made.batch(), made.info(step))
    return {name: term for phase in made.model.phases for name, term in phase.losses(state).items()}


@pytest.mark.parametrize(
    "flags", [("--nce_weighting", "monce"), ("--nce_weighting", "hdce"), ("--nce_query", "entropy")]
)
@pytest.mark.parametrize("model", [CUT, CUTCAM])
def test_contrast_changes_and_nothing_else(
    bench: BenchMaker, model: tuple[object, ...], flags: tuple[object, ...]
) -> None:
    plain, changed = losses(bench(*model)), losses(bench(*model, *flags))
    assert plain.keys() == changed.keys()
    different = {name for name, term in plain.items() if not torch.allclose(term, changed[name])}
    assert different - {"CAM"} == {"NCE", "NCE_Y"}  # the cap measures CAM by the gradient of NCE


def test_relations_are_one_more_term(bench: BenchMaker) -> None:
    made = bench(*CUT, "--extra_losses", "src", "--lambda_SRC", 0.5)
    plain, more = losses(bench(*CUT)), losses(made)
    assert set(more) - set(plain) == {"SRC"}
    assert all(torch.equal(term, more[name]) for name, term in plain.items())
    assert 0 < more["SRC"].item() < 0.5 * 0.7
    gradients = torch.autograd.grad(more["SRC"], list(made.model.nets["F"].parameters()), retain_graph=True)
    assert all(bool((gradient != 0).any()) for gradient in gradients[-2:])
    assert "SRC" not in losses(bench(*CUT, "--extra_losses", "src", "--lambda_SRC", 0))
    alone = losses(bench(*CUT, "--lambda_NCE", 0, "--extra_losses", "src"))
    assert alone["SRC"].item() > 0


# --- which patches


def test_the_sharpest_positions_have_the_lowest_entropy_of_attention() -> None:
    feature = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    ids = sharpest_ids(feature, 7)
    for image, found in zip(feature.flatten(2), ids, strict=True):
        entropies = []
        for position in range(24):
            attention = F.softmax(image.T @ image[:, position], 0)
            entropies.append(float(-(attention * attention.log()).sum()))
        assert found.tolist() == sorted(range(24), key=entropies.__getitem__)[:7]
    assert sharpest_ids(feature, 99).shape == (2, 24)


def test_half_of_the_draws_go_where_the_map_is() -> None:
    cam = torch.zeros(1, 4, 4)
    cam[0, 1, 2] = 3.0
    counts = torch.zeros(16)
    for number in range(2000):
        ids = ids_by_map(cam, (4, 4), 1, [generator(0, "x", number)])
        counts[ids[0]] += 1
    share = counts / 2000
    assert float(share[6]) == pytest.approx(0.5 + 0.5 / 16, abs=0.04)
    assert float(share.min()) == pytest.approx(0.5 / 16, abs=0.015)
    every = ids_by_map(cam, (4, 4), 16, [generator(0, "x")])[0]
    assert sorted(every.tolist()) == list(range(16))  # without replacement


def test_a_dead_map_draws_evenly_and_each_image_for_itself() -> None:
    cam = torch.stack([torch.full((4, 4), -1.0), torch.eye(4)])
    draws = [generator(0, "x", n) for n in range(2)]
    both = ids_by_map(cam, (8, 8), 10, draws)
    alone = ids_by_map(cam[1:], (8, 8), 10, [generator(0, "x", 1)])
    assert torch.equal(both[1:], alone)
    assert both.shape == (2, 10)


def test_queries_follow_the_cam_of_each_source_image(bench: BenchMaker) -> None:
    made = bench(*CUTCAM, "--nce_query", "cam", "--cls_start_epoch", 0, "--cam_start_epoch", 0)
    model = made.model
    assert isinstance(model, CutModel)
    state = model.forward_train(made.batch(), made.info())
    ids = model.query_ids(state, state.key_A, "A")
    assert [list(found.shape) for found in ids] == [[2, min(16, f.shape[2] * f.shape[3])] for f in state.key_A]
    assert all(found.ndim == 1 for found in model.query_ids(state, state.key_B, "B"))  # y has no map of a known class
    before = model.forward_train(made.batch(), made.info(fraction=0.0))
    early = bench(*CUTCAM, "--nce_query", "cam", "--cls_start_epoch", 0, "--cam_start_epoch", 5).model
    assert isinstance(early, CutModel)
    before = early.forward_train(made.batch(), made.info(fraction=0.0))
    assert all(found.ndim == 1 for found in early.query_ids(before, before.key_A, "A"))  # the head knows nothing yet
    made.step()
    with pytest.raises(OptionError, match="--nce_query cam: choose one of random, entropy"):
        bench(*CUT, "--nce_query", "cam")


# --- what D sees


def test_d_sees_changed_images_and_g_learns_through_the_change(bench: BenchMaker) -> None:
    made = bench(*CUT, "--diffaug", "color,translation,cutout")
    plain, changed = losses(bench(*CUT)), losses(made)
    assert {name for name, term in plain.items() if not torch.equal(term, changed[name])} == {
        "D_fake",
        "D_real",
        "G_GAN",
    }
    gradients = torch.autograd.grad(changed["G_GAN"], list(made.model.nets["G"].parameters()), allow_unused=True)
    assert any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients)
    with pytest.raises(OptionError, match="--diffaug color,cutout: cutout moves what --cam_weight_adv weighs"):
        bench(*CUTCAM, "--cam_weight_adv", "--diffaug", "color,cutout")
    bench(*CUTCAM, "--cam_weight_adv", "--diffaug", "color").step()


def test_r1_comes_every_so_many_steps_and_counts_as_often(bench: BenchMaker) -> None:
    made = bench(*CUT, "--lambda_R1", 2, "--r1_every", 4)
    found = [losses(made, step) for step in range(6)]
    assert [step for step, terms in enumerate(found) if "D_R1" in terms] == [0, 4]
    expected = 0.5 * 2 * 4 * r1_penalty(made.model.nets["D"], made.batch().target).item()
    assert found[0]["D_R1"].item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(OptionError, match=r"--lambda_R1 2\.0: it is defined per image"):
        bench(*CUT, "--lambda_R1", 2, "--normD", "batch")


@pytest.mark.parametrize("model", [CUT, CUTCAM])
def test_the_log_shows_r1_between_the_steps_that_compute_it(
    model: tuple[object, ...], train_run: Trained, data: DataMaker
) -> None:
    run = train_run("run", data(), *model, "--lambda_R1", 2, "--max_iters", 3, "--monitor_freq", 0)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    shown = [line["D_R1"] for line in lines if "lr" in line]
    assert len(shown) == 3
    assert shown[0] > 0
    assert len(set(shown)) == 1


def test_spectral_norm_trains_saves_and_goes_on(train_run: Trained, data: DataMaker) -> None:
    flags = (*CUT, "--spectral_norm", "--n_epochs", 2, "--n_epochs_decay", 0, "--gan_mode", "hinge")
    whole = train_run("whole", data(), *flags)
    train_run("broken", data(), *flags, "--max_iters", 4)
    broken = train_run("broken", data(), *flags, "--max_iters", 0, "--continue_train")
    one, two = (load_state(run / "latest_state.pt")["nets"]["D"] for run in (whole, broken))
    assert any("parametrizations" in key for key in one)
    assert all(torch.equal(value, two[key]) for key, value in one.items())


# --- pairs


@pytest.mark.parametrize("model", [CUT, CUTCAM, (*CUT, "--CUT_mode", "FastCUT")])
@pytest.mark.parametrize("mode", ["l1", "nce"])
def test_pairs_draw_the_translation_to_its_true_target(bench: BenchMaker, model: tuple[object, ...], mode: str) -> None:
    flags = ("--extra_losses", "pair", "--lambda_PAIR", 3, "--pair_mode", mode, "--dataset_mode", "aligned")
    mirrored = set[bool]()
    for step in range(6):
        made = bench(*model, *flags)
        net = made.model
        assert isinstance(net, CutModel)
        state = net.forward_train(made.batch(), made.info(step))
        assert state.batch.path_A[0].split("/")[-1] == state.batch.path_B[0].split("/")[-1]
        mirrored.add(state.mirrored)
        term = net.g_losses(state)["PAIR"]
        if mode == "l1":
            fake = state.fake_B.flip(-1) if state.mirrored else state.fake_B
            expected = 3 * (fake - state.batch.target).abs().mean()
        else:
            key = net.generator.encode(state.batch.target, net.nce_layers)
            expected = 3 * net.contrast(state.query_A, key, net.query_ids(state, key, "B"))
        torch.testing.assert_close(term, expected)
        slopes = torch.autograd.grad(term, list(net.nets["G"].parameters()), allow_unused=True)
        assert max(float(slope.abs().max()) for slope in slopes if slope is not None) > 0
    assert mirrored == ({False, True} if "FastCUT" in model else {False})


def test_pairs_change_no_other_term_and_need_pairs(bench: BenchMaker) -> None:
    pairs = ("--dataset_mode", "aligned")
    plain, more = losses(bench(*CUT, *pairs)), losses(bench(*CUT, *pairs, "--extra_losses", "pair"))
    assert set(more) - set(plain) == {"PAIR"}
    assert all(torch.equal(term, more[name]) for name, term in plain.items())
    assert "PAIR" not in losses(bench(*CUT, *pairs, "--extra_losses", "pair", "--lambda_PAIR", 0))
    made = bench(*CUT, *pairs, "--lambda_NCE", 0, "--extra_losses", "pair", "--pair_mode", "nce")
    assert losses(made)["PAIR"].item() > 0
    made.step()
    with pytest.raises(OptionError, match="--input_nc 3 and --output_nc 1: --extra_losses pair encodes images"):
        bench(*CUT, *pairs, "--lambda_NCE", 0, "--output_nc", 1, "--extra_losses", "pair", "--pair_mode", "nce")
    bench(*CUT, *pairs, "--lambda_NCE", 0, "--output_nc", 1, "--extra_losses", "pair").step()
    off = ("--lambda_GAN", 0, "--lambda_NCE", 0, "--lambda_PAIR", 0)
    nothing = bench(*CUT, *pairs, "--extra_losses", "pair", *off)
    with pytest.raises(OptionError, match="--lambda_GAN 0, --lambda_NCE 0, --lambda_PAIR 0: nothing would be"):
        nothing.model.check_training(nothing.run)
    with pytest.raises(OptionError, match="--extra_losses pair --dataset_mode unaligned: it learns from pairs"):
        bench(*CUT, "--extra_losses", "pair")
