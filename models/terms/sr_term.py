"""SRUNIT's semantic robustness (Jia et al., ICCV 2021, arXiv:2012.04932) as a term of any contrastive model.

A feature of the source is disturbed, the rest of G makes an image of it, and G's encoder and F must find the same
content in that image: the same meaning must not be translated into different ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.cam.functional import full_precision
from models.losses.robustness import REG_MODES, disturbed, magnitudes, robustness, unit_directions
from models.networks import GENERATORS, Generator, build_generator, draw_patch_ids
from models.terms.base import TERMS, ExtraTerm
from options.schema import Group, OptionError, option, show
from util.engine.step import only_trains
from util.seeding import StepInfo, key

if TYPE_CHECKING:
    from models.cut_model import CutModel, CutState
    from options.parse import RunOptions


@dataclass(frozen=True)
class SrOptions(Group):
    """semantic robustness of SRUNIT"""

    reg: float = option(0.001, "weight of the robustness loss SR", low=0)
    reg_noise: float = option(0.001, "largest magnitude of the noise on a feature", low=1e-6)
    reg_layers: tuple[int, ...] = option(
        (0, 1, 2, 3, 4), "where noise is added, as indices into --nce_layers; each step draws one", low=0
    )
    reg_type: str = option("v2", "v2: F learns from SR as well; v1: G alone", choices=("v1", "v2"))
    inact_epochs: int = option(100, "epochs of plain CUT before SR begins", low=0, aliases=("init_epochs",))
    reg_mode: str = option(
        "matched", "the paper's quotient, the published code's, or one between translations", choices=REG_MODES
    )
    reg_relative: bool = option(False, "noise relative to the norm of the feature at each position")
    reg_detach: bool = option(False, "no gradient to what the disturbed image is compared with")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Between two translations, noise of the published size would drown in the rounding of float32.

        The weight over the noise, which is what counts, stays the same.
        """
        quotient = str(given.get("reg_mode", "")).lower() == "quotient"
        return {"reg_relative": True, "reg_noise": 0.01, "reg": 0.01} if quotient else {}


