"""CUT and FastCUT (Park et al., ECCV 2020): one-sided translation by patchwise contrast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.augmenting import augmented
from models.base import MODELS, Model, Phase, State
from models.builders import (
    check_penalty,
    check_similarities,
    discriminator_from,
    generator_from,
    initialised,
    rounded_sizes,
)
from models.cut_options import CutOptions
from models.losses.gan import gan_loss, gradient_penalty, r1_penalty
from models.losses.nce_weighting import Weighting
from models.losses.patch_nce import patch_nce
from models.networks import Generator, PatchSampleF, draw_patch_ids
from models.networks.discriminators import judge_both
from models.networks.tiling import tiled
from models.queries import sharpest_ids
from models.terms import TERMS, ExtraTerm
from options.schema import Group, OptionError, show
from util.seeding import StepInfo, generator
from util.transfer import send
from util.visual.pictures import to_uint8

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions


@dataclass(frozen=True)
class CutState(State):
    """One pass of G over the source (and, for the identity terms, the target), and its features.

    Feature lists go by nce_layers. `queries` may be missing where no loss reads them. With `mirrored`, G saw
    mirrored images: `fake_B` and `idt_B` are mirrored, while all features are turned back and `key` features
    come from the unmirrored images.
    """

    generated: Tensor  # (N or 2N, C, H, W), G(x) and, where asked for, G(y) after it
    seen_A: Sequence[Tensor]  # E(x) of the pass that made fake_B; carries gradient
    key_A: Sequence[Tensor]  # E(x) to compare with; the same tensors unless mirrored
    query_A: Sequence[Tensor]  # E(G(x))
    key_B: Sequence[Tensor]  # E(y)
    query_B: Sequence[Tensor]  # E(G(y))
    mirrored: bool

    @property
    def fake_B(self) -> Tensor:
        """G(x), (N, C, H, W) in [-1, 1]."""
        return self.generated[: len(self.batch.A)]

    @property
    def idt_B(self) -> Tensor | None:
        """G(y), (N, C, H, W) in [-1, 1], where a loss needs it."""
        return self.generated[len(self.batch.A) :] if len(self.generated) > len(self.batch.A) else None

    def upright(self, image: Tensor) -> Tensor:
        """A generated image the way round its input is."""
        return image.flip(-1) if self.mirrored else image


@dataclass(frozen=True)
class GanWeights:
    """Weights per position of D's map, mean 1 per image: for D's fake and real term, and for G's term."""

    d_fake: Tensor | None = None
    d_real: Tensor | None = None
    g_fake: Tensor | None = None


