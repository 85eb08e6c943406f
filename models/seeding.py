"""Seeds of F-CAM: a few pixels of a class activation map that are taken for foreground and background, drawn anew in
every step (Belharbi et al., WACV 2022, arXiv:2109.07069, section 3.2).

Everything is done for a whole batch at once, and every draw is keyed by seed, step and sample, whatever the batch, the
rank and the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from util.seeding import StepInfo
from util.transfer import send

IGNORED, BACKGROUND, FOREGROUND = -1, 0, 1
LEVELS = 256


@dataclass(frozen=True)
class Seeder:
    """How seeds are drawn.

    Attributes:
        foreground, background: pixels drawn of each.
        lowest: share of the pixels, those with the lowest values, that background is drawn from.
        grow: side of the square that each seed is grown to, odd.
        erode, erosions: side of the square, odd, that the foreground region is eroded by, and how often.

    Raises:
        ValueError: a side that is even, or a share that is none.
    """

    foreground: int = 1
    background: int = 1
    lowest: float = 0.1
    grow: int = 3
    erode: int = 11
    erosions: int = 1

    def __post_init__(self) -> None:
        if self.grow % 2 == 0 or self.erode % 2 == 0:
            raise ValueError(f"the sides {self.grow} and {self.erode} of squares around pixels must be odd")
        if not 0 < self.lowest <= 1:
            raise ValueError(f"the share of lowest pixels is {self.lowest}: it must be in (0, 1]")

    def __call__(self, maps: Tensor, info: StepInfo, indices: Sequence[int]) -> Tensor:
        """Seeds of each map.

        Args:
            maps: (N, H, W) in [0, 1], of the class that is looked for.
            info: of the step.
            indices: (N,) place of each sample in its epoch's order, which with the step keys the draws.

        Returns:
            (N, H, W) int64: FOREGROUND, BACKGROUND or IGNORED. All of a map are IGNORED where it is the same
            everywhere, is not finite, or leaves no region above its threshold: then it says nothing.
        """
        maps = maps.detach()
        draws = send(self._draws(info, indices), maps.device)
        region = self.region(maps)
        low = lowest(maps, self.lowest).masked_fill(~region.flatten(1).any(1)[:, None, None], 0.0)
        front = dilate(sample(region.to(low.dtype), draws[:, : self.foreground]), self.grow)
        back = dilate(sample(low, draws[:, self.foreground :]), self.grow)
        seeds = torch.full(maps.shape, IGNORED, dtype=torch.int64, device=maps.device)
        return seeds.masked_fill(front & ~back, FOREGROUND).masked_fill(back & ~front, BACKGROUND)

    def region(self, maps: Tensor) -> Tensor:
        """Where foreground is drawn from: above Otsu's threshold, eroded. (N, H, W) -> (N, H, W) bool."""
        levels = (255 * maps.nan_to_num(0.0, 0.0, 0.0)).floor().clamp(0, 255).long()
        threshold = otsu(levels).clamp(1, LEVELS - 2)
        region = (levels > threshold[:, None, None]) & ~_constant(levels)[:, None, None]
        return erode(region, self.erode, self.erosions)

    def _draws(self, info: StepInfo, indices: Sequence[int]) -> Tensor:
        """(N, foreground + background) in [0, 1)."""
        count = self.foreground + self.background
        rows = [torch.rand(count, generator=info.generator("seeds", int(index))) for index in indices]
        return torch.stack(rows)


