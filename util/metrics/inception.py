"""Inception features as FID, KID and the Inception Score are published with: torch-fidelity's network and resize."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from util.errors import printable
from util.metrics.base import MetricError

NAME = "inception-v3-compat"
RESIZE = "TF1 bilinear resize to 299"
_PUBLISHED = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # sha256 of the released weights
_FILE = str(URL_INCEPTION_V3).rpartition("/")[2]
_LAYERS = ("2048", "logits_unbiased")  # last pooling; the class scores without bias that the Inception Score takes


class InceptionExtractor:
    """The Inception network of the first FID implementation (2015-12-05), features (N, 2048) and logits (N, 1008).

    Heusel et al. 2017; network, weights and resize (bilinear to 299 px as TensorFlow 1 did it) are torch-fidelity's.
    Pixels are rounded to 8 bits first, as published numbers come from 8-bit files; one channel is repeated to three.

    Args:
        weights: file of the weights; None: the one in torch hub's cache.
        device: where the network runs.
        download: fetch the weights into torch hub's cache if they are not there.

    Attributes:
        name: `inception-v3-compat` and the resize; with weights other than the released ones, their digest too.
        identity: digest of the weights and version of torch-fidelity.

    Raises:
        MetricError: the weights are missing, damaged, of another network, or could not be fetched.
    """

    def __init__(self, weights: Path | None, device: torch.device | str = "cpu", download: bool = False) -> None:
        file = weights if weights is not None else _in_cache(download)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise MetricError(f"--inception_weights {printable(file)}: cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(content).hexdigest()
        self.name = f"{NAME}, {RESIZE}" if digest == _PUBLISHED else f"{NAME} (weights {digest[:8]}), {RESIZE}"
        self.identity = f"{NAME} {digest} torch-fidelity {torch_fidelity.__version__}"
        self._device = torch.device(device)
        self._network = _network(file, content).to(self._device)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1 or 3, H, W) in [0, 1] -> features (N, 2048), logits (N, 1008), on the network's device.

        Raises:
            MetricError: another number of channels.
        """
        if images.shape[1] not in (1, 3):
            raise MetricError(
                f"{NAME} takes images of 1 or 3 channels, not {images.shape[1]}: use --features classifier"
            )
        bytes_ = images.mul(255).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
        with torch.no_grad():
            features, logits = self._network(bytes_.to(self._device))
        return features, logits


def _in_cache(download: bool) -> Path:
    """The released weights where torch hub keeps them, under their own name."""
    file = Path(str(torch.hub.get_dir())) / "checkpoints" / _FILE
    if file.is_file():
        return file
    if not download:
        raise MetricError(
            f"{NAME} needs {_FILE}, which is not in {printable(file.parent)}: fetch it on any machine "
            f"(curl -LO {URL_INCEPTION_V3}) and put it there or name it by --inception_weights PATH, or do without by "
            "--features classifier"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix=_PUBLISHED)
    except (OSError, RuntimeError) as error:  # RuntimeError: what came has another digest
        raise MetricError(
            f"{URL_INCEPTION_V3} could not be fetched ({printable(error)}): fetch it elsewhere and name it by "
            "--inception_weights PATH, or do without by --features classifier"
        ) from error
    return file


def _network(file: Path, content: bytes) -> FeatureExtractorInceptionV3:
    """Loaded as plain weights only; torch-fidelity itself would unpickle, and so run, whatever the file holds."""
    where = f"--inception_weights {printable(file)}"
    try:
        weights: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # bad bytes may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MetricError(f"{where}: cannot be loaded as plain weights ({reason[:200]}); fetch it anew") from error
    ours = io.BytesIO()
    torch.save(weights, ours)
    ours.seek(0)
    try:
        return FeatureExtractorInceptionV3(NAME, list(_LAYERS), feature_extractor_weights_path=ours)
    except Exception as error:  # nothing that load_state_dict could take
        raise MetricError(f"{where}: holds no weights of {NAME}; use {_FILE}") from error
