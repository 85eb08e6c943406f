"""DCLGAN (Han et al., CVPR Workshops 2021, arXiv:2104.07689): contrastive translation in both directions at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import MODELS, Phase
from models.builders import check_penalty, check_similarities, initialised, rounded_sizes
from models.cycle_gan_model import CycleGanModel, TwoWayState, check_alike, two_way_networks
from models.losses.gan import gan_loss
from models.losses.identity import identity_loss
from models.losses.patch_nce import patch_nce
from models.networks import Generator, PatchSampleF, draw_patch_ids
from models.networks.patch_sampler import PATCH_SAMPLERS
from options.schema import Group, OptionError, option, show
from util.seeding import StepInfo

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions


@dataclass(frozen=True)
class DclGanOptions(Group):
    """DCLGAN: adversarial and contrastive loss in both directions"""

    lambda_GAN: float = option(1.0, "weight of the adversarial losses of G_A and G_B", low=0)
    lambda_NCE: float = option(2.0, "weight of the contrastive losses", low=0)
    lambda_IDT: float = option(1.0, "weight of |G_A(B) - B| and |G_B(A) - A|", low=0)
    lambda_GP: float = option(10.0, "weight of the gradient penalty of --gan_mode wgangp", low=0)
    nce_layers: tuple[int, ...] = option((4, 8, 12, 16), "layers of G_A and G_B that are contrasted", low=0)
    nce_includes_all_negatives_from_minibatch: bool = option(
        False, "negatives from the whole batch instead of the same image"
    )
    netF: str = option(
        "mlp_sample",
        "embedding of patches; reshape: of every position of a layer, so for small images",
        choices=PATCH_SAMPLERS,
    )
    netF_nc: int = option(256, "length of an embedded patch", low=1)
    nce_T: float = option(0.07, "temperature of the contrastive loss", low=1e-4)
    num_patches: int = option(256, "patches per layer and image", low=1)
    pool_size: int = option(0, "earlier translations that each D is shown in place of new ones; 0: none", low=0)

    SHAPES: ClassVar[tuple[str, ...]] = ("nce_layers", "netF", "netF_nc")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        # A U-Net numbers its layers by level.
        return {"nce_layers": (1, 2, 3, 4)} if str(given.get("netG", "")).startswith("unet") else {}


@dataclass(frozen=True)
class DclGanState(TwoWayState):
    """With features of nce_layers: keys of an image by the encoder of its own side, queries of its translation by the
    other side's encoder."""

    key_A: Sequence[Tensor]  # E_A(A), of the pass that made fake_B
    key_B: Sequence[Tensor]  # E_B(B)
    query_A: Sequence[Tensor]  # E_B(G_A(A))
    query_B: Sequence[Tensor]  # E_A(G_B(B))