@MODELS.register("cut")
class CutModel(Model[CutState]):
    """G translates, D judges, F embeds patches of G's encoder.

    Args:
        nets: `G`, `F` and, where there is an adversarial loss, `D`.
        nce_layers: layer ids of G that are contrasted.
        weighting: of the negatives.
        extras: further terms of G's phase.
        others: keyword arguments named as in CutOptions.
    """

    Options: ClassVar[type[Group]] = CutOptions

    def __init__(
        self,
        nets: dict[str, nn.Module],
        *,
        nce_layers: Sequence[int],
        lambda_GAN: float = 1.0,
        lambda_NCE: float = 1.0,
        lambda_GP: float = 10.0,
        nce_idt: bool = True,
        all_negatives: bool = False,
        nce_T: float = 0.07,
        num_patches: int = 256,
        flip_equivariance: bool = False,
        gan_mode: str = "lsgan",
        weighting: Weighting | None = None,
        nce_query: str = "random",
        diffaug: Sequence[str] = (),
        lambda_R1: float = 0.0,
        r1_every: int = 16,
        extras: Sequence[ExtraTerm] = (),
    ) -> None:
        super().__init__()
        self.nets = nets
        self.extras, self.weighting, self.nce_query = tuple(extras), weighting, nce_query
        self.diffaug, self.lambda_R1, self.r1_every = tuple(diffaug), lambda_R1, r1_every
        self._last_r1: Tensor | None = None  # for the log, whose lines mostly fall between the steps that compute it
        self.generator: Generator = nets["G"]  # type: ignore[assignment]
        self.sampler: PatchSampleF = nets["F"]  # type: ignore[assignment]
        self.size_multiple = self.generator.size_multiple
        self.nce_layers = tuple(nce_layers)
        self.lambda_GAN, self.lambda_NCE, self.lambda_GP = lambda_GAN, lambda_NCE, lambda_GP
        self.nce_idt, self.all_negatives, self.nce_T = nce_idt, all_negatives, nce_T
        self.num_patches, self.flip_equivariance, self.gan_mode = num_patches, flip_equivariance, gan_mode
        trained = tuple(name for name in nets if name != "D")
        phases: list[Phase[Any]] = [Phase("D", ("D",), self.d_losses)] if "D" in nets else []
        self.phases = [*phases, Phase("G", trained, self.g_losses)]

    @classmethod
    def from_options(cls, run: RunOptions) -> CutModel:
        model = cls(cls.networks_from(run), **cls.arguments_from(run))
        model.messages += rounded_sizes(run, model.size_multiple)
        model.messages += [line for extra in model.extras for line in extra.messages]
        return model

    @classmethod
    def networks_from(cls, run: RunOptions) -> dict[str, nn.Module]:
        """G, F and D of a run, in the order of their first weights."""
        opt: CutOptions = run.model  # type: ignore[assignment]
        check_layers(opt.nce_layers)
        net = generator_from(run)
        try:
            channels = net.feature_channels(opt.nce_layers)
        except ValueError as error:
            raise OptionError(f"--nce_layers {show(opt.nce_layers)}: {error}") from error
        sampler = initialised(PatchSampleF(channels, opt.netF, opt.netF_nc), run, "F")
        nets: dict[str, nn.Module] = {"G": net, "F": sampler}
        return nets | ({"D": discriminator_from(run)} if opt.lambda_GAN > 0 else {})

    @classmethod
    def arguments_from(cls, run: RunOptions) -> dict[str, Any]:
        """Keyword arguments of the constructor.

        Raises:
            OptionError: options that contradict each other.
        """
        opt: CutOptions = run.model  # type: ignore[assignment]
        if opt.lambda_R1 > 0 and run.networks.normD == "batch":
            raise OptionError(
                f"--lambda_R1 {opt.lambda_R1}: it is defined per image, and --normD batch mixes them; use instance"
            )
        if opt.lambda_GAN > 0:
            check_penalty(run)
        extras = [
            TERMS.get(name).from_options(options, run)
            for name, options in zip(opt.extra_losses, run.terms, strict=True)
        ]
        if opt.lambda_NCE > 0:
            check_channels(run, "the contrastive loss")
        for name, extra in zip(opt.extra_losses, extras, strict=True):
            if extra.reads_queries:
                check_channels(run, f"--extra_losses {name}")
        return {
            "nce_layers": opt.nce_layers,
            "lambda_GAN": opt.lambda_GAN,
            "lambda_NCE": opt.lambda_NCE,
            "lambda_GP": opt.lambda_GP,
            "nce_idt": opt.nce_idt and opt.lambda_NCE > 0,
            "all_negatives": opt.nce_includes_all_negatives_from_minibatch,
            "nce_T": opt.nce_T,
            "num_patches": opt.num_patches,
            "flip_equivariance": opt.flip_equivariance,
            "gan_mode": run.optim.gan_mode,
            "weighting": None if opt.nce_weighting == "none" else Weighting(opt.nce_weighting, opt.nce_weighting_T),
            "nce_query": opt.nce_query,
            "diffaug": opt.diffaug,
            "lambda_R1": opt.lambda_R1,
            "r1_every": opt.r1_every,
            "extras": extras,
        }

    @property
    def weights(self) -> dict[str, float]:
        own = {"lambda_GAN": self.lambda_GAN, "lambda_NCE": self.lambda_NCE}
        return own | {flag: weight for extra in self.extras for flag, weight in extra.weights.items()}

    def check_training(self, run: RunOptions) -> None:
        super().check_training(run)
        contrasts = self.lambda_NCE > 0 or any(extra.reads_queries for extra in self.extras)
        if contrasts and self.sampler.netF == "reshape":
            together = run.data.batch_size if self.all_negatives else 1
            check_similarities(run, self.generator, self.nce_layers, together)

    # -- forward ----------------------------------------------------------------------------------------------

    @property
    def translates_target(self) -> bool:
        """Whether a loss needs G(y)."""
        return self.nce_idt

    @property
    def reads_queries(self) -> bool:
        """Whether a loss needs E(G(x))."""
        return self.lambda_NCE > 0 or any(extra.reads_queries for extra in self.extras)

    def forward_train(self, batch: Batch, info: StepInfo) -> CutState:
        images = torch.cat([batch.A, batch.target]) if self.translates_target else batch.A
        count, layers = len(batch.A), self.nce_layers
        mirrored = self.flip_equivariance and bool(torch.rand((), generator=info.generator("flip")) < 0.5)
        made, seen = self.generator.with_features(images.flip(-1) if mirrored else images, layers)
        # D needs the translation of x only; where no loss contrasts G(y), its features are not computed.
        asked = made if self.nce_idt else made[:count]
        query = self.generator.encode(asked, layers) if self.reads_queries else []
        key = seen
        if mirrored:
            seen, query = _flipped(seen), _flipped(query)
            with torch.no_grad():  # keys must come from the images as they are, and carry no gradient
                key = self.generator.encode(images, layers)
        (seen_A, _), (key_A, key_B), (query_A, query_B) = (_halves(f, count) for f in (seen, key, query))
        return CutState(
            batch=batch,
            info=info,
            generated=made,
            seen_A=seen_A,
            key_A=key_A,
            query_A=query_A,
            key_B=key_B,
            query_B=query_B,
            mirrored=mirrored,
        )

    def translate_batch(self, source: Tensor) -> Tensor:
        image: Tensor = self.generator(source)
        return image

    def in_tiles(self, tile: int) -> None:
        self.generator = self.nets["G"] = tiled(self.generator, tile)

    # -- losses -----------------------------------------------------------------------------------------------

    def gan_weights(self, state: CutState) -> GanWeights:
        """Weights of the adversarial terms; none here."""
        return GanWeights()

    def shown(self, images: Tensor, state: CutState, purpose: str) -> Tensor:
        """What D sees of images: they themselves, or changed at random (--diffaug).

        Args:
            purpose: `fake` and `real` where D learns, `judged` where G does; it tells draws apart.
        """
        return augmented(images, self.diffaug, state.batch, state.info, f"diffaug {purpose}")

    def d_losses(self, state: CutState) -> dict[str, Tensor]:
        """D's terms, each half, as in CUT."""
        critic, weights = self.nets["D"], self.gan_weights(state)
        fake = self.shown(state.fake_B.detach(), state, "fake")
        real = self.shown(state.batch.target, state, "real")
        of_fake, of_real = judge_both(critic, fake, real)
        terms = {
            "D_fake": 0.5 * gan_loss(of_fake, False, self.gan_mode, weights=weights.d_fake),
            "D_real": 0.5 * gan_loss(of_real, True, self.gan_mode, weights=weights.d_real),
        }
        if self.gan_mode == "wgangp" and self.lambda_GP > 0:
            draws = [torch.rand((), generator=self._keyed(state, int(index))) for index in state.batch.index]
            alpha = send(torch.stack(draws), fake.device)
            terms["D_GP"] = 0.5 * self.lambda_GP * gradient_penalty(critic, real, fake, alpha)
        if self.lambda_R1 > 0 and state.info.step % self.r1_every == 0:
            terms["D_R1"] = 0.5 * self.lambda_R1 * self.r1_every * r1_penalty(critic, real)
            self._last_r1 = terms["D_R1"].detach()
        return terms

    def monitors(self, state: CutState) -> dict[str, Tensor]:
        """D_R1 as it last was, where this step has not computed it."""
        if self._last_r1 is None or state.info.step % self.r1_every == 0:
            return {}
        return {"D_R1": self._last_r1}

    def extra_state(self) -> dict[str, Any]:
        return {} if self._last_r1 is None else {"last_r1": self._last_r1}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._last_r1 = state["last_r1"].to(self.device) if "last_r1" in state else None

    def begin_epoch(self, info: StepInfo, read_source: Callable[[], Iterable[Batch]]) -> None:
        for extra in self.extras:
            self.messages += extra.begin_epoch(info)

    def g_losses(self, state: CutState) -> dict[str, Tensor]:
        terms = {}
        if self.lambda_GAN > 0:
            judged = self.nets["D"](self.shown(state.fake_B, state, "judged"))
            weight = self.gan_weights(state).g_fake
            terms["G_GAN"] = self.lambda_GAN * gan_loss(judged, True, self.gan_mode, True, weight)
        if self.lambda_NCE > 0:
            share = 0.5 if self.nce_idt else 1.0
            ids = self.query_ids(state, state.key_A, "A")
            terms["NCE"] = share * self.lambda_NCE * self.contrast(state.query_A, state.key_A, ids)
            if self.nce_idt:
                ids = self.query_ids(state, state.key_B, "B")
                terms["NCE_Y"] = share * self.lambda_NCE * self.contrast(state.query_B, state.key_B, ids)
        for extra in self.extras:
            terms |= extra.terms(self, state)
        return terms

    def query_ids(self, state: CutState, key: Sequence[Tensor], side: str) -> list[Tensor]:
        """Positions to contrast in each feature map, (P,) for all images or (N, P).

        Args:
            key: E(x) or E(y).
            side: of which domain they are, A or B.
        """
        info = state.info
        sizes = [feature.shape[-2] * feature.shape[-1] for feature in key]
        ids = draw_patch_ids(
            sizes, self.num_patches, info.seed, info.step, netF=self.sampler.netF, device=key[0].device
        )
        if self.nce_query == "entropy":  # of the deepest layers alone, as published: there attention means something
            ids[-2:] = [sharpest_ids(feature, len(drawn)) for feature, drawn in zip(key[-2:], ids[-2:], strict=True)]
        return ids

    def contrast(self, query: Sequence[Tensor], key: Sequence[Tensor], ids: Sequence[Tensor]) -> Tensor:
        """PatchNCE, averaged over positions, images and layers."""
        images = len(query[0])
        queries = self.sampler(query, ids)
        with torch.no_grad():
            keys = self.sampler(key, ids)
        losses = [
            patch_nce(q, k, images, self.nce_T, self.all_negatives, self.weighting).mean()
            for q, k in zip(queries, keys, strict=True)
        ]
        return torch.stack(losses).mean()

    def _keyed(self, state: CutState, sample: int) -> torch.Generator:
        return generator(state.info.seed, "gradient penalty", state.info.step, sample)

    # -- pictures ---------------------------------------------------------------------------------------------

    def visuals(self, state: CutState) -> dict[str, np.ndarray]:
        pictures = super().visuals(state) | {"fake_B": to_uint8(state.upright(state.fake_B)[0])}
        if state.idt_B is not None:
            pictures["idt_B"] = to_uint8(state.upright(state.idt_B)[0])
        return {name: pictures[name] for name in ("real_A", "fake_B", "real_B", "idt_B") if name in pictures}


