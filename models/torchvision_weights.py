"""Torchvision's published ImageNet weights: found where it keeps them, fetched only when that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from util.checkpoint import CheckpointError


def weights_file(arch: str, download: bool = False) -> Path:
    """The file of torchvision's best weights of a network, in torch hub's cache (`TORCH_HOME` moves it).

    Args:
        arch: a name that `torchvision.models.get_model` knows, of a classifier.
        download: fetch the file where it is not there; its name holds the beginning of its SHA-256, which is checked.

    Raises:
        CheckpointError: there are no such weights, they are not there, or could not be fetched.
    """
    from torchvision import models  # takes a second: not for those who start from random weights

    if arch not in models.list_models(module=models):
        raise CheckpointError(f"--pretrained: --arch {arch} has no published weights; use --arch_weights FILE, or none")
    url: str = models.get_model_weights(arch).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    by_hand = f"fetch {url} by hand and put it there, or give it by --arch_weights FILE"
    if not download:
        raise CheckpointError(f"--pretrained: {path} does not exist; add --download, or {by_hand}")
    _fetch(url, path, by_hand)
    return path


def _fetch(url: str, path: Path, by_hand: str) -> None:
    """Raises a CheckpointError where it fails; then there is no file."""
    checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {url} to {path}")
    try:
        torch.hub.download_url_to_file(url, str(path), checksum.group(1) if checksum else None)
    except (OSError, RuntimeError) as error:  # of the network, and of a checksum that does not fit
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"--pretrained --download: {url} could not be fetched ({reason}); {by_hand}") from error
