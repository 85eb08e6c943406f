"""SRC: semantic relation consistency as an extra loss term (Jung et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.losses.relation import relation_consistency
from models.networks import draw_patch_ids
from models.terms.base import TERMS, ExtraTerm
from options.schema import Group, option

if TYPE_CHECKING:
    from models.cut_model import CutModel, CutState
    from options.parse import RunOptions


@dataclass(frozen=True)
class SrcOptions(Group):
    """semantic relation consistency"""

    lambda_SRC: float = option(0.05, "weight of semantic relation consistency", low=0)
    src_T: float = option(0.07, "temperature of the similarities it compares", low=1e-4)


@TERMS.register("src")
class SrcTerm(ExtraTerm):
    """Similarities among the patches that NCE draws, in the source and in its translation.

    Args:
        weight: lambda_SRC.
        temperature: src_T.
    """

    Options = SrcOptions

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature
        self.reads_queries = weight > 0

    @classmethod
    def from_options(cls, options: Group, run: RunOptions) -> SrcTerm:
        assert isinstance(options, SrcOptions)
        opt: SrcOptions = options
        return cls(opt.lambda_SRC, opt.src_T)

    @property
    def weights(self) -> Mapping[str, float]:
        return {"lambda_SRC": self.weight}

    def terms(self, model: CutModel, state: CutState) -> dict[str, Tensor]:
        if self.weight == 0:
            return {}
        info, sampler = state.info, model.sampler
        sizes = [feature.shape[-2] * feature.shape[-1] for feature in state.key_A]
        ids = draw_patch_ids(
            sizes, model.num_patches, info.seed, info.step, netF=sampler.netF, device=state.key_A[0].device
        )
        with torch.no_grad():
            keys = sampler(state.key_A, ids)
        queries = sampler(state.query_A, ids)
        losses = [
            relation_consistency(q, k, len(state.batch.A), self.temperature).mean()
            for q, k in zip(queries, keys, strict=True)
        ]
        return {"SRC": self.weight * torch.stack(losses).mean()}
