"""SRUNIT (Jia et al., ICCV 2021, arXiv:2012.04932): CUT with semantic robustness, models/terms/sr_term.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from models.base import MODELS
from models.cut_model import CutModel, CutState
from models.cut_options import CutOptions
from options.schema import Group, option
from util.seeding import key

if TYPE_CHECKING:
    from options.parse import RunOptions


@dataclass(frozen=True)
class SrunitOptions(CutOptions):
    """SRUNIT: CUT with semantic robustness"""

    extra_losses: tuple[str, ...] = option(
        ("sr",), "loss terms taken on, with their flags: sr (robustness), src (relations), pair (true targets)"
    )
    D_noise: float = option(0.0, "deviation of Gaussian noise on all that D sees, for images in [-1, 1]", low=0)

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"save_epoch_freq": 25, **super().preset(given)}


@MODELS.register("srunit")
class SrunitModel(CutModel):
    """CUT with the term `sr`, and noise on D's input (Arjovsky and Bottou, ICLR 2017, arXiv:1701.04862).

    Args:
        D_noise: standard deviation of that noise.
        cut: arguments of CutModel.
    """

    Options: ClassVar[type[Group]] = SrunitOptions

    def __init__(self, nets: dict[str, torch.nn.Module], *, D_noise: float = 0.0, **cut: Any) -> None:
        super().__init__(nets, **cut)
        self.D_noise = D_noise

    @classmethod
    def arguments_from(cls, run: RunOptions) -> dict[str, Any]:
        opt: SrunitOptions = run.model  # type: ignore[assignment]
        return super().arguments_from(run) | {"D_noise": opt.D_noise}

    def shown(self, images: Tensor, state: CutState, purpose: str) -> Tensor:
        images = super().shown(images, state, purpose)
        if self.D_noise == 0:
            return images
        info, device = state.info, images.device
        noise = []
        for sample in state.batch.index.tolist():
            random = torch.Generator(device).manual_seed(key(info.seed, f"D noise {purpose}", info.step, sample))
            noise.append(torch.randn(images.shape[1:], generator=random, device=device))
        return images + self.D_noise * torch.stack(noise).to(images)
