"""Encoders: their stages are what they declare, torchvision's numbers come out, and files go in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.networks.classifier import build_classifier
from models.networks.encoders import TRUNKS, Encoder, build_encoder
from models.networks.staged_classifier import StagedClassifier, build_staged
from util.seeding import generator


def built(arch: str, stride: int = 8, seed: int = 1, channels: int = 3) -> Encoder:
    return build_encoder(arch, generator(seed, "test encoder"), stride, channels).eval()


def noise(size: int = 64, channels: int = 3, count: int = 2) -> Tensor:
    return torch.rand(count, channels, size, size, generator=generator(4, "images")) * 2 - 1


def sides(encoder: Encoder, size: int) -> list[int]:
    with torch.no_grad():
        return [x.shape[-1] for x in encoder.stages(torch.zeros(1, 3, size, size))]


# One small network of each family of TRUNKS but VGG's, which all have 100 M weights in what is thrown away.
FAMILIES = {
    "ResNet": "resnet18",
    "AlexNet": "alexnet",
    "DenseNet": "densenet121",
    "SqueezeNet": "squeezenet1_1",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3": "mobilenet_v3_small",
    "EfficientNet": "efficientnet_b0",
    "ConvNeXt": "convnext_tiny",
    "MNASNet": "mnasnet0_5",
    "RegNet": "regnet_y_400mf",
    "ShuffleNetV2": "shufflenet_v2_x0_5",
    "GoogLeNet": "googlenet",
    "Inception3": "inception_v3",
}


def test_every_family_has_its_example() -> None:
    assert {*FAMILIES, "VGG"} == set(TRUNKS)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("arch", ["judge", *FAMILIES.values()])
def test_stages_are_what_is_declared_and_stop_at_stride_8(arch: str) -> None:
    encoder, images = built(arch), noise(96)
    with torch.no_grad():
        stages = encoder.stages(images)
    assert [x.shape[1] for x in stages] == [stage.channels for stage in encoder.declared]
    assert stages[0].shape[-2:] == images.shape[-2:]
    strides = [stage.stride for stage in encoder.declared]
    assert strides == sorted(strides)
    assert strides[-1] == 8
    for x, stride in zip(stages, strides, strict=True):
        assert x.shape[-1] == x.shape[-2] == pytest.approx(96 / stride, abs=1.1)
    torch.testing.assert_close(encoder(images), stages[-1])


# Of 224 pixels, as F-CAM's; parameters in thousands.
PUBLISHED: dict[str, tuple[list[tuple[int, int]], int, int]] = {
    "resnet50": ([(3, 224), (64, 112), (256, 56), (512, 28), (1024, 28), (2048, 28)], 23_508_032, 14_964_736),
    "vgg16": ([(64, 224), (128, 112), (256, 56), (1024, 28)], 19_434_304, 4_719_616),
    "inceptionv3": ([(3, 224), (64, 112), (80, 57), (288, 29), (768, 29), (1024, 29)], 25_482_976, 16_517_120),
}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_the_published_encoders_have_their_shapes_and_sizes(arch: str) -> None:
    encoder = built(arch).to("meta")
    stages, parameters, late = PUBLISHED[arch]
    with torch.no_grad():
        found = [(x.shape[1], x.shape[-1]) for x in encoder.stages(torch.zeros(1, 3, 224, 224, device="meta"))]
    assert found == stages
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert sum(p.numel() for p in encoder.late_parameters()) == late
    assert encoder.decoder_center == (arch == "vgg16")


def decoder_size(channels: Sequence[int], center: bool) -> int:
    """Parameters of F-CAM's decoder (fed by all stages but the first): two convolutions with batch norm a block."""

    def conv(a: int, b: int) -> int:
        return 9 * a * b + 2 * b

    skips, x = list(channels[1:-1])[::-1], channels[-1]
    total = 2 * conv(x, x) if center else 0
    for skip, width in zip([*skips, 0], (256, 128, 64, 32, 16), strict=False):
        total += conv(x + skip, width) + conv(width, width)
        x = width
    return total