def otsu(levels: Tensor) -> Tensor:
    """Otsu's threshold of each image: the level t that best parts those <= t from those > t (IEEE Trans. SMC 9, 1979).

    Args:
        levels: (N, H, W) int64 in 0..255.

    Returns:
        (N,) int64; 0 for an image of one level. Of several best levels the lowest.
    """
    count = len(levels)
    # Sums of whole numbers, which float32 holds exactly up to 2^24, thus of maps of up to 256 x 256 pixels. Larger sums
    # are rounded, equal ones alike: levels that part the same pixels stay ties.
    # Not `bincount`, for which the host waits: it looks for the largest value.
    histogram = torch.zeros(count, LEVELS, dtype=torch.int64, device=levels.device).scatter_add_(
        1, levels.flatten(1), torch.ones_like(levels).flatten(1)
    )
    values = histogram * torch.arange(LEVELS, device=levels.device)
    below, sum_below = histogram.cumsum(1)[:, :-1].float(), values.cumsum(1)[:, :-1].float()
    above, sum_above = histogram.sum(1, keepdim=True) - below, values.sum(1, keepdim=True) - sum_below
    between = sum_above / above.clamp_min(1) - sum_below / below.clamp_min(1)
    spread = below / levels[0].numel() * (above / levels[0].numel()) * between.square()
    return spread.argmax(1)


def erode(region: Tensor, side: int, times: int) -> Tensor:
    """Erosion by a square, as often as something is left of a region; beyond the border counts as inside.

    Args:
        region: (N, H, W) bool.
        side: of the square in pixels, odd.
    """
    for _ in range(times):
        smaller = ~dilate(~region, side)
        region = torch.where(smaller.flatten(1).any(1)[:, None, None], smaller, region)
    return region


def dilate(region: Tensor, side: int) -> Tensor:
    """Dilation of (N, H, W) bool by a square of an odd side; nothing comes in from beyond the border."""
    grown: Tensor = F.max_pool2d(region[:, None].float(), side, stride=1, padding=side // 2)
    return grown[:, 0] > 0


def lowest(maps: Tensor, share: float) -> Tensor:
    """How likely each pixel is among the lowest ones of its map, where ties are broken at random.

    Args:
        maps: (N, H, W); what is no number counts as 0.
        share: of the pixels, in (0, 1]; at least one is taken.

    Returns:
        (N, H, W): 1 below the limit, 0 above it, and a share at it: a map that is 0 in one half has all of that half to
        draw from, not its first rows.
    """
    flat = maps.flatten(1).nan_to_num(0.0)
    count = max(1, int(share * flat.shape[1]))
    limit = flat.kthvalue(count, dim=1, keepdim=True).values
    below, at = flat < limit, flat == limit
    left = count - below.sum(1, keepdim=True)
    return (below + at * left / at.sum(1, keepdim=True)).view_as(maps)


def sample(weights: Tensor, draws: Tensor) -> Tensor:
    """Draw pixels without replacement, in proportion to their weights.

    Args:
        weights: (N, H, W) >= 0; of a map of zeros nothing is drawn, of one with few pixels at most these.
        draws: (N, k) in [0, 1), one for each pixel drawn.

    Returns:
        (N, H, W) bool.
    """
    left = weights.flatten(1).clone()
    taken = torch.zeros_like(left, dtype=torch.bool)
    for column in draws.unbind(1):
        sums = left.cumsum(1)
        total = sums[:, -1:]
        # Rounding must not bring a draw to the total, where nothing is.
        place = torch.minimum(column[:, None].to(sums) * total, torch.nextafter(total, torch.zeros_like(total)))
        found = torch.searchsorted(sums, place, right=True).clamp(max=left.shape[1] - 1)
        taken.scatter_(1, found, (total > 0) | taken.gather(1, found))
        left.scatter_(1, found, 0.0)
    return taken.view_as(weights)


def precision_counts(seeds: Tensor, truth: Tensor) -> Tensor:
    """How many seeds are right.

    Args:
        seeds: (N, H, W) of a Seeder.
        truth: (N, H, W) bool, where the target is.

    Returns:
        (4,): right and all foreground pixels, right and all background pixels.
    """
    front, back = seeds == FOREGROUND, seeds == BACKGROUND
    return torch.stack([(front & truth).sum(), front.sum(), (back & ~truth).sum(), back.sum()]).float()


def _constant(levels: Tensor) -> Tensor:
    flat = levels.flatten(1)
    return flat.amin(1) == flat.amax(1)
