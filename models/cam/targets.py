"""What is explained: from what a network puts out to one score an image and target, (N, T)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from models.cam.errors import ExplainError

C = TypeVar("C", bound="ClassTarget")


class Target(ABC):
    """T scores an image.

    Attributes:
        classes: (N, T) int64, which class each score belongs to; None if it belongs to none, or is not yet known.
    """

    classes: Tensor | None = None

    @abstractmethod
    def __call__(self, output: Tensor) -> Tensor:
        """Scores (N, T) from the network's output (N, ...).

        Raises:
            ExplainError: the output does not fit.
        """

    def fixed(self, output: Tensor) -> Target:
        """The same target whatever comes later: what depends on the first output (its top classes) is settled."""
        return self


class ClassTarget(Target):
    """Logit of one class, or of T classes, of each image.

    Args:
        classes: int64, one for all images, (N,), or (N, T).

    Raises:
        ExplainError: classes are not whole numbers.
    """

    def __init__(self, classes: int | Sequence[int] | Sequence[Sequence[int]] | Tensor) -> None:
        given = torch.as_tensor(classes)
        if given.ndim > 2 or given.is_floating_point() or given.dtype == torch.bool:
            raise ExplainError(f"classes are {given.dtype} {tuple(given.shape)}: give whole numbers, (N,) or (N, T)")
        self._given = given.long().clone()
        self._fits: tuple[int, int] | None = None  # the N and K that `fixed` has checked
        if given.ndim:
            self.classes = self._given.view(len(given), -1)

    def fixed(self, output: Tensor) -> ClassTarget:
        return self._settled(type(self)(self._checked(output)), output)

    def __call__(self, output: Tensor) -> Tensor:
        return self.score(output, self._checked(output))

    def score(self, output: Tensor, classes: Tensor) -> Tensor:
        """From logits (N, K) and classes (N, T) to scores (N, T)."""
        return output.gather(1, classes)

    def _checked(self, output: Tensor) -> Tensor:
        """Classes (N, T) on the output's device, if they fit it."""
        if output.ndim != self.dims():
            raise ExplainError(
                f"{type(self).__name__} needs an output with {self.dims()} axes, the network gives "
                f"{tuple(output.shape)}: MaskTarget is for maps of classes, PatchTarget for decisions of patches"
            )
        count, known = output.shape[:2]
        if self.classes is not None and self._fits == (count, known):  # the range check waits for the GPU
            return self.classes
        classes = self.classes if self.classes is not None else self._given.expand(count, 1)
        if len(classes) != count:
            raise ExplainError(f"{len(classes)} rows of classes for {count} images: give one row an image")
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < known:
            wrong = classes[(classes < 0) | (classes >= known)][0]
            raise ExplainError(f"class {int(wrong)} does not exist: the network knows 0 to {known - 1}")
        return classes.to(output.device)

    def granted(self, output: Tensor) -> ClassTarget:
        """As `fixed`, for an output of N rows whose classes are known to exist: looking would wait for a GPU."""
        return self._settled(self, output)

    @staticmethod
    def _settled(target: C, output: Tensor) -> C:
        target._fits = (output.shape[0], output.shape[1])
        return target

    @staticmethod
    def dims() -> int:
        """Axes of the output that this target reads."""
        return 2


class LogProbability(ClassTarget):
    """Logarithm of the softmax probability: what speaks for the class rather than for all of them."""

    def score(self, output: Tensor, classes: Tensor) -> Tensor:
        return output.log_softmax(1).gather(1, classes)


class Margin(ClassTarget):
    """Logit of the class minus the greatest logit of any other: what decides."""

    def score(self, output: Tensor, classes: Tensor) -> Tensor:
        if output.shape[1] < 2:
            raise ExplainError("a margin needs at least 2 classes, the network has 1")
        others = output[:, None].expand(-1, classes.shape[1], -1).scatter(2, classes[..., None], -torch.inf)
        return output.gather(1, classes) - others.amax(2)


class TopK(Target):
    """The k classes with the greatest logits of each image, best first.

    Args:
        k: how many, at least 1.
        kind: what is scored of them: `ClassTarget`, `LogProbability` or `Margin`.

    Raises:
        ExplainError: k below 1; more than the network's classes when called.
    """

    def __init__(self, k: int = 1, kind: type[ClassTarget] = ClassTarget) -> None:
        if k < 1:
            raise ExplainError(f"top_k is {k}: it must be at least 1")
        self.k, self.kind = k, kind

    def fixed(self, output: Tensor) -> ClassTarget:
        if output.ndim != 2:
            raise ExplainError(f"the top classes need logits (N, K), the network gives {tuple(output.shape)}")
        if output.shape[1] < self.k:
            raise ExplainError(f"top_k is {self.k}, but the network has {output.shape[1]} classes")
        return self.kind(output.detach().topk(self.k, dim=1).indices).fixed(output)

    def __call__(self, output: Tensor) -> Tensor:
        return self.fixed(output)(output)