def check_layers(layers: Sequence[int]) -> None:
    """Raise an OptionError unless the layers rise: the last is taken for the deepest, and F has one part for each."""
    if not layers:
        raise OptionError("--nce_layers: name at least one layer")
    rising = sorted(set(layers))
    if list(layers) != rising:
        fault = "names a layer twice" if len(rising) < len(layers) else "is not in rising order"
        raise OptionError(f"--nce_layers {show(layers)}: {fault}; write {show(rising)}")


def check_channels(run: RunOptions, reader: str) -> None:
    """Raise an OptionError where G's encoder cannot read G's own output, which `reader` asks of it."""
    nets = run.networks
    if nets.input_nc != nets.output_nc:
        raise OptionError(
            f"--input_nc {nets.input_nc} and --output_nc {nets.output_nc}: {reader} encodes images and their "
            "translations with one encoder, so both must be equal; files are converted to either"
        )


def _halves(features: Sequence[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Features of the first `count` images, and of those after them.

    By split, whose backward pass joins two gradients; that of two slices fills two tensors of zeros and adds them.
    """
    parts = [torch.split(f, count) if len(f) > count else (f, f[count:]) for f in features]
    return [part[0] for part in parts], [part[1] for part in parts]


def _flipped(features: Sequence[Tensor]) -> list[Tensor]:
    return [feature.flip(-1) for feature in features]
