"""The dense CRF as a loss on a map of foreground probability: pixels of one colour, near each other, share one side.

    E(p) = -sum_k s_k^T A s_k,  s = (1 - p, p),  A_ij = exp(-1/2 (|dxy|^2 / sigma_xy^2 + |drgb|^2 / sigma_rgb^2))

up to a constant of the image the relaxed Potts energy of Tang et al. (ECCV 2018, arXiv:1803.09569), as F-CAM uses it
(Belharbi et al., WACV 2022, arXiv:2109.07069). With u = 2p - 1 it is -1/2 u^T A u - 1/2 1^T A 1.

A has as many entries as the image has pairs of pixels. The filter here splats pixels on a grid over position and
colour, blurs it axis by axis, and slices (Paris & Durand, IJCV 81, 2009): linear in the pixels, symmetric and positive
semi-definite by construction, so that the gradient is exactly that of the energy. `exact_filter` is the definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from util.transfer import send

SIGMA_RGB = 15.0  # of intensities 0..255
SIGMA_XY = 100.0  # pixels, of an image of REFERENCE pixels a side
REFERENCE = 224
CELL = 0.7  # side of a grid cell in sigmas
MOST_CELLS = 2**24  # of the grids of the images that are filtered at once
CACHED_CELLS = 2**19  # the same on a CPU, whose cache should hold them
# What F-CAM's own filter gives, as a share of the sum it approximates (median over images and soft maps).
FCAM_FILTER = 0.56


@dataclass(frozen=True)
class Affinity:
    """How alike two pixels are.

    Attributes:
        sigma_rgb: of intensities in 0..255; a grey image counts as three equal channels.
        sigma_xy: in pixels; 0: `SIGMA_XY` in proportion to the image's side, so that its size does not matter.
        cell: side of a cell of the grid in sigmas; smaller ones are more exact and cost more.

    Raises:
        ValueError: a sigma or a cell that makes no grid.
    """

    sigma_rgb: float = SIGMA_RGB
    sigma_xy: float = 0.0
    cell: float = CELL

    def __post_init__(self) -> None:
        if not (self.sigma_rgb > 0 and self.sigma_xy >= 0):
            raise ValueError(f"sigma_rgb is {self.sigma_rgb} and sigma_xy {self.sigma_xy}: both must be positive")
        if not 0 < self.cell < 1.5:  # from sqrt(3) on the interpolation alone blurs more than the kernel
            raise ValueError(f"the side of a grid cell is {self.cell} sigmas: it must be above 0 and below 1.5")

    def coordinates(self, images: Tensor) -> Tensor:
        """Places (N, 2 + C, P) of the P pixels in units of sigma, not negative.

        Args:
            images: (N, C, H, W) in 0..255.
        """
        count, channels, height, width = images.shape
        sigma_xy = self.sigma_xy or SIGMA_XY / REFERENCE * math.sqrt(height * width)
        sigma_rgb = self.sigma_rgb / math.sqrt(3) if channels == 1 else self.sigma_rgb
        rows = torch.arange(height, dtype=images.dtype, device=images.device)[:, None].expand(height, width)
        columns = torch.arange(width, dtype=images.dtype, device=images.device)[None].expand(height, width)
        places = torch.stack([rows, columns]).flatten(1) / sigma_xy
        colours = images.clamp(0, 255).flatten(2) / sigma_rgb
        return torch.cat([places.expand(count, -1, -1), colours], 1)


class CrfEnergy(NamedTuple):
    """The energy of each map.

    Attributes:
        energy: (N,), E / P^2: of the mean affinity of two pixels, so that the size of the image does not matter.
        cut: (N,), detached: share of all affinity that runs between foreground and background, 0.5 for p = 0.5 in one
            half of the pixels drawn at random, 0 where everything is on one side.
    """

    energy: Tensor
    cut: Tensor


def crf_energy(probability: Tensor, images: Tensor, affinity: Affinity | None = None, scale: float = 1.0) -> CrfEnergy:
    """The CRF energy of maps, differentiable with respect to them (first order).

    Args:
        probability: (N, H, W) of the foreground, in [0, 1].
        images: (N, C, H, W) in 0..255, C of 1 or 3.
        scale: compute at this share of the resolution, in (0, 1]: maps are averaged, images sampled. Neither the
            meaning of the energy nor that of sigma_xy changes with it.

    Raises:
        ValueError: sizes that do not fit, or a grid of more than `MOST_CELLS` cells for one image.
    """
    affinity = affinity or Affinity()
    if probability.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"maps {tuple(probability.shape)} do not fit images {tuple(images.shape)}")
    with torch.autocast(images.device.type, enabled=False):
        dtype = torch.promote_types(probability.dtype, torch.float32)
        maps, colours = probability.to(dtype), images.detach().to(dtype)
        if scale != 1.0:
            maps, colours, affinity = _smaller(maps, colours, affinity, scale)
        return _energy(maps.flatten(1), filtered(2 * maps.detach() - 1, colours, affinity))


def _smaller(maps: Tensor, images: Tensor, affinity: Affinity, scale: float) -> tuple[Tensor, Tensor, Affinity]:
    height, width = maps.shape[1:]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    changed = Affinity(affinity.sigma_rgb, affinity.sigma_xy * scale, affinity.cell)
    # Sampled maps would send no gradient to most pixels; averaged colours belong to neither side of an edge.
    return F.adaptive_avg_pool2d(maps[:, None], size)[:, 0], F.interpolate(images, size, mode="nearest"), changed


def _energy(probability: Tensor, seen: tuple[Tensor, Tensor]) -> CrfEnergy:
    """From p (N, P) and (A u, A 1), both (N, P)."""
    of_sides, of_ones = seen
    pairs = float(probability.shape[1]) ** 2
    sides = 2 * probability - 1
    whole = of_ones.sum(1) / pairs
    # A is symmetric, so d(u^T A u)/du = 2 A u: the second factor is a constant and half of it is taken off again.
    agreement = ((2 * sides - sides.detach()) * of_sides).sum(1) / pairs
    energy = -(agreement + whole) / 2
    return CrfEnergy(energy, 1 + energy.detach() / whole)


def filtered(sides: Tensor, images: Tensor, affinity: Affinity) -> tuple[Tensor, Tensor]:
    """A u and A 1 by the grid, (N, P) each.

    Args:
        sides: u (N, H, W).
        images: (N, C, H, W) in 0..255, of the same dtype.

    Raises:
        ValueError: the grid of one image would have more than `MOST_CELLS` cells.
    """
    values = torch.stack([sides.flatten(1), torch.ones_like(sides).flatten(1)], 2)
    places = affinity.coordinates(images) / affinity.cell
    cells = grid_cells(affinity, images.shape[1:])
    if cells > MOST_CELLS:
        raise ValueError(
            f"the grid of the CRF would have {cells:,} cells for one image: raise crf_sigma_rgb or crf_cell"
        )
    at_once = max(1, (CACHED_CELLS if images.device.type == "cpu" else MOST_CELLS) // cells)
    parts = zip(torch.split(values, at_once), torch.split(places, at_once), strict=True)
    both = torch.cat([_through_grid(part, where, affinity.cell) for part, where in parts])
    return both[..., 0], both[..., 1]


def grid_cells(affinity: Affinity, image_shape: Sequence[int]) -> int:
    """The most cells that the grid of one image (C, H, W) can have, if it has all colours."""
    ends = affinity.coordinates(torch.full((1, *image_shape), 255.0, dtype=torch.float64))
    return math.prod(int(end) + 2 for end in (ends[0].amax(1) / affinity.cell).tolist())


def _blur(length: int, cell: float, like: Tensor) -> Tensor:
    """(length, length) Toeplitz matrix: the kernel along one axis, less the blur that splatting and slicing add.

    Both interpolate linearly, which together has a variance of 1/3 cell^2.
    """
    steps = torch.arange(length, dtype=torch.float64)
    reach = torch.arange(-64, 65, dtype=torch.float64)
    variance = 1 / cell**2 - 1 / 3
    mass = math.sqrt(2 * math.pi) / cell / float(torch.exp(-reach.square() / (2 * variance)).sum())
    kernel = mass * torch.exp(-(steps[:, None] - steps).square() / (2 * variance))
    return send(kernel.to(like.dtype), like.device)


def _through_grid(values: Tensor, places: Tensor, cell: float) -> Tensor:
    """Splat (N, P, V) at places (N, axes, P) in cells, blur, slice."""
    count, pixels, depth = values.shape
    base = places.floor()
    # Only the cells that are reached: whole cells are left out, so that no image moves the cells of another.
    low = base.amin((0, 2))
    shape = [int(length) + 2 for length in (base.amax((0, 2)) - low).tolist()]
    share, cells = places - base, math.prod(shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    at = (base - low[:, None]).long() * send(torch.tensor(strides), base.device)[:, None]
    first = at.sum(1) + cells * torch.arange(count, device=base.device)[:, None]
    grid = values.new_zeros(count * cells, depth)
    for offset, weight in _corners(share, strides):
        grid.index_add_(0, (first + offset).flatten(), (values * weight[..., None]).flatten(0, 1))
    grid = grid.view(count, *shape, depth)
    for length in shape:  # each contraction takes the first axis and appends it: in the end all stand as before
        grid = torch.tensordot(grid, _blur(length, cell, values), dims=([1], [0])).movedim(-2, -1)
    flat = grid.reshape(count * cells, depth)
    out = torch.zeros_like(values)
    for offset, weight in _corners(share, strides):
        seen = flat.index_select(0, (first + offset).flatten()).view(count, pixels, depth)
        out += seen * weight[..., None]
    return out


def _corners(share: Tensor, strides: Sequence[int], axis: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Offset and weight (N, P) of each corner of the cells that pixels lie in, which are `share` (N, axes, P) of the
    way across."""
    if axis == len(strides):
        yield 0, torch.ones_like(share[:, 0])
        return
    for offset, weight in _corners(share, strides, axis + 1):
        yield offset, weight * (1 - share[:, axis])
        yield offset + strides[axis], weight * share[:, axis]


