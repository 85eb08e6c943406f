"""F-CAM: full-resolution maps of what a frozen classifier sees (Belharbi et al., WACV 2022, arXiv:2109.07069).

A decoder on the classifier's features learns foreground and background from a few pixels of its class activation maps,
drawn anew in every step, from the colours of the image (CRF), and from a barrier against empty sides. It needs classes
of images and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from data.wsol_truth import truth_of
from models.base import MODELS, Model, Phase, State
from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.layers import AUTO
from models.fcam_options import FcamOptions, check_terms, training_from
from models.localisation import LOC, HeldOutMaps
from models.losses import fcam as terms
from models.losses.crf import MOST_CELLS, CrfEnergy, crf_energy, grid_cells, weight_from_fcam
from models.networks.frozen_classifier import FrozenClassifier
from models.networks.unet_decoder import UnetDecoder
from models.seeding import BACKGROUND, FOREGROUND, IGNORED, precision_counts
from models.teacher import BUILTIN, Seen, Teacher
from models.trained_classifier import ClassifierSource, classifier_net, folder_of, source_of
from options.groups import OF_TRANSLATORS
from options.schema import Group, OptionError, shorten, show
from util import ranks
from util.registry import UnknownNameError
from util.seeding import StepInfo, generator
from util.visual.overlay import overlay
from util.visual.pictures import to_uint8

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions

SEED_COLOURS = {FOREGROUND: (230, 159, 0), BACKGROUND: (86, 180, 233)}


@dataclass(frozen=True)
class FcamState(State):
    """One pass over a batch.

    Attributes:
        seen: by the frozen classifier.
        seeds: (N, H, W), see `models.seeding`.
        logits: (N, 2, H, W) of background and foreground.
    """

    seen: Seen
    seeds: Tensor
    logits: Tensor


@MODELS.register("fcam")
class FcamModel(Model[FcamState]):
    """`S` maps where the frozen classifier `C` sees its classes.

    Args:
        nets: `C`, a FrozenClassifier, and `S`, a UnetDecoder on its stages.
        opt: the model's own options, for the values that are used as they are.
        source: where the classifier comes from.
        run: its options, from which a new run's classifier is loaded.
        multiple: see `size_multiple`.

    Raises:
        OptionError: a teacher that does not fit the classifier.
    """

    Options: ClassVar[type[Group]] = FcamOptions
    DATASET_MODE: ClassVar[str] = "wsol"
    unread: ClassVar[frozenset[str]] = OF_TRANSLATORS
    inference_nets = ("C", "S")

    def __init__(
        self, nets: dict[str, nn.Module], opt: FcamOptions, source: ClassifierSource, run: RunOptions, multiple: int = 1
    ) -> None:
        super().__init__()
        self.nets, self.opt, self._source, self._run = nets, opt, source, run
        self.classifier: FrozenClassifier = nets["C"]  # type: ignore[assignment]
        self.decoder: UnetDecoder = nets["S"]  # type: ignore[assignment]
        self.size_multiple = multiple
        self.phases = [Phase("S", ("S",), self.losses)]
        self.best_by, self.keeps_best = LOC, opt.select == "best_loc"
        try:
            self.teacher = Teacher(self.classifier, opt.teacher, opt.teacher_layer)
        except UnknownNameError as error:
            raise OptionError(f"{str(error).replace(EXPLAINERS.kind, 'teacher', 1)}, {BUILTIN}") from error
        except ExplainError as error:
            raise OptionError(f"--teacher {shorten(opt.teacher)}: {error}") from error
        self._training = training_from(opt)
        self._validation: dict[str, float] = {}

    @classmethod
    def from_options(cls, run: RunOptions) -> FcamModel:
        opt: FcamOptions = run.model  # type: ignore[assignment]
        training, shape = training_from(opt), (run.networks.input_nc, *run.data.crop_size)
        if (cells := grid_cells(training.affinity, shape)) > MOST_CELLS and opt.lambda_CRF + opt.crf_lambda > 0:
            raise OptionError(
                f"--crf_sigma_rgb {opt.crf_sigma_rgb}: makes a grid of {cells:,} cells for an image of "
                f"{show(run.data.crop_size)} pixels; raise it, or --crf_cell"
            )
        if opt.classifier_run is None:
            raise OptionError("--classifier_run: give the run of the classifier that is to be explained")
        source = source_of(run, opt.classifier_run, opt.classifier_epoch)
        net, multiple = classifier_net(run, source)
        try:
            classifier = FrozenClassifier(net, shape)
        except ValueError as error:
            raise OptionError(f"--classifier_run {shorten(opt.classifier_run)}: {error}") from error
        decoder = UnetDecoder(
            classifier.stage_channels,
            opt.decoder_width,
            opt.decoder_norm,
            classifier.decoder_center,
            generator(run.experiment.seed, "init S"),
        )
        return cls({"C": classifier, "S": decoder}, opt, source, run, multiple)

    # -- training ---------------------------------------------------------------------------------------------

    def load_first_weights(self) -> None:
        """Also tries the teacher, so that what does not fit is said before the run has a folder."""
        schedule = self._run.schedule
        check_terms(self.opt, self._training, schedule.epoch_count, schedule.last_epoch)
        trained, _ = classifier_net(self._run, self._source, folder_of(self._run, self._source.folder))
        self.classifier.load_state_dict(trained.state_dict())
        shape = (1, self._run.networks.input_nc, *self._run.data.crop_size)
        like = next(weight for weight in self.classifier.buffers() if weight.is_floating_point())
        noise = torch.rand(shape, generator=generator(0, "trying the teacher")).to(like) * 2 - 1
        deepest = self.classifier.with_stages(noise)[1][-1]
        if deepest.shape[2:].numel() == 1:
            raise OptionError(
                f"--crop_size {show(self._run.data.crop_size)}: leaves the classifier's last features one position, of "
                "which there is no map; give a larger one"
            )
        self.look(noise)

    def check_data(self, labels: Sequence[int]) -> None:
        if self.keeps_best and self._run.data.dataset_mode != "wsol":
            raise OptionError("--select best_loc: only --dataset_mode wsol reads boxes and masks")
        known: int = self.classifier.net.num_classes  # type: ignore[assignment]
        if max(labels, default=-1) >= known:
            raise OptionError(
                f"--classifier_run {shorten(self._source.folder)}: knows the classes 0 to {known - 1}, and an image "
                f"has the label {max(labels)}; train the classifier on these classes"
            )
        if min(labels, default=-1) < 0:
            self.messages.append("of images without a label the class that the classifier predicts is mapped")

    def forward_train(self, batch: Batch, info: StepInfo) -> FcamState:
        seen = self.look(batch.A, batch.label_A, checked=True)  # by `check_data`
        seeds = self._training.seeder(seen.cam, info, batch.index.tolist())
        return FcamState(batch, info, seen, seeds, self.decoder(seen.stages, _size(batch.A)))

    def look(self, images: Tensor, classes: Tensor | None = None, *, checked: bool = False) -> Seen:
        """What the classifier sees, and the teacher's maps of classes (N,); -1, or None for all: its own choice.

        Args:
            checked: see `Teacher.look`.

        Raises:
            OptionError: the teacher does not fit the classifier.
        """
        labels = torch.full((len(images),), -1, device=images.device) if classes is None else classes
        try:
            return self.teacher.look(images, labels, checked=checked)
        except ExplainError as error:
            layer = "" if self.opt.teacher_layer == AUTO else f" --teacher_layer {shorten(self.opt.teacher_layer)}"
            raise OptionError(f"--teacher {self.opt.teacher}{layer}: {error}") from error

    def losses(self, state: FcamState) -> dict[str, Tensor]:
        """The weighted terms that the epoch has."""
        epoch, opt, found = int(state.info.progress) + self._run.schedule.epoch_count, self.opt, {}
        holds = {name: span.holds(epoch) for name, span in self._training.spans.items()}
        if opt.lambda_SL > 0 and holds["SL"]:
            found["SL"] = opt.lambda_SL * terms.seed_cross_entropy(state.logits, state.seeds).mean()
        weight = self._crf_weight(_size(state.batch.A))
        if weight > 0 and holds["CRF"]:
            found["CRF"] = weight * self._crf(state).energy.mean()
        if opt.lambda_SIZE > 0 and holds["SIZE"]:
            barrier = terms.size_barrier(state.logits, self._training.barrier.at(epoch))
            found["SIZE"] = opt.lambda_SIZE * barrier.mean()
        if opt.lambda_ENT > 0 and holds["ENT"]:
            found["ENT"] = opt.lambda_ENT * terms.entropy(state.logits).mean()
        return found

    def _crf_weight(self, size: tuple[int, int]) -> float:
        if not self.opt.crf_lambda:
            return self.opt.lambda_CRF
        pixels = math.prod(max(1, round(side * self.opt.crf_scale)) for side in size)
        return weight_from_fcam(self.opt.crf_lambda, pixels)

    def _crf(self, state: FcamState) -> CrfEnergy:
        images = (state.batch.A + 1) * 127.5
        return crf_energy(terms.foreground(state.logits), images, self._training.affinity, self.opt.crf_scale)

    def _cut(self, state: FcamState) -> Tensor:
        """(N,) share of the pixels' affinity between foreground and background; NaN where nobody asks for the CRF."""
        if self._crf_weight(_size(state.batch.A)) > 0:
            return self._crf(state).cut
        return torch.full((len(state.logits),), math.nan, device=state.logits.device)

    @torch.no_grad()
    def monitors(self, state: FcamState) -> dict[str, Tensor]:
        """Area of the foreground, share of images with seeds, and where the truth is known how many seeds are right."""
        values = {
            "fg_area": terms.foreground(state.logits).mean(),
            "seeded": (state.seeds != IGNORED).flatten(1).any(1).float().mean(),
        }
        values["cut"] = self._cut(state).mean()
        counts = seed_counts(state.seeds, state.batch)
        if counts is not None:
            values |= {"seed_fg": counts[0] / counts[1], "seed_bg": counts[2] / counts[3]}
        return values

    def validate(self, info: StepInfo, batches: Iterable[Batch]) -> dict[str, float]:
        """Of held-out images: how often the classifier is right, and how much the maps cut; where the truth is known
        also how many seeds are right, and the localisation by these maps and by the teacher's (`CAM`)."""
        sums, images = torch.zeros(8, device=self.device), 0
        ours, teachers = HeldOutMaps(self.opt.loc_measure), HeldOutMaps(self.opt.loc_measure)
        for batch in batches:
            state = self.forward_train(batch, info)
            right = (state.seen.logits.argmax(1) == batch.label_A) & (batch.label_A >= 0)
            cut, counts = self._cut(state), seed_counts(state.seeds, batch)
            values = [right.sum(), (batch.label_A >= 0).sum(), cut.nansum(), cut.isfinite().sum()]
            sums += torch.cat([torch.stack(values), torch.zeros_like(sums[4:]) if counts is None else counts])
            images += len(batch.A)
            ours.add(terms.foreground(state.logits), batch, state.seen.logits, scale=False)
            teachers.add(state.seen.cam, batch, state.seen.logits)
        counted = ranks.sum_over_ranks(torch.cat([sums, torch.tensor([float(images)], device=self.device)])).tolist()
        shares = zip(("acc", "cut", "seed_fg", "seed_bg"), counted[:8:2], counted[1:8:2], strict=True)
        found = {f"val_{name}": part / whole for name, part, whole in shares if whole}
        found |= ours.values() | {f"{name}_CAM": value for name, value in teachers.values().items()}
        self._validation = {**found, "val_images": int(counted[8]), "val_step": info.step}
        return found

    def facts(self) -> dict[str, Any]:
        return {**self._source.facts(), **self._validation}

    def extra_state(self) -> dict[str, Any]:
        return {"validation": dict(self._validation)}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._validation = dict(state["validation"])

    @property
    def num_classes(self) -> int:
        """Of the classifier."""
        known: int = self.classifier.net.num_classes  # type: ignore[assignment]
        return known

    # -- use --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def full_resolution_maps(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """The probability (N, H, W) that a pixel is foreground.

        Args:
            images: (N, C, H, W) in [-1, 1]; sides multiples of `size_multiple`.
            classes: make no difference: a class decides which seeds the decoder learns from, not what it draws.
        """
        _, stages = self.classifier.with_stages(images)
        return terms.foreground(self.decoder(stages, _size(images)))

    @torch.no_grad()
    def maps_and_cams(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Seen]:
        """`full_resolution_maps`, and what the classifier and the teacher see, from one pass of the classifier.

        Args:
            classes: (N,) of the teacher's maps; -1, or None for all: the classifier's own choice.
        """
        seen = self.look(images, classes)
        return terms.foreground(self.decoder(seen.stages, _size(images))), seen

    @torch.no_grad()
    def classify(self, source: Tensor) -> Tensor:
        logits: Tensor = self.classifier(source)
        return logits.float().softmax(1)

    def translate_batch(self, source: Tensor) -> Tensor:
        self.check_translates()

    def check_translates(self) -> NoReturn:
        raise OptionError(
            "this run maps where a classifier sees its classes (--model fcam) and translates nothing; "
            "give the --name of a run of another model, and this one by cam_infer.py --fcam"
        )

    def check_class(self, class_id: int) -> None:
        self.check_translates()

    # -- pictures ---------------------------------------------------------------------------------------------

    def visuals(self, state: FcamState) -> dict[str, np.ndarray]:
        picture = to_uint8(state.batch.A[0])
        ours = terms.foreground(state.logits)[0].detach().cpu().numpy()
        cam = state.seen.cam[0].cpu().numpy()
        seeds = seeds_over(picture, state.seeds[0].cpu().numpy())
        return {"real_A": picture, "CAM": overlay(picture, cam), "F-CAM": overlay(picture, ours), "seeds": seeds}

    @torch.no_grad()
    def panel(self, source: Tensor) -> dict[str, list[np.ndarray]]:
        pictures = [to_uint8(image) for image in source]
        ours, seen = self.maps_and_cams(source)
        columns = {"CAM": seen.cam, "F-CAM": ours}
        return {"input": pictures} | {
            name: [overlay(x, one) for x, one in zip(pictures, maps.cpu().numpy(), strict=True)]
            for name, maps in columns.items()
        }


def seed_counts(seeds: Tensor, batch: Batch) -> Tensor | None:
    """`precision_counts` of the images whose truth is known; None without any. Nothing is trained by it."""
    regions = {number: region for number, region in enumerate(truth_of(batch)) if region is not None}
    if not regions:
        return None
    truth = torch.from_numpy(np.stack(list(regions.values()))).to(seeds.device)
    return precision_counts(seeds[list(regions)], truth)


def seeds_over(picture: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 with seeds (H, W) in their colours: foreground orange, background blue."""
    drawn: np.ndarray = picture.copy()
    for side, colour in SEED_COLOURS.items():
        drawn[seeds == side] = colour
    return drawn


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
