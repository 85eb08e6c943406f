"""CUTCAM: CUT guided by class activation maps of G's own encoder.

A class head on one of G's layers says what is in an image and where it sees it. Training asks that the
translation shows the same class at the same place, and lets D look where the class is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import without_images
from models.augmenting import augmented
from models.base import MODELS, Explanation
from models.builders import initialised
from models.cam.functional import (
    dead,
    full_precision,
    gradcam_at_feature,
    label_free_map,
    rectify,
)
from models.cam.monitors import accuracy, map_monitors
from models.class_teacher import ClassTeacher
from models.cut_model import CutModel, CutState, GanWeights, check_channels
from models.cutcam_options import CutCamOptions, head_layer
from models.guards import GradientCap
from models.head_watch import HeadWatch
from models.losses.cam import adversarial_weights
from models.losses.classification import class_consistency
from models.losses.diff_augment import GEOMETRIC
from models.losses.edge import edge_loss
from models.losses.identity import identity_loss
from models.map_bank import MapBank
from models.networks import ClassHead
from models.pseudo_labels import PseudoLabels
from models.queries import CAM_QUERY, ids_by_map
from models.ramps import WARM_UP, Ramps
from options.schema import Group, OptionError, show
from util.seeding import StepInfo
from util.visual.overlay import heat_map, overlay

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions


@dataclass(frozen=True)
class CutCamState(CutState):
    """CUT's state, and what the head sees. Maps are raw (N, h, w) class maps for the same classes."""

    labels: Tensor  # (N,) int64, true or pseudo, -1 none
    logits_A: Tensor  # (N, K) of x; the head learns from these
    logits_seen: Tensor  # (N, K) of x, detached: what a translation without a true label should agree with
    logits_fake: Tensor  # (N, K) of G(x), by the frozen head or T
    logits_taught: Tensor | None  # (N, K) of G(x) as a constant, where the head learns from it too
    cam_A: Tensor  # of x, detached
    cam_fake: Tensor  # of G(x), by the frozen head
    has_cam: Tensor  # (N,) bool: the class explained is known, or the map needs none
    cam_B: Tensor | None  # of y for the head's own choice, detached; where D's real term is weighted
    cls_ramp: float  # 0 to 1
    cam_ramp: float


