"""Who makes maps: the explainers, their yardsticks that know nothing of the network, and another library."""

from __future__ import annotations

import contextlib
import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.explain import display, explain
from options.schema import OptionError
from util.seeding import generator

PYTORCH_GRAD_CAM = "pytorch-grad-cam"
LIBRARIES = (PYTORCH_GRAD_CAM,)
ROWS = 16  # images in one further pass: more do not fit into a processor's cache
CELLS = 8  # a side of the random map
SPREAD = 0.2  # standard deviation of the central one, in sides of the image
# Our names, and the library's classes.
_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "gradcam": "GradCAM",
        "gradcam++": "GradCAMPlusPlus",
        "xgradcam": "XGradCAM",
        "layercam": "LayerCAM",
        "hirescam": "HiResCAM",
        "eigencam": "EigenCAM",
        "eigengradcam": "EigenGradCAM",
        "scorecam": "ScoreCAM",
        "ablationcam": "AblationCAM",
        "fullgrad": "FullGrad",
    }
)


class Maker(ABC):
    """Makes maps of a batch.

    Attributes:
        name: of the row in a table.
        learns: whether the maps depend on the network, so that the sanity check says something.
    """

    name: str
    learns: bool = True

    @abstractmethod
    def maps(self, net: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
        """(N, H, W) in [0, 1] of images (N, C, H, W) in [-1, 1]; a map that says nothing is 0.

        Args:
            classes: (N,), explained.
            layer: name of the layer.

        Raises:
            ExplainError: this method does not apply to the network.
        """


class Ours(Maker):
    """An explainer of this project."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._explainer = EXPLAINERS.get(name)()

    def maps(self, net: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
        where, rows = net.get_submodule(layer), max(len(images), ROWS)
        found = explain(net, images, {self.name: self._explainer}, targets=classes, layer=where, chunk=rows)
        return found[self.name].maps[:, 0]


class RandomMap(Maker):
    """CELLS x CELLS independent numbers, enlarged as maps are: what a map reaches that has seen nothing."""

    name, learns = "(random map)", False

    def __init__(self, seed: int) -> None:
        self._draws = generator(seed, "random maps")

    def maps(self, net: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
        cells = torch.rand(len(images), 1, CELLS, CELLS, generator=self._draws).to(images.device)
        return display(cells, (images.shape[2], images.shape[3]))[0][:, 0]


class CentralMap(Maker):
    """The same round spot in the middle of every image: what a map reaches where targets are in the middle."""

    name, learns = "(centre)", False

    def maps(self, net: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
        rows, columns = (
            torch.exp(-((torch.arange(side) + 0.5) / side - 0.5).square() / (2 * SPREAD**2))
            for side in images.shape[-2:]
        )
        spot = (rows[:, None] * columns).to(images.device)
        return display(spot[None, None], (images.shape[2], images.shape[3]))[0][:, 0].expand(len(images), -1, -1)


class GradCamLibrary(Maker):
    """A method of pytorch-grad-cam (Gildenblat et al., 2021), as it is: on images in [-1, 1], min-max to [0, 1]."""

    def __init__(self, name: str, library: Any, targets: Any) -> None:
        self.name = f"{name} ({PYTORCH_GRAD_CAM})"
        self._kind, self._target = getattr(library, _CLASSES[name]), targets.ClassifierOutputTarget

    def maps(self, net: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
        targets = [self._target(number) for number in classes.tolist()]
        try:
            with _quiet(), self._kind(model=net, target_layers=[net.get_submodule(layer)]) as method:
                found = np.asarray(method(input_tensor=images.clone(), targets=targets), np.float32)
        except Exception as error:  # whatever another library raises is a row without numbers
            raise ExplainError(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error
        finally:
            net.zero_grad(set_to_none=True)
        if found.shape != (len(images), *images.shape[2:]):
            raise ExplainError(f"gives maps {found.shape} for images {tuple(images.shape)}")
        return torch.from_numpy(np.nan_to_num(found)).to(images.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library prints: bars and warnings between our own lines."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def makers_of(names: Sequence[str], against: str | None = None, seed: int = 0) -> list[Maker]:
    """The makers asked for, yardsticks last.

    Args:
        names: of explainers; "all": every one.
        against: a library whose own maps are made too, of those methods that it has.
        seed: of the random maps.

    Raises:
        UnknownNameError: no such explainer.
        OptionError: the library is not installed.
    """
    chosen = EXPLAINERS.names() if "all" in names else list(dict.fromkeys(names))
    found: list[Maker] = [Ours(name) for name in chosen]
    if against:
        found += [GradCamLibrary(name, *_library()) for name in chosen if name in _CLASSES]
    return [*found, RandomMap(seed), CentralMap()]


def _library() -> tuple[Any, Any]:
    try:
        return (
            importlib.import_module("pytorch_grad_cam"),
            importlib.import_module("pytorch_grad_cam.utils.model_targets"),
        )
    except ImportError as error:
        raise OptionError(
            f"--against {PYTORCH_GRAD_CAM}: it cannot be imported ({error}); install the package grad-cam, "
            "or leave the flag out"
        ) from error
