"""One network on one batch of images, cut at a layer: everything that a method asks of it, computed when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam.arithmetic import no_autocast
from models.cam.errors import ExplainError
from models.cam.functional import full_precision
from models.cam.tap import ActivationTap, check_batch, described, running, unwrapped
from models.cam.targets import Repeated, Target, Targets, as_target

# How far a linear head's own arithmetic may be from the network's output, relative to the sum of absolute terms.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_TOLERANCE = 2e-2


class LinearHead(NamedTuple):
    """Mean over positions and one linear layer: output = weight mean(A) + bias.

    Attributes:
        weight: (K, C).
        bias: (K,).
    """

    weight: Tensor
    bias: Tensor


class _Pass(NamedTuple):
    """One forward pass; the activation is None without a layer."""

    activation: Tensor | None
    output: Tensor
    scores: Tensor
    precision: torch.dtype

    def detached(self) -> _Pass:
        """Without the graph, so that its memory is given back."""
        activation = None if self.activation is None else self.activation.detach()
        return _Pass(activation, self.output.detach(), self.scores.detach(), self.precision)


@dataclass
class Memory:
    """What holds for all images of a network that stays as it is, so that it is not found out for each batch anew.

    Finding out means looking at numbers, for which the host waits until a GPU has made them.

    Attributes:
        linear: whether a ReLU comes before the mean of `Subject.averaged`, and the layer behind it, once found.
    """

    linear: tuple[bool, nn.Linear] | None = None


class Subject:
    """What is explained.

    The network runs once for all methods, in evaluation mode and eagerly, and is afterwards as it was: no `.grad`, no
    hook, no flag is changed, also after an exception. The caller may stand in `no_grad`, `inference_mode` or
    `autocast`; parameters may be frozen.

    Args:
        net: maps images to logits (N, K), or to whatever `targets` reads; may be compiled.
        images: (N, C, H, W), N >= 1.
        layer: a module of the network whose output holds maps (see `models.cam.layout`); None for methods that need
            none.
        targets: see `models.cam.targets`; classes, a `Target`, or a function of the output.
        output: picks the tensor to score from an output that is a tuple or dict.
        create_graph: keep maps attached to parameters and images, for losses. The network then runs as it stands (with
            dropout and batch statistics if it is training) and everything is recorded. Otherwise only what follows the
            layer is recorded, until the gradients have been taken.
        chunk: most rows in one further forward pass (`score`, `from_layer`); at least N are taken.
        memory: of other images that the same network has seen through the same layer, as it now is.

    Raises:
        ExplainError: images are no batch, or the layer is not the network's. When asked for: a layer that is not
            called exactly once, a target that does not fit or does not depend on the layer, an output that is no
            tensor.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        layer: nn.Module | None,
        targets: Targets,
        *,
        output: Callable[[Any], Tensor] | None = None,
        create_graph: bool = False,
        chunk: int = 64,
        memory: Memory | None = None,
    ) -> None:
        check_batch(images)
        self._memory = memory or Memory()
        self.net, self.layer = unwrapped(net), layer
        self.layer_name = "" if layer is None else layer_name(self.net, layer)
        self.create_graph, self.chunk = create_graph, chunk
        # Tensors made in inference mode cannot be recorded.
        with torch.inference_mode(False):
            self.images = images.clone() if images.is_inference() else images
        self._pick = output
        self._given_target = as_target(targets)
        self._target: Target | None = None
        self._pass: _Pass | None = None
        self._gradients: Tensor | None = None
        self._few_images = True  # `from_layer` runs what lies before the layer on N images only

    # --- the one forward pass

    @property
    def activations(self) -> Tensor:
        """A, (N, C, h, w): what the layer puts out, before anything that follows changes it in place."""
        activation = self._needed(self._forward().activation)
        return full_precision(activation if self.create_graph else activation.detach())

    @property
    def output(self) -> Tensor:
        """(N, K), or what `output` picks."""
        found = self._forward().output
        return found if self.create_graph else found.detach()

    @property
    def scores(self) -> Tensor:
        """y, (N, T): one score an image and target."""
        found = self._forward().scores
        return found if self.create_graph else found.detach()

    @property
    def target(self) -> Target:
        """The target with its classes settled by the first output."""
        self._forward()
        assert self._target is not None
        return self._target

    @property
    def classes(self) -> Tensor | None:
        """(N, T) int64, the class of each score, if scores belong to classes."""
        return self.target.classes

    @property
    def gradients(self) -> Tensor:
        """d y_t / d A, (N, T, C, h, w): one backward pass through the rest of the network a target, for all images."""
        if self._gradients is None:
            found = self._forward()
            self._gradients = self._differentiate(found.scores, self._needed(found.activation))
            if not self.create_graph:
                self._pass = found.detached()
        return self._gradients

    @property
    def output_gradients(self) -> Tensor:
        """d y_t / d output, (N, T, K): how each target weighs the logits; one-hot for a class."""
        output = self.output
        with torch.inference_mode(False), torch.enable_grad(), no_autocast(output.device):
            leaf = output if output.requires_grad else output.clone().requires_grad_()
            return self._differentiate(self.target(leaf), leaf)

    def linear_head(self, features: Tensor | None = None) -> LinearHead | None:
        """The head, if what follows is exactly a mean over positions and one linear layer on these images.

        Checked with numbers rather than by structure: weight mean(features) + bias must be the output, so that
        dropout, flattening and wrappers in between do not matter.

        Args:
            features: (N, C, h, w), what is averaged; None: the activations. Their ReLU, where the network applies it.
        """
        module = self._linear_behind(self.activations if features is None else features)
        return None if module is None else self._head_of(module)

    def averaged(self) -> tuple[Tensor, LinearHead] | None:
        """What is averaged, (N, C, h, w), and the head behind it: the activations, or their ReLU as in DenseNet."""
        activations = self.activations
        if (known := self._memory.linear) is not None:
            rectified, module = known
            return activations.relu() if rectified else activations, self._head_of(module)
        for rectified, features in ((False, activations), (True, activations.relu())):
            if (found := self._linear_behind(features)) is not None:
                self._memory.linear = (rectified, found)
                return features, self._head_of(found)
        return None

    def _linear_behind(self, features: Tensor) -> nn.Linear | None:
        if self.output.ndim != 2:
            return None
        pooled, shape = features.mean((2, 3)), (self.output.shape[1], features.shape[1])
        for module in reversed(list(self.net.modules())):
            if not isinstance(module, nn.Linear) or tuple(module.weight.shape) != shape:
                continue
            if self._explains_output(self._head_of(module), pooled):
                return module
        return None

    # --- further passes

    def from_layer(self, activations: Tensor) -> Tensor:
        """The output (N', K) if the layer had put out these activations.

        Args:
            activations: (N', C, h, w), N' a multiple of N; row r belongs to image r mod N.

        Returns:
            Without gradient, unless `create_graph`.
        """
        self._needed(self._forward().activation)
        blocks = [self._continued(part) for part in self._parts(activations)]
        return torch.cat(blocks)

    def score(self, images: Tensor) -> Tensor:
        """Scores (N', T) of other images for the same targets (and classes), without gradient.

        Args:
            images: (N', C, H, W), N' a multiple of N; row r belongs to image r mod N.
        """
        self._forward()
        with running(self.net):
            found = [self.score_of(self._run(part)) for part in self._parts(images)]
        return torch.cat(found)

    def score_of(self, output: Tensor) -> Tensor:
        """Scores (N', T) of an output (N', ...), row r of image r mod N: of what `from_layer` returns."""
        with no_autocast(output.device):
            return Repeated(self.target, len(self.images))(full_precision(output))

    def with_images(self, images: Tensor) -> Subject:
        """The same layer and targets (with the classes of this subject) on other images.

        Args:
            images: (N', C, H, W), N' a multiple of N; row r belongs to image r mod N.
        """
        self._check_rows(images)
        target = Repeated(self.target, len(self.images))
        graph, pick = self.create_graph, self._pick
        return Subject(self.net, images, self.layer, target, output=pick, create_graph=graph, chunk=self.chunk)

    @contextmanager
    def running(self, *, grad: bool = False) -> Iterator[nn.Module]:
        """The network for a pass of a method's own, set as for the subject's."""
        with running(self.net, as_it_stands=self.create_graph, grad=grad or self.create_graph):
            yield self.net

    def picked(self, raw: Any) -> Tensor:
        """The tensor to score from what the network gave, (N, ...).

        Raises:
            ExplainError: there is no choice and it gave several, or the tensor has no row an image.
        """
        output = raw if self._pick is None else self._pick(raw)
        if not isinstance(output, Tensor):
            raise ExplainError(f"the network gives {described(output)}: say by output= which tensor is explained")
        if output.ndim < 2:
            raise ExplainError(f"the network gives {described(output)}: it must give one row an image")
        return output

    # --- how

    def _forward(self) -> _Pass:
        if self._pass is None:
            self._pass = self._first_pass()
        return self._pass

    def _first_pass(self) -> _Pass:
        with self.running():
            if self.layer is None:
                output, activation = self._run(self.images), None
            else:
                shape = tuple(self.images.shape)
                with ActivationTap(self.layer, shape, self.layer_name, create_graph=self.create_graph) as tap:
                    output = self._run(self.images)
                activation = tap.activation
            with no_autocast(output.device):
                exact = full_precision(output)
                self._target = self._given_target.fixed(exact.detach())
                return _Pass(activation, exact, self._target(exact), output.dtype)

    def _run(self, images: Tensor) -> Tensor:
        return self.picked(self.net(images.clone()))  # networks that normalise in place have the copy

    def _needed(self, activation: Tensor | None) -> Tensor:
        if activation is None:
            raise ExplainError("this method needs a layer, and the subject has none")
        return activation

    def _differentiate(self, scores: Tensor, source: Tensor) -> Tensor:
        """(N, T) and (N, ...) -> (N, T, ...)."""
        with torch.inference_mode(False):
            found = [self._one_gradient(column, source, scores.shape[1]) for column in scores.unbind(1)]
            return torch.stack(found, dim=1)

    def _one_gradient(self, column: Tensor, source: Tensor, count: int) -> Tensor:
        gradient: Tensor | None = None
        if column.requires_grad:
            keep = self.create_graph or count > 1
            (gradient,) = torch.autograd.grad(
                column.sum(), source, retain_graph=keep, create_graph=self.create_graph, allow_unused=True
            )
        if gradient is None:
            where = f"layer '{self.layer_name}'" if self.layer_name else "the output"
            raise ExplainError(f"the score does not depend on {where}: choose another layer or target")
        return full_precision(gradient)

    def _head_of(self, module: nn.Linear) -> LinearHead:
        weight = full_precision(module.weight)
        # Its type says that a bias is always there.
        known: Tensor | None = module.bias
        bias = weight.new_zeros(len(weight)) if known is None else full_precision(known)
        return LinearHead(weight, bias) if self.create_graph else LinearHead(weight.detach(), bias.detach())

    @torch.no_grad()
    def _explains_output(self, head: LinearHead, pooled: Tensor) -> bool:
        with no_autocast(pooled.device):
            error = (F.linear(pooled, *head) - self.output).abs()
            terms = F.linear(pooled.abs(), head.weight.abs(), head.bias.abs())
        return bool((error <= TOLERANCE.get(self._forward().precision, HALF_TOLERANCE) * terms).all())

    def _check_rows(self, rows: Tensor) -> None:
        if len(rows) == 0 or len(rows) % len(self.images):
            raise ExplainError(f"{len(rows)} rows for {len(self.images)} images: give a multiple")

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Whole blocks of N rows, at most `chunk` rows at a time."""
        self._check_rows(rows)
        count = len(self.images)
        return torch.split(rows, max(1, self.chunk // count) * count)

    def _continued(self, activations: Tensor) -> Tensor:
        """One chunk of `from_layer`; the layers before run on the N images only, where the network allows it."""
        blocks = len(activations) // len(self.images)
        if blocks > 1 and self._few_images:
            try:
                output = self._replaced(self.images, activations)
                if len(output) == len(activations):
                    return output
            except (RuntimeError, ValueError):  # something passes by the layer: it must have as many rows
                pass
            self._few_images = False
        return self._replaced(self.images.repeat(blocks, 1, 1, 1), activations)

    def _replaced(self, images: Tensor, activations: Tensor) -> Tensor:
        assert self.layer is not None
        precision = self._needed(self._forward().activation).dtype
        with self.running():
            # The clone keeps the caller's tensor from in-place layers.
            changed = activations.to(precision).clone()
            with ActivationTap(self.layer, tuple(images.shape), self.layer_name, replacement=changed):
                output = self._run(images)
        return full_precision(output)


def layer_name(net: nn.Module, layer: nn.Module) -> str:
    """The layer's name in the (unwrapped) network.

    Raises:
        ExplainError: it is none of its modules.
    """
    for name, module in unwrapped(net).named_modules():
        if module is layer:
            return name or type(layer).__name__
    raise ExplainError(f"the layer {type(layer).__name__} is no part of the network {type(net).__name__}")
