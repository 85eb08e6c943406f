"""The classifier set up for localisation: an encoder at stride 8, and a pooling that has class maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from models.base import MODELS
from models.classifier_model import ClassifierModel, ClassifierOptions
from models.localisation import BEST_BY, LOC, MEASURE_HELP, MEASURES, SELECT_HELP, SELECTIONS, HeldOutMaps
from models.networks.encoders import ALIASES, STRIDES
from models.networks.poolings import POOLINGS
from models.networks.staged_classifier import StagedClassifier, build_staged
from options.schema import Group, OptionError, option
from util.seeding import StepInfo, generator

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions


@dataclass(frozen=True)
class StdClOptions(ClassifierOptions):
    """classifier for localisation: its encoder, its pooling, and which epoch counts"""

    arch: str = option(
        "resnet50",
        "encoder: resnet50, vgg16, inceptionv3, others of torchvision, judge, timm:NAME, your own MODULE:FUNCTION",
    )
    spatial_pooling: str = option(
        "WGAP",
        "from features to logits: WGAP has a linear layer after the mean, the others a map a class",
        choices=POOLINGS,
    )
    output_stride: int = option(8, "features have 1 / this of the image's resolution: 8, 16 or 32", low=8, high=32)
    lse_r: float = option(10.0, "sharpness of --spatial_pooling LogSumExpPool", low=1e-6)
    wildcat_modalities: int = option(5, "maps a class of --spatial_pooling WILDCAT", low=1)
    wildcat_kmax: float = option(0.5, "its largest values: below 1 a share of the positions, else a number", low=1e-6)
    wildcat_kmin: float = option(0.1, "its smallest values; 0: none", low=0)
    wildcat_alpha: float = option(0.6, "weight of its smallest values", low=0)
    head_lr_factor: float = option(
        10.0, "learning rate of what is new (pooling, added layers, a ResNet's layer4) over that of the rest", low=0
    )
    select: str = option("last", SELECT_HELP, choices=SELECTIONS)
    loc_measure: str = option("auto", MEASURE_HELP, choices=MEASURES)

    SHAPES: ClassVar[tuple[str, ...]] = (
        *ClassifierOptions.SHAPES,
        "spatial_pooling",
        "output_stride",
        "wildcat_modalities",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride not in STRIDES:
            raise OptionError(f"--output_stride {self.output_stride}: choose one of {', '.join(map(str, STRIDES))}")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        # F-CAM's, for a classifier of CUB (Belharbi et al., WACV 2022).
        return {
            **ClassifierOptions.preset(given),
            "lr": 0.0017,
            "optimizer": "sgd",
            "momentum": 0.9,
            "nesterov": str(given.get("optimizer", "sgd")).lower() == "sgd",
            "weight_decay": 1e-4,
            "lr_policy": "step",
            "lr_decay_iters": 15,
            "n_epochs": 50,
            "batch_size": 32,
            "load_size": (256, 256),
            "crop_size": (224, 224),
            "label_smoothing": 0.0,
        }


@MODELS.register("std_cl")
class StdClModel(ClassifierModel):
    """`C` names the class of an image, and has a map of each class in closed form.

    Args:
        net: the network.
        head_lr_factor: learning rate of what is new over that of the rest.
        select: one of SELECTIONS.
        loc_measure: one of MEASURES.
        sees_truth: held-out images may come with boxes or masks.
        more: as for `ClassifierModel`.
    """

    Options: ClassVar[type[Group]] = StdClOptions
    DATASET_MODE: ClassVar[str] = "wsol"

    classifier: StagedClassifier

    def __init__(
        self,
        net: StagedClassifier,
        *,
        head_lr_factor: float = 10.0,
        select: str = "last",
        loc_measure: str = "auto",
        sees_truth: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(net, **more)
        self._head_lr_factor = head_lr_factor
        self.best_by, self.keeps_best = BEST_BY[select], select != "last"
        self._measure = loc_measure if select == "best_loc" else None
        self._sees_truth = sees_truth
        self._held_out: HeldOutMaps | None = None

    @classmethod
    def network_from(cls, run: RunOptions) -> StagedClassifier:
        opt: StdClOptions = run.model  # type: ignore[assignment]
        return build_staged(
            opt.arch,
            opt.num_classes,
            generator(run.experiment.seed, "init C"),
            pooling=opt.spatial_pooling,
            output_stride=opt.output_stride,
            input_nc=run.networks.input_nc,
            lse_r=opt.lse_r,
            modalities=opt.wildcat_modalities,
            kmax=opt.wildcat_kmax,
            kmin=opt.wildcat_kmin,
            alpha=opt.wildcat_alpha,
        )

    @classmethod
    def arguments_from(cls, run: RunOptions) -> dict[str, Any]:
        opt: StdClOptions = run.model  # type: ignore[assignment]
        return {
            **super().arguments_from(run),
            "pretrained": ALIASES.get(opt.arch, opt.arch) if opt.pretrained else "",
            "head_lr_factor": opt.head_lr_factor,
            "select": opt.select,
            "loc_measure": opt.loc_measure,
            "sees_truth": run.data.dataset_mode == "wsol",
        }

    def parameter_groups(self, net: str) -> list[tuple[list[nn.Parameter], float]]:
        late = self.classifier.late_parameters()
        known = {id(parameter) for parameter in late}
        rest = [parameter for parameter in self.classifier.parameters() if id(parameter) not in known]
        return [(rest, 1.0), (late, self._head_lr_factor)]

    def check_data(self, labels: Sequence[int]) -> None:
        super().check_data(labels)
        if self._measure is not None and not self._sees_truth:
            raise OptionError("--select best_loc: only --dataset_mode wsol reads boxes and masks")

    def validate(self, info: StepInfo, batches: Iterable[Batch]) -> dict[str, float]:
        self._held_out = HeldOutMaps(self._measure) if self._measure is not None else None
        found = super().validate(info, batches)
        if self._held_out is not None:
            located = self._held_out.values()
            if LOC not in located:
                raise OptionError(f"--loc_measure {self._measure}: held-out images have no truth of that kind")
            self._validation |= located
            found |= located
        return found

    def look_at(self, batch: Batch) -> Tensor:
        if self._held_out is None:
            return super().look_at(batch)
        logits, stages = self.classifier.with_stages(batch.A)
        self._held_out.add(self.classifier.map_of(stages[-1], batch.label_A), batch, logits)
        return logits
