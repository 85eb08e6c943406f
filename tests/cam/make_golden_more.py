"""Maps that perturb, and guided ones, by grad-cam, torchcam and captum: `python -m tests.cam.make_golden_more`.

Made with grad-cam 1.5.7, torchcam 0.5.0 and captum 0.9.0. The tests compare with the file and need none of them.
Left out is torchcam's Smooth Grad-CAM++: it rectifies the gradient of its last sample only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.cam.relu_networks import ReluNet
from tests.cam.tiny_networks import TinyNet, filled, pictures
from util.seeding import generator

FILE = Path(__file__).parents[1] / "golden" / "explainers_more.npz"
LAYER = "features.4"
SAMPLES = 3
STD = 0.5
SEED = 5


def perturbed_net() -> nn.Module:
    """The network of the maps at a layer."""
    return filled(TinyNet(deep=True), seed=7)


def guided_net() -> nn.Module:
    """The network of the maps in pixels."""
    return filled(ReluNet(nn.ReLU), seed=8)


class OurNoise:
    """In place of torchcam's distribution: the noise of our SS-CAM, the same for every image."""

    def __init__(self) -> None:
        self.drawn = 0

    def sample(self, size: torch.Size) -> Tensor:
        """The next sample, (N, C, H, W)."""
        sources = [generator(SEED, "sscam", self.drawn, channel) for channel in range(size[1])]
        self.drawn += 1
        channels = [torch.randn(size[2:], generator=source, dtype=torch.float64) for source in sources]
        return (STD * torch.stack(channels)).float().expand(size)


def score(number: int, unit: float, output: Tensor) -> Tensor:
    """A logit, in a unit in which what FullGrad there adds to the range of a bias's map, 1e-7, does not count."""
    return unit * output[number]


def by_grad_cam(net: nn.Module, images: Tensor, classes: list[int]) -> Iterator[tuple[str, Any]]:
    """Maps (N, H, W) in [0, 1]."""
    library: Any = importlib.import_module("pytorch_grad_cam")
    for name, kind in {"scorecam": "ScoreCAM", "ablationcam": "AblationCAM", "fullgrad": "FullGrad"}.items():
        layers = [] if name == "fullgrad" else [net.get_submodule(LAYER)]
        with getattr(library, kind)(model=net, target_layers=layers) as method:
            unit = 1000 if name == "fullgrad" else 1
            yield name, method(input_tensor=images, targets=[partial(score, number, unit) for number in classes])


def by_torchcam(net: nn.Module, images: Tensor, classes: list[int]) -> Iterator[tuple[str, Any]]:
    """Maps (N, h, w) in [0, 1]."""
    library: Any = importlib.import_module("torchcam.methods")
    settings: dict[str, Any] = {"SSCAM": {"num_samples": SAMPLES, "std": STD}, "ISCAM": {"num_samples": SAMPLES}}
    for name, kind in {"scorecam": "ScoreCAM", "sscam": "SSCAM", "iscam": "ISCAM"}.items():
        with getattr(library, kind)(net, LAYER, **settings.get(kind, {})) as method:
            method._distrib = OurNoise()
            yield name, method(classes, net(images))[0].numpy()


def by_captum(net: nn.Module, images: Tensor, classes: list[int]) -> Iterator[tuple[str, Any]]:
    """(N, C, H, W) with sign."""
    library: Any = importlib.import_module("captum.attr")
    target, layer = torch.tensor(classes), net.get_submodule("last")
    yield "guided_backprop", library.GuidedBackprop(net).attribute(images, target).detach().numpy()
    yield "guided_gradcam", library.GuidedGradCam(net, layer).attribute(images, target).detach().numpy()


def guided_by_grad_cam(net: nn.Module, images: Tensor, classes: list[int]) -> Any:
    """(N, C, H, W) with sign, one image at a time."""
    library: Any = importlib.import_module("pytorch_grad_cam")
    found = []
    for image, number in zip(images, classes, strict=True):
        method = library.GuidedBackpropReLUModel(model=net, device="cpu")
        found.append(method(image[None].clone(), target_category=number).transpose(2, 0, 1).copy())
    return np.stack(found)


def predicted(net: nn.Module, images: Tensor) -> list[int]:
    """The classes, with positive scores: pytorch-grad-cam turns Ablation-CAM round where they are negative."""
    best = net(images).max(1)
    assert bool((best.values > 0).all())
    return [int(number) for number in best.indices]


def main() -> None:
    """Write the file: images, classes, weights, and maps by `library/method`."""
    images = pictures(3)
    kept: dict[str, Any] = {"images": images.numpy()}
    perturbed, guided = perturbed_net(), guided_net()
    for name, net in (("perturbed", perturbed), ("guided", guided)):
        kept |= {f"{name}/weights/{key}": value.numpy().copy() for key, value in net.state_dict().items()}
        kept[f"{name}/classes"] = np.asarray(predicted(net, images))
    classes = kept["perturbed/classes"].tolist()
    kept |= {f"grad_cam/{name}": maps for name, maps in by_grad_cam(perturbed, images.clone(), classes)}
    kept |= {f"torchcam/{name}": maps for name, maps in by_torchcam(perturbed, images, classes)}
    classes = kept["guided/classes"].tolist()
    kept |= {f"captum/{name}": maps for name, maps in by_captum(guided, images.clone(), classes)}
    kept["grad_cam/guided_backprop"] = guided_by_grad_cam(guided, images, classes)
    np.savez_compressed(FILE, **kept)
    print(f"{FILE.name}: {len(kept)} arrays, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
