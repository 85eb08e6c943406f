"""What a model is: the networks it owns, what one forward pass computes, and the phases that train them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.builders import check_trained_size
from models.networks.tiling import TiledGenerator
from options.schema import Group, OptionError
from util.registry import Registry
from util.seeding import StepInfo
from util.transfer import send
from util.visual.pictures import to_uint8

if TYPE_CHECKING:
    from data.base import Batch
    from models.pictures import Picture, PictureCam, PictureReader
    from options.parse import RunOptions


@dataclass(frozen=True)
class State:
    """What one forward pass computed. Models extend it; whatever must carry a gradient is made in it."""

    batch: Batch
    info: StepInfo

    def uniform(self, purpose: str) -> Tensor:
        """(N,) draws in [0, 1), one for each image, that depend on the step and on nothing that ranks share out."""
        draws = [torch.rand((), generator=self.info.generator(purpose, int(index))) for index in self.batch.index]
        return send(torch.stack(draws), self.batch.A.device)


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Phase(Generic[S]):
    """One backward pass and one optimiser step for some networks.

    Attributes:
        name: the phase's total in the log, for example `D`.
        nets: names of the networks it trains; every other one is frozen meanwhile.
        losses: weighted terms by log name; their sum goes backward. A weight of 0 computes nothing.
    """

    name: str
    nets: tuple[str, ...]
    losses: Callable[[S], dict[str, Tensor]]


@dataclass(frozen=True)
class Explanation:
    """Class evidence in N inputs and their translations, each explained for the same class.

    Attributes:
        classes: (N,) int64, the class explained.
        probabilities, probabilities_fake: (N, K), the head's softmax on input and translation.
        cam, cam_fake: (N, h, w) >= 0, unnormalised maps of the input and of the translation.
    """

    classes: Tensor
    probabilities: Tensor
    probabilities_fake: Tensor
    cam: Tensor
    cam_fake: Tensor


class Model(ABC, Generic[S]):
    """Base of every model. The engine does everything that is not said here.

    Attributes:
        nets: the networks by their name in checkpoints (`latest_net_<name>.pth`).
        inference_nets: those that translating and explaining need.
        unread: names of options that every command knows and this model has no use for.
        translator: the one of them that translates; an epoch that was exported has its weights.
        back_translator: the network that translates the target to the source; empty where a model has none.
        phases: trained in this order in every step.
        size_multiple: sides of an image must be multiples of it.
        best_by: the value of `validate` that early stopping goes by, more is better; empty: there is none.
        patience: of early stopping, in epochs; 0: never.
        keeps_best: the run ends with the weights of its best epoch, also without early stopping.
        plateau_by: the value of `validate` that --lr_policy plateau goes by, less is better; where it was not measured,
            the training loss of the last phase.
        pictures: how single pictures are read and written; None unless `load_run` brought the model back.
        messages: what happened and the user must know; the engine prints and empties it.
    """

    Options: ClassVar[type[Group]]
    DATASET_MODE: ClassVar[str] = "unaligned"
    unread: ClassVar[frozenset[str]] = frozenset()
    translator: ClassVar[str] = "G"
    back_translator: ClassVar[str] = ""

    nets: dict[str, nn.Module]
    inference_nets: tuple[str, ...] = ("G",)
    phases: Sequence[Phase[S]]
    size_multiple: int = 4
    best_by: str = ""
    patience: int = 0
    keeps_best: bool = False
    plateau_by: str = ""
    pictures: PictureReader | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the loss terms by their flags; none: the model always has something to learn from."""
        return {}

    @property
    def averaged_nets(self) -> tuple[str, ...]:
        """Networks whose weights are exported as averages over steps: those that translate and explain."""
        return self.inference_nets

    def __init__(self) -> None:
        self.messages: list[str] = []

    @classmethod
    @abstractmethod
    def from_options(cls, run: RunOptions) -> Model[Any]:
        """Build the model; the only place where it sees options.

        Raises:
            OptionError: options that contradict each other.
        """

    @abstractmethod
    def forward_train(self, batch: Batch, info: StepInfo) -> S:
        """Translations and every feature the losses need, from one pass each."""

    @abstractmethod
    def translate_batch(self, source: Tensor) -> Tensor:
        """Translations (N, C, H, W) in [-1, 1] of (N, C, H, W) in [-1, 1]; sides multiples of size_multiple."""

    @overload
    def translate(self, source: Tensor) -> Tensor: ...

    @overload
    def translate(self, source: Picture) -> NDArray[Any]: ...

    @overload
    def translate(self, source: Tensor, explain: Literal[True], class_id: int = -1) -> tuple[Tensor, Any]: ...

    @overload
    def translate(
        self, source: Picture, explain: Literal[True], class_id: int = -1
    ) -> tuple[NDArray[Any], PictureCam]: ...

    def translate(self, source: Tensor | Picture, explain: bool = False, class_id: int = -1) -> Any:
        """The translation of a batch of tensors, or of one picture.

        Args:
            source: (N, C, H, W) in [-1, 1] with sides that are multiples of size_multiple; or, of a run that `load_run`
                brought back, one picture of any size: (C, H, W) in [-1, 1], a path, a PIL image, or an array of counts
                as a file would hold them ((H, W), (H, W, 3) or (3, H, W); uint8, uint16 or float).
            explain: give back as well where both show a class.
            class_id: that class; -1: the head's choice on each input.

        Returns:
            Of tensors a tensor like them; of any other picture an array of counts at the target's depth, (H, W) or
            (H, W, 3). With `explain`, that and an `Explanation` of a batch, or a `PictureCam` of a picture.

        Raises:
            UserError: the picture cannot be read, there is no such class, or no class head, or a picture for a model
                without a run.
        """
        if isinstance(source, Tensor) and source.ndim == 4:
            if self.pictures is not None:
                self.pictures.check_tensor(source)
            if explain:
                self.check_class(class_id)
            fake = self.translate_batch(source)
            chosen = torch.full((len(source),), class_id, device=source.device)
            return (fake, self.explain(source, fake, chosen)) if explain else fake
        if self.pictures is None:
            raise OptionError(f"{type(self).__name__} knows no windows of pictures; bring a run back by load_run")
        self.check_translates()
        return self.pictures.explain(self, source, class_id) if explain else self.pictures.translate(self, source)

    def check_translates(self) -> None:
        """Raise an OptionError where the model translates nothing."""

    def turn_round(self) -> None:
        """From now on translate the target to the source, by `back_translator`, whose weights are then the ones needed.

        Raises:
            OptionError: the model has no such network.
        """
        raise OptionError(f"{type(self).__name__} translates in one direction only; train with --model cycle_gan")

    def explain(self, source: Tensor, fake: Tensor, classes: Tensor | None = None) -> Explanation:
        """Where the model sees class evidence, in inputs and in their translations.

        Args:
            source, fake: (N, C, H, W) in [-1, 1].
            classes: (N,) int64 classes to explain; -1, or None for all: the head's choice on the source.

        Raises:
            NotImplementedError: the model has no class head.
        """
        raise NotImplementedError(f"{type(self).__name__} has no class head to explain; train with --model cutcam")

    def in_tiles(self, tile: int) -> None:
        """From now on translate and explain images larger than `tile` pixels in tiles, with equal results.

        Args:
            tile: side of a tile in pixels, which takes the place of an earlier one; 0: in one piece again.

        Raises:
            UserError: the model's networks, or this size, do not allow it.
        """
        if tile:
            raise OptionError(f"--tile {tile}: {type(self).__name__} cannot work in tiles; leave it out")

    @property
    def smallest_side(self) -> int:
        """Pixels of a side of the smallest image that can be translated and explained, as the networks take it."""
        return max(getattr(self.nets[name], "smallest_side", 1) for name in self.inference_nets)

    @property
    def works_in_tiles(self) -> bool:
        """Whether `in_tiles` is in force."""
        return any(isinstance(net, TiledGenerator) for net in self.nets.values())

    def classify(self, source: Tensor) -> Tensor:
        """Probabilities (N, K) of each class in (N, C, H, W) in [-1, 1], by the model's own class head.

        Raises:
            NotImplementedError: the model has no class head.
        """
        raise NotImplementedError(f"{type(self).__name__} has no class head; train with --model cutcam")

    def check_class(self, class_id: int) -> None:
        """Raise an OptionError where `explain` cannot explain that class (-1: the head's choice)."""
        raise OptionError(f"{type(self).__name__} has no class head, so there are no maps; train with --model cutcam")

    def begin_epoch(self, info: StepInfo, read_source: Callable[[], Iterable[Batch]]) -> None:
        """Called before an epoch's first step; `read_source` reads this rank's share of the source images, whole."""

    def check_data(self, labels: Sequence[int]) -> None:
        """Called once with the source labels (-1 unknown) before training; raises where they cannot be used."""

    def check_training(self, run: RunOptions) -> None:
        """Called once before training: raise an OptionError where options that can be used cannot be trained with.

        A trained run is translated with at other sizes, and without D: what only training needs is asked here.
        """
        if self.weights and not any(self.weights.values()):
            flags = ", ".join(f"--{flag} 0" for flag in self.weights)
            raise OptionError(f"{flags}: nothing would be trained; give one of them a weight above 0")
        check_trained_size(run, self.nets.values(), self.size_multiple)

    def load_first_weights(self) -> None:
        """Called once for a new run before training: read the files, if any, that the first weights come from."""

    def validate(self, info: StepInfo, batches: Iterable[Batch]) -> dict[str, float]:
        """Called after every epoch where the data set holds images out, in evaluation mode without gradients.

        Args:
            info: of the step that would come next.
            batches: this rank's share of the held-out images, whole, on the networks' device.

        Returns:
            What the log shows beside the losses, the same on every rank.
        """
        return {}

    def facts(self) -> dict[str, Any]:
        """What stands beside exported weights in `<epoch>_facts.json`, for those who use them; nothing: no file."""
        return {}

    def visuals(self, state: S) -> dict[str, np.ndarray]:
        """Pictures (H, W, 3) uint8 of the first sample of a step, by name."""
        pictures = {"real_A": state.batch.A[0]}
        if state.batch.B is not None:
            pictures["real_B"] = state.batch.B[0]
        return {name: to_uint8(picture) for name, picture in pictures.items()}

    @torch.no_grad()
    def panel(self, source: Tensor) -> dict[str, list[np.ndarray]]:
        """Columns of pictures of fixed inputs, by heading: how the run develops."""
        fake = self.translate(source)
        return {"input": [to_uint8(x) for x in source], "translation": [to_uint8(x) for x in fake]}

    def monitors(self, state: S) -> dict[str, Tensor]:
        """Values that are watched but not trained on, computed when the log is written."""
        return {}

    def parameter_groups(self, net: str) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters of a network with the factor of their learning rate; most networks are one group."""
        return [(list(self.nets[net].parameters()), 1.0)]

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside networks and optimisers: tensors and plain values."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore what extra_state returned."""

    def to(self, device: torch.device) -> Model[S]:
        for net in self.nets.values():
            net.to(device)
        return self

    def train(self, mode: bool = True) -> None:
        for net in self.nets.values():
            net.train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Networks in evaluation mode: nothing is drawn, no running statistic changes. Then back as they were."""
        modes = {name: net.training for name, net in self.nets.items()}
        self.train(False)
        try:
            yield
        finally:
            for name, net in self.nets.items():
                net.train(modes[name])

    @property
    def device(self) -> torch.device:
        return next(p for net in self.nets.values() for p in net.parameters()).device


MODELS: Registry[Model[Any]] = Registry("model", "models", "_model")
