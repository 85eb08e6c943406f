"""A frozen classifier: the same answers, nothing to train, and stages from the same pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks import ClassHead, build_generator
from models.networks.classifier import build_classifier
from models.networks.frozen_classifier import FrozenClassifier, GeneratorClassifier, Staged, weights_of
from models.networks.staged_classifier import build_staged
from util.seeding import generator

SIDE = 64


def noise(count: int = 2, side: int = SIDE, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, side, side, generator=generator(3, "frozen images")) * 2 - 1


def built(arch: str = "judge") -> nn.Module:
    return build_classifier(arch, 5, 3, generator(1, "frozen net")).eval()


class Counting(nn.Module):
    """A network that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2, 1))
        self.head = nn.Linear(6, 5)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        found: Tensor = self.head(self.trunk(images).mean((2, 3)))
        return found


# name -> channels of its stages and their strides, the image first
STAGES = {
    "judge": ((3, 24, 32, 64, 128), (1, 2, 4, 8, 16)),
    "resnet18": ((3, 64, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32)),
    "mobilenet_v3_small": ((3, 16, 72, 96, 288, 576), (1, 2, 4, 8, 16, 32)),
    "convnext_tiny": ((3, 96, 192, 384, 768), (1, 4, 8, 16, 32)),  # whose own maps have channels last
}


@pytest.mark.parametrize("arch", STAGES)
def test_answers_and_state_are_the_networks_own(arch: str) -> None:
    net, images = built(arch), noise()
    expected, keys = net(images).detach(), {key: value.clone() for key, value in net.state_dict().items()}
    frozen = FrozenClassifier(net, (3, SIDE, SIDE))
    logits, stages = frozen.with_stages(images)
    assert torch.equal(logits, expected)
    assert torch.equal(frozen(images), expected)
    state = frozen.state_dict()
    assert state.keys() == keys.keys()
    assert all(torch.equal(state[key], keys[key]) for key in keys)
    channels, strides = STAGES[arch]
    assert frozen.stage_channels == channels
    assert [tuple(stage.shape) for stage in stages] == [
        (2, c, SIDE // s, SIDE // s) for c, s in zip(channels, strides, strict=True)
    ]
    assert not any(module._forward_hooks for module in net.modules())
    build = built(arch)
    build.load_state_dict(state)  # its files are the classifier's own


def test_there_is_nothing_to_train() -> None:
    net = built("resnet18")
    count = sum(parameter.numel() for parameter in net.parameters())
    frozen = FrozenClassifier(net, (3, SIDE, SIDE))
    assert frozen.weights == count > 11e6
    assert (weights_of(frozen), weights_of(built("resnet18"))) == ("11.18 M frozen", "11.18 M")
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert list(frozen.parameters()) == []
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    assert not frozen(noise()).requires_grad
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())
    frozen.to(torch.float64)
    assert all(v.dtype == torch.float64 for v in frozen.state_dict().values() if v.is_floating_point())


def test_stages_are_noted_from_the_first_pass_only() -> None:
    net = Counting()
    frozen = FrozenClassifier(net, (3, 16, 16))
    first, second = noise(2, 16), noise(3, 16) * 0.5
    net.passes = 0
    with frozen.noting() as stages:
        assert torch.equal(frozen(first), net(first))
        frozen(second)
    assert net.passes == 3
    assert [tuple(stage.shape) for stage in stages] == [(2, 3, 16, 16), (2, 4, 8, 8), (2, 6, 4, 4)]
    assert torch.equal(stages[2], net.trunk(first))
    frozen(second)
    assert len(stages) == 3


def test_networks_without_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no feature map with more than one position"):
        FrozenClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), (3, 8, 8))


@pytest.mark.parametrize("pooling", ["WGAP", "GAP"])
def test_declared_stages_are_taken_as_they_are(pooling: str) -> None:
    net = build_staged("judge", 5, generator(0, "staged"), pooling=pooling).eval()
    images = noise()
    expected = net.stages(images)
    frozen = FrozenClassifier(net, (3, SIDE, SIDE))
    assert isinstance(net, Staged)
    logits, stages = frozen.with_stages(images)
    assert frozen.stage_channels == net.stage_channels
    assert torch.equal(logits, frozen(images))
    assert all(torch.equal(a, b) for a, b in zip(stages, expected, strict=True))


# --- the class head of a translation run


# generator, its layer, channels and sides of the stages of an image of 128 px
HEADS = {
    "deep": ("resnet_6blocks", 14, (3, 32, 32), (128, 64, 32)),
    "half": ("resnet_6blocks", 8, (3, 32), (128, 64)),
    "whole": ("resnet_6blocks", 4, (3, 16), (128, 128)),
    "padded": ("resnet_6blocks", 0, (3, 3), (128, 128)),
    "U-Net": ("unet_128", 4, (3, 8, 16, 32, 64), (128, 64, 32, 16, 8)),
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("pool", ["gap", "lse"])
def test_a_generators_head_answers_as_in_its_run(case: str, pool: str) -> None:
    kind, layer, channels, sides = HEADS[case]
    made = build_generator(kind, ngf=8, generator=generator(0, "G")).eval()
    border, width = made.feature_border(layer), made.feature_channels([layer])[0]
    head = ClassHead(width, 4, pool, border=border, standardise=True).eval()
    for step in range(40):  # so many that its statistics are in use
        head.update_statistics(torch.rand(2, width, 4, 4, generator=generator(step, "hidden")))
    images = noise(2, 128)
    expected = head(made.encode(images, [layer])[0], frozen=True)
    frozen = FrozenClassifier(GeneratorClassifier(made, head, layer), (3, 128, 128))
    logits, stages = frozen.with_stages(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert frozen.stage_channels == channels
    assert [tuple(stage.shape) for stage in stages] == [(2, c, s, s) for c, s in zip(channels, sides, strict=True)]
    if case == "padded":
        assert torch.equal(stages[-1], images)
