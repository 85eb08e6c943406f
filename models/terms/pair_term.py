"""Pairs of the same scene as supervision beside CUT's losses: what only some unpaired problems have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.losses.cycle import paired_loss
from models.terms.base import TERMS, ExtraTerm
from options.schema import Group, OptionError, option

if TYPE_CHECKING:
    from models.cut_model import CutModel, CutState
    from options.parse import RunOptions


@dataclass(frozen=True)
class PairOptions(Group):
    """true targets"""

    lambda_PAIR: float = option(10.0, "weight of the likeness of G(x) to the image that x is paired with", low=0)
    pair_mode: str = option(
        "l1",
        "likeness: of pixels (l1), or of patches at one place, for pairs that fit roughly (nce)",
        choices=("l1", "nce"),
    )


@TERMS.register("pair")
class PairTerm(ExtraTerm):
    """The translation is drawn to the true target y of its pair.

    `l1` is pix2pix's term (Isola et al., CVPR 2017, eq. 3). `nce` contrasts a patch of G(x) with that of y at the same
    place against other patches of y, which forgives pairs that do not fit to the pixel (the supervised PatchNCE of Li
    et al., MICCAI 2023, arXiv:2303.06193, without its adaptive weights).

    Args:
        weight: lambda_PAIR.
        mode: pair_mode.
    """

    Options = PairOptions

    def __init__(self, weight: float, mode: str) -> None:
        self.weight, self.mode = weight, mode
        self.reads_queries = weight > 0 and mode == "nce"

    @classmethod
    def from_options(cls, options: Group, run: RunOptions) -> PairTerm:
        assert isinstance(options, PairOptions)
        opt: PairOptions = options
        if run.data.dataset_mode != "aligned":
            raise OptionError(
                f"--extra_losses pair --dataset_mode {run.data.dataset_mode}: it learns from pairs of one scene; use "
                "--dataset_mode aligned, or leave pair out"
            )
        return cls(opt.lambda_PAIR, opt.pair_mode)

    @property
    def weights(self) -> Mapping[str, float]:
        return {"lambda_PAIR": self.weight}

    def terms(self, model: CutModel, state: CutState) -> dict[str, Tensor]:
        if self.weight == 0:
            return {}
        target = state.batch.target
        if self.mode == "l1":
            return {"PAIR": self.weight * paired_loss(state.upright(state.fake_B), target).mean()}
        key = state.key_B
        if not len(key[0]):  # y has not gone through G
            with torch.no_grad():
                key = model.generator.encode(target, model.nce_layers)
        return {"PAIR": self.weight * model.contrast(state.query_A, key, model.query_ids(state, key, "B"))}
