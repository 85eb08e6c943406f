"""Features of image sets: what turns images into vectors, cached by content."""

from __future__ import annotations

import hashlib
import io
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from util.errors import printable
from util.files import write_atomic
from util.metrics.base import ImageSet, Material, MetricError
from util.visual.progress import bar

Features = tuple[Tensor, Tensor | None]  # (N, d), and logits (N, k) where the network has any


class Extractor(Protocol):
    """A network that gives features.

    Attributes:
        name: stands beside every number measured with it.
        identity: changes whenever the features can: with the weights, say. Part of the cache's key.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def __call__(self, images: Tensor) -> Features:
        """(N, C, H, W) in [0, 1] on the CPU -> features (N, d), and logits (N, k) or None, on any device."""


@dataclass(frozen=True)
class JudgeExtractor:
    """Features by a function, for example by a classifier of ours.

    Args:
        name: what it is, for example `classifier runs/judge, 512-d`.
        identity: see Extractor; for a network a digest of its weights and of how it is fed.
        function: (N, C, H, W) in [0, 1] -> features (N, d), and logits (N, k) or None.
    """

    name: str
    identity: str
    function: Callable[[Tensor], Features]

    def __call__(self, images: Tensor) -> Features:
        with torch.no_grad():
            return self.function(images)


def cached_features(
    extractor: Extractor, folder: Path | None, batch_size: int = 32, progress: bool = True
) -> Callable[[ImageSet], Features]:
    """What `Material.features` is: an image set -> float32 features (N, d) and logits (N, k) or None, on the CPU.

    An ImageSet object goes through the extractor once while it lives, whoever asks. With a folder, the result is also
    kept there under a digest of the extractor's identity and of all pixels in order: the pixels and not the files'
    bytes, since the same file gives others under another window or number of channels. A damaged file is replaced.

    Args:
        folder: of the cache; made when needed. None: nothing is kept on disk.
        progress: show a bar, on a terminal.

    Raises:
        MetricError: (when called) there are no images, or a feature is NaN or infinite.
    """
    held: dict[int, tuple[weakref.ref[ImageSet], Features]] = {}

    def get(images: ImageSet) -> Features:
        known = held.get(id(images))
        if known is not None and known[0]() is images:
            return known[1]
        found = _kept_or_new(extractor, folder, images, batch_size, progress)
        for number in [number for number, (owner, _) in held.items() if owner() is None]:
            del held[number]
        held[id(images)] = weakref.ref(images), found
        return found

    return get


def features_of(material: Material, images: ImageSet | None, least: int) -> Tensor:
    """Features (N, d) of one image set; see `outputs_of`."""
    return outputs_of(material, images, least)[0]


def outputs_of(material: Material, images: ImageSet | None, least: int) -> Features:
    """Features and logits of one image set, for a metric that needs at least so many images.

    Raises:
        MetricError: no feature network, no images, or too few.
    """
    if material.features is None or images is None:
        missing = "a feature network" if material.features is None else "images of the target domain"
        raise MetricError(f"it needs {missing}, of which there is none")
    if len(images) < least:
        raise MetricError(f"{printable(images.name)} has too few images ({len(images)}), at least {least} are needed")
    return material.features(images)


# --- one pass of the extractor


def _kept_or_new(extractor: Extractor, folder: Path | None, images: ImageSet, size: int, progress: bool) -> Features:
    if not len(images):
        raise MetricError(f"{printable(images.name)} has no images")
    if folder is None:
        return _extract(extractor, images, size, progress)
    file = folder / f"{pixels_digest(images, extractor.identity, progress)}.npz"
    kept = _read(file, len(images))
    if kept is not None:
        return kept
    found = _extract(extractor, images, size, progress)
    try:
        write_atomic(file, _packed(found))
    except OSError as error:  # hours of work are not thrown away because a disk is full
        reason = error.strerror or error
        tqdm.write(f"WARNING: {printable(file)}: features are not kept for next time: {reason}", file=sys.stderr)
    return found


def _bar(images: ImageSet, doing: str, progress: bool) -> tqdm[None]:
    return bar(len(images), f"{doing} {printable(images.name)}", "image", quiet=not progress)


def _extract(extractor: Extractor, images: ImageSet, size: int, progress: bool) -> Features:
    features: list[Tensor] = []
    logits: list[Tensor] = []
    with _bar(images, "features of", progress) as shown, torch.no_grad():
        for batch in images.batches(size):
            some, classes = extractor(batch)
            if some.ndim != 2 or len(some) != len(batch):
                raise ValueError(f"{extractor.name} gave {tuple(some.shape)} for {len(batch)} images, not (N, d)")
            features.append(some.detach().float().cpu())
            if classes is not None:
                logits.append(classes.detach().float().cpu())
            shown.update(len(batch))
    found = torch.cat(features), torch.cat(logits) if logits else None
    if not _finite(found):
        raise MetricError(f"{extractor.name} gives NaN or infinite features of {printable(images.name)}")
    return found


def _finite(found: Features) -> bool:
    features, logits = found
    return bool(features.isfinite().all()) and (logits is None or bool(logits.isfinite().all()))


# --- on disk


def pixels_digest(images: ImageSet, about: str, progress: bool) -> str:
    """What tells the pixels of these images, in this order, and `about` from all others."""
    digest = hashlib.sha256(f"{len(about)} {about}".encode())
    with _bar(images, "reading", progress) as shown:
        for number in range(len(images)):
            pixels = images.read(number).float().contiguous()
            digest.update(f"{tuple(pixels.shape)}".encode())
            digest.update(pixels.numpy().tobytes())
            shown.update()
    return digest.hexdigest()


def _packed(found: Features) -> bytes:
    features, logits = found
    buffer = io.BytesIO()
    if logits is None:
        np.savez(buffer, features=features.numpy())
    else:
        np.savez(buffer, features=features.numpy(), logits=logits.numpy())
    return buffer.getvalue()


def _read(file: Path, count: int) -> Features | None:
    """What the cache holds, or None where there is nothing that can be believed (a zip has a checksum of each part)."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            features = torch.from_numpy(stored["features"])
            logits = torch.from_numpy(stored["logits"]) if "logits" in stored else None
    except Exception:  # bad bytes make zipfile and NumPy raise almost anything; all of it means: compute anew
        return None
    sound = features.ndim == 2 and len(features) == count and (logits is None or len(logits) == count)
    return (features, logits) if sound and _finite((features, logits)) else None