def test_a_decoder_over_the_declared_stages_has_the_published_size() -> None:
    found = {arch: decoder_size([c for c, _ in stages], arch == "vgg16") for arch, (stages, *_) in PUBLISHED.items()}
    assert found == {"resnet50": 9_012_928, "vgg16": 23_119_616, "inceptionv3": 5_704_384}


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v2", "googlenet", "regnet_y_400mf"])
def test_at_its_own_stride_a_trunk_gives_torchvisions_numbers(arch: str) -> None:
    encoder, images = built(arch, 32), noise(64, 1)
    own = torchvision.models.get_model(arch, weights=None, **_no_second_head(arch)).eval()
    missing, unexpected = own.load_state_dict(encoder.net.state_dict(), strict=False)  # type: ignore[union-attr]
    assert not unexpected
    assert all(key.startswith(("fc.", "classifier.")) for key in missing)
    seen: list[Tensor] = []
    last = [m for m in own.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean, std = ((0.5,) * 3,) * 2 if arch == "googlenet" else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        own(torchvision.transforms.Normalize(mean, std)((images.repeat(1, 3, 1, 1) + 1) / 2))
        torch.testing.assert_close(encoder(images).mean((2, 3)), seen[0], rtol=1e-4, atol=1e-5)


def _no_second_head(arch: str) -> dict[str, Any]:
    return {"aux_logits": False, "init_weights": True} if arch == "googlenet" else {}


def test_with_less_stride_the_same_weights_see_finer() -> None:
    fine, coarse = built("resnet18", 8), built("resnet18", 32)
    assert all(torch.equal(a, b) for a, b in zip(fine.state_dict().values(), coarse.state_dict().values(), strict=True))
    assert sides(fine, 64) == [64, 32, 16, 8, 8, 8]
    assert sides(built("resnet18", 16), 64) == [64, 32, 16, 8, 4, 4]
    assert sides(coarse, 64) == [64, 32, 16, 8, 4, 2]
    images = noise()
    with torch.no_grad():
        pairs = list(zip(fine.stages(images), coarse.stages(images), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs[:4])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_judge_is_an_encoder_too(channels: int) -> None:
    encoder = built("judge", 16, channels=channels)
    judge = build_classifier("judge", 2, channels, generator(1, "test encoder"))
    judge.load_state_dict({f"trunk.{k}": v for k, v in encoder.net.state_dict().items()}, strict=False)  # type: ignore[union-attr]
    images = noise(32, channels)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images).mean((2, 3)), judge.features(images))
    assert [stage.channels for stage in encoder.declared] == [channels, 24, 32, 64, 128]


def test_first_weights_follow_from_the_seed_alone() -> None:
    for arch in ("judge", "squeezenet1_1"):
        state = torch.random.get_rng_state()
        weights = [torch.cat([p.flatten() for p in built(arch, seed=seed).parameters()]) for seed in (1, 1, 2)]
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


# --- networks of others


class Info:
    def channels(self) -> list[int]:
        return [4, 8]

    def reduction(self) -> list[int]:
        return [2, 4]


class Listing(nn.Module):
    """A network as timm makes them with features_only."""

    def __init__(self, info: object = None, extra: int = 0) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8 + extra, 3, 2, 1)
        self.feature_info = info or Info()

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.one(x)
        return [first, self.two(first)]


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(name: str, **functions: Any) -> None:
        module = ModuleType(name)
        for key, function in functions.items():
            setattr(module, key, function)
        monkeypatch.setitem(sys.modules, name, module)

    return put


def test_a_users_network_declares_its_stages(own_module: Any) -> None:
    def listing(num_classes: int) -> nn.Module:
        return Listing()

    def silent(num_classes: int) -> nn.Module:
        return nn.Conv2d(3, 4, 3)

    def wrong(num_classes: int) -> nn.Module:
        return Listing(extra=1)

    own_module("my_encoders", listing=listing, silent=silent, wrong=wrong)
    encoder = built("my_encoders:listing")
    assert [(s.channels, s.stride) for s in encoder.declared] == [(3, 1), (4, 2), (8, 4)]
    images = noise(32)
    stages = encoder.stages(images)
    torch.testing.assert_close(stages[0], images)
    torch.testing.assert_close(stages[2], encoder.net(images)[1])  # type: ignore[operator]
    with pytest.raises(ValueError, match="declares no stages: give it feature_info"):
        built("my_encoders:silent")
    with pytest.raises(ValueError, match=r"features have \[3, 4, 9\] channels, and \[3, 4, 8\] are declared"):
        built("my_encoders:wrong").stages(images)


