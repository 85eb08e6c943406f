"""Trunks of networks cut into stages, with reductions left out beyond a stride."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import log2
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.encoder_base import AS_THEY_ARE, IMAGENET, Encoder, Norm, Stage, TrunkEncoder

STRIDES = (8, 16, 32)
_PROBE = 256  # pixels a side, for finding where a network halves the resolution

# The layers of torchvision's networks in the order in which they are run, by the network's class; `x.*`: x's children.
TRUNKS: Mapping[str, tuple[str, ...]] = {
    "ResNet": ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "VGG": ("features.*",),
    "AlexNet": ("features.*",),
    "DenseNet": ("features.*",),
    "SqueezeNet": ("features.*",),
    "MobileNetV2": ("features.*",),
    "MobileNetV3": ("features.*",),
    "EfficientNet": ("features.*",),
    "ConvNeXt": ("features.*",),
    "MNASNet": ("layers.*",),
    "RegNet": ("stem", "trunk_output.*"),
    "ShuffleNetV2": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    "GoogLeNet": (
        *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a"),
        *("inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b"),
    ),
    "Inception3": (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ),
}


class OneStrideReduction(nn.Module):
    """Inception's reduction block (Szegedy et al., CVPR 2016, fig. 10) with stride 1: three branches side by side.

    Args:
        block: torchvision's, whose weights it takes over under the same names.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, branch in block.named_children():
            self.add_module(name, branch)
        unstride(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 288, H, W) -> (N, 768, H, W)."""
        double: Tensor = x
        for name in ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"):
            double = self.get_submodule(name)(double)
        return torch.cat([self.get_submodule("branch3x3")(x), double, F.max_pool2d(x, 3, 1, 1)], 1)


def trunk_of(net: nn.Module, output_stride: int) -> Encoder:
    """The trunk of a network of torchvision.

    Raises:
        ValueError: its stages are not known.
    """
    kind = type(net).__name__
    if kind not in TRUNKS:
        raise ValueError(f"{kind} declares no stages; those of {', '.join(TRUNKS)} are known")
    if kind == "Inception3":
        return _inception(net, output_stride)
    return cut(net, _layers(net, TRUNKS[kind]), output_stride, AS_THEY_ARE if kind == "GoogLeNet" else IMAGENET)


def _layers(net: nn.Module, paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        inner = path.removesuffix(".*")
        children = [f"{inner}.{name}" for name, _ in net.get_submodule(inner).named_children()]
        found += children if path.endswith(".*") else [path]
    return found


def cut(
    net: nn.Module,
    layers: Sequence[str],
    output_stride: int,
    norm: Norm | None,
    input_nc: int = 3,
) -> Encoder:
    """Stages at each halving of the resolution; those beyond the stride keep the resolution of the last one before."""
    kind = type(net).__name__
    groups: dict[int, list[str]] = {}
    for path, stride in zip(layers, _strides(net, layers, input_nc), strict=True):
        merged = min(stride, output_stride) if kind == "VGG" else stride  # VGG's layers beyond are one stage
        groups.setdefault(merged, []).append(path)
        if stride > output_stride and not unstride(net.get_submodule(path)):
            net.set_submodule(path, nn.Identity())
    channels = dict(zip(groups, _channels(net, list(groups.values()), input_nc), strict=True))
    declared = [Stage(paths[-1], channels[s], min(s, output_stride)) for s, paths in groups.items()]
    extra: nn.Module | None = None
    if kind == "VGG":
        extra = nn.Sequential(nn.Conv2d(declared[-1].channels, 1024, 3, padding=1), nn.ReLU(inplace=True))
        declared[-1] = Stage("extra", 1024, declared[-1].stride)
    elif kind == "DenseNet":
        extra = nn.ReLU(inplace=True)  # torchvision's is no layer
    late = "layer4" if kind == "ResNet" else ""
    made = TrunkEncoder(net, list(groups.values()), declared, extra=extra, norm=norm, input_nc=input_nc, late=late)
    made.decoder_center = kind == "VGG"
    return made


def _strides(net: nn.Module, layers: Sequence[str], input_nc: int) -> list[int]:
    """How often, as a power of two, each layer's output has been reduced; by shapes alone, without arithmetic."""
    sides = [x.shape[-1] for x in _run(net, layers, input_nc)]
    return [2 ** round(log2(_PROBE / side)) for side in sides]


def _channels(net: nn.Module, groups: Sequence[Sequence[str]], input_nc: int) -> list[int]:
    found = _run(net, [path for group in groups for path in group], input_nc)
    ends = torch.tensor([len(group) for group in groups]).cumsum(0) - 1
    return [found[int(end)].shape[1] for end in ends]


def _run(net: nn.Module, layers: Sequence[str], input_nc: int) -> list[Tensor]:
    shadow = copy.deepcopy(net).to("meta").eval()
    x = torch.zeros(1, input_nc, _PROBE, _PROBE, device="meta")
    found = []
    with torch.no_grad():
        for path in layers:
            x = shadow.get_submodule(path)(x)
            found.append(x)
    return found


def unstride(module: nn.Module) -> bool:
    """Let convolutions and pools in a module keep the resolution, in place; their weights stay.

    Returns:
        False where the module is itself a pool that has nothing to do then: with windows of even sides no output would
        lie on a pixel.
    """
    if _is_even_pool(module):
        return False
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if _is_even_pool(child):
                parent.add_module(name, nn.Identity())
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1:
            layer.stride = (1, 1)
            odd = all(side % 2 for side in layer.kernel_size)
            layer.padding = tuple(side // 2 for side in layer.kernel_size) if odd else "same"
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and _side(layer.stride) > 1:
            layer.stride, layer.padding, layer.ceil_mode = 1, _side(layer.kernel_size) // 2, False
    return True


def _is_even_pool(module: nn.Module) -> bool:
    is_pool = isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
    return is_pool and _side(module.stride) > 1 and _side(module.kernel_size) % 2 == 0  # type: ignore[arg-type]


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else max(value)


def _inception(net: nn.Module, output_stride: int) -> Encoder:
    """Inception v3 up to its last block of 17 x 17, padded throughout, and two more convolutions.

    As in SPG (Zhang et al., ECCV 2018): 57, 29 and 29 pixels of 224 at stride 8.
    """
    layers = TRUNKS["Inception3"]
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3"):
        net.get_submodule(f"{name}.conv").padding = (1, 1)  # type: ignore[assignment]
    for name in ("maxpool1", "maxpool2"):
        pool: Any = net.get_submodule(name)
        pool.padding, pool.ceil_mode = 1, True
    if output_stride == STRIDES[0]:
        net.set_submodule("Mixed_6a", OneStrideReduction(net.get_submodule("Mixed_6a")))
    deep = 8 if output_stride == STRIDES[0] else 16
    extra = nn.Sequential(
        *(nn.Dropout(0.5), nn.Conv2d(768, 1024, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Dropout(0.5), nn.Conv2d(1024, 1024, 3, padding=1), nn.ReLU(inplace=True)),
    )
    net.add_module("extra", extra)
    paths = [layers[:3], layers[3:5], layers[5:10], layers[10:], ("extra",)]
    declared = [
        Stage(layers[2], 64, 2),
        Stage(layers[4], 80, 4),
        Stage(layers[9], 288, 8),
        Stage(layers[-1], 768, deep),
        Stage("extra", 1024, deep),
    ]
    return TrunkEncoder(net, paths, declared, norm=AS_THEY_ARE, late="extra")
