"""A classifier over an encoder with stages: logits, class maps and features for a decoder from one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.classifier import Classifier
from models.networks.encoders import Encoder, build_encoder
from models.networks.poolings import Pooling, build_pooling

_WRAPPERS = ("module.", "model.")  # prefixes of other projects' files


class StagedClassifier(Classifier):
    """Encoder, pooling, logits.

    Args:
        encoder: images (N, C, H, W) in [-1, 1] -> features by stage.
        head: the coarsest features -> logits (N, K).
        num_classes: K.

    Attributes:
        stage_channels: of `stages`, finest first.
        decoder_center: see `Encoder`.
    """

    def __init__(self, encoder: Encoder, head: Pooling, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.head, self.num_classes = encoder, head, num_classes

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return tuple(stage.channels for stage in self.encoder.declared)

    @property
    def decoder_center(self) -> bool:
        return self.encoder.decoder_center

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def stages(self, images: Tensor) -> list[Tensor]:
        """Features by stage, finest first; see `Encoder.stages`."""
        return self.encoder.stages(images)

    def with_stages(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (N, K) and features by stage, from one pass."""
        stages = self.encoder.stages(images)
        return self.head(stages[-1]), stages

    def class_maps(self, features: Tensor) -> Tensor:
        """(N, K, h, w): evidence for each class in the coarsest features, neither rectified nor scaled."""
        return self.head.maps(features)

    def map_of(self, features: Tensor, classes: Tensor) -> Tensor:
        """(N, h, w): the same for one class an image, classes (N,)."""
        return self.head.map_of(features, classes)

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, C) over positions of the coarsest features, and logits (N, K)."""
        features = self.encoder(images)
        return features.mean((2, 3)), self.head(features)

    def last_layer(self) -> nn.Module:
        return self.head.layer

    def late_parameters(self) -> list[nn.Parameter]:
        """Those that learn with the classifier's rate: the head's, and of the encoder what no published file holds (of
        a ResNet, its last stage)."""
        return [*self.encoder.late_parameters(), *self.head.parameters()]

    def adapted(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
        """A state dict of ours, or of the whole network that the trunk was taken from, as one of this classifier.

        What the trunk has no place for is left out, and what the file does not hold begins anew: the head, and layers
        that are not the published network's.
        """
        if any(key.startswith("encoder.") for key in weights):
            return super().adapted(weights)
        own = self.state_dict()
        named = {f"encoder.{self.encoder.own_key(_bare(key))}": value for key, value in weights.items()}
        found = {key: value for key, value in named.items() if key in own}
        new = {key for key in own if key.startswith("head.") or "extra." in key}
        if not found:
            return dict(weights), False  # a file of something else, for the loader to refuse
        return {key: own[key] for key in new} | found, True


def _bare(key: str) -> str:
    for prefix in _WRAPPERS:
        key = key.removeprefix(prefix)
    return key


def build_staged(
    arch: str,
    num_classes: int,
    generator: torch.Generator,
    *,
    pooling: str = "WGAP",
    output_stride: int = 8,
    input_nc: int = 3,
    **more: Any,
) -> StagedClassifier:
    """A classifier with random first weights; linear layers and 1x1 convolutions of the head are Xavier-uniform.

    Args:
        arch, output_stride, input_nc: see `build_encoder`.
        generator: of all weights, on the CPU.
        pooling, more: see `build_pooling`.

    Raises:
        ValueError: an unknown name, a network without stages, or fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}, but a classifier needs at least 2")
    encoder = build_encoder(arch, generator, output_stride, input_nc)
    with torch.random.fork_rng(devices=[]):
        head = build_pooling(pooling, encoder.declared[-1].channels, num_classes, **more)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)
    return StagedClassifier(encoder, head, num_classes)
