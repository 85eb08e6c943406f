"""The teacher: maps as the explainers give them, with features from the same pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.explain import explain
from models.cam.scaling import minmax
from models.networks.classifier import JudgeNet, build_classifier
from models.networks.frozen_classifier import FrozenClassifier
from models.networks.staged_classifier import build_staged
from models.teacher import BUILTIN, Seen, Teacher
from util.registry import UnknownNameError
from util.seeding import generator

SIDE = 64
LABELS = torch.tensor([4, 0, 2])


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=generator(3, "teacher images")) * 2 - 1


def judge() -> JudgeNet:
    net = build_classifier("judge", 5, 3, generator(1, "teacher net")).eval()
    assert isinstance(net, JudgeNet)
    return net


def frozen(net: torch.nn.Module) -> FrozenClassifier:
    return FrozenClassifier(net, (3, SIDE, SIDE))


def grown(low: Tensor) -> Tensor:
    return F.interpolate(low[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]


def watched(net: FrozenClassifier, method: str) -> tuple[Seen, list[int]]:
    """What the teacher sees, and how many images each pass of the network had."""
    passes: list[int] = []
    teacher = Teacher(net, method)
    teacher.look(images(1), LABELS[:1])  # finds the layer
    handle = net.net.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    seen = teacher.look(images(), LABELS)
    handle.remove()
    return seen, passes


def test_cam_is_the_class_weights_on_the_last_features_with_one_pass() -> None:
    net = judge()
    features = net.feature_map(images()).detach()
    by_hand = torch.einsum("nd,ndhw->nhw", net.classify.weight[LABELS].detach(), features)
    logits = net(images()).detach()
    seen, passes = watched(frozen(net), "cam")
    assert passes == [3]
    torch.testing.assert_close(seen.cam, grown(minmax(by_hand)), rtol=1e-4, atol=1e-5)
    assert torch.equal(seen.logits, logits)
    assert torch.equal(seen.classes, LABELS)
    assert torch.equal(seen.stages[-1], features)
    assert [stage.shape[1] for stage in seen.stages] == [3, 24, 32, 64, 128]
    assert not any(value.requires_grad for value in (seen.cam, seen.logits, *seen.stages))


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "xgradcam", "smoothgradcam++", "eigencam"])
def test_other_methods_are_the_explainers_own(method: str) -> None:
    net = frozen(judge())
    result = explain(net, images(), method, targets=LABELS, layer="net.trunk", normalize="none")[method]
    raw = result.raw[:, 0]
    expected = minmax(raw.relu() if EXPLAINERS.get(method).rectified else raw)
    seen, passes = watched(net, method)
    if method == "smoothgradcam++":  # draws noise
        assert sum(passes) > 3
    else:
        assert passes == [3]  # gradients come from the same pass as the features
        torch.testing.assert_close(seen.cam, grown(expected), rtol=1e-3, atol=1e-4)
    assert float(seen.cam.min()) >= 0
    assert float(seen.cam.max()) <= 1
    assert all(len(stage) == 3 for stage in seen.stages)


@pytest.mark.parametrize("method", ["scorecam", "sscam", "iscam", "fullgrad", "guided_backprop"])
def test_methods_with_passes_of_their_own_leave_the_features_alone(method: str) -> None:
    net = frozen(judge())
    few = images(1)
    if method in ("sscam", "iscam", "scorecam"):
        few = few[:, :, ::4, ::4].contiguous()  # one pass a channel and sample
    _, expected = net.with_stages(few)
    seen = Teacher(net, method).look(few, LABELS[:1])
    assert seen.cam.shape == (1, *few.shape[2:])
    assert all(torch.equal(a, b) for a, b in zip(seen.stages, expected, strict=True))
    assert float(seen.cam.max()) > 0


@pytest.mark.parametrize("pooling", ["GAP", "MaxPool", "LogSumExpPool", "WILDCAT"])
def test_maps_of_the_classifiers_own(pooling: str) -> None:
    net = build_staged("judge", 5, generator(0, "staged"), pooling=pooling).eval()
    features = net.stages(images())[-1]
    expected = net.map_of(features, LABELS).detach()
    seen, passes = watched(frozen(net), BUILTIN)
    assert len(passes) <= 1  # `with_stages` passes by the module's own hooks
    torch.testing.assert_close(seen.cam, grown(minmax(expected)), rtol=1e-4, atol=1e-5)


def test_the_wgap_map_is_cam() -> None:
    net = frozen(build_staged("judge", 5, generator(0, "staged"), pooling="WGAP").eval())
    built_in, cam = (Teacher(net, method).look(images(), LABELS).cam for method in (BUILTIN, "cam"))
    torch.testing.assert_close(built_in, cam, rtol=1e-4, atol=1e-5)


def test_without_a_label_the_class_predicted_is_explained() -> None:
    net = frozen(judge())
    chosen = net(images()).argmax(1)
    seen = Teacher(net).look(images(), torch.tensor([-1, 0, -1]))
    assert seen.classes.tolist() == [int(chosen[0]), 0, int(chosen[2])]
    expected = Teacher(net).look(images(), seen.classes)
    assert torch.equal(seen.cam, expected.cam)


def test_a_map_that_is_the_same_everywhere_is_zero() -> None:
    net = judge()
    with torch.no_grad():
        net.classify.weight[LABELS[0]] = 0
    seen = Teacher(frozen(net)).look(images(), LABELS)
    assert float(seen.cam[0].abs().max()) == 0
    assert float(seen.cam[1].max()) > 0.5


def test_images_of_a_batch_do_not_mix() -> None:
    teacher = Teacher(frozen(judge()), "gradcam++")
    together = teacher.look(images(), LABELS).cam
    for n in range(3):
        torch.testing.assert_close(
            together[n : n + 1], teacher.look(images()[n : n + 1], LABELS[n : n + 1]).cam, rtol=1e-3, atol=1e-4
        )


def test_layers_are_named_as_in_the_classifier() -> None:
    net = frozen(judge())
    shapes = {
        spec: Teacher(net, "gradcam", spec).look(images(), LABELS).cam.shape
        for spec in ("trunk.4", "-1", "*.4", "auto")
    }
    assert set(shapes.values()) == {(3, SIDE, SIDE)}
    first, second = (Teacher(net, "gradcam", spec).look(images(), LABELS).cam for spec in ("trunk.4", "auto"))
    assert not torch.equal(first, second)


def test_mistakes_are_named() -> None:
    net = frozen(judge())
    with pytest.raises(UnknownNameError, match="gradcam"):
        Teacher(net, "gradcan")
    with pytest.raises(ExplainError, match=r"^JudgeNet has no maps of its own"):
        Teacher(net, BUILTIN)
    with pytest.raises(ExplainError, match=r"means \d+ layers"):
        Teacher(net, "gradcam", "trunk*").look(images(), LABELS)
    with pytest.raises(ExplainError, match="no layer"):
        Teacher(net, "gradcam", "nowhere").look(images(), LABELS)
    with pytest.raises(ExplainError, match="cam needs a mean over positions"):
        Teacher(net, "cam", "trunk.3").look(images(), LABELS)
    with pytest.raises(ExplainError, match="class 5 does not exist"):
        Teacher(net).look(images(), torch.tensor([5, 0, 0]))
