"""Methods that run the network again: slow versions and libraries' maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam.ablationcam_explainer import AblationCam, ablationcam
from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.gradcam_pp_explainer import gradcam_pp
from models.cam.iscam_explainer import IntegratedScoreCam
from models.cam.scaling import minmax
from models.cam.scorecam_explainer import ScoreCam, channel_masks, scorecam
from models.cam.smoothgradcam_pp_explainer import SmoothGradCamPlusPlus
from models.cam.sscam_explainer import SmoothScoreCam
from models.cam.subject import Subject
from models.cam.targets import ClassTarget, LogProbability, Margin, TopK
from tests.cam.make_golden_more import FILE, LAYER, SAMPLES, SEED, STD, perturbed_net
from tests.cam.tiny_networks import DenseLike, TinyNet, WithBypass, filled, pictures

HERE = ("scorecam", "sscam", "iscam", "ablationcam", "smoothgradcam++", "fullgrad")
CLASS = torch.tensor([[0, 3], [1, 2], [4, 0]])


def small(name: str) -> Any:
    """The method, with few samples."""
    samples: Any = {} if name in ("scorecam", "ablationcam", "fullgrad") else {"samples": 2}
    return EXPLAINERS.get(name)(**samples)


def exact(net: nn.Module) -> nn.Module:
    return filled(net, seed=3).double()


def subject(net: nn.Module, targets: Any = CLASS, layer: str = LAYER, **settings: Any) -> Subject:
    return Subject(net, pictures(3, dtype=torch.float64), net.get_submodule(layer), targets, **settings)


def activations_of(net: nn.Module, images: Tensor, layer: str = LAYER) -> Tensor:
    """By a hook of our own."""
    seen: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    with torch.no_grad():
        net(images)
    handle.remove()
    return seen[0]


@contextmanager
def layer_gives(net: nn.Module, layer: str, value: Tensor) -> Iterator[None]:
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: value)
    yield
    handle.remove()


# --- scaling


def test_scaling_by_hand_whatever_the_unit() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[4.0, 4.0], [4.0, 4.0]]], dtype=torch.float64)
    expected = torch.tensor([[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    for unit in (1.0, 1e-30, 1e30):
        torch.testing.assert_close(minmax(maps * unit), expected)
    torch.testing.assert_close(minmax(maps, (-3, -2, -1)), (maps - 1) / 4)


def test_scaling_does_not_blow_up_rounding() -> None:
    noisy = torch.full((1, 4, 4), 0.3) + torch.tensor([0.0, 3e-8, 0.0, 0.0])
    assert (noisy != noisy[0, 0, 0]).any()
    assert minmax(noisy).count_nonzero() == 0


# --- Score-CAM and its kin


def slow_scorecam(
    net: nn.Module, images: Tensor, classes: Tensor, changed: Callable[[Tensor, int], list[Tensor]]
) -> Tensor:
    """One image, target and channel after the other, as the paper tells it."""
    activations = activations_of(net, images)
    maps = torch.zeros(len(images), classes.shape[1], *activations.shape[2:], dtype=images.dtype)
    for n, image in enumerate(images):
        for t, number in enumerate(classes[n]):
            increase = []
            for k, channel in enumerate(activations[n]):
                mask = F.interpolate(channel[None, None], image.shape[1:], mode="bilinear")[0, 0]
                span = mask.max() - mask.min()
                mask = (mask - mask.min()) / span if span > 0 else torch.zeros_like(mask)
                with torch.no_grad():
                    seen = [net((image * each)[None])[0, number] for each in changed(mask, k)]
                    baseline = net(torch.zeros_like(image)[None])[0, number]
                increase.append(torch.stack(seen).mean() - baseline)
            weights = torch.stack(increase).exp() / torch.stack(increase).exp().sum()
            maps[n, t] = sum(w * a for w, a in zip(weights, activations[n], strict=True))
    return maps


def test_scorecam_is_the_slow_one() -> None:
    net = exact(TinyNet(deep=True))
    expected = slow_scorecam(net, pictures(3, dtype=torch.float64), CLASS, lambda mask, k: [mask])
    for chunk in (1, 7, 64):
        torch.testing.assert_close(ScoreCam().maps(subject(net, chunk=chunk)), expected, rtol=1e-10, atol=1e-12)


def scaled_by(shares: Sequence[float], mask: Tensor, channel: int) -> list[Tensor]:
    return [mask * share for share in shares]


def test_iscam_is_the_slow_one() -> None:
    net = exact(TinyNet(deep=True))
    images = pictures(3, dtype=torch.float64)
    for cumulative, shares in ((False, (1 / 3, 2 / 3, 1)), (True, (1 / 3, 1, 2))):
        expected = slow_scorecam(net, images, CLASS, partial(scaled_by, shares))
        method = IntegratedScoreCam(samples=3, cumulative=cumulative)
        torch.testing.assert_close(method.maps(subject(net, chunk=12)), expected, rtol=1e-10, atol=1e-12)


def test_sscam_noise_has_its_deviation_and_is_another_for_each_sample_and_channel() -> None:
    masks = torch.zeros(2, 4, 40, 40, dtype=torch.float64)
    first, second = SmoothScoreCam(samples=2, std=0.7).variants(masks, 0)
    assert first[:, 0].std().item() == pytest.approx(0.7, rel=0.05)
    assert abs(first[0, 0].mean().item()) < 0.07
    assert torch.equal(first[0], first[1])  # images share it
    noises = torch.cat([first[0], second[0]]).flatten(1)
    assert torch.corrcoef(noises).fill_diagonal_(0).abs().max() < 0.1
    (later, _) = SmoothScoreCam(samples=2, std=0.7).variants(masks, 2)
    assert torch.equal(later[0, 0], first[0, 2])
    net = exact(TinyNet(deep=True))
    whole, parts = (SmoothScoreCam(samples=2).maps(subject(net, chunk=chunk)) for chunk in (64, 9))
    torch.testing.assert_close(parts, whole)


def test_the_seed_chooses_the_noise() -> None:
    net = exact(TinyNet(deep=True))
    for kind in (SmoothScoreCam, SmoothGradCamPlusPlus):
        maps = [kind(samples=2, seed=seed).maps(subject(net)) for seed in (0, 0, 1)]
        assert torch.equal(maps[0], maps[1])
        assert not torch.allclose(maps[0], maps[2])


def test_few_channels_are_those_that_vary_most() -> None:
    net = exact(TinyNet(deep=True))
    images = pictures(3, dtype=torch.float64)
    full = ScoreCam().maps(subject(net))
    torch.testing.assert_close(ScoreCam(channels=12).maps(subject(net)), full)
    torch.testing.assert_close(ScoreCam(channels=99).maps(subject(net)), full)
    activations = activations_of(net, images)
    best = activations.flatten(2).var(2).argmax(1)
    alone = torch.stack([a[k] for a, k in zip(activations, best, strict=True)])
    torch.testing.assert_close(ScoreCam(channels=1).maps(subject(net)), alone[:, None].expand(-1, 2, -1, -1))
    assert not torch.allclose(ScoreCam(channels=4).maps(subject(net)), full)


def test_masks_reach_from_0_to_1_and_a_flat_channel_masks_everything() -> None:
    channels = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    channels[0, 1] = 0.3
    masks = channel_masks(channels, (12, 16))
    assert masks.shape == (2, 3, 12, 16)
    assert masks[0, 1].count_nonzero() == 0
    assert masks[1].amin((1, 2)).tolist() == [0, 0, 0]
    assert masks[1].amax((1, 2)).tolist() == [1, 1, 1]
    first = channel_masks(channels, (12, 16), scale_first=True)
    assert not torch.allclose(first, masks)
    torch.testing.assert_close(minmax(first), masks)  # enlarging is linear


def test_score_weights_are_a_softmax() -> None:
    activations = torch.tensor([1.0, 10.0]).view(2, 1, 1)
    scores = torch.tensor([[0.0, math.log(3.0)], [1000.0, 1000.0]])
    assert scorecam(activations, scores).flatten().tolist() == pytest.approx([0.25 + 7.5, 5.5])


# --- Ablation-CAM


def slow_ablationcam(net: nn.Module, images: Tensor, scored: Callable[[Tensor], Tensor], layer: str = LAYER) -> Tensor:
    activations = activations_of(net, images, layer)
    with torch.no_grad():
        scores = scored(net(images))
        total = torch.zeros(*scores.shape, *activations.shape[2:], dtype=images.dtype)
        for k in range(activations.shape[1]):
            without = activations.clone()
            without[:, k] = 0
            with layer_gives(net, layer, without):
                loss = (scores - scored(net(images))) / scores.abs()
            total += loss[:, :, None, None] * activations[:, None, k]
    return total


def test_ablation_is_the_slow_one_behind_any_head() -> None:
    net = exact(TinyNet(deep=True))
    expected = slow_ablationcam(net, pictures(3, dtype=torch.float64), lambda output: output.gather(1, CLASS))
    for chunk in (1, 15, 64):
        torch.testing.assert_close(AblationCam().maps(subject(net, chunk=chunk)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [ClassTarget, LogProbability, Margin])
@pytest.mark.parametrize(("net", "layer"), [(TinyNet(), LAYER), (DenseLike(), "features.2"), (DenseLike(), "features")])
def test_ablation_in_closed_form_is_the_slow_one(
    monkeypatch: pytest.MonkeyPatch, net: nn.Module, layer: str, kind: type[ClassTarget]
) -> None:
    """Also for a score that is not linear, and for a ReLU in place before the mean."""
    exact(net)
    target = kind(CLASS)
    expected = slow_ablationcam(net, pictures(3, dtype=torch.float64), target, layer)

    def no_further_pass(*given: Any) -> Tensor:
        raise AssertionError("a further pass")

    monkeypatch.setattr(Subject, "from_layer", no_further_pass)
    monkeypatch.setattr("models.cam.ablationcam_explainer.BLOCK", 40)  # several blocks
    torch.testing.assert_close(AblationCam().maps(subject(net, target, layer)), expected, rtol=1e-9, atol=1e-12)


def test_ablation_on_a_linear_head_is_weight_times_mean() -> None:
    net = exact(TinyNet())
    images = pictures(3, dtype=torch.float64)
    activations, scores = activations_of(net, images), net(images).detach().gather(1, CLASS)
    assert (scores < 0).any()
    assert (scores > 0).any()
    weights = net.get_parameter("classify.weight").detach()[CLASS] * activations.mean((2, 3))[:, None]
    expected = torch.einsum("ntc,nchw->nthw", weights / scores.abs()[..., None], activations)
    torch.testing.assert_close(AblationCam().maps(subject(net)), expected, rtol=1e-10, atol=1e-12)


def test_ablation_by_hand_of_negative_and_zero_scores() -> None:
    activations = torch.tensor([1.0, 2.0]).view(2, 1, 1)
    ablated = torch.tensor([1.0, 3.0])
    for score, expected in ((2.0, (1 - 2) / 2), (-2.0, (-3 - 10) / 2), (0.0, -1 - 6)):
        assert ablationcam(activations, torch.tensor(score), ablated).item() == pytest.approx(expected)


def test_ablation_where_something_passes_by_the_layer() -> None:
    net = exact(WithBypass())

    def scored(output: Tensor) -> Tensor:
        return output.mean((2, 3))[:, :2]

    expected = slow_ablationcam(net, pictures(3, dtype=torch.float64), scored, "bottom")
    torch.testing.assert_close(AblationCam().maps(subject(net, scored, "bottom")), expected, rtol=1e-10, atol=1e-12)


# --- Smooth Grad-CAM++


def test_one_sample_without_noise_is_gradcam_pp() -> None:
    found = subject(exact(TinyNet(deep=True)))
    expected = gradcam_pp(found.activations[:, None], found.gradients)
    torch.testing.assert_close(SmoothGradCamPlusPlus(samples=1).maps(found).shape, expected.shape)
    torch.testing.assert_close(SmoothGradCamPlusPlus(samples=1, std=0).maps(found), expected)
    torch.testing.assert_close(SmoothGradCamPlusPlus(samples=3, std=0).maps(found), expected)


def test_smoothgradcam_pp_is_the_slow_one() -> None:
    net = exact(TinyNet(deep=True))
    images = pictures(3, dtype=torch.float64) * torch.tensor([1.0, 4.0, 0.1]).view(3, 1, 1, 1)
    method = SmoothGradCamPlusPlus(samples=3, std=0.3, seed=2, eps=1e-6)
    activations = activations_of(net, images)
    noise = [method.noise(images, sample) for sample in range(3)]
    assert torch.stack(noise).std().item() == pytest.approx(0.3, rel=0.1)
    expected = torch.zeros(3, 2, *activations.shape[2:], dtype=torch.float64)
    for n, image in enumerate(images):
        for t, number in enumerate(CLASS[n]):
            slopes = []
            for each in noise:
                noisy = (image + each * (image.max() - image.min()))[None]
                leaf = activations_of(net, noisy).requires_grad_()
                with layer_gives(net, LAYER, leaf.clone()):
                    slopes.append(torch.autograd.grad(net(noisy)[0, number], leaf)[0][0])
            d1, d2, d3 = (torch.stack(slopes).pow(p).mean(0) for p in (1, 2, 3))
            for k, channel in enumerate(activations[n]):
                alpha = d2[k] / (2 * d2[k] + d3[k] * channel.sum() + 1e-6)
                expected[n, t] += (alpha * d1[k].relu()).sum() * channel
    for chunk in (3, 6, 64):
        found = Subject(net, images, net.get_submodule(LAYER), CLASS, chunk=chunk)
        torch.testing.assert_close(method.maps(found), expected, rtol=1e-9, atol=1e-12)


# --- libraries


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(FILE) as file:
        return {name: file[name] for name in file}


CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize(
    ("library", "name", "settings"),
    [
        ("torchcam", "scorecam", {"scale_first": True}),
        ("torchcam", "sscam", {"scale_first": True, "samples": SAMPLES, "std": STD, "seed": SEED}),
        ("torchcam", "iscam", {"scale_first": True, "samples": SAMPLES}),
        ("grad_cam", "scorecam", {"align_corners": True}),
        ("grad_cam", "ablationcam", {}),
        ("grad_cam", "fullgrad", {}),
    ],
)
def test_maps_are_the_libraries(golden: dict[str, Any], library: str, name: str, settings: dict[str, Any]) -> None:
    net, prefix = perturbed_net(), "perturbed/weights/"
    net.load_state_dict({key[len(prefix) :]: torch.tensor(golden[key]) for key in golden if key.startswith(prefix)})
    images = torch.tensor(golden["images"])
    found = Subject(net, images, net.get_submodule(LAYER), torch.tensor(golden["perturbed/classes"]))
    maps = EXPLAINERS.get(name)(**settings).maps(found).relu()
    if library == "grad_cam":
        maps = F.interpolate(maps, (24, 24), mode="bilinear", align_corners=False)
    expected = torch.tensor(golden[f"{library}/{name}"])
    assert (expected.amax((1, 2)) > 0.99).all()
    torch.testing.assert_close(minmax(maps)[:, 0], expected, **CLOSE)  # type: ignore[arg-type]


# --- what all of them keep


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("deep", [False, True])
def test_an_image_is_explained_alike_alone_and_in_a_batch(name: str, deep: bool) -> None:
    net = exact(TinyNet(deep=deep))
    together = small(name).maps(subject(net))
    for n, image in enumerate(pictures(3, dtype=torch.float64)):
        alone = Subject(net, image[None], net.get_submodule(LAYER), CLASS[n : n + 1])
        torch.testing.assert_close(small(name).maps(alone)[0], together[n], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", HERE)
def test_nothing_is_left_behind(name: str) -> None:
    """In training mode, frozen in part, called under `no_grad` and `inference_mode`, also after an error."""
    net = filled(TinyNet(deep=True, inplace=True)).train()
    net.get_submodule("features.0").requires_grad_(False)
    images = pictures(2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    grad = {key: value.requires_grad for key, value in net.named_parameters()}

    def failing(output: Tensor) -> Tensor:
        if output.requires_grad or len(output) > 2 or not torch.equal(images, pictures(2)):
            raise KeyError("on purpose")
        return output[:, :1]

    layer = net.get_submodule("features.3")
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            maps = small(name).maps(Subject(net, images, layer, TopK(2)))
        assert maps.shape[:2] == (2, 2)
        assert not maps.requires_grad
        assert maps.isfinite().all()
    with pytest.raises(KeyError):
        small(name).maps(Subject(net, images, layer, failing))
    assert torch.equal(images, pictures(2))
    assert not images.requires_grad
    assert images.grad is None
    assert all(module.training for module in net.modules())
    assert grad == {key: value.requires_grad for key, value in net.named_parameters()}
    assert all(value.grad is None for value in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", HERE)
def test_maps_for_losses_are_attached_to_the_parameters(name: str) -> None:
    net = exact(TinyNet(deep=True))
    maps = small(name).maps(subject(net, create_graph=True))
    (slope,) = torch.autograd.grad(maps.square().sum(), net.get_parameter("features.0.weight"))
    assert slope.isfinite().all()
    assert slope.count_nonzero() > 0


@pytest.mark.parametrize("name", ["ablationcam", "smoothgradcam++", "fullgrad"])
def test_derivatives_of_maps_are_those_of_small_changes(name: str) -> None:
    net = exact(TinyNet(deep=True))
    weight = net.get_parameter("features.0.weight")
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def value(step: float) -> Tensor:
        with torch.no_grad():
            weight.add_(step * way)
        maps: Tensor = small(name).maps(subject(net, create_graph=True))
        (slope,) = torch.autograd.grad(maps.square().sum(), weight)
        with torch.no_grad():
            weight.sub_(step * way)
        return torch.stack([maps.detach().square().sum(), (slope * way).sum()])

    high, low, here = value(1e-6), value(-1e-6), value(0)
    assert ((high - low)[0] / 2e-6).item() == pytest.approx(here[1].item(), rel=1e-4)


@pytest.mark.parametrize("name", HERE)
def test_maps_under_autocast_are_float32(name: str) -> None:
    net = filled(TinyNet(deep=True))
    found = Subject(net, pictures(2), net.get_submodule(LAYER), TopK(1))
    expected = small(name).maps(found)
    with torch.autocast("cpu", torch.bfloat16):
        maps = small(name).maps(Subject(net, pictures(2), net.get_submodule(LAYER), TopK(1)))
    assert maps.dtype == torch.float32
    similar = torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1]
    assert similar > 0.98


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("scorecam", {"channels": 0}, "channels of Score-CAM is 0"),
        ("sscam", {"samples": 0}, "0 samples"),
        ("sscam", {"std": -1.0}, "std -1.0"),
        ("sscam", {"channels": -1}, "channels of Score-CAM is -1"),
        ("iscam", {"samples": 0}, "0 samples"),
        ("smoothgradcam++", {"samples": 0}, "0 samples"),
        ("smoothgradcam++", {"std": -0.1}, "std -0.1"),
        ("smoothgradcam++", {"eps": -1.0}, "eps -1.0"),
        ("fullgrad", {"rescale": "all"}, "'all': choose one of channel, layer, none"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        EXPLAINERS.get(name)(**settings)
