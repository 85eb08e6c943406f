"""Maps of transformers by grad-cam with a reshape_transform: `python -m tests.cam.make_golden_tokens`.

Made with grad-cam 1.5.7. The tests compare with the file and need none of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tests.cam.make_golden import GRAD_CAM
from tests.cam.token_networks import LAST_LAYER, randn, swin, vit

FILE = Path(__file__).parents[1] / "golden" / "explainers_tokens.npz"
LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {"vit": (vit, LAST_LAYER), "swin": (swin, "features.1")}
# The sign of an eigenvector is arbitrary, and the library does not fix it.
METHODS = [name for name in GRAD_CAM if not name.startswith("eigen")]
CLASSES = (3, 1)


def of_tokens(output: Tensor) -> Tensor:
    """(N, 1 + 16, C) to (N, C, 4, 4)."""
    return output[:, 1:].reshape(len(output), 4, 4, -1).permute(0, 3, 1, 2)


def of_windows(output: Tensor) -> Tensor:
    """(N, h, w, C) to (N, C, h, w)."""
    return output.permute(0, 3, 1, 2)


def main() -> None:
    """Write the file: images, classes, weights, and maps by `network/method`."""
    library: Any = importlib.import_module("pytorch_grad_cam")
    target: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    images = randn(len(CLASSES), 3, 32, 32, seed=11)
    kept: dict[str, Any] = {"images": images.numpy(), "classes": np.array(CLASSES)}
    for network, reshape in (("vit", of_tokens), ("swin", of_windows)):
        make, layer = LAYERS[network]
        net = make()
        kept |= {f"{network}/weights/{key}": value.numpy().copy() for key, value in net.state_dict().items()}
        for name in METHODS:
            settings = {"target_layers": [net.get_submodule(layer)], "reshape_transform": reshape}
            with getattr(library, GRAD_CAM[name])(model=net, **settings) as method:
                maps = method(input_tensor=images.clone(), targets=[target(number) for number in CLASSES])
            kept[f"{network}/{name}"] = np.asarray(maps, np.float32)
    np.savez_compressed(FILE, **kept)
    print(f"{FILE.name}: {len(kept)} arrays, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