class MaskTarget(ClassTarget):
    """Mean logit of a class over a region of a segmentation network's output.

    Args:
        classes: as of `ClassTarget`.
        mask: (h, w) or (N, h, w) at the output's resolution, bool or weights >= 0.

    Raises:
        ExplainError: when called, a mask of another size, or an empty one.
    """

    def __init__(self, classes: int | Sequence[int] | Sequence[Sequence[int]] | Tensor, mask: Tensor) -> None:
        super().__init__(classes)
        self.mask = mask

    def fixed(self, output: Tensor) -> MaskTarget:
        return self._settled(MaskTarget(self._checked(output), self.mask), output)

    def score(self, output: Tensor, classes: Tensor) -> Tensor:
        count, _, height, width = output.shape
        if tuple(self.mask.shape) not in ((height, width), (count, height, width)):
            raise ExplainError(
                f"a mask {tuple(self.mask.shape)} does not fit an output {tuple(output.shape)}: "
                f"give ({height}, {width}) or ({count}, {height}, {width})"
            )
        mask = self.mask.to(output).expand(count, height, width)
        total = mask.sum((1, 2))
        if not bool((total > 0).all()):
            raise ExplainError("a mask is empty: there is nothing to explain in it")
        chosen = output.gather(1, classes[..., None, None].expand(-1, -1, height, width))
        return (chosen * mask[:, None]).sum((2, 3)) / total[:, None]

    @staticmethod
    def dims() -> int:
        return 4


class PatchTarget(Target):
    """Mean decision of a patch discriminator, (N, 1, h, w) -> (N, 1): what makes an image look real (negated: fake).

    Args:
        window: (top, left, bottom, right) in cells of the output, exclusive at the end; None: all of it.

    Raises:
        ExplainError: when called, the window is empty or reaches outside.
    """

    def __init__(self, window: tuple[int, int, int, int] | None = None) -> None:
        self.window = window

    def __call__(self, output: Tensor) -> Tensor:
        if output.ndim != 4:
            raise ExplainError(f"PatchTarget needs decisions (N, C, h, w), the network gives {tuple(output.shape)}")
        height, width = output.shape[2:]
        top, left, bottom, right = self.window or (0, 0, height, width)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ExplainError(f"window {self.window} is not inside the {height} x {width} decisions")
        return output[:, :, top:bottom, left:right].mean((1, 2, 3))[:, None]


class DistanceTarget(Target):
    """Mean squared difference of each image's output to a reference: with an encoder, of x to G(x).

    Args:
        reference: (N, ...), as the output; detached.

    Raises:
        ExplainError: when called, another shape.
    """

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference.detach()

    def __call__(self, output: Tensor) -> Tensor:
        if output.shape != self.reference.shape:
            raise ExplainError(f"a reference {tuple(self.reference.shape)} for an output {tuple(output.shape)}")
        return (output - self.reference.to(output)).square().flatten(1).mean(1)[:, None]


class Negated(Target):
    """The opposite of another target: what speaks against it."""

    def __init__(self, target: Target) -> None:
        self.target, self.classes = target, target.classes

    def fixed(self, output: Tensor) -> Negated:
        return Negated(self.target.fixed(output))

    def __call__(self, output: Tensor) -> Tensor:
        return -self.target(output)


class FunctionTarget(Target):
    """Any function from the output (N, ...) to (N,) or (N, T); it must treat images apart.

    Raises:
        ExplainError: when called, it returns something else.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, output: Tensor) -> Tensor:
        scores = self.function(output)
        if not isinstance(scores, Tensor) or scores.ndim not in (1, 2) or len(scores) != len(output):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ExplainError(f"the target gives {got} for {len(output)} images: it must give (N,) or (N, T) scores")
        return scores.view(len(output), -1)


Targets = Target | int | Sequence[int] | Sequence[Sequence[int]] | Tensor | Callable[[Tensor], Tensor]


def as_target(given: Targets) -> Target:
    """A target as it is; classes as `ClassTarget`; a function as `FunctionTarget`."""
    if isinstance(given, Target):
        return given
    if isinstance(given, int | Sequence | Tensor):
        return ClassTarget(given)
    return FunctionTarget(given)


class Repeated(Target):
    """A target of N images for blocks of N: row r of the output belongs to image r mod N."""

    def __init__(self, target: Target, count: int) -> None:
        self.target, self.count = target, count

    def __call__(self, output: Tensor) -> Tensor:
        return torch.cat([self.target(block) for block in torch.split(output, self.count)])
