"""What makes CUTCAM more than CUT with one loss more: who gets which gradient, and which weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.cutcam_model import CutCamState
from models.losses.gan import gan_map
from tests.models.cutcam_bench import HEAD, README, cutcam
from util.engine.step import only_trains
from util.seeding import StepInfo

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker, DataMaker


def forward(made: Bench, step: int = 0) -> CutCamState:
    return cutcam(made).forward_train(made.batch(), made.info(step))


def g_terms(made: Bench, state: CutCamState) -> dict[str, Tensor]:
    with only_trains(made.model.nets, made.model.phases[1].nets):
        return made.model.phases[1].losses(state)


def head_gradient(made: Bench, total: Tensor) -> Tensor:
    parameters = list(made.model.nets["C"].parameters())
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([gradient.flatten() for gradient in gradients])


# --- gradients: the head learns from real inputs only, the input's map from nothing


@pytest.mark.parametrize("flags", [(), ("--CUT_mode", "FastCUT"), ("--cam_method", "gradcam_feature")])
def test_the_head_learns_from_the_cross_entropy_of_real_inputs_alone(
    bench: BenchMaker, flags: tuple[object, ...]
) -> None:
    made = bench(*README, "--lambda_CLS", 3, *flags)
    state = forward(made)
    total = torch.stack(list(g_terms(made, state).values())).sum()
    alone = 3 * 0.5 * F.cross_entropy(state.logits_A, state.labels, label_smoothing=0.1)
    assert float(head_gradient(made, total).abs().max()) > 1e-4
    torch.testing.assert_close(head_gradient(made, total), head_gradient(made, alone), rtol=1e-5, atol=1e-7)


def test_a_head_taught_by_both_learns_from_translations_that_it_does_not_move(bench: BenchMaker) -> None:
    made = bench(*README, "--lambda_CLS", 3, "--head_learns", "both")
    state = forward(made)
    assert state.logits_taught is not None
    torch.testing.assert_close(state.logits_taught, state.logits_fake)  # one network, two ways to learn
    total = torch.stack(list(g_terms(made, state).values())).sum()
    alone = 1.5 * sum(
        (F.cross_entropy(seen, state.labels, label_smoothing=0.1) for seen in (state.logits_A, state.logits_taught)),
        torch.zeros(()),
    )
    torch.testing.assert_close(head_gradient(made, total), head_gradient(made, alone), rtol=1e-5, atol=1e-7)
    generator = list(made.model.nets["G"].parameters())
    reached = torch.autograd.grad(state.logits_taught.sum(), generator, allow_unused=True)
    assert all(gradient is None for gradient in reached)


def test_without_class_loss_the_head_stays_as_it_is(bench: BenchMaker) -> None:
    made = bench(*README, "--lambda_CLS", 0)
    before = [p.detach().clone() for p in made.model.nets["C"].parameters()]
    result = made.step()
    assert "CAM" in result.scalars
    for old, new in zip(before, made.model.nets["C"].parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("method", ["gradcam", "gradcam_feature", "label_free"])
@pytest.mark.parametrize("norm", ["minmax", "mean", "l2", "softmax", "contrast"])
def test_the_cam_term_trains_through_the_translation_only(bench: BenchMaker, method: str, norm: str) -> None:
    made = bench(*README, "--cam_method", method, "--cam_norm", norm, "--cam_tau", 0.01)
    state = forward(made)
    term = g_terms(made, state)["CAM"]
    assert not state.cam_A.requires_grad
    layer = cutcam(made).cam_index
    sides = (state.seen_A[layer], state.query_A[layer], state.generated)
    source, translation, image = torch.autograd.grad(term, sides, retain_graph=True, allow_unused=True)
    assert source is None
    assert translation is not None
    assert bool(translation.any())
    assert bool(image[: len(state.batch.A)].any())
    assert not bool(image[len(state.batch.A) :].any())
    assert not bool(head_gradient(made, term).any())


def test_both_maps_are_of_the_same_class_and_that_is_the_label(bench: BenchMaker) -> None:
    made = bench(*README)
    model, state = cutcam(made), forward(made)
    assert torch.equal(state.labels, state.batch.label_A)
    for cam, feature in ((state.cam_A, state.seen_A), (state.cam_fake, state.query_A)):
        hidden = model.head.hidden_map(feature[model.cam_index])
        torch.testing.assert_close(cam, model.head.class_map(hidden, state.batch.label_A))


def test_an_unknown_class_is_explained_by_the_heads_choice_but_not_trained_on(
    bench: BenchMaker, data: DataMaker
) -> None:
    made = bench(*README, "--pseudo_labels", "none", data=data(labelled=()))
    state = forward(made)
    assert state.labels.tolist() == [-1, -1]
    assert not bool(state.has_cam.any())
    terms = g_terms(made, state)
    assert terms["CAM"].item() == terms["CLS"].item() == 0.0
    weights = cutcam(made).gan_weights(state)
    assert weights.d_fake is not None
    assert bool((weights.d_fake == 1).all())
    assert made.model.messages == [
        "WARNING: no labels and --pseudo_labels none: the class loss does nothing, nor does the CAM loss"
    ]


def test_mixed_labels_count_by_image(bench: BenchMaker, data: DataMaker) -> None:
    """One labelled and one unlabelled image: the terms are half those of the labelled one."""
    flags = (*README, "--pseudo_labels", "none", "--cam_grad_cap", 0, "--cam_standardise", False)
    made = bench(*flags, data=data(labelled=(0, 1)))
    batch = made.dataset.collate([made.dataset.whole_source(n) for n in (0, 3)])
    batch = replace(batch, B=made.batch().B)
    assert batch.label_A.tolist() == [0, -1]
    model = cutcam(made)
    both = g_terms(made, model.forward_train(batch, made.info()))
    one_of: dict[str, Any] = {"label_A": batch.label_A[:1], "file_A": batch.file_A[:1], "path_A": batch.path_A[:1]}
    rows = replace(batch, A=batch.A[:1], B=batch.target[:1], **one_of)
    one = g_terms(made, model.forward_train(rows, made.info()))
    for name in ("CLS", "CAM"):
        assert both[name].item() == pytest.approx(one[name].item() / 2, rel=1e-4)


# --- weights of the adversarial loss


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla", "nonsaturating", "wgangp", "hinge"])
@pytest.mark.parametrize("side", ["both", "g"])
def test_weighted_adversarial_terms(bench: BenchMaker, gan_mode: str, side: str) -> None:
    """Weights of mean 1 and without gradient; every term is the mean of weight times the loss per patch."""
    flags = ("--gan_mode", gan_mode, "--cam_adv_side", side, "--cam_adv_strength", 0.7, "--init_gain", 1)
    made = bench(*README, *flags)
    model, state = cutcam(made), forward(made)
    weights, critic = model.gan_weights(state), model.nets["D"]
    assert weights.g_fake is not None
    fake, real = critic(state.fake_B), critic(state.batch.target)
    for weight, values in ((weights.g_fake, fake), (weights.d_fake, fake), (weights.d_real, real)):
        if weight is None:
            assert side == "g"
            continue
        assert weight.shape == values.shape
        assert not weight.requires_grad
        torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(2))
        assert float(weight.std()) > 0.01
        assert float(weight.min()) >= 0.3 * 0.9
    terms = {name: term for phase in model.phases for name, term in phase.losses(state).items()}
    ones = torch.ones_like(fake)
    expected = {
        "D_fake": (weights.d_fake if side == "both" else ones, gan_map(fake, False, gan_mode), 0.5),
        "D_real": (weights.d_real if side == "both" else ones, gan_map(real, True, gan_mode), 0.5),
        "G_GAN": (weights.g_fake, gan_map(fake, True, gan_mode, True), 1.0),
    }
    for name, (weight, values, share) in expected.items():
        assert weight is not None
        torch.testing.assert_close(terms[name], share * (weight * values).mean(), msg=name)


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla", "nonsaturating", "wgangp", "hinge"])
def test_dead_maps_weigh_one(bench: BenchMaker, gan_mode: str) -> None:
    """With a classifier of zeros every map is dead: the terms are those without weights, exactly."""
    values = []
    for flags in (README, (*README, "--cam_weight_adv", False)):
        made = bench(*flags, "--gan_mode", gan_mode)
        with torch.no_grad():
            cutcam(made).head.classify.weight.zero_()
        state = forward(made)
        weights = cutcam(made).gan_weights(state)
        if weights.g_fake is not None:
            assert weights.d_fake is not None
            assert weights.d_real is not None
            assert all(bool((w == 1).all()) for w in (weights.g_fake, weights.d_fake, weights.d_real))
        terms = {name: term for phase in made.model.phases for name, term in phase.losses(state).items()}
        assert terms["CAM"].item() == 0.0
        values.append([terms[name].item() for name in ("D_fake", "D_real", "G_GAN")])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("netD", [("pixel",), ("n_layers", "--n_layers_D", 1), ("n_layers", "--n_layers_D", 2)])
def test_weights_fit_every_discriminator(bench: BenchMaker, netD: tuple[object, ...]) -> None:
    made = bench(*README, "--preprocess", "none", "--batch_size", 1, "--netD", *netD)  # images of 40x44
    state = forward(made)
    weights = cutcam(made).gan_weights(state)
    assert weights.g_fake is not None
    assert weights.g_fake.shape == made.model.nets["D"](state.fake_B).shape


def test_weights_follow_the_input_and_are_turned_with_the_translation(bench: BenchMaker) -> None:
    flags = (*README, "--CUT_mode", "FastCUT")
    made = bench(*flags)
    steps = {forward(made, step).mirrored: step for step in range(20)}
    straight, mirrored = (cutcam(made).gan_weights(forward(made, steps[turned])) for turned in (False, True))
    assert straight.d_fake is not None
    assert mirrored.d_fake is not None
    assert straight.d_real is not None
    assert mirrored.d_real is not None
    torch.testing.assert_close(mirrored.d_fake, straight.d_fake.flip(-1), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(mirrored.d_real, straight.d_real, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(straight.d_fake, straight.d_fake.flip(-1), atol=0.1)


def test_the_target_is_weighted_by_its_own_map_also_without_a_pass_over_it(bench: BenchMaker) -> None:
    made = bench(*README, "--nce_idt", False, "--lambda_IDT", 0)
    model, state = cutcam(made), forward(made)
    assert state.idt_B is None
    assert state.cam_B is not None
    feature = model.generator.encode(state.batch.target, [model.nce_layers[model.cam_index]])[0]
    hidden = model.head.hidden_map(feature)
    chosen = model.head.logits_from_hidden(hidden).argmax(1)
    torch.testing.assert_close(state.cam_B, model.head.class_map(hidden, chosen))


# --- the cap on the CAM term, and the warm-ups


def image_gradients(state: CutCamState, terms: Mapping[str, Tensor]) -> tuple[float, float]:
    """Norms of the gradients of CAM and NCE on the translation."""
    found = []
    for name in ("CAM", "NCE"):
        (gradient,) = torch.autograd.grad(terms[name], state.generated, retain_graph=True)
        found.append(float(gradient[: len(state.batch.A)].norm()))
    return found[0], found[1]


def test_the_cap_holds_the_ratio_of_gradients(bench: BenchMaker) -> None:
    free = bench(*README, "--cam_grad_cap", 0)
    state = forward(free)
    cam, nce = image_gradients(state, g_terms(free, state))
    natural = cam / nce
    for limit in (natural / 4, natural * 4):
        made = bench(*README, "--cam_grad_cap", limit)
        state = forward(made)
        terms = g_terms(made, state)
        cam, nce = image_gradients(state, terms)
        assert cam / nce == pytest.approx(min(limit, natural), rel=1e-3)
        scale = min(1.0, limit / natural)
        assert cutcam(made).cap.scale == pytest.approx(scale, rel=1e-3)
        watched = cutcam(made).monitors(state)
        assert float(watched["CAM_weight"]) == pytest.approx(25 * scale, rel=1e-3)


RAMPS = [
    # flags, labelled, (fraction, epochs done) -> class ramp, CAM ramp; a run of 10 epochs
    ((), True, (0.0, 0), (1.0, 0.0)),
    ((), True, (0.05, 0.5), (1.0, 0.0)),
    ((), True, (0.075, 0.75), (1.0, 0.5)),
    ((), True, (0.2, 2.0), (1.0, 1.0)),
    ((), False, (0.0, 0), (0.0, 0.0)),
    ((), False, (0.05, 0.5), (0.0, 0.0)),
    ((), False, (0.075, 0.75), (0.5, 0.0)),
    ((), False, (0.125, 1.25), (1.0, 0.5)),
    (("--cls_start_epoch", 2, "--cam_start_epoch", 4), True, (0.2, 2.0), (0.0, 0.0)),
    (("--cls_start_epoch", 2, "--cam_start_epoch", 4), True, (0.225, 2.25), (0.5, 0.0)),
    (("--cls_start_epoch", 2, "--cam_start_epoch", 4), True, (0.44, 4.4), (1.0, 0.8)),
    (("--cls_start_epoch", 0, "--cam_start_epoch", 0), False, (0.0, 0), (1.0, 1.0)),
]


@pytest.mark.parametrize(("flags", "labelled", "at", "expected"), RAMPS)
def test_warm_up(
    bench: BenchMaker,
    data: DataMaker,
    flags: tuple[object, ...],
    labelled: bool,
    at: tuple[float, float],
    expected: tuple[float, float],
) -> None:
    made = bench(*HEAD, *flags, data=data() if labelled else data(labelled=(0, 1)))
    info = StepInfo(0, 100, progress=at[1], fraction=at[0])
    assert cutcam(made).ramps(info) == pytest.approx(expected)


def test_ramps_scale_the_terms(bench: BenchMaker) -> None:
    flags = (*README, "--cam_grad_cap", 0, "--cam_standardise", False, "--cls_start_epoch", 1)
    made = bench(*flags)
    model, batch = cutcam(made), made.batch()

    def terms(fraction: float) -> dict[str, Tensor]:
        return g_terms(made, model.forward_train(batch, StepInfo(0, 0, 10 * fraction, fraction)))

    early, half, later, full = (terms(fraction) for fraction in (0.1, 0.125, 0.175, 0.5))  # ramps never fall
    assert not {"CLS", "CAM"} & set(early)
    assert half["CLS"].item() == pytest.approx(full["CLS"].item() / 2, rel=1e-4)
    assert "CAM" not in half
    assert later["CAM"].item() == pytest.approx(full["CAM"].item() / 2, rel=1e-4)