@TERMS.register("sr")
class SrTerm(ExtraTerm):
    """Robustness of F(E(G(x))) against noise in a layer of G.

    Args:
        layers: indices into the model's nce_layers; each step draws one.
        weight: `--reg`.
        noise: largest magnitude, of a position's norm with `relative`.
        mode: one of REG_MODES.
        trains_f: whether F gets gradient (`--reg_type v2`).
        inact_epochs: the term begins after that epoch.
        first_epoch: number of the run's first epoch.
        relative, detach: as in SrOptions.
        reuse: the state's E(G(x)) may be the reference of `quotient`: no layer mixes images.
    """

    Options = SrOptions

    def __init__(
        self,
        layers: Sequence[int] = (0, 1, 2, 3, 4),
        *,
        weight: float = 0.001,
        noise: float = 0.001,
        mode: str = "matched",
        trains_f: bool = True,
        inact_epochs: int = 100,
        first_epoch: int = 1,
        relative: bool = False,
        detach: bool = False,
        reuse: bool = True,
    ) -> None:
        self.layers, self.weight, self.noise, self.mode = tuple(layers), weight, noise, mode
        self.trains_f, self.inact_epochs, self.first_epoch = trains_f, inact_epochs, first_epoch
        self.relative, self.detach, self.reuse = relative, detach, reuse
        self.reads_queries = mode == "quotient" and weight > 0

    @classmethod
    def from_options(cls, options: Group, run: RunOptions) -> SrTerm:
        assert isinstance(options, SrOptions)
        opt: SrOptions = options
        _check(opt, run)
        term = cls(
            opt.reg_layers,
            weight=opt.reg,
            noise=opt.reg_noise,
            mode=opt.reg_mode,
            trains_f=opt.reg_type == "v2",
            inact_epochs=opt.inact_epochs,
            first_epoch=run.schedule.epoch_count,
            relative=opt.reg_relative,
            detach=opt.reg_detach,
            reuse=run.networks.normG != "batch",
        )
        term.messages = term._never(run.schedule.last_epoch)
        return term

    def begin_epoch(self, info: StepInfo) -> Sequence[str]:
        """At the start: that the term never begins, where only --max_iters, in steps, ends the run before."""
        if info.step > 0 or self.messages:
            return ()
        epochs = math.ceil(1 / info.epoch_share - 1e-6)
        return self._never(self.first_epoch + epochs - 1, " by --max_iters")

    def _never(self, last: int, why: str = "") -> Sequence[str]:
        """What is said where the run's last epoch comes before the term's first."""
        if self.weight == 0 or self.inact_epochs < last:
            return ()
        advice = f"a quarter of the epochs is usual ({last // 4})" if last >= 4 else "with 0 it begins at once"
        return (
            f"WARNING: --inact_epochs {self.inact_epochs}: the run ends with epoch {last}{why}, so the robustness loss "
            f"never begins; {advice}",
        )

    def active(self, info: StepInfo) -> bool:
        """Whether the term is computed in this step: after `inact_epochs` epochs."""
        return self.weight > 0 and int(info.progress) + self.first_epoch > self.inact_epochs

    @property
    def weights(self) -> Mapping[str, float]:
        return {"reg": self.weight}

    def terms(self, model: CutModel, state: CutState) -> dict[str, Tensor]:
        return {"SR": self.weight * self.loss(model, state)} if self.active(state.info) else {}

    def loss(self, model: CutModel, state: CutState) -> Tensor:
        """The unweighted loss, in full precision: 16 bits would swamp the noise."""
        index, info, sampler = self.drawn_layer(state.info), state.info, model.sampler
        moved, reference, divisor = self._features(model, state, index)
        size, netF, device = divisor.shape[2] * divisor.shape[3], sampler.netF, divisor.device
        (ids,) = draw_patch_ids(
            [size], model.num_patches, info.seed, info.step, netF=netF, purpose="SR patches", device=device
        )
        with only_trains(model.nets, ("G", "F") if self.trains_f else ("G",)):
            rows = sampler.embed(index, moved, ids)
            kept = sampler.embed(index, reference, ids)
        loss = robustness(rows, kept.detach() if self.detach else kept, divisor.flatten(1)[:, ids].flatten())
        # The published code means to divide by the layers used, which is one, and divides by all.
        return loss / len(model.nce_layers) if self.mode == "released" else loss

    def _features(self, model: CutModel, state: CutState, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """At a layer: E of the disturbed image, what it is compared with, and the magnitudes (N,1,h,w) to divide by."""
        net, layer = model.generator, model.nce_layers[index]
        feature = full_precision(_as_seen(state.seen_A[index], state))  # of the pass that made the translation
        normal = _drawn(torch.randn, "SR directions", state, feature.shape[1:]).to(feature)
        uniform = _drawn(torch.rand, "SR magnitudes", state, (1, *feature.shape[2:])).to(feature)
        added, divisor = magnitudes(uniform, self.noise, self.mode)
        with _float32(feature.device.type, exact=self.mode == "quotient") as alike:
            noisy = disturbed(feature, unit_directions(normal), added, self.relative)
            moved = _again(net, noisy, layer)
            if self.mode != "quotient":
                return moved, feature, divisor
            known = self.reuse and alike
            return moved, _as_seen(state.query_A[index], state) if known else _again(net, feature, layer), divisor

    def drawn_layer(self, info: StepInfo) -> int:
        """The index into nce_layers of a step, the same for all images and on every rank."""
        chosen = torch.randint(len(self.layers), (), generator=info.generator("SR layer"))
        return self.layers[int(chosen)]


def _again(generator: Generator, feature: Tensor, layer: int) -> Tensor:
    """The feature of that layer in the image that is made of it."""
    return generator.encode(generator.decode(feature, layer), [layer])[0]


def _as_seen(feature: Tensor, state: CutState) -> Tensor:
    """A feature the way round G computed it; CUT's state has turned those of mirrored images back."""
    return feature.flip(-1) if state.mirrored else feature


def _drawn(draw: Callable[..., Tensor], purpose: str, state: CutState, shape: Sequence[int]) -> Tensor:
    """Numbers (N, *shape) that depend on seed, step and sample alone, drawn where they are needed: there are many."""
    info, device = state.info, state.generated.device
    rows = []
    for sample in state.batch.index.tolist():
        random = torch.Generator(device).manual_seed(key(info.seed, purpose, info.step, sample))
        rows.append(draw(tuple(shape), generator=random, device=device))
    return torch.stack(rows)


@contextmanager
def _float32(device: str, exact: bool) -> Iterator[bool]:
    """No 16 bits, nor, where `exact`, the TF32 of convolutions, whose rounding is of the size of the noise.

    Yields whether the passes outside were computed in the same way.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    alike = not torch.is_autocast_enabled(device) and (device != "cuda" or not tf32)
    torch.backends.cudnn.allow_tf32 = tf32 and not exact
    try:
        with torch.autocast(device, enabled=False):
            yield alike
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def _check(opt: SrOptions, run: RunOptions) -> None:
    """Raise an OptionError where the run's networks cannot do what the term asks for."""
    nets, count = run.networks, len(run.model.nce_layers)  # type: ignore[attr-defined]
    if not opt.reg_layers or max(opt.reg_layers) >= count:
        named = f"--reg_layers {show(opt.reg_layers)}".strip()
        raise OptionError(
            f"{named}: indices into --nce_layers go from 0 to {count - 1} here; write for example "
            f"--reg_layers {show(list(range(count)))}"
        )
    if not _enterable(nets.netG):
        known = [name for name in GENERATORS if _enterable(name)]
        raise OptionError(
            f"--netG {nets.netG}: the robustness loss enters G at a layer, which this one does not allow; "
            f"use {' or '.join(known)}"
        )
    if nets.input_nc != nets.output_nc:
        raise OptionError(
            f"--input_nc {nets.input_nc} and --output_nc {nets.output_nc}: the robustness loss encodes images and "
            "their translations with one encoder, so both must be equal; files are converted to either"
        )
    if opt.reg_mode == "quotient" and not nets.no_dropout:
        raise OptionError(
            "--reg_mode quotient: dropout moves a translation more than the noise does; leave out --no_dropout False"
        )


def _enterable(netG: str) -> bool:
    """Whether a generator can be entered at a layer."""
    net = build_generator(netG, ngf=1, generator=torch.Generator())
    return type(net).decode is not Generator.decode