@MODELS.register("dclgan")
class DclGanModel(CycleGanModel):
    """CycleGAN's four networks without its cycle; F1 embeds features of G_A's encoder, F2 those of G_B's.

    G's terms are means over both directions. As in CUT, and unlike CycleGAN, the discriminators are trained first.

    Args:
        nets: `G_A`, `G_B`, `D_A`, `D_B`, `F1`, `F2`; without D_A and D_B where lambda_GAN is 0.
        nce_layers: layer ids of both generators that are contrasted.
        others: keyword arguments named as in DclGanOptions.
    """

    Options: ClassVar[type[Group]] = DclGanOptions

    def __init__(
        self,
        nets: dict[str, nn.Module],
        *,
        nce_layers: Sequence[int],
        lambda_GAN: float = 1.0,
        lambda_NCE: float = 2.0,
        lambda_IDT: float = 1.0,
        lambda_GP: float = 10.0,
        all_negatives: bool = False,
        nce_T: float = 0.07,
        num_patches: int = 256,
        pool_size: int = 0,
        gan_mode: str = "lsgan",
    ) -> None:
        super().__init__(nets, lambda_GP=lambda_GP, pool_size=pool_size, gan_mode=gan_mode)
        self.nce_layers = tuple(nce_layers)
        self.lambda_GAN, self.lambda_NCE, self.lambda_IDT = lambda_GAN, lambda_NCE, lambda_IDT
        self.all_negatives, self.nce_T, self.num_patches = all_negatives, nce_T, num_patches
        judges = [Phase("D", ("D_A", "D_B"), self.d_losses)] if lambda_GAN > 0 else []
        self.phases = [*judges, Phase("G", ("G_A", "G_B", "F1", "F2"), self.g_losses)]

    @classmethod
    def from_options(cls, run: RunOptions) -> DclGanModel:
        opt: DclGanOptions = run.model  # type: ignore[assignment]
        if opt.lambda_GAN > 0:
            check_penalty(run)
        if opt.lambda_IDT > 0:
            check_alike(run, "lambda_IDT")
        nets = two_way_networks(run)
        if not opt.lambda_GAN:
            del nets["D_A"], nets["D_B"]
        channels = [channels_of(nets[name], opt.nce_layers) for name in ("G_A", "G_B")]
        for name, widths in zip(("F1", "F2"), channels, strict=True):
            nets[name] = initialised(PatchSampleF(widths, opt.netF, opt.netF_nc), run, name)
        model = cls(
            nets,
            nce_layers=opt.nce_layers,
            lambda_GAN=opt.lambda_GAN,
            lambda_NCE=opt.lambda_NCE,
            lambda_IDT=opt.lambda_IDT,
            lambda_GP=opt.lambda_GP,
            all_negatives=opt.nce_includes_all_negatives_from_minibatch,
            nce_T=opt.nce_T,
            num_patches=opt.num_patches,
            pool_size=opt.pool_size,
            gan_mode=run.optim.gan_mode,
        )
        model.messages += rounded_sizes(run, model.size_multiple)
        return model

    @property
    def weights(self) -> dict[str, float]:
        return {"lambda_GAN": self.lambda_GAN, "lambda_NCE": self.lambda_NCE, "lambda_IDT": self.lambda_IDT}

    def check_training(self, run: RunOptions) -> None:
        super().check_training(run)
        opt: DclGanOptions = run.model  # type: ignore[assignment]
        if self.lambda_NCE > 0 and opt.netF == "reshape":
            together = run.data.batch_size if self.all_negatives else 1
            generator: Generator = self.nets["G_A"]  # type: ignore[assignment]
            check_similarities(run, generator, self.nce_layers, together)

    # -- forward ----------------------------------------------------------------------------------------------

    def forward_train(self, batch: Batch, info: StepInfo) -> DclGanState:
        there: Generator = self.nets["G_A"]  # type: ignore[assignment]
        back: Generator = self.nets["G_B"]  # type: ignore[assignment]
        layers = self.nce_layers if self.lambda_NCE > 0 else ()
        fake_B, key_A = there.with_features(batch.A, layers)
        fake_A, key_B = back.with_features(batch.target, layers)
        return DclGanState(
            batch=batch,
            info=info,
            fake_B=fake_B,
            fake_A=fake_A,
            shown_B=self.pools["B"].exchange(fake_B, info, batch.index),
            shown_A=self.pools["A"].exchange(fake_A, info, batch.index),
            idt_A=there(batch.target) if self.lambda_IDT > 0 else None,
            idt_B=back(batch.A) if self.lambda_IDT > 0 else None,
            rec_A=None,
            rec_B=None,
            key_A=key_A,
            key_B=key_B,
            query_A=back.encode(fake_B, layers),
            query_B=there.encode(fake_A, layers),
        )

    # -- losses -----------------------------------------------------------------------------------------------

    def g_losses(self, state: DclGanState) -> dict[str, Tensor]:  # type: ignore[override]
        """Adversarial, contrastive and identity terms, each half: there are two of every kind (eq. 8 of the paper)."""
        terms: dict[str, Tensor] = {}
        if self.lambda_GAN > 0:
            judged = {"G_GAN_A": self.nets["D_A"](state.fake_B), "G_GAN_B": self.nets["D_B"](state.fake_A)}
            for name, logits in judged.items():
                terms[name] = 0.5 * self.lambda_GAN * gan_loss(logits, True, self.gan_mode, True)
        if self.lambda_NCE > 0:
            terms["NCE_A"] = 0.5 * self.contrast(state, state.query_A, "F2", state.key_A, "F1", "patches A")
            terms["NCE_B"] = 0.5 * self.contrast(state, state.query_B, "F1", state.key_B, "F2", "patches B")
        if state.idt_A is not None and state.idt_B is not None:
            terms["IDT_A"] = 0.5 * self.lambda_IDT * identity_loss(state.idt_A, state.batch.target).mean()
            terms["IDT_B"] = 0.5 * self.lambda_IDT * identity_loss(state.idt_B, state.batch.A).mean()
        return terms

    def contrast(
        self,
        state: DclGanState,
        query: Sequence[Tensor],
        embeds_query: str,
        key: Sequence[Tensor],
        embeds_key: str,
        purpose: str,
    ) -> Tensor:
        """lambda_NCE times PatchNCE between two encoders, averaged over positions, images and layers.

        Args:
            embeds_query, embeds_key: the network that embeds patches of each: F1 or F2.
            purpose: tells the draw of positions from the other direction's.
        """
        samplers: list[Any] = [self.nets[embeds_query], self.nets[embeds_key]]
        sizes = [feature.shape[-2] * feature.shape[-1] for feature in key]
        ids = draw_patch_ids(
            sizes,
            self.num_patches,
            state.info.seed,
            state.info.step,
            netF=samplers[0].netF,
            purpose=purpose,
            device=key[0].device,
        )
        queries, images = samplers[0](query, ids), len(query[0])
        with torch.no_grad():
            keys = samplers[1](key, ids)
        losses = [
            patch_nce(q, k, images, self.nce_T, self.all_negatives).mean() for q, k in zip(queries, keys, strict=True)
        ]
        return self.lambda_NCE * torch.stack(losses).mean()


def channels_of(net: nn.Module, layers: Sequence[int]) -> list[int]:
    """Channels of the contrasted layers of a generator.

    Raises:
        OptionError: --nce_layers names none, one twice, or one that the generator does not have.
    """
    if not layers or list(layers) != sorted(set(layers)):
        known = show(sorted(set(layers))) or "at least one layer"
        raise OptionError(f"--nce_layers {show(layers)}: names layers once, in rising order; write {known}")
    assert isinstance(net, Generator)
    try:
        return net.feature_channels(layers)
    except ValueError as error:
        raise OptionError(f"--nce_layers {show(layers)}: {error}") from error
