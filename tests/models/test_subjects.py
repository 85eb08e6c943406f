"""What of a model can be explained: equal to the model's own numbers, and its state untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.cam.explain import explain
from models.classifier_model import ClassifierModel
from models.cut_model import CutModel
from models.cutcam_model import CutCamModel
from models.subjects import subject_of
from options.schema import OptionError
from tests.conftest import BenchMaker

CUTCAM = ("--model", "cutcam", "--num_classes", 4)


def noise(count: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("pool", ["gap", "lse", "topk"])
@pytest.mark.parametrize("layer", [0, -1])
def test_the_head_gives_the_model_s_probabilities(bench: BenchMaker, pool: str, standardise: bool, layer: int) -> None:
    model = bench(*CUTCAM, "--cam_pool", pool, "--cam_standardise", standardise, "--cam_layer", layer).model
    assert isinstance(model, CutCamModel)
    head = model.head
    if standardise:
        with torch.no_grad():
            for step in range(40):
                feature = model.generator.encode(noise(seed=step), [model.nce_layers[model.cam_index]])[0]
                head.update_statistics(head.hidden_map(feature))
    model.train(False)
    subject = subject_of(model, "head")
    images = noise(3, seed=99)
    with torch.no_grad():
        torch.testing.assert_close(subject.net(images).softmax(1), model.classify(images), rtol=0, atol=1e-5)
        feature = model.generator.encode(images, [model.nce_layers[model.cam_index]])[0]
        hidden = head.hidden_map(feature)
    found = explain(subject.net, images, "gradcam", targets=2, layer=subject.layer)["gradcam"]
    assert found.raw.shape[2:] == hidden.shape[2:], "without the border"
    assert subject.images == ("input", "translation")
    if pool == "gap":
        whole = explain(subject.net, images, "cam", targets=2, layer=subject.layer)["cam"].raw[:, 0]
        rows = head.effective_weight(frozen=True)[2]
        torch.testing.assert_close(whole, torch.einsum("c,nchw->nhw", rows, hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("antialias", [True, False])
def test_guided_maps_of_the_head_go_through_the_fixed_filters(bench: BenchMaker, antialias: bool) -> None:
    """The anti-aliasing filter has a derivative of its own, and no activation in it."""
    flags = () if antialias else ("--no_antialias", "--no_antialias_up")
    model = bench(*CUTCAM, *flags).model
    subject = subject_of(model, "head")
    found = explain(subject.net, noise(), "guided_backprop", targets=1, layer=subject.layer)["guided_backprop"]
    assert found.raw.shape == (2, 1, 3, 32, 32)
    assert found.raw.abs().amax() > 0


def test_what_looks_fake_is_the_opposite_of_d_s_decision(bench: BenchMaker) -> None:
    model = bench("--model", "cut").model
    images = noise(2, 64)
    subject, corner = subject_of(model, "discriminator"), subject_of(model, "discriminator", (0, 1, 2, 3))
    decisions = model.nets["D"](images).detach()
    assert subject.images == ("translation",)
    torch.testing.assert_close(subject.targets(images)(decisions)[:, 0], -decisions.mean((1, 2, 3)))
    torch.testing.assert_close(corner.targets(images)(decisions)[:, 0], -decisions[:, :, 0:2, 1:3].mean((1, 2, 3)))
    found = explain(subject.net, images, "gradcam", targets=subject.targets(images), layer=subject.layer)["gradcam"]
    torch.testing.assert_close(found.scores[:, 0], -decisions.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["cycle_gan", "dclgan"])
def test_of_two_discriminators_the_one_of_the_translations_is_asked(bench: BenchMaker, name: str) -> None:
    model = bench("--model", name).model
    assert subject_of(model, "discriminator").net is model.nets["D_A"]
    model.turn_round()
    assert subject_of(model, "discriminator").net is model.nets["D_B"]


def test_a_conditional_discriminator_sees_each_translation_beside_its_input(bench: BenchMaker) -> None:
    model = bench("--model", "pix2pix", "--normD", "instance").model
    x, y = noise(2, 64, seed=1), noise(2, 64, seed=2)
    subject = subject_of(model, "discriminator")
    target = subject.targets(x)
    decisions = model.nets["D"](torch.cat([x, y], 1)).detach()
    for name in ("gradcam", "scorecam"):
        found = explain(subject.net, y, name, targets=target, layer=subject.layer)[name]
        torch.testing.assert_close(found.scores[:, 0], -decisions.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
        assert found.maps.shape == (2, 1, 64, 64)


def test_the_distance_is_between_features_of_the_deepest_layer(bench: BenchMaker) -> None:
    model = bench("--model", "cut").model
    assert isinstance(model, CutModel)
    model.train()
    training = [module.training for module in model.generator.modules()]
    x, y = noise(seed=1), noise(seed=2)
    subject = subject_of(model, "distance")
    target = subject.targets(x)
    found = explain(subject.net, y, "gradcam", targets=target, layer=subject.layer)["gradcam"]
    with torch.no_grad():
        before, after = (model.generator.encode(images, [model.nce_layers[-1]])[0] for images in (x, y))
    torch.testing.assert_close(found.scores[:, 0], (after - before).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
    alpha = (2 * (after - before) / after[0].numel()).mean((2, 3), keepdim=True)
    torch.testing.assert_close(found.raw[:, 0], (alpha * after).sum(1), rtol=1e-3, atol=1e-9)
    same = explain(subject.net, x, "gradcam", targets=target, layer=subject.layer)["gradcam"]
    assert same.scores.abs().max() == 0
    assert same.flat.all()
    assert [module.training for module in model.generator.modules()] == training


def test_a_classifier_is_explained_as_it_is(bench: BenchMaker) -> None:
    model = bench("--model", "classifier", "--num_classes", 4).model
    assert isinstance(model, ClassifierModel)
    subject = subject_of(model, "classifier")
    assert subject.net is model.classifier
    images = noise()
    logits: torch.Tensor = nn.Module.__call__(model.classifier, images).detach()
    assert subject.targets(images)(logits)[:, 0].tolist() == logits.amax(1).tolist()


@pytest.mark.parametrize(
    ("flags", "what", "message"),
    [
        (("--model", "cut"), "head", "--explain head: CutModel has none; train with --model cutcam"),
        (("--model", "cut"), "classifier", "--explain classifier: CutModel has none"),
        (("--model", "cut", "--lambda_GAN", 0), "discriminator", "unless they were trained with --lambda_GAN 0"),
        (("--model", "classifier", "--num_classes", 4), "distance", "--explain distance: ClassifierModel has none"),
        (("--model", "cut"), "nothing", "there are head, discriminator, distance, classifier"),
    ],
)
def test_a_part_that_a_model_has_not_is_named(
    bench: BenchMaker, flags: tuple[object, ...], what: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        subject_of(bench(*flags).model, what)