def test_timm_makes_features_where_it_is_installed(own_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="timm is not installed"):
        built("timm:convnext_tiny")
    asked: list[Any] = []

    def create_model(name: str, **more: Any) -> nn.Module:
        asked.append((name, more))
        if name == "none":
            raise RuntimeError("Unknown model (none)")
        return Listing()

    own_module("timm", create_model=create_model)
    assert [s.channels for s in built("timm:resnet50.a1_in1k", 16).declared] == [3, 4, 8]
    assert asked == [("resnet50.a1_in1k", {"pretrained": False, "features_only": True, "output_stride": 16})]
    with pytest.raises(ValueError, match=r"timm makes no such features \(RuntimeError: Unknown model"):
        built("timm:none")


def test_a_network_without_known_stages_is_named() -> None:
    with pytest.raises(ValueError, match=r"VisionTransformer declares no stages; those of ResNet"):
        built("vit_b_32")
    with pytest.raises(ValueError, match=r"no such network \(did you mean 'resnet50'\?\)"):
        built("resnet_50")
    with pytest.raises(ValueError, match="output stride 4 is none of 8, 16, 32"):
        built("judge", 4)


# --- the classifier over them


def staged(arch: str = "judge", pooling: str = "WGAP", seed: int = 1, classes: int = 5) -> StagedClassifier:
    return build_staged(arch, classes, generator(seed, "test net"), pooling=pooling).eval()


@pytest.mark.parametrize("pooling", ["WGAP", "WILDCAT"])
def test_one_pass_gives_logits_stages_and_maps(pooling: str) -> None:
    net, images = staged(pooling=pooling), noise(32)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    net.encoder.net.register_forward_pre_hook(count)  # type: ignore[union-attr]
    net.encoder.get_submodule("net.0").register_forward_pre_hook(count)
    with torch.no_grad():
        logits, stages = net.with_stages(images)
        maps = net.class_maps(stages[-1])
        assert calls == 1
        torch.testing.assert_close(logits, net(images))
        assert tuple(x.shape[1] for x in stages) == net.stage_channels == (3, 24, 32, 64, 128)
        assert maps.shape == (2, 5, 4, 4)
        torch.testing.assert_close(net.map_of(stages[-1], torch.tensor([4, 1])), torch.stack([maps[0, 4], maps[1, 1]]))
        features, again = net.with_features(images)
    torch.testing.assert_close(again, logits)
    assert features.shape == (2, 128)
    assert net.head_keys() == {"head.layer.weight", "head.layer.bias"}


def test_weights_of_the_whole_network_fit_its_trunk() -> None:
    net = staged("resnet18")
    whole = torchvision.models.resnet18(weights=None).state_dict()
    for weights in (whole, {f"module.{key}": value for key, value in whole.items()}):
        adapted, renewed = net.adapted(weights)
        assert renewed
        assert set(adapted) == set(net.state_dict())
        assert torch.equal(adapted["encoder.net.layer4.1.conv2.weight"], whole["layer4.1.conv2.weight"])
        assert torch.equal(adapted["head.layer.weight"], net.state_dict()["head.layer.weight"])
    own, renewed = net.adapted(net.state_dict())
    assert not renewed
    assert set(own) == set(net.state_dict())
    other, renewed = staged("resnet18", classes=7).adapted(net.state_dict())
    assert renewed
    assert other["head.layer.weight"].shape == (7, 512)
    strange = {"something": torch.zeros(1)}
    assert net.adapted(strange) == (strange, False)


def test_weights_of_a_classifier_of_ours_fit_its_trunk() -> None:
    judge = build_classifier("judge", 3, 3, generator(9, "another"))
    adapted, renewed = staged().adapted(judge.state_dict())
    net = staged()
    net.load_state_dict(adapted)
    assert renewed
    assert torch.equal(net.encoder.net.state_dict()["0.weight"], judge.state_dict()["trunk.0.weight"])  # type: ignore[union-attr]
