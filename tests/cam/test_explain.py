"""Maps of several methods from one pass: which class they belong to, how they are shown, what is said of flat ones."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.explain import display, explain
from models.cam.gradcam_explainer import GradCam
from models.cam.gradcam_pp_explainer import GradCamPlusPlus
from models.cam.subject import Subject
from models.cam.targets import Negated, PatchTarget, TopK
from tests.cam.tiny_networks import CLASSES, TinyNet, WithBypass, filled, pictures
from util.registry import UnknownNameError

METHODS = ("cam", "gradcam", "hirescam")


def test_map_i_belongs_to_class_i() -> None:
    """One published project shows every map of the top k under the class of another."""
    net, images = filled(TinyNet(), 7), pictures()
    logits, activations = net(images).detach(), net.features(images).detach()
    found = explain(net, images, METHODS, targets=TopK(CLASSES), layer="features")
    for name in METHODS:
        result = found[name]
        assert result.classes is not None
        assert result.probabilities is not None
        assert torch.equal(result.classes, logits.argsort(1, descending=True))
        assert (result.probabilities.diff(dim=1) <= 0).all()
        torch.testing.assert_close(result.probabilities, logits.softmax(1).gather(1, result.classes))
        for image in range(len(images)):
            for rank, number in enumerate(result.classes[image]):
                wanted = (net.classify.weight[number, :, None, None].detach() * activations[image]).sum(0)
                scale = 1 if name == "cam" else 1 / 100  # the others average over 10 x 10 positions
                torch.testing.assert_close(result.raw[image, rank], scale * wanted, rtol=1e-4, atol=1e-5)


def test_the_predicted_class_is_explained_if_none_is_named() -> None:
    net, images = filled(TinyNet(deep=True)), pictures(6)
    result = explain(net, images, "gradcam")["gradcam"]
    predicted = net(images).argmax(1, keepdim=True)
    assert result.classes is not None
    assert torch.equal(result.classes, predicted)
    assert len(predicted.unique()) > 1
    torch.testing.assert_close(result.scores, net(images).detach().amax(1, keepdim=True))
    assert result.layer == "more"


def test_a_target_class_is_not_called_predicted() -> None:
    """Another project reports the class asked for as the class predicted: here its probability says what it is."""
    net, images = filled(TinyNet()), pictures()
    worst = net(images).argmin(1)
    result = explain(net, images, "cam", targets=worst)["cam"]
    assert result.classes is not None
    assert result.probabilities is not None
    assert torch.equal(result.classes[:, 0], worst)
    assert (result.probabilities < 1 / CLASSES).all()


def test_weights_that_change_change_the_maps() -> None:
    """Another project explains with the weights the network had when it was made."""
    net, images = filled(TinyNet()), pictures()
    before = explain(net, images, "cam", targets=1)["cam"].raw
    with torch.no_grad():
        net.classify.weight.mul_(2)
    torch.testing.assert_close(explain(net, images, "cam", targets=1)["cam"].raw, 2 * before)


def test_all_methods_share_one_pass() -> None:
    net, calls = filled(TinyNet()), []
    net.register_forward_hook(lambda *_: calls.append(1))
    shared = ["cam", "gradcam", "gradcam++", "xgradcam", "layercam", "eigencam", "labelfree"]
    found = explain(net, pictures(), shared, layer="features", targets=TopK(3))
    assert list(found) == shared
    assert len(calls) == 1


@pytest.mark.parametrize("name", EXPLAINERS.names())
@pytest.mark.parametrize("inference", [False, True])
def test_every_method_gives_maps_and_leaves_no_trace(name: str, inference: bool) -> None:
    net, images = filled(TinyNet(inplace=True)).train(), pictures(2)
    net.classify.bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    with torch.inference_mode(inference):
        result = explain(net, images, name, targets=TopK(2), layer="features.4")[name]
        again = explain(net, images, name, targets=TopK(2), layer="features.4")[name]
    kind = EXPLAINERS.get(name)
    assert result.raw.shape == ((2, 2, 3, 24, 24) if kind.in_pixels else (2, 2, *result.raw.shape[2:]))
    assert result.maps.shape == (2, 2, 24, 24)
    assert result.raw.dtype == result.maps.dtype == torch.float32
    assert result.raw.isfinite().all()
    assert 0 <= result.maps.min() <= result.maps.max() <= 1
    assert torch.equal(result.maps.flatten(2).amax(2), (~result.flat).float())
    assert torch.equal(result.maps, again.maps)  # the same every time
    assert not result.raw.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == [p is not net.classify.bias for p in net.parameters()]
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert images.grad is None
    assert not images.requires_grad


def test_cam_is_shown_with_its_sign_and_others_without() -> None:
    net, images = filled(TinyNet()), pictures()
    found = explain(net, images, METHODS, targets=1, layer="features")
    signed = F.interpolate(found["cam"].raw, size=(24, 24), mode="bilinear", align_corners=False)
    assert (signed < 0).any()
    low, high = signed.amin((2, 3), keepdim=True), signed.amax((2, 3), keepdim=True)
    torch.testing.assert_close(found["cam"].maps, (signed - low) / (high - low))
    halves = F.interpolate(found["cam"].raw.relu(), size=(24, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found["gradcam"].maps, halves / halves.amax((2, 3), keepdim=True), rtol=0, atol=1e-5)


def test_settings_of_a_method_come_with_the_explainer() -> None:
    net, images = filled(TinyNet()), pictures()
    found = explain(net, images, {"plain": GradCam(), "loose": GradCamPlusPlus(eps=10.0)}, targets=1)
    assert list(found) == ["plain", "loose"]
    assert not torch.equal(found["loose"].raw, explain(net, images, "gradcam++", targets=1)["gradcam++"].raw)


def test_targets_without_classes() -> None:
    net, images = filled(WithBypass()), pictures()
    whole = explain(net, images, "gradcam", targets=PatchTarget(), layer="down")["gradcam"]
    assert whole.classes is None
    assert whole.probabilities is None
    assert whole.maps.shape == (3, 1, 24, 24)
    opposite = explain(net, images, "gradcam", targets=Negated(PatchTarget()), layer="down")["gradcam"]
    torch.testing.assert_close(opposite.raw, -whole.raw)


def test_parts_of_an_output_are_picked() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = filled(TinyNet())

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(images), "images": images}

    net, images = Both(), pictures()
    with pytest.raises(ExplainError, match="say by output="):
        explain(net, images, "gradcam")
    found = explain(net, images, "gradcam", output=lambda out: out["logits"])["gradcam"]
    torch.testing.assert_close(found.maps, explain(net.net, images, "gradcam")["gradcam"].maps)


# --- what is shown


def raw_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_minmax_after_growing() -> None:
    raw = raw_map(2, 3, 4, 5)
    maps, flat = display(raw, (16, 30))
    grown = F.interpolate(raw, size=(16, 30), mode="bilinear", align_corners=False).numpy()
    low, high = grown.min((2, 3), keepdims=True), grown.max((2, 3), keepdims=True)
    np.testing.assert_allclose(maps.numpy(), (grown - low) / (high - low), atol=1e-6)
    assert not flat.any()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("minmax", [0.0, 0.25, 0.5, 1.0]),
        ("max", [0.0, 0.0, 1 / 3, 1.0]),
        ("percentile", [0.0, 0.0, 1.0, 1.0]),  # the 75th is the third of four
        ("none", [-1.0, 0.0, 1.0, 3.0]),
    ],
)
def test_normalisations_by_hand(mode: str, expected: list[float]) -> None:
    maps, _ = display(torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]]]), (2, 2), mode, 75.0)
    assert maps.flatten().tolist() == pytest.approx(expected)


def test_a_percentile_of_0_falls_back_on_the_peak() -> None:
    peak = torch.zeros(1, 1, 10, 10)
    peak[0, 0, 3, 4] = 5.0
    maps, flat = display(peak, (10, 10), "percentile", 98.0)
    assert not flat.any()
    assert torch.equal(maps, peak / 5)


@pytest.mark.parametrize("mode", ["minmax", "max", "percentile"])
@pytest.mark.parametrize("value", [0.0, 3.7, -2.0, math.nan, math.inf])
def test_flat_maps_are_0_and_flagged_one_by_one(mode: str, value: float) -> None:
    raw = raw_map(2, 2, 3, 3).relu() + 0.1
    raw[0, 1] = value
    maps, flat = display(raw, (6, 6), mode)
    if mode == "minmax" or not 0 < value < math.inf:
        assert flat.tolist() == [[False, True], [False, False]]
        assert maps[0, 1].abs().max() == 0
    assert maps.isfinite().all()


def test_rounding_noise_on_a_constant_is_flat() -> None:
    raw = 1 + 1e-7 * raw_map(1, 1, 7, 7)
    _, flat = display(raw, (14, 14))
    assert flat.all()


@pytest.mark.parametrize("scale", [1e-20, 1e-7, 1e7])
def test_the_scale_of_the_scores_does_not_matter(scale: float) -> None:
    """Libraries add 1e-8 to the range, so that maps of small scores never reach 1."""
    net, images = filled(TinyNet()), pictures()
    before = explain(net, images, METHODS, targets=1)
    with torch.no_grad():
        net.classify.weight.mul_(scale)
        net.classify.bias.mul_(scale)
    after = explain(net, images, METHODS, targets=1)
    for name in METHODS:
        torch.testing.assert_close(after[name].maps, before[name].maps, rtol=0, atol=1e-5)


class Colours(Explainer):
    """Gives what it was told, in pixels."""

    in_pixels: ClassVar[bool] = True
    needs_layer: ClassVar[bool] = False

    def __init__(self, given: Tensor) -> None:
        self.given = given

    def maps(self, subject: Subject) -> Tensor:
        assert subject.layer is None
        return self.given


def test_maps_in_pixels_show_the_strongest_colour() -> None:
    given = raw_map(2, 1, 3, 24, 24)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 4))  # no layer has maps, and none is needed
    result = explain(net, pictures(2), {"colours": Colours(given)})["colours"]
    assert result.layer == ""
    assert torch.equal(result.raw, given)
    strongest = given.abs().amax(2)
    low, high = strongest.amin((2, 3), keepdim=True), strongest.amax((2, 3), keepdim=True)
    torch.testing.assert_close(result.maps, (strongest - low) / (high - low))


# --- what does not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "features.*"}, "means 5 layers: features.0, features.1"),
        ({"layer": nn.Conv2d(3, 3, 1)}, "is no part of the network"),
        ({"normalize": "softmax"}, "unknown normalisation 'softmax': choose one of minmax, max"),
        ({"percentile": 0.0}, r"must be in \(0, 100\]"),
        ({"methods": []}, "no method is given: choose from .*cam, counterfactual"),
        ({"targets": CLASSES}, "class 5 does not exist: the network knows 0 to 4"),
        ({"images": pictures()[0]}, r"give \(N, C, H, W\)"),
    ],
)
def test_messages(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"images": pictures(), "methods": "gradcam"} | change
    with pytest.raises(ExplainError, match=message):
        explain(filled(TinyNet()), given.pop("images"), given.pop("methods"), **given)


def test_an_unknown_method_is_named_with_what_is_near() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'gradcam\+\+'.*known: .*cam"):
        explain(filled(TinyNet()), pictures(), "gradcam+")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["eigencam", "eigengradcam", "gradcam"])
def test_of_images_that_are_no_numbers_the_map_is_flat_and_the_others_have_theirs(name: str, value: float) -> None:
    net, images = filled(TinyNet()), pictures(2)
    images[0] = value
    result = explain(net, images, name, targets=[1, 1], layer="features")[name]
    assert result.flat[0].all()
    assert not result.maps[0].any()
    alone = explain(net, images[1:], name, targets=[1], layer="features")[name]
    torch.testing.assert_close(result.maps[1:], alone.maps, rtol=1e-4, atol=1e-4)