# --- the definition


def exact_filter(values: Tensor, images: Tensor, affinity: Affinity, chunk: int = 512) -> Tensor:
    """A v by its definition, in O(P^2) operations: what the grid is measured against.

    Args:
        values: v (N, P).
        images: (N, C, H, W) in 0..255, P = H W.
        chunk: rows of A at a time.
    """
    places = affinity.coordinates(images.to(values.dtype)).transpose(1, 2)
    out = torch.empty_like(values)
    for number, where in enumerate(places):
        for start in range(0, len(where), chunk):
            rows = slice(start, start + chunk)
            # Differences, not products: those lose the digits of near pixels.
            squares = torch.cdist(where[rows], where, compute_mode="donot_use_mm_for_euclid_dist").square()
            out[number, rows] = torch.exp(-squares / 2) @ values[number]
    return out


def exact_crf_energy(probability: Tensor, images: Tensor, affinity: Affinity | None = None) -> CrfEnergy:
    """`crf_energy` by the definition, differentiable in the same way."""
    affinity, sides = affinity or Affinity(), 2 * probability.detach().flatten(1) - 1
    seen = exact_filter(sides, images, affinity), exact_filter(torch.ones_like(sides), images, affinity)
    return _energy(probability.flatten(1), seen)


def weight_from_fcam(crf_lambda: float, pixels: int) -> float:
    """The weight of `crf_energy` that is F-CAM's `crf_lambda` for images of so many pixels (after its crf_scale).

    F-CAM weights the sum over all pairs, so that its strength grows with the square of the pixels; and its filter gives
    `FCAM_FILTER` of that sum. Its 2e-9 at 224 x 224 is 2.8.
    """
    return crf_lambda * float(pixels) ** 2 * FCAM_FILTER
