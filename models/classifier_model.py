"""An image classifier: the independent judge of translations, and what the explainers explain."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.labels import without_images
from models.augmenting import augmented
from models.base import MODELS, Model, Phase, State
from models.builders import FIXING
from models.losses.diff_augment import AUGMENTATIONS
from models.networks.classifier import JUDGE, Classifier, build_classifier
from models.networks.own_network import is_own
from models.published_classifier import published_in
from models.torchvision_weights import weights_file
from options.groups import OF_TRANSLATORS
from options.schema import Group, OptionError, option, shorten, show
from util import ranks
from util.checkpoint import load_weights
from util.errors import printable
from util.seeding import StepInfo, generator
from util.visual.pictures import to_uint8

if TYPE_CHECKING:
    from data.base import Batch
    from options.parse import RunOptions


@dataclass(frozen=True)
class ClassifierOptions(Group):
    """classifier: its network and loss"""

    arch: str = option(
        JUDGE, "network: judge (small, ours), one of torchvision's (resnet18, vgg16, ...) or your own MODULE:FUNCTION"
    )
    arch_weights: str | None = option(None, "file of the first weights, torchvision's own for one; none: random ones")
    pretrained: bool = option(False, "first weights are torchvision's for ImageNet, from torch hub's cache")
    download: bool = option(False, "fetch what is missing: the weights of --pretrained, Imagenette into --dataroot")
    num_classes: int = option(0, "classes; 0: as many as the labels of the training images count", low=0)
    label_smoothing: float = option(0.1, "of the cross-entropy", low=0, high=0.99)
    cls_augment: tuple[str, ...] = option(
        (), "random changes of the images that it learns from", choices=tuple(AUGMENTATIONS)
    )
    early_stopping_patience: int = option(
        0, "stop after so many epochs without a better val_acc, with the best weights; 0: never", low=0
    )

    SHAPES: ClassVar[tuple[str, ...]] = ("arch", "num_classes")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "lr": 0.002,
            "beta1": 0.9,
            "lr_policy": "cosine",
            "n_epochs": 25,
            "n_epochs_decay": 0,
            "momentum": 0.9,
            "plateau_factor": 0.5,
            "plateau_patience": 3,
            "plateau_threshold": 1e-4,
            "plateau_min_lr": 1e-6,
            "batch_size": 16,
            "load_size": (144, 144),
            "crop_size": (128, 128),
            "panel_freq": 0,
        }


@dataclass(frozen=True)
class ClassifierState(State):
    """The logits (N, K) of a batch."""

    logits: Tensor


@MODELS.register("classifier")
class ClassifierModel(Model[ClassifierState]):
    """`C` names the class of an image.

    Args:
        net: the network.
        label_smoothing: of the cross-entropy, in [0, 1).
        cls_augment: words of AUGMENTATIONS that change training images.
        arch_weights: file of the first weights of a new run.
        pretrained: without such a file, the network of torchvision whose published weights a new run begins with.
        download: fetch them where they are not there.
        patience: epochs without a better `val_acc` after which training ends; 0: never.
    """

    Options: ClassVar[type[Group]] = ClassifierOptions
    DATASET_MODE: ClassVar[str] = "classes"
    unread: ClassVar[frozenset[str]] = OF_TRANSLATORS
    inference_nets = ("C",)
    size_multiple = 1
    best_by = "val_acc"
    plateau_by = "val_CLS"

    def __init__(
        self,
        net: Classifier,
        *,
        label_smoothing: float = 0.1,
        cls_augment: Sequence[str] = (),
        arch_weights: Path | None = None,
        pretrained: str = "",
        download: bool = False,
        patience: int = 0,
    ) -> None:
        super().__init__()
        self.classifier = net
        self.nets = {"C": net}
        self.phases = [Phase("C", ("C",), self.losses)]
        self._label_smoothing, self._arch_weights = label_smoothing, arch_weights
        self._augment = tuple(cls_augment)
        self._pretrained, self._download = pretrained, download
        self.patience = patience
        self._images = 0
        self._validation: dict[str, float] = {}

    @property
    def averaged_nets(self) -> tuple[str, ...]:
        """None: its schedule ends at a small learning rate, and what is held out measures the weights themselves."""
        return ()

    @classmethod
    def from_options(cls, run: RunOptions) -> ClassifierModel:
        opt: ClassifierOptions = run.model  # type: ignore[assignment]
        if not opt.num_classes:
            raise OptionError(
                "--num_classes 0: only --dataset_mode classes and wsol count the classes; give their number"
            )
        if opt.pretrained and opt.arch_weights:
            raise OptionError(f"--pretrained and --arch_weights {shorten(opt.arch_weights)}: use one of them")
        try:
            net = cls.network_from(run)
        except ValueError as error:
            raise OptionError(f"--arch {shorten(opt.arch)} --num_classes {opt.num_classes}: {error}") from error
        _check_size(net, run)
        return cls(net, **cls.arguments_from(run))

    @classmethod
    def network_from(cls, run: RunOptions) -> Classifier:
        """The network of a run, with its first weights.

        Raises:
            ValueError: the options name none.
        """
        opt: ClassifierOptions = run.model  # type: ignore[assignment]
        draws = generator(run.experiment.seed, "init C")
        return build_classifier(opt.arch, opt.num_classes, run.networks.input_nc, draws)

    @classmethod
    def arguments_from(cls, run: RunOptions) -> dict[str, Any]:
        """What `__init__` takes beside the network."""
        opt: ClassifierOptions = run.model  # type: ignore[assignment]
        return {
            "label_smoothing": opt.label_smoothing,
            "cls_augment": opt.cls_augment,
            "arch_weights": Path(opt.arch_weights) if opt.arch_weights else None,
            "pretrained": opt.arch if opt.pretrained else "",
            "download": opt.download,
            "patience": opt.early_stopping_patience,
        }

    # -- training ---------------------------------------------------------------------------------------------

    def load_first_weights(self) -> None:
        path = self._arch_weights
        if self._pretrained:
            if ranks.is_first():
                weights_file(self._pretrained, self._download)
            ranks.barrier()
            path = weights_file(self._pretrained)
        if path is not None:
            self._load_file(path)

    def _load_file(self, path: Path) -> None:
        def unwrap(content: Any) -> Any:
            found = published_in(path, content, self.classifier.state_dict())
            if found is None or found.plain:
                return content
            self.messages.append(f"{path}: {found.describe()}")
            return {**found.unexpected, **found.weights}  # what is unknown is for the loader to refuse

        def adapt(weights: dict[str, Tensor]) -> dict[str, Tensor]:
            adapted, renewed = self.classifier.adapted(weights)
            if renewed:
                self.messages.append(f"{path}: is of other classes, so the last layer starts anew")
            return adapted

        load_weights(path, self.classifier, "--arch and --input_nc", adapt, unwrap)

    def check_data(self, labels: Sequence[int]) -> None:
        if min(labels, default=-1) < 0:
            raise OptionError("a classifier needs a label for each image, as --dataset_mode classes and wsol read them")
        self._images = len(labels)
        if unseen := without_images(labels, self.classifier.num_classes):
            self.messages.append(f"WARNING: {'; '.join(unseen)}")

    def forward_train(self, batch: Batch, info: StepInfo) -> ClassifierState:
        images = augmented(batch.A, self._augment, batch, info, "cls_augment")
        return ClassifierState(batch, info, self.classifier(images))

    def losses(self, state: ClassifierState) -> dict[str, Tensor]:
        """The cross-entropy."""
        return {"CLS": self._cross_entropy(state.logits, state.batch.label_A).mean()}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,), in full precision at least, with label smoothing."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self._label_smoothing)

    @torch.no_grad()
    def monitors(self, state: ClassifierState) -> dict[str, Tensor]:
        return {"acc": (state.logits.argmax(1) == state.batch.label_A).float().mean()}

    def validate(self, info: StepInfo, batches: Iterable[Batch]) -> dict[str, float]:
        sums = torch.zeros(3, device=self.device)
        for batch in batches:
            logits = self.look_at(batch)
            right = (logits.argmax(1) == batch.label_A).sum()
            loss = self._cross_entropy(logits, batch.label_A).sum()
            sums += torch.stack([right.float(), loss.float(), torch.tensor(float(len(logits)), device=self.device)])
        right, loss, count = ranks.sum_over_ranks(sums).tolist()
        found = {"val_acc": right / count, "val_CLS": loss / count}
        self._validation = {**found, "val_images": int(count), "val_step": info.step}
        self.messages.append(f"{found['val_acc']:.1%} of {count:.0f} held-out images are named rightly")
        return found

    def look_at(self, batch: Batch) -> Tensor:
        """Logits (N, K) of held-out images."""
        logits: Tensor = self.classifier(batch.A)
        return logits

    def facts(self) -> dict[str, Any]:
        return {"classes": self.classifier.num_classes, "images": self._images, **self._validation}

    def extra_state(self) -> dict[str, Any]:
        return {"validation": dict(self._validation)}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._validation = dict(state["validation"])

    # -- use --------------------------------------------------------------------------------------------------

    def classify(self, source: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.classifier(source)
        return logits.float().softmax(1)

    def translate_batch(self, source: Tensor) -> Tensor:
        self.check_translates()

    def check_translates(self) -> NoReturn:
        raise OptionError(
            "this run is a classifier (--model classifier): it names classes and translates nothing; "
            "give the --name of a run of another model"
        )

    def check_class(self, class_id: int) -> None:
        raise OptionError(
            "this run is a classifier (--model classifier): there is no translation whose maps could be compared; "
            "give the --name of a run of --model cutcam"
        )

    def panel(self, source: Tensor) -> dict[str, list[np.ndarray]]:
        return {"input": [to_uint8(image) for image in source]}


def _check_size(net: Classifier, run: RunOptions) -> None:
    """Raise an OptionError where the network takes no images of --crop_size, if they come to that size."""
    if not FIXING.intersection(run.data.preprocess.split("_and_")):
        return
    arch, size = getattr(run.model, "arch", ""), run.data.crop_size
    # Shapes alone, without arithmetic; but a user's own network may make tensors that know no such device.
    place = "cpu" if is_own(arch) else "meta"
    images = torch.zeros(1, run.networks.input_nc, *size, device=place)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits = copy.deepcopy(net).to(place).eval()(images)
    except Exception as error:
        if not is_own(arch) and not isinstance(error, RuntimeError | AssertionError | ValueError):
            raise
        reason = printable(" ".join(str(error).split()))[:200]
        raise OptionError(
            f"--crop_size {show(size)}: --arch {shorten(arch)} takes no images of this size ({reason})"
        ) from error
    wanted = (1, net.num_classes)
    if getattr(logits, "shape", None) != wanted:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise OptionError(f"--arch {shorten(arch)}: gives {found} for one image instead of logits of shape {wanted}")
