"""CycleGAN (Zhu et al., ICCV 2017, arXiv:1703.10593): two translators that undo each other."""

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
from models.losses.cycle import cycle_loss
from models.losses.gan import gan_loss
from models.losses.identity import identity_loss
from models.networks import Generator
from models.networks.tiling import tiled
from options.schema import Group, OptionError, option
from util.engine.image_pool import ImagePool
from util.seeding import StepInfo
from util.visual.pictures import to_uint8

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions


@dataclass(frozen=True)
class CycleGanOptions(Group):
    """CycleGAN: adversarial and cycle loss in both directions"""

    lambda_A: float = option(10.0, "weight of the cycle A to B to A", low=0)
    lambda_B: float = option(10.0, "weight of the cycle B to A to B", low=0)
    lambda_identity: float = option(0.5, "weight of |G_A(B) - B| and |G_B(A) - A|, as a share of a cycle's", low=0)
    lambda_GP: float = option(10.0, "weight of the gradient penalty of --gan_mode wgangp", low=0)
    pool_size: int = option(50, "earlier translations that each D is shown in place of new ones; 0: none", low=0)

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        # The published networks and schedule, where CUT's are others.
        return {
            "no_antialias": True,
            "no_antialias_up": True,
            "init_type": "normal",
            "n_epochs": 100,
            "n_epochs_decay": 100,
        }


@dataclass(frozen=True)
class TwoWayState(State):
    """Both translations; with `_A` for what G_A made, or for the way that begins in A.

    What no loss needs is missing.
    """

    fake_B: Tensor  # G_A(A), (N, C, H, W) in [-1, 1], as all that follow
    fake_A: Tensor  # G_B(B)
    shown_B: Tensor  # what D_A is shown as translations: fake_B or earlier ones; without a gradient
    shown_A: Tensor  # what D_B is shown
    idt_A: Tensor | None  # G_A(B)
    idt_B: Tensor | None  # G_B(A)
    rec_A: Tensor | None  # G_B(G_A(A))
    rec_B: Tensor | None  # G_A(G_B(B))


