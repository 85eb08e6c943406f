"""Score-CAM: channels weighted by the score of the image seen through them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cam.arithmetic import in_full_precision, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.scaling import minmax
from models.cam.subject import Subject


@in_full_precision
def channel_masks(
    activations: Tensor, size: tuple[int, int], scale_first: bool = False, align_corners: bool = False
) -> Tensor:
    """Each channel as a mask of the image (Wang et al., CVPR workshop 2020, eq. 6).

    Args:
        activations: (N, C, h, w).
        size: (H, W) of the images.
        scale_first: scale at the layer's resolution and then enlarge, as torchcam does; the paper enlarges first, so
            that every mask reaches 0 and 1.
        align_corners: of the bilinear interpolation; True as in pytorch-grad-cam.

    Returns:
        (N, C, H, W) in [0, 1]; 0 for a channel that is the same everywhere.
    """
    if scale_first:
        activations = minmax(activations)
    masks = F.interpolate(activations, size, mode="bilinear", align_corners=align_corners)
    return masks if scale_first else minmax(masks)


@in_full_precision
def scorecam(activations: Tensor, scores: Tensor) -> Tensor:
    """sum_k w_k A_k, w = softmax over channels of the masked images' scores (same paper, eq. 5 and algorithm 1).

    The paper subtracts the score of a baseline image, which the softmax cancels.

    Args:
        activations: (..., C, h, w), A.
        scores: (..., C), the score of the image seen through each channel; leading axes broadcast.

    Returns:
        (..., h, w), not rectified.
    """
    return weighted_sum(activations, scores.softmax(-1))


@EXPLAINERS.register("scorecam")
class ScoreCam(Explainer):
    """See `scorecam`. One forward pass a channel; needs no gradient. For losses, only A is attached, not its weights.

    Args:
        channels: use only this many channels of each image, those that vary most over positions: faster, and not
            Score-CAM any more, as the softmax is over fewer. None: all.
        scale_first, align_corners: see `channel_masks`. torchcam: True, False; pytorch-grad-cam: False, True.

    Raises:
        ExplainError: channels below 1.
    """

    def __init__(self, channels: int | None = None, scale_first: bool = False, align_corners: bool = False) -> None:
        if channels is not None and channels < 1:
            raise ExplainError(f"channels of Score-CAM is {channels}: it must be at least 1")
        self.channels, self.scale_first, self.align_corners = channels, scale_first, align_corners

    def maps(self, subject: Subject) -> Tensor:
        activations = most_varied(subject.activations, self.channels)
        return scorecam(activations[:, None], self._scores(subject, activations.detach()))

    def _scores(self, subject: Subject, activations: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, T, C): for each channel, the mean score over its variants."""
        size = (subject.images.shape[2], subject.images.shape[3])
        found = []
        at_once = max(1, subject.chunk // len(activations))
        for first in range(0, activations.shape[1], at_once):
            part = activations[:, first : first + at_once]
            masks = channel_masks(part, size, self.scale_first, self.align_corners)
            found.append(torch.stack([_scored(subject, each) for each in self.variants(masks, first)]).mean(0))
        return torch.cat(found, -1)

    def variants(self, masks: Tensor, first: int) -> Iterator[Tensor]:
        """What the image is multiplied with: here the masks themselves.

        Args:
            masks: (N, k, H, W), of some consecutive channels.
            first: how many channels have come before.
        """
        yield masks


def most_varied(activations: Tensor, channels: int | None) -> Tensor:
    """Of each image the channels with the greatest variance over positions, (N, C, h, w) -> (N, channels, h, w)."""
    if channels is None or channels >= activations.shape[1]:
        return activations
    chosen = activations.detach().var((2, 3), correction=0).topk(channels, dim=1).indices
    return activations.gather(1, chosen[:, :, None, None].expand(-1, -1, *activations.shape[2:]))


def _scored(subject: Subject, masks: Tensor) -> Tensor:
    """Scores (N, T, k) of the images behind masks (N, k, H, W)."""
    rows = masks.to(subject.images.dtype).transpose(0, 1)[:, :, None] * subject.images.detach()
    scores = subject.score(rows.flatten(0, 1))
    return scores.view(*rows.shape[:2], -1).permute(1, 2, 0)
