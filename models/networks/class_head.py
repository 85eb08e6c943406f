"""The auxiliary classifier whose class activation maps guide the translation.

    h = ReLU(P f + p)        1x1 convolution of the feature f
    s = W pool(h) + b        logits
    CAM_c(u) = W_c . h(u)    map of class c at position u (Zhou et al., CVPR 2016, arXiv:1512.04150)

With average pooling mean_u CAM_c(u) + b_c = s_c exactly: the map decomposes the decision, and Grad-CAM
(Selvaraju et al., ICCV 2017, arXiv:1610.02391) taken at h is CAM_c / (H W). The map is a first-order
expression of W, P and f.

With `standardise` the pooled channels are first centred and scaled by running statistics over images,
s = V (pool(h) - m) + b with V = W / sd, and CAM_c(u) = V_c . (h(u) - m): what a position adds to the logit
compared with an average image, so that mean_u CAM_c(u) + b_c = s_c still. Grad-CAM at h differs from it by the
constant V_c . m. Instance norms leave pooled channels that hardly differ between images; without centring, a
step on one image moves the logits of all others nearly as much as its own.

Why the ReLU between feature and pooling cannot be left out: in the generator's residual blocks the residual
branch ends in an instance norm without affine parameters, whose spatial mean is 0 for every image and
channel. Hence GAP(layer 16) = GAP(layer 12) = GAP(layer 11), and a bare GAP + linear head on layer 16
classifies from what left the last halving: it sends no gradient into any residual block, while the pattern of
its map, which does live in those blocks, is constrained by nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.ranks import mean_over_ranks

POOLS = ("gap", "lse", "topk")

# Log-mean-exp nears the maximum as this grows and the mean as it shrinks (Pinheiro & Collobert, CVPR 2015).
LSE_SHARPNESS = 5.0
# Share of the positions that top-k pooling averages: 205 of 64x64.
TOPK_FRACTION = 0.05
# Share of the newest step in the running statistics, once more steps than its inverse were seen.
STATISTICS_RATE = 0.01
# Steps before which spreads are too uncertain to divide by, and steps over which they then come to count in full. Where
# they counted at once, the class loss grew three- to fourfold within five steps, and its gradient about eightfold.
STATISTICS_WARM_UP = 32
STATISTICS_FADE = 64
STATISTICS_EPS = 1e-5


class ClassHead(nn.Module):
    """1x1 convolution, ReLU, pooling, linear.

    `frozen=True` uses the parameters detached and no dropout: gradients then reach the feature, never the
    head. Logits and maps are at least float32, also under autocast.

    Args:
        in_channels: channels of the feature.
        num_classes: K.
        pool: `gap` (mean over positions), `lse` (log-mean-exp) or `topk` (mean of the largest 5 %), per
            channel of h. The map is W h for all three; that its mean plus bias is the logit holds for `gap`
            only.
        hidden: channels of h; None: as many as the feature has.
        dropout: probability, on the pooled vector, in training.
        border: positions cut from every side of the feature (3 for layer 0 of the ResNet generator, the
            padded image).
        standardise: centre and scale the pooled channels by running statistics (`update_statistics`).

    Raises:
        ValueError: unknown pool, fewer than 2 classes, negative border.
    """

    pooled_mean: Tensor
    pooled_var: Tensor
    map_mean: Tensor
    steps_seen: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        pool: str = "gap",
        hidden: int | None = None,
        dropout: float = 0.0,
        border: int = 0,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"unknown cam_pool '{pool}': choose one of {', '.join(POOLS)}")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}, but a class head needs at least 2")
        if border < 0:
            raise ValueError(f"border is {border}, but it must be 0 or more positions")
        width = in_channels if hidden is None else hidden
        self.num_classes = num_classes
        self.pool = pool
        self.border = border
        self.project = nn.Conv2d(in_channels, width, 1)
        self.classify = nn.Linear(width, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.standardise = standardise
        if standardise:
            self.register_buffer("pooled_mean", torch.zeros(width))
            self.register_buffer("pooled_var", torch.ones(width))
            self.register_buffer("map_mean", torch.zeros(width))  # of the plain mean, whatever the pooling
            self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def forward(self, feature: Tensor, frozen: bool = False) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, K)."""
        return self.logits_from_hidden(self.hidden_map(feature, frozen), frozen)

    def hidden_map(self, feature: Tensor, frozen: bool = False) -> Tensor:
        """(N, in_channels, H, W) -> h (N, hidden, H - 2 border, W - 2 border), not negative.

        Raises:
            ValueError: nothing is left within the border.
        """
        feature = self.inside(feature)
        weight, bias = _parameters(self.project, frozen)
        if frozen:  # conv2d would keep the feature for a gradient of the weights that nobody asks for
            evidence = torch.einsum("jc,nchw->njhw", weight.flatten(1), feature)
            evidence = evidence + bias.to(evidence.dtype)[:, None, None]
        else:
            evidence = F.conv2d(feature, weight, bias)
        # The ReLU, with the gradient 0 at 0; the mask kept for backward has a quarter of the bytes of its output.
        return evidence.masked_fill(evidence <= 0, 0.0)

    def inside(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) without its border.

        Raises:
            ValueError: nothing is left.
        """
        if not self.border:
            return feature
        cut = slice(self.border, -self.border)
        inner = feature[:, :, cut, cut]
        if inner.numel() == 0:
            raise ValueError(f"the feature has no position within its border of {self.border}: use larger images")
        return inner

    def logits_from_hidden(self, hidden: Tensor, frozen: bool = False) -> Tensor:
        """h (N, hidden, H, W) -> logits (N, K)."""
        _, bias = _parameters(self.classify, frozen)
        with torch.autocast(hidden.device.type, enabled=False):
            pooled = _pool(hidden, self.pool)
            if self.standardise:
                pooled = pooled - self.pooled_mean
            if not frozen:
                pooled = self.dropout(pooled)
            return F.linear(pooled, self.effective_weight(frozen), bias)

    def effective_weight(self, frozen: bool = False) -> Tensor:
        """(K, hidden): what one unit of a pooled channel adds to each logit, W, or W / sd if standardised."""
        weight, _ = _parameters(self.classify, frozen)
        if not self.standardise:
            return weight
        share = ((self.steps_seen - STATISTICS_WARM_UP + 1) / STATISTICS_FADE).clamp(0, 1)
        return weight / (self.pooled_var + STATISTICS_EPS) ** (0.5 * share)

    @torch.no_grad()
    def update_statistics(self, hidden: Tensor) -> None:
        """Take the h (N, hidden, H, W) of one training step into the running statistics, over all ranks.

        A plain average over the first steps, an exponential one later, so that no step weighs more than its
        share.
        """
        if not self.standardise:
            return
        difference = _pool(hidden.detach(), self.pool) - self.pooled_mean
        level = _at_least_float32(hidden.detach()).mean(dim=(0, 2, 3))
        moments = torch.stack([difference.mean(0), difference.square().mean(0), level])
        first, second, level = mean_over_ranks(moments)
        self.steps_seen += 1
        rate = torch.clamp(1.0 / self.steps_seen, min=STATISTICS_RATE)
        self.pooled_mean += rate * first
        self.pooled_var.copy_((1 - rate) * self.pooled_var + rate * second - (rate * first).square())
        self.map_mean.lerp_(level, rate)

    def class_map(self, hidden: Tensor, classes: Tensor, frozen: bool = False) -> Tensor:
        """One map per image, before any ReLU and without the bias: W_c . h, or V_c . (h - m) if standardised.

        Args:
            hidden: h (N, hidden, H, W).
            classes: (N,) int64 in [0, K); an unknown label (-1) has no map, choose a class for it first.
            frozen: detach W.

        Returns:
            (N, H, W), unbounded.

        Raises:
            IndexError: a class outside [0, K) (on a GPU: a device-side assertion, since checking would wait
                for it).
        """
        with torch.autocast(hidden.device.type, enabled=False):
            rows = self.effective_weight(frozen).index_select(0, classes)
            maps = torch.einsum("nc,nchw->nhw", rows, _at_least_float32(hidden))
            return maps - (rows @ self.map_mean)[:, None, None] if self.standardise else maps


def _parameters(layer: nn.Conv2d | nn.Linear, frozen: bool) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return (layer.weight.detach(), layer.bias.detach()) if frozen else (layer.weight, layer.bias)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _pool(hidden: Tensor, pool: str) -> Tensor:
    """(N, C, H, W) -> (N, C)."""
    flat = _at_least_float32(hidden).flatten(2)
    if pool == "gap":
        return flat.mean(2)
    positions = flat.shape[2]
    if pool == "lse":
        return (torch.logsumexp(LSE_SHARPNESS * flat, 2) - math.log(positions)) / LSE_SHARPNESS
    return flat.topk(math.ceil(TOPK_FRACTION * positions), dim=2).values.mean(2)