@MODELS.register("cycle_gan")
class CycleGanModel(Model[Any]):
    """G_A translates A, G_B translates B; D_A judges what G_A makes, D_B what G_B makes. A is the source.

    Names of networks and terms are those of the published code. As there, the translators are trained first.

    Args:
        nets: `G_A`, `G_B`, `D_A`, `D_B`.
        others: keyword arguments named as in CycleGanOptions.
    """

    Options: ClassVar[type[Group]] = CycleGanOptions
    translator: ClassVar[str] = "G_A"
    back_translator: ClassVar[str] = "G_B"
    inference_nets = ("G_A",)

    def __init__(
        self,
        nets: dict[str, nn.Module],
        *,
        lambda_A: float = 10.0,
        lambda_B: float = 10.0,
        lambda_identity: float = 0.5,
        lambda_GP: float = 10.0,
        pool_size: int = 50,
        gan_mode: str = "lsgan",
    ) -> None:
        super().__init__()
        self.nets = nets
        self.translates_by = self.translator
        self.size_multiple = nets["G_A"].size_multiple  # type: ignore[assignment]
        self.lambda_A, self.lambda_B, self.lambda_identity = lambda_A, lambda_B, lambda_identity
        self.lambda_GP, self.gan_mode = lambda_GP, gan_mode
        self.pools = {side: ImagePool(pool_size, f"pool {side}") for side in "AB"}
        self.phases = [Phase("G", ("G_A", "G_B"), self.g_losses), Phase("D", ("D_A", "D_B"), self.d_losses)]

    @classmethod
    def from_options(cls, run: RunOptions) -> CycleGanModel:
        opt: CycleGanOptions = run.model  # type: ignore[assignment]
        check_penalty(run)
        if opt.lambda_identity > 0:
            check_alike(run, "lambda_identity")
        model = cls(
            two_way_networks(run),
            lambda_A=opt.lambda_A,
            lambda_B=opt.lambda_B,
            lambda_identity=opt.lambda_identity,
            lambda_GP=opt.lambda_GP,
            pool_size=opt.pool_size,
            gan_mode=run.optim.gan_mode,
        )
        model.messages += rounded_sizes(run, model.size_multiple)
        return model

    # -- forward ----------------------------------------------------------------------------------------------

    def forward_train(self, batch: Batch, info: StepInfo) -> TwoWayState:
        there, back = self.nets["G_A"], self.nets["G_B"]
        fake_B, fake_A = there(batch.A), back(batch.target)
        return TwoWayState(
            batch=batch,
            info=info,
            fake_B=fake_B,
            fake_A=fake_A,
            shown_B=self.pools["B"].exchange(fake_B, info, batch.index),
            shown_A=self.pools["A"].exchange(fake_A, info, batch.index),
            idt_A=there(batch.target) if self.lambda_B * self.lambda_identity > 0 else None,
            idt_B=back(batch.A) if self.lambda_A * self.lambda_identity > 0 else None,
            rec_A=back(fake_B) if self.lambda_A > 0 else None,
            rec_B=there(fake_A) if self.lambda_B > 0 else None,
        )

    def translate_batch(self, source: Tensor) -> Tensor:
        image: Tensor = self.nets[self.translates_by](source)
        return image

    def turn_round(self) -> None:
        self.translates_by = self.back_translator
        self.inference_nets = (self.back_translator,)

    @property
    def averaged_nets(self) -> tuple[str, ...]:
        return (self.translator, self.back_translator)

    def in_tiles(self, tile: int) -> None:
        net: Generator = self.nets[self.translates_by]  # type: ignore[assignment]
        self.nets[self.translates_by] = tiled(net, tile)

    # -- losses -----------------------------------------------------------------------------------------------

    def g_losses(self, state: TwoWayState) -> dict[str, Tensor]:
        """Adversarial, cycle and identity terms; the identity term of G_A weighs with the cycle of B."""
        batch = state.batch
        terms = {
            "G_GAN_A": gan_loss(self.nets["D_A"](state.fake_B), True, self.gan_mode, True),
            "G_GAN_B": gan_loss(self.nets["D_B"](state.fake_A), True, self.gan_mode, True),
        }
        if state.rec_A is not None:
            terms["CYC_A"] = self.lambda_A * cycle_loss(state.rec_A, batch.A).mean()
        if state.rec_B is not None:
            terms["CYC_B"] = self.lambda_B * cycle_loss(state.rec_B, batch.target).mean()
        if state.idt_A is not None:
            weight = self.lambda_B * self.lambda_identity
            terms["IDT_A"] = weight * identity_loss(state.idt_A, batch.target).mean()
        if state.idt_B is not None:
            weight = self.lambda_A * self.lambda_identity
            terms["IDT_B"] = weight * identity_loss(state.idt_B, batch.A).mean()
        return terms

    def d_losses(self, state: TwoWayState) -> dict[str, Tensor]:
        """The terms of both discriminators, each half."""
        terms: dict[str, Tensor] = {}
        judged = {"D_A": (state.batch.target, state.shown_B), "D_B": (state.batch.A, state.shown_A)}
        for name, (real, fake) in judged.items():
            alpha = state.uniform(f"gradient penalty {name}") if self.gan_mode == "wgangp" else None
            critic = self.nets[name]
            terms |= critic_terms(critic, real, fake, self.gan_mode, name=name, penalty=self.lambda_GP, alpha=alpha)
        return terms

    # -- state and pictures -----------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        return {"pools": {side: pool.state() for side, pool in self.pools.items()}}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        for side, pool in self.pools.items():
            pool.load(state["pools"][side])

    def visuals(self, state: TwoWayState) -> dict[str, np.ndarray]:
        images = {
            "real_A": state.batch.A,
            "fake_B": state.fake_B,
            "rec_A": state.rec_A,
            "idt_B": state.idt_B,
            "real_B": state.batch.target,
            "fake_A": state.fake_A,
            "rec_B": state.rec_B,
            "idt_A": state.idt_A,
        }
        return {name: to_uint8(image[0]) for name, image in images.items() if image is not None}

    @torch.no_grad()
    def panel(self, source: Tensor) -> dict[str, list[np.ndarray]]:
        fake = self.nets["G_A"](source)
        columns = {"input": source, "translation": fake, "and back": self.nets["G_B"](fake)}
        return {heading: [to_uint8(image) for image in images] for heading, images in columns.items()}


def two_way_networks(run: RunOptions) -> dict[str, nn.Module]:
    """G_A, G_B, D_A and D_B of a run, in the order of their first weights."""
    nets = run.networks
    return {
        "G_A": generator_from(run, "G_A"),
        "G_B": generator_from(run, "G_B", back=True),
        "D_A": discriminator_from(run, "D_A", nets.output_nc),
        "D_B": discriminator_from(run, "D_B", nets.input_nc),
    }


def check_alike(run: RunOptions, flag: str) -> None:
    """Raise an OptionError where an identity term would compare images of different channels."""
    nets = run.networks
    if nets.input_nc != nets.output_nc:
        raise OptionError(
            f"--input_nc {nets.input_nc} and --output_nc {nets.output_nc}: the identity terms compare an image with "
            f"its translation, so both must be equal; files are converted to either; or use --{flag} 0"
        )
