"""Checkpoints of other projects' classifiers, above all ResNetCAM's (lorenzo-27/DLA-Labs), under torchvision's names.

Such a file holds its state dict under `model_state_dict` or `state_dict`, or is one. ResNetCAM's has the network twice:
as `model.*`, and without its last two layers as `features_extractor.N.*`, the same tensors by number.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.checkpoint import CheckpointError, read_plain
from util.errors import printable

WRAPPERS = ("model_state_dict", "state_dict")
PREFIXES = ("module.", "model.")
TRUNK = "features_extractor."
# Children of torchvision's ResNets in order, as an nn.Sequential of them counts.
CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class PublishedClassifier:
    """What a file holds of a network.

    Attributes:
        weights: by the network's own names.
        missing: names of the network that the file lacks, but for counters of batch norm, which change nothing.
        unexpected: what the network has no place for.
        twice: tensors that the file holds a second time, equal.
        plain: the file is a bare state dict and no name was changed.
    """

    weights: dict[str, Tensor]
    missing: tuple[str, ...]
    unexpected: dict[str, Tensor]
    twice: int
    plain: bool

    @property
    def num_classes(self) -> int:
        """Classes of a ResNet's last layer."""
        return len(self.weights["fc.weight"])

    def describe(self) -> str:
        """`122 tensors loaded (120 of them stood there twice), 0 missing, 1 unexpected: x`."""
        twice = f" ({self.twice} of them stood there twice)" if self.twice else ""
        unexpected = _listed(self.unexpected)
        return f"{len(self.weights)} tensors loaded{twice}, {_listed(self.missing)} missing, {unexpected} unexpected"


def load_published_classifier(path: Path) -> PublishedClassifier:
    """The weights of torchvision's resnet18 in a published checkpoint, of any number of classes.

    Raises:
        CheckpointError: absent, damaged, no checkpoint, or not the whole of a resnet18.
    """
    from torchvision import models  # takes a second: not for those who never read such a file

    with torch.device("meta"):
        net: nn.Module = models.resnet18(weights=None)
    expected = net.state_dict()
    found = published_in(path, read_plain(path), expected)
    if found is None:
        raise CheckpointError(f"{path}: holds no state dict of a network, nor one under {' or '.join(WRAPPERS)}")
    free = {"fc.weight": 1, "fc.bias": 1}  # of these the first side is the number of classes
    wrong = [
        key
        for key, value in found.weights.items()
        if value.shape[free.get(key, 0) :] != expected[key].shape[free.get(key, 0) :]
    ]
    deeper = [key for key in found.unexpected if ".layer" in f".{key}"]  # of a resnet34, say
    if found.missing or wrong or deeper:
        shapes = f", {_listed(wrong)} of another shape" if wrong else ""
        raise CheckpointError(f"{path}: is no checkpoint of a resnet18: {found.describe()}{shapes}")
    return found


def published_in(path: Path, content: Any, expected: Collection[str]) -> PublishedClassifier | None:
    """What there is of a network in the content of a file; None where it holds no state dict.

    Args:
        path: the file, for messages.
        expected: the network's own names.

    Raises:
        CheckpointError: two tensors claim one name and differ.
    """
    weights = _state_dict_in(content)
    if weights is None:
        return None
    known: dict[str, Tensor] = {}
    unexpected: dict[str, Tensor] = {}
    twice, plain = 0, weights is content
    for key, value in weights.items():
        name = _own_name(key, expected)
        plain &= name == key
        if name not in expected:
            unexpected[key] = value
        elif name not in known:
            known[name] = value
        elif torch.equal(known[name], value):
            twice += 1
        else:
            raise CheckpointError(f"{path}: holds {name} twice, with different values; it is not said which one counts")
    missing = tuple(name for name in expected if name not in known and "num_batches" not in name)
    return PublishedClassifier(known, missing, unexpected, twice, plain)


def _state_dict_in(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, dict):
        return None
    for inner in (content, *(content.get(key) for key in WRAPPERS)):
        if isinstance(inner, dict) and inner and all(_is_named_tensor(*item) for item in inner.items()):
            return inner
    return None


def _is_named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _own_name(key: str, expected: Collection[str]) -> str:
    """The network's name for a key of the file."""
    for prefix in PREFIXES:
        if key in expected:
            return key
        key = key.removeprefix(prefix)
    if key not in expected and key.startswith(TRUNK):
        number, _, rest = key.removeprefix(TRUNK).partition(".")
        if number.isdecimal() and int(number) < len(CHILDREN):
            return f"{CHILDREN[int(number)]}.{rest}"
    return key


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(printable(name)[:100] for name in list(names)[:3])
    return f"{len(names)} ({shown}{', ...' if len(names) > 3 else ''})" if names else "0"
