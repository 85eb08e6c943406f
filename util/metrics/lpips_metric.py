"""LPIPS (Zhang et al., CVPR 2018, arXiv:1801.03924), by torchmetrics, on AlexNet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from util.metrics.base import METRICS, Material, Metric, MetricError, Scores
from util.metrics.paired import compare_pairs, scores_of

URL = str(torchvision.models.AlexNet_Weights.DEFAULT.url)  # what torchmetrics would have torchvision fetch
TRUNK = URL.rpartition("/")[2]
SMALLEST = 31  # below it AlexNet's last layers see nothing


def find_trunk(given: Path | None) -> Path:
    """The file of AlexNet's weights: the one given, or the one in torch hub's cache.

    Raises:
        MetricError: there is none; nothing is downloaded.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK
    if given is not None and not given.is_file():
        raise MetricError(f"--lpips_weights {given}: no such file; it should be torchvision's {TRUNK}, from {URL}")
    if given is None and not cached.is_file():
        raise MetricError(
            f"needs torchvision's AlexNet weights, {TRUNK}: fetch it on any machine (curl -LO {URL}) and give "
            f"it by --lpips_weights FILE, or put it into {os.fspath(cached.parent)}; nothing is downloaded"
        )
    return given or cached


@contextmanager
def _without_download(trunk: Path) -> Iterator[None]:
    """torchmetrics asks torchvision for pretrained weights by address: hand it the file instead."""
    original = torchvision.models.alexnet

    def from_file(**arguments: object) -> nn.Module:
        net: nn.Module = original(weights=None)
        try:
            net.load_state_dict(torch.load(trunk, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises whatever the bytes make it
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise MetricError(f"{trunk}: holds no weights of AlexNet ({reason[:120]}); get {URL}") from error
        return net

    torchvision.models.alexnet = from_file
    try:
        yield
    finally:
        torchvision.models.alexnet = original


@METRICS.register("lpips")
class Lpips(Metric):
    """`lpips`: perceptual distance of the translation to the true target; grey is repeated to three channels."""

    needs = ("real", "pairs")

    def compute(self, material: Material) -> Scores:
        assert material.real is not None
        assert material.pairs is not None
        with _without_download(find_trunk(material.lpips_weights)):
            net = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        side = min(min(material.fake.read(number).shape[-2:]) for number, _ in material.pairs)
        if side < SMALLEST:
            raise MetricError(f"needs images of at least {SMALLEST} pixels a side, and one has {side}")

        def distance(a: Tensor, b: Tensor) -> Tensor:
            value: Tensor = net(a.expand(-1, 3, -1, -1).contiguous(), b.expand(-1, 3, -1, -1).contiguous())
            return value

        found = compare_pairs(material.fake, material.real, material.pairs, distance)
        return scores_of("lpips", found, material.pairs, len(material.fake), "AlexNet, v0.1", "lower")
