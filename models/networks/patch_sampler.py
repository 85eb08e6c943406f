"""Patches of features for contrastive losses: which positions, and the small networks that embed them.

CUT, Park et al., ECCV 2020 (arXiv:2007.15651), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from util.seeding import generator
from util.transfer import send

PATCH_SAMPLERS = ("mlp_sample", "sample", "reshape")


def draw_patch_ids(
    sizes: Sequence[int],
    num_patches: int,
    seed: int,
    step: int,
    *,
    netF: str = "mlp_sample",
    purpose: str = "patches",
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Positions to compare, per feature map: drawn without replacement, shared by all images of the batch.

    The draw depends on (seed, purpose, step, index of the map) only: every process of a run draws the same.

    Args:
        sizes: positions (height * width) of each feature map.
        num_patches: positions to draw, fewer where the map is smaller; 0 takes all of them, in order.
        seed, step: the run's seed and the training step.
        netF: with `reshape` every position is taken, in order, whatever `num_patches` says.
        purpose: another word gives an independent draw in the same step.
        device: where the ids are needed; they are always drawn on the CPU.

    Returns:
        One (P,) int64 tensor per map, values in [0, size), row-major positions.

    Raises:
        ValueError: unknown netF or negative num_patches.
    """
    _check_sampler(netF)
    if num_patches < 0:
        raise ValueError(f"num_patches is {num_patches}, but it must be 0 (every position) or more")
    drawn = []
    for index, size in enumerate(sizes):
        if netF == "reshape" or num_patches == 0:
            ids = torch.arange(size)
        else:
            ids = torch.randperm(size, generator=generator(seed, purpose, step, index))[:num_patches]
        drawn.append(send(ids, device))
    return drawn


class PatchSampleF(nn.Module):
    """Embeds the feature vectors at given positions as unit vectors.

    `mlp_sample`: per feature map a Linear-ReLU-Linear of its own (`mlp_0`, `mlp_1`, ...: CUT's names and
    shapes); `sample` and `reshape`: the vectors themselves (no parameters).

    Args:
        channels: channels of each feature map, in the order they are given to `forward`.
        netF: `mlp_sample` | `sample` | `reshape`.
        nc: length of an embedded vector with `mlp_sample`.

    Raises:
        ValueError: unknown netF.
    """

    def __init__(self, channels: Sequence[int], netF: str = "mlp_sample", nc: int = 256) -> None:
        super().__init__()
        _check_sampler(netF)
        self.netF = netF
        self.channels = tuple(channels)
        self.out_channels = tuple(nc if netF == "mlp_sample" else c for c in channels)
        if netF == "mlp_sample":
            for index, width in enumerate(channels):
                mlp = nn.Sequential(nn.Linear(width, nc), nn.ReLU(), nn.Linear(nc, nc))
                self.add_module(f"mlp_{index}", mlp)

    def forward(self, features: Sequence[Tensor], ids: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Embed the vectors of `features` at `ids`.

        Args:
            features: per map (N, C, H, W), C as declared.
            ids: per map (P,) int64 positions as `draw_patch_ids` returns them, or (N, P), each image's own; None: every
                position.

        Returns:
            Per map (N * P, C_out), at least float32, each row divided by (its L2 norm + 1e-7). Rows are
            image-major: row n * P + p is position ids[p] of image n.

        Raises:
            ValueError: another number of maps or ids than declared.
        """
        wanted = len(self.channels)
        if len(features) != wanted or (ids is not None and len(ids) != wanted):
            given = len(features) if ids is None else (len(features), len(ids))
            raise ValueError(f"PatchSampleF was built for {wanted} feature maps and as many ids, but got {given}")
        return [
            self.embed(index, feature, None if ids is None else ids[index]) for index, feature in enumerate(features)
        ]

    def embed(self, index: int, feature: Tensor, ids: Tensor | None = None) -> Tensor:
        """One map's vectors, as `forward` embeds those of map `index`.

        Args:
            feature: (N, C, H, W), C as declared for that map.
            ids: (P,) or (N, P) int64 positions; None: every position.

        Returns:
            (N * P, C_out), as `forward` returns them.
        """
        vectors = _vectors(feature, ids)
        # A fresh MLP's outputs are of the order 1e-5: in 16 bits, dividing by their norm would overflow.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            layers = list(self.children())
            return _unit(layers[index](vectors) if layers else vectors)


def _vectors(feature: Tensor, ids: Tensor | None) -> Tensor:
    """(N, C, H, W) -> (N * P, C)."""
    flat = feature.flatten(2)
    if ids is not None:
        ids = ids.to(flat.device)
        own = ids.ndim == 2
        flat = flat.gather(2, ids[:, None].expand(-1, flat.shape[1], -1)) if own else flat.index_select(2, ids)
    return flat.transpose(1, 2).flatten(0, 1)


def _unit(rows: Tensor) -> Tensor:
    # Half precision cannot hold 1e-7; vector_norm has the gradient 0, not NaN, at a zero row.
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    unit: Tensor = rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-7)
    return unit


def _check_sampler(netF: str) -> None:
    if netF not in PATCH_SAMPLERS:
        raise ValueError(f"unknown netF '{netF}': choose one of {', '.join(PATCH_SAMPLERS)}")
