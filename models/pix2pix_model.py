"""pix2pix (Isola et al., CVPR 2017, arXiv:1611.07004): translation learned from pairs of the same scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.base import MODELS, Model, Phase, State
from models.builders import check_penalty, discriminator_from, generator_from, rounded_sizes
from models.losses.critic import critic_terms
from models.losses.cycle import paired_loss
from models.losses.gan import gan_loss
from models.networks import Generator
from models.networks.tiling import tiled
from options.schema import Group, OptionError, option
from util.seeding import StepInfo
from util.visual.pictures import to_uint8

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions

UNPAIRED = ("unaligned", "classes")  # ways of reading the folders in which B is not the translation of A


@dataclass(frozen=True)
class Pix2PixOptions(Group):
    """pix2pix: adversarial loss on pairs, L1 to the true target"""

    lambda_GAN: float = option(1.0, "weight of the adversarial loss of G", low=0)
    lambda_L1: float = option(100.0, "weight of |G(x) - y|", low=0)
    lambda_GP: float = option(10.0, "weight of the gradient penalty of --gan_mode wgangp", low=0)

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        # The published networks, loss and schedule, where CUT's are others.
        norm_d = "instance" if str(given.get("gan_mode")).lower() == "wgangp" else "batch"
        return {
            "netG": "unet_256",
            "normG": "batch",
            "normD": norm_d,
            "no_dropout": False,
            "no_antialias": True,
            "no_antialias_up": True,
            "init_type": "normal",
            "gan_mode": "vanilla",
            "n_epochs": 100,
            "n_epochs_decay": 100,
        }


@dataclass(frozen=True)
class Pix2PixState(State):
    """The translation of a batch."""

    fake_B: Tensor  # G(A), (N, C, H, W) in [-1, 1]


@MODELS.register("pix2pix")
class Pix2PixModel(Model[Pix2PixState]):
    """G translates; D judges input and output together, as one image of more channels.

    Args:
        nets: `G` and, where there is an adversarial loss, `D`.
        others: keyword arguments named as in Pix2PixOptions.
    """

    Options: ClassVar[type[Group]] = Pix2PixOptions
    DATASET_MODE: ClassVar[str] = "aligned"

    def __init__(
        self,
        nets: dict[str, nn.Module],
        *,
        lambda_GAN: float = 1.0,
        lambda_L1: float = 100.0,
        lambda_GP: float = 10.0,
        gan_mode: str = "vanilla",
    ) -> None:
        super().__init__()
        self.nets = nets
        self.generator: Generator = nets["G"]  # type: ignore[assignment]
        self.size_multiple = self.generator.size_multiple
        self.lambda_GAN, self.lambda_L1, self.lambda_GP, self.gan_mode = lambda_GAN, lambda_L1, lambda_GP, gan_mode
        phases: list[Phase[Any]] = [Phase("D", ("D",), self.d_losses)] if "D" in nets else []
        self.phases = [*phases, Phase("G", ("G",), self.g_losses)]

    @classmethod
    def from_options(cls, run: RunOptions) -> Pix2PixModel:
        opt: Pix2PixOptions = run.model  # type: ignore[assignment]
        if run.data.dataset_mode in UNPAIRED:
            raise OptionError(
                f"--model pix2pix --dataset_mode {run.data.dataset_mode}: pix2pix learns from pairs of one scene; use "
                "--dataset_mode aligned, or --model cycle_gan for images without pairs"
            )
        nets: dict[str, nn.Module] = {"G": generator_from(run)}
        if opt.lambda_GAN > 0:
            check_penalty(run)
            nets["D"] = discriminator_from(run, channels=run.networks.input_nc + run.networks.output_nc)
        model = cls(
            nets,
            lambda_GAN=opt.lambda_GAN,
            lambda_L1=opt.lambda_L1,
            lambda_GP=opt.lambda_GP,
            gan_mode=run.optim.gan_mode,
        )
        model.messages += rounded_sizes(run, model.size_multiple)
        return model

    @property
    def weights(self) -> dict[str, float]:
        return {"lambda_GAN": self.lambda_GAN, "lambda_L1": self.lambda_L1}

    def forward_train(self, batch: Batch, info: StepInfo) -> Pix2PixState:
        return Pix2PixState(batch, info, self.generator(batch.A))

    def translate_batch(self, source: Tensor) -> Tensor:
        image: Tensor = self.generator(source)
        return image

    def in_tiles(self, tile: int) -> None:
        self.generator = self.nets["G"] = tiled(self.generator, tile)

    # -- losses -----------------------------------------------------------------------------------------------

    def d_losses(self, state: Pix2PixState) -> dict[str, Tensor]:
        """D's terms, each half: the paper slows D relative to G (section 3.3)."""
        real, fake = (torch.cat([state.batch.A, image], 1) for image in (state.batch.target, state.fake_B))
        alpha = state.uniform("gradient penalty") if self.gan_mode == "wgangp" else None
        return critic_terms(self.nets["D"], real, fake, self.gan_mode, penalty=self.lambda_GP, alpha=alpha)

    def g_losses(self, state: Pix2PixState) -> dict[str, Tensor]:
        """The adversarial term on input and translation, and the distance to the true target (eq. 4)."""
        terms: dict[str, Tensor] = {}
        if self.lambda_GAN > 0:
            judged = self.nets["D"](torch.cat([state.batch.A, state.fake_B], 1))
            terms["G_GAN"] = self.lambda_GAN * gan_loss(judged, True, self.gan_mode, True)
        if self.lambda_L1 > 0:
            terms["L1"] = self.lambda_L1 * paired_loss(state.fake_B, state.batch.target).mean()
        return terms

    def visuals(self, state: Pix2PixState) -> dict[str, np.ndarray]:
        pictures = super().visuals(state) | {"fake_B": to_uint8(state.fake_B[0])}
        return {name: pictures[name] for name in ("real_A", "fake_B", "real_B")}
