"""Maps by grad-cam, torchcam and captum on tiny networks: `python -m tests.cam.make_golden`, with them installed.

Made with grad-cam 1.5.7, torchcam 0.5.0 and captum 0.9.0. The tests compare with the file and need none of them.
torchcam's Grad-CAM++ is left out: it loses a division.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.cam.tiny_networks import TinyNet, filled, pictures

FILE = Path(__file__).parents[1] / "golden" / "explainers.npz"
EXPLAINED = (0, 3, 1)  # the class of each image
# By network: whether its head is deep, and the layer. The ReLUs are not in place, which the libraries would not see.
NETWORKS = {"gap": (False, "features.4"), "deep": (True, "features.3")}
GRAD_CAM = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
TORCHCAM = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}


def by_grad_cam(net: nn.Module, layer: nn.Module, images: Tensor) -> Iterator[tuple[str, Any]]:
    """Maps (N, H, W) in [0, 1]."""
    library: Any = importlib.import_module("pytorch_grad_cam")
    target: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    for name, kind in GRAD_CAM.items():
        with getattr(library, kind)(model=net, target_layers=[layer]) as method:
            yield name, method(input_tensor=images, targets=[target(number) for number in EXPLAINED])


def by_torchcam(net: nn.Module, layer: str, images: Tensor) -> Iterator[tuple[str, Any]]:
    """Maps (N, h, w) in [0, 1], of CAM where the head is linear."""
    library: Any = importlib.import_module("torchcam.methods")
    kinds = TORCHCAM if getattr(net, "more", None) is not None else TORCHCAM | {"cam": "CAM"}
    for name, kind in kinds.items():
        settings = {"fc_layer": "classify"} if kind == "CAM" else {}
        with getattr(library, kind)(net, layer, **settings) as method:
            scores = net(images)
            yield name, method(list(EXPLAINED), scores)[0].detach().numpy()


def by_captum(net: nn.Module, layer: nn.Module, images: Tensor) -> Iterator[tuple[str, Any]]:
    """Raw maps (N, h, w) with sign."""
    library: Any = importlib.import_module("captum.attr")
    target = torch.tensor(EXPLAINED)
    yield "gradcam", library.LayerGradCam(net, layer).attribute(images, target)[:, 0].detach().numpy()
    product = library.LayerGradientXActivation(net, layer).attribute(images, target)
    yield "hirescam", product.sum(1).detach().numpy()


def main() -> None:
    """Write the file: images, weights, and maps by `network/library/method`."""
    images = pictures(len(EXPLAINED))
    kept: dict[str, Any] = {"images": images.numpy()}
    for network, (deep, layer) in NETWORKS.items():
        net = filled(TinyNet(deep=deep), seed=7)
        kept |= {f"{network}/weights/{key}": value.numpy().copy() for key, value in net.state_dict().items()}
        module = net.get_submodule(layer)
        for library, maps in (
            ("grad_cam", by_grad_cam(net, module, images.clone())),
            ("torchcam", by_torchcam(net, layer, images)),
            ("captum", by_captum(net, module, images)),
        ):
            kept |= {f"{network}/{library}/{name}": np.asarray(found, np.float32) for name, found in maps}
    np.savez_compressed(FILE, **kept)
    print(f"{FILE.name}: {len(kept)} arrays, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