@MODELS.register("cutcam")
class CutCamModel(CutModel):
    """CUT with a class head `C` on G's encoder.

    Args:
        nets: `G`, `F`, `D` as in CUT and `C`, a ClassHead on the channels of the cam_layer.
        cam_index: index of that layer in nce_layers.
        teacher: whose network is in `nets` as `T`, to judge translations in the head's place; None: the head does.
        opt: the model's own options, for the values that are used as they are.
        seed: of the pseudo-labels.
        cut: keyword arguments of CutModel.
    """

    Options: ClassVar[type[Group]] = CutCamOptions
    inference_nets = ("G", "C")

    def __init__(
        self,
        nets: dict[str, nn.Module],
        *,
        cam_index: int,
        opt: CutCamOptions,
        seed: int = 0,
        teacher: ClassTeacher | None = None,
        **cut: Any,
    ) -> None:
        super().__init__(nets | ({"T": teacher.net} if teacher else {}), **cut)
        self.teacher = teacher
        self.head: ClassHead = nets["C"]  # type: ignore[assignment]
        self.cam_index, self.opt = cam_index, opt
        self.pseudo = PseudoLabels(opt.pseudo_labels, opt.num_classes, opt.pseudo_every, seed)
        self.watch = HeadWatch(opt.num_classes, opt.collapse_window, opt.on_collapse == "stop", opt.label_smoothing)
        self.cap = GradientCap(opt.cam_grad_cap if self.lambda_NCE > 0 else 0.0)
        self.bank = MapBank(opt.cam_norm, opt.cam_eps, opt.cam_tau, opt.nce_T)
        self._all_labelled = False
        self._ramps = Ramps(opt.cls_start_epoch, opt.cam_start_epoch)

    @classmethod
    def networks_from(cls, run: RunOptions) -> dict[str, nn.Module]:
        nets = super().networks_from(run)
        opt: CutCamOptions = run.model  # type: ignore[assignment]
        layer = opt.nce_layers[head_layer(opt)]
        generator = nets["G"]
        head = ClassHead(
            generator.feature_channels([layer])[0],  # type: ignore[operator]
            opt.num_classes,
            opt.cam_pool,
            dropout=opt.head_dropout,
            border=generator.feature_border(layer),  # type: ignore[operator]
            standardise=opt.cam_standardise,
        )
        # G's small first weights would leave the head's hidden layer almost constant for thousands of steps.
        initialised(head, run, "C", init_type="kaiming")
        return nets | {"C": head}

    @classmethod
    def arguments_from(cls, run: RunOptions) -> dict[str, Any]:
        opt: CutCamOptions = run.model  # type: ignore[assignment]
        check_channels(run, "the class head")
        if opt.cam_weight_adv and (moved := [word for word in opt.diffaug if word in GEOMETRIC]):
            raise OptionError(
                f"--diffaug {show(opt.diffaug)}: {moved[0]} moves what --cam_weight_adv weighs by its place; use color"
            )
        cut = super().arguments_from(run)
        teacher = ClassTeacher(run) if opt.classifier_run is not None else None
        return cut | {"cam_index": head_layer(opt), "opt": opt, "seed": run.experiment.seed, "teacher": teacher}

    @property
    def weights(self) -> dict[str, float]:
        own = ("lambda_CLS", "lambda_CAM", "lambda_IDT", "lambda_EDGE")
        return super().weights | {flag: getattr(self.opt, flag) for flag in own}

    def check_training(self, run: RunOptions) -> None:
        super().check_training(run)
        opt = self.opt
        if opt.cam_method == "gradcam_feature" and opt.cam_pool != "gap":
            raise OptionError(
                f"--cam_method gradcam_feature --cam_pool {opt.cam_pool}: its closed form holds for the mean alone; "
                "use --cam_pool gap, or --cam_method gradcam, which holds for every pooling"
            )
        if opt.cam_weight_adv and run.networks.netD == "stylegan2" and "D" in self.nets:
            raise OptionError(
                "--cam_weight_adv --netD stylegan2: this D gives one value an image, so there are no places to "
                "weight; use another --netD, for example basic, or leave --cam_weight_adv out"
            )

    def load_first_weights(self) -> None:
        super().load_first_weights()
        if self.teacher is not None:
            self.teacher.load()

    def facts(self) -> dict[str, Any]:
        return super().facts() | (self.teacher.source.facts() if self.teacher is not None else {})

    # -- forward ----------------------------------------------------------------------------------------------

    @property
    def translates_target(self) -> bool:
        return self.nce_idt or self.opt.lambda_IDT > 0

    @property
    def reads_queries(self) -> bool:
        return True

    def forward_train(self, batch: Batch, info: StepInfo) -> CutCamState:
        cut = super().forward_train(batch, info)
        layer = self.cam_index
        hidden_A = self.head.hidden_map(cut.seen_A[layer])
        hidden_fake = self.head.hidden_map(cut.query_A[layer], frozen=True)
        both = self.opt.head_learns == "both"
        self.head.update_statistics(torch.cat([hidden_A, hidden_fake]) if both else hidden_A)
        logits_A = self.head.logits_from_hidden(hidden_A)
        labels = self.pseudo.resolve(batch.label_A, batch.path_A, logits_A)
        classes = torch.where(labels >= 0, labels, logits_A.detach().argmax(1))
        with torch.no_grad():
            seen = hidden_A if not cut.mirrored else self.head.hidden_map(cut.key_A[layer])
            cam_A = self.class_map(cut.key_A[layer], seen, classes)
        cls_ramp, cam_ramp = self.ramps(info)
        logits_seen, logits_fake = self._judged(cut, logits_A, hidden_fake, cls_ramp)
        return CutCamState(
            **{item.name: getattr(cut, item.name) for item in fields(CutState)},
            labels=labels,
            logits_A=logits_A,
            logits_seen=logits_seen,
            logits_fake=logits_fake,
            logits_taught=self.head(cut.query_A[layer].detach()) if both else None,
            cam_A=cam_A,
            cam_fake=self.class_map(cut.query_A[layer], hidden_fake, classes),
            has_cam=(labels >= 0) | torch.full_like(labels, self.opt.cam_method == "label_free", dtype=torch.bool),
            cam_B=self._target_map(cut) if self._weights_real() and cam_ramp > 0 else None,
            cls_ramp=cls_ramp,
            cam_ramp=cam_ramp,
        )

    def _judged(self, state: CutState, logits_A: Tensor, hidden_fake: Tensor, ramp: float) -> tuple[Tensor, Tensor]:
        """Logits (N, K) of x, detached, and of G(x) as --cls_augment changes it, by the frozen head or T."""
        words = self.opt.cls_augment if self.opt.lambda_CLS * ramp > 0 else ()
        shown = augmented(state.upright(state.fake_B), words, state.batch, state.info, "cls_augment")
        if self.teacher is not None:
            return self.teacher.judge(state.batch.A, shown)
        if words:  # changed images need a pass of their own
            feature = self.generator.encode(shown, [self.nce_layers[self.cam_index]])[0]
            hidden_fake = self.head.hidden_map(feature, frozen=True)
        return logits_A.detach(), self.head.logits_from_hidden(hidden_fake, frozen=True)

    def class_map(self, feature: Tensor, hidden: Tensor, classes: Tensor) -> Tensor:
        """The raw map (N, h, w) of `classes` by --cam_method, with the head frozen."""
        method = self.opt.cam_method
        if method == "gradcam":
            return self.head.class_map(hidden, classes, frozen=True)
        border = self.head.border
        if border:
            feature = feature[:, :, border:-border, border:-border]
        if method == "label_free":
            return label_free_map(feature)
        return gradcam_at_feature(
            feature, hidden, self.head.project.weight.detach(), self.head.effective_weight(frozen=True), classes
        )

    @torch.no_grad()
    def _target_map(self, state: CutState) -> Tensor:
        """The map of the target image y for the class the head sees in it."""
        layer = self.cam_index
        feature = state.key_B[layer]
        if not len(feature):  # y has not gone through G: no loss asked for G(y)
            feature = self.generator.encode(state.batch.target, [self.nce_layers[layer]])[0]
        hidden = self.head.hidden_map(feature)
        return self.class_map(feature, hidden, self.head.logits_from_hidden(hidden).argmax(1))

    def _weights_real(self) -> bool:
        return self.opt.cam_weight_adv and self.opt.cam_adv_side == "both" and "D" in self.nets

    def ramps(self, info: StepInfo) -> tuple[float, float]:
        """How far the class terms and the CAM terms are switched on, 0 to 1, at a step; without a head: 0."""
        cls, cam = self._ramps.at(info, self._all_labelled)
        if self.watch.collapsed:  # label-free maps go on: they need no head
            return 0.0, cam if self.opt.cam_method == "label_free" else 0.0
        return cls, cam

    # -- losses -----------------------------------------------------------------------------------------------

    def gan_weights(self, state: CutState) -> GanWeights:
        assert isinstance(state, CutCamState)
        if not self.opt.cam_weight_adv or state.cam_ramp == 0:
            return GanWeights()
        strength = self.opt.cam_adv_strength * state.cam_ramp
        size = self.nets["D"].output_size(*state.fake_B.shape[-2:])  # type: ignore[operator]
        # A map of zeros weights uniformly; where the fake side does, a weighted real side would shift D's optimum.
        known = (state.has_cam & ~dead(state.cam_A, self.opt.cam_eps))[:, None, None]
        fake = adversarial_weights(state.cam_A * known, size, strength, self.opt.cam_eps)
        fake = fake.flip(-1) if state.mirrored else fake
        if state.cam_B is None:
            return GanWeights(g_fake=fake)
        real = adversarial_weights(state.cam_B * known, size, strength, self.opt.cam_eps)
        return GanWeights(d_fake=fake, d_real=real, g_fake=fake)

    def query_ids(self, state: CutState, key: Sequence[Tensor], side: str) -> list[Tensor]:
        drawn = super().query_ids(state, key, side)
        assert isinstance(state, CutCamState)
        if self.nce_query != CAM_QUERY or side != "A" or state.cam_ramp == 0:  # before, the map says nothing
            return drawn
        found = []
        for layer, (feature, ids) in enumerate(zip(key, drawn, strict=True)):
            draws = [state.info.generator("queries by map", layer, int(index)) for index in state.batch.index]
            size = (feature.shape[2], feature.shape[3])
            found.append(ids_by_map(state.cam_A, size, len(ids), draws))
        return found

    def g_losses(self, state: CutState) -> dict[str, Tensor]:
        assert isinstance(state, CutCamState)
        opt, terms = self.opt, super().g_losses(state)
        self._watch(state)
        if opt.lambda_CLS * state.cls_ramp > 0:
            soft = state.batch.label_A < 0
            logits = (state.logits_A, state.logits_fake, state.labels, soft)
            loss = class_consistency(*logits, opt.label_smoothing, seen=state.logits_seen, taught=state.logits_taught)
            terms["CLS"] = opt.lambda_CLS * state.cls_ramp * loss.mean()
        if opt.lambda_CAM * state.cam_ramp > 0:
            moved = self.bank.compare(state.cam_A, state.cam_fake, state.batch.file_A)
            term = opt.lambda_CAM * (moved * state.has_cam).mean()
            if self.cap.due(state.info.step):
                self.cap.measure(term, terms["NCE"], state.generated, len(state.batch.A), state.info.step)
            terms["CAM"] = state.cam_ramp * self.cap.scale * term
        if opt.lambda_IDT > 0 and state.idt_B is not None:
            terms["IDT"] = opt.lambda_IDT * identity_loss(state.upright(state.idt_B), state.batch.target).mean()
        if opt.lambda_EDGE > 0:
            moved = edge_loss(state.upright(state.fake_B), state.batch.A, opt.edge_mode)
            terms["EDGE"] = opt.lambda_EDGE * moved.mean()
        return terms

    def _watch(self, state: CutCamState) -> None:
        epoch = int(state.info.progress)
        images = state.batch.file_A  # not the place in the epoch's order, which is another image's in the next epoch
        self.messages += self.watch.see_maps(
            rectify(state.cam_A), epoch, used=state.cam_ramp > 0, images=images, step=state.info.step
        )
        if state.cls_ramp > 0:
            self.messages += self.watch.see_head(state.logits_A.softmax(1), state.batch.label_A, epoch, state.info.step)

    # -- labels -----------------------------------------------------------------------------------------------

    def check_data(self, labels: Sequence[int]) -> None:
        guided = self.opt.lambda_CAM > 0 or self.opt.cam_weight_adv
        if guided and self.opt.lambda_CLS == 0 and self.opt.cam_method != "label_free":
            self.messages.append(
                "WARNING: with --lambda_CLS 0 nothing trains the class head, so its maps are as random as its first "
                "weights; use --lambda_CLS 0.1 or --cam_method label_free"
            )
        if self.teacher is not None:
            self.teacher.check(labels)
        if unseen := without_images(labels, self.opt.num_classes):
            self.messages.append(f"WARNING: {'; '.join(unseen)}")
        self._all_labelled = min(labels, default=-1) >= 0
        if min(labels, default=-1) < 0 and self.opt.pseudo_labels == "none" and max(labels, default=-1) < 0:
            self.messages.append(
                "WARNING: no labels and --pseudo_labels none: the class loss does nothing"
                + ("" if self.opt.cam_method == "label_free" else ", nor does the CAM loss")
            )

    def begin_epoch(self, info: StepInfo, read_source: Callable[[], Iterable[Batch]]) -> None:
        super().begin_epoch(info, read_source)
        reads_labels = self.opt.lambda_CLS > 0 or self.opt.lambda_CAM > 0 or self.opt.cam_weight_adv
        if self._all_labelled or not reads_labels:
            return
        if self.opt.cls_start_epoch < 0:  # a round before the epoch in which the class terms start, none earlier
            reached = info.fraction + info.epoch_share > WARM_UP
        else:
            reached = info.progress + 1 > self.opt.cls_start_epoch
        if reached and self.pseudo.due(int(info.progress)):
            with self.evaluating():  # labels must follow from the weights alone
                text = self.pseudo.refresh(int(info.progress), read_source(), self._encode_for_labels)
            self.messages.append(text)

    def _encode_for_labels(self, source: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.generator.encode(source.to(self.device), [self.nce_layers[self.cam_index]])[0]
        return feature, self.head(feature)

    # -- explaining -------------------------------------------------------------------------------------------

    def check_class(self, class_id: int) -> None:
        if not -1 <= class_id < self.opt.num_classes:
            raise OptionError(
                f"--class_idx {class_id}: the head has the classes 0 to {self.opt.num_classes - 1}; -1: its own choice"
            )

    @torch.no_grad()
    def classify(self, source: Tensor) -> Tensor:
        hidden = self.head.hidden_map(self.generator.encode(source, [self.nce_layers[self.cam_index]])[0])
        return self.head.logits_from_hidden(hidden, frozen=True).softmax(1)

    @torch.no_grad()
    def explain(self, source: Tensor, fake: Tensor, classes: Tensor | None = None) -> Explanation:
        layer = [self.nce_layers[self.cam_index]]
        features = [self.generator.encode(image, layer)[0] for image in (source, fake)]
        hidden = [self.head.hidden_map(feature) for feature in features]
        logits = [self.head.logits_from_hidden(h, frozen=True) for h in hidden]  # frozen: without dropout
        chosen = logits[0].argmax(1)
        if classes is not None:
            chosen = torch.where(classes >= 0, classes, chosen)
        maps = [rectify(self.class_map(f, h, chosen)) for f, h in zip(features, hidden, strict=True)]
        return Explanation(chosen, logits[0].softmax(1), logits[1].softmax(1), maps[0], maps[1])

    def visuals(self, state: CutState) -> dict[str, np.ndarray]:
        assert isinstance(state, CutCamState)
        pictures = super().visuals(state)
        pairs = {"cam_A": ("real_A", state.cam_A), "cam_fake": ("fake_B", state.cam_fake)}
        return pictures | {
            name: overlay(pictures[below], heat_map(cam[0].detach().float().cpu().numpy()))
            for name, (below, cam) in pairs.items()
        }

    @torch.no_grad()
    def panel(self, source: Tensor) -> dict[str, list[np.ndarray]]:
        columns = super().panel(source)
        fake = self.translate(source)
        seen = self.explain(source, fake)
        for name, below, maps in (
            ("CAM input", "input", seen.cam),
            ("CAM translation", "translation", seen.cam_fake),
        ):
            columns[name] = [
                overlay(x, heat_map(m.float().cpu().numpy())) for x, m in zip(columns[below], maps, strict=True)
            ]
        return columns

    @torch.no_grad()
    def monitors(self, state: CutState) -> dict[str, Tensor]:
        assert isinstance(state, CutCamState)
        device = state.cam_A.device
        values = map_monitors(state.cam_A, state.cam_fake, self.watch.memory.correlation().to(device))
        weight = self.opt.lambda_CAM * state.cam_ramp * self.cap.scale
        for name, value in (("head_classes", self.watch.guard.effective), ("CAM_weight", weight)):
            values[name] = torch.tensor(value, device=device)
        shares = {f"head_share_{c}": share for c, share in enumerate(self.watch.guard.shares.to(device))}
        return super().monitors(state) | values | self._accuracies(state) | shares

    def _accuracies(self, state: CutCamState) -> dict[str, Tensor]:
        """Share of labelled images named rightly: input (by the head), translation, and translation made soft.

        A translation that keeps its class only in detail too fine to see loses it when blurred.
        """
        blurred = F.avg_pool2d(full_precision(state.fake_B), 3, stride=1, padding=1, count_include_pad=False)
        with self.evaluating():  # looking must not change running statistics
            soft = self._named(blurred, state)
            # The loss's own are of changed images where --cls_augment changes them.
            plain = self._named(state.fake_B, state) if self.opt.cls_augment else state.logits_fake
        guesses = {"head_acc_A": state.logits_A, "head_acc_fake": plain, "head_acc_blurred": soft}
        return {name: accuracy(logits, state.batch.label_A) for name, logits in guesses.items()}

    def _named(self, images: Tensor, state: CutCamState) -> Tensor:
        """What judges translations says of images (N, C, H, W) that lie as they do: logits (N, K)."""
        if self.teacher is not None:
            return self.teacher.net(state.upright(images))  # type: ignore[no-any-return]
        return self.head(self.generator.encode(images, [self.nce_layers[self.cam_index]])[0])  # type: ignore[no-any-return]

    # -- checkpoints ------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        return super().extra_state() | {
            "pseudo": self.pseudo.state(),
            "watch": self.watch.state(),
            "cap": self.cap.state(),
            "bank": self.bank.state(),
            "reached": list(self._ramps.reached),
        }

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        self.pseudo.load(state["pseudo"])
        self.watch.load(state["watch"])
        self.cap.load(state["cap"])
        self.bank.load(state.get("bank"))
        self._ramps.reached = (float(state["reached"][0]), float(state["reached"][1]))
