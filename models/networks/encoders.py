"""Encoders that say which stages they have: features from fine to coarse, for classifiers, class maps and decoders.

A stage is a run of layers at one resolution. Reductions beyond a chosen stride are left out, without dilation, as
weakly supervised localisation has it (stride 8: 28 x 28 of 224 x 224 pixels), and published weights still fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.networks.classifier import JUDGE, JudgeNet
from models.networks.encoder_base import IMAGENET, Encoder, ListEncoder, Stage, TrunkEncoder
from models.networks.encoder_trunks import STRIDES, TRUNKS, cut, trunk_of
from models.networks.init import init_weights
from models.networks.own_network import build_own, is_own
from util.registry import did_you_mean

__all__ = ["STRIDES", "TRUNKS", "Encoder", "ListEncoder", "Stage", "TrunkEncoder", "build_encoder"]

ALIASES = {"inceptionv3": "inception_v3"}  # F-CAM's name -> torchvision's
TIMM = "timm:"
# A second head would need a loss of its own.
_MORE_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def build_encoder(arch: str, generator: torch.Generator, output_stride: int = 8, input_nc: int = 3) -> Encoder:
    """An encoder with random first weights.

    Args:
        arch: `judge` (ours), a network of torchvision whose stages are known, `timm:NAME` where timm is installed, or
            MODULE:FUNCTION of the user's own, which returns a network with `feature_info`.
        generator: of the weights, on the CPU.
        output_stride: 8, 16 or 32: reductions beyond it are left out.
        input_nc: channels of the images; only the judge has weights for one.

    Raises:
        ValueError: an unknown name, or a network that declares no stages.
    """
    if output_stride not in STRIDES:
        raise ValueError(f"the output stride {output_stride} is none of {', '.join(map(str, STRIDES))}")
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when they are made
        if arch == JUDGE:
            return _judge(generator, output_stride, input_nc)
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        if arch.startswith(TIMM):
            return ListEncoder(_from_timm(arch.removeprefix(TIMM), output_stride), IMAGENET)
        if is_own(arch):
            return ListEncoder(build_own(arch, 0))
        return _from_torchvision(ALIASES.get(arch, arch), output_stride)


def _judge(generator: torch.Generator, output_stride: int, input_nc: int) -> Encoder:
    net = JudgeNet(2, input_nc)
    init_weights(net, "kaiming", generator=generator)
    return cut(net.trunk, [name for name, _ in net.trunk.named_children()], output_stride, None, input_nc)


def _from_torchvision(arch: str, output_stride: int) -> Encoder:
    from torchvision import models  # takes a second: not for those who use the judge

    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(
            f"no such network{did_you_mean(arch, [JUDGE, *known])}; known are {JUDGE}, torchvision's, {TIMM}NAME and "
            "your own as MODULE:FUNCTION"
        )
    net: nn.Module = models.get_model(arch, weights=None, **_MORE_ARGUMENTS.get(arch, {}))
    return trunk_of(net, output_stride)


def _from_timm(name: str, output_stride: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ValueError("timm is not installed (pip install timm)") from error
    try:
        net: nn.Module = timm.create_model(name, pretrained=False, features_only=True, output_stride=output_stride)
    except Exception as error:  # of a name that is none, and of networks that know no such argument
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"timm makes no such features ({reason})") from error
    return net
