"""A pass of the network with everything recorded, for methods that need gradients at the image or within the trunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from models.cam.errors import ExplainError
from models.cam.functional import full_precision
from models.cam.subject import Subject


class Recorded(NamedTuple):
    """One pass.

    Attributes:
        images: (N, C, H, W), what gradients are taken to: never the caller's tensor, unless `create_graph`.
        entry: their copy, which the network was given.
        output: what it put out, attached.
        scores: (N, T), attached.
    """

    images: Tensor
    entry: Tensor
    output: Tensor
    scores: Tensor


@contextmanager
def recorded(subject: Subject) -> Iterator[Recorded]:
    """Run the network on the subject's images; gradients are to be taken inside.

    Raises:
        ExplainError: the score does not depend on the images.
    """
    with subject.running(grad=True) as net:
        images = _source(subject)
        # A network that begins with an in-place layer must not meet a leaf, nor change the images.
        entry = images.clone()
        output = subject.picked(net(entry))
        scores = subject.score_of(output)
        if not scores.requires_grad:
            raise ExplainError("the score does not depend on the images by a gradient: choose another target")
        yield Recorded(images, entry, output, scores)


def _source(subject: Subject) -> Tensor:
    if subject.create_graph and subject.images.requires_grad:
        return subject.images
    return subject.images.detach().requires_grad_()


def gradients_of_each(
    run: Recorded, inside: Sequence[GradientEdge] = (), *, create_graph: bool
) -> Iterator[tuple[Tensor, list[Tensor | None]]]:
    """For each of the T targets, d score / d images and d score / d each edge, in full precision.

    Args:
        run: images must not act on each other in it.
        inside: places in its graph; the gradient is None where the score does not depend on one.
        create_graph: keep the gradients attached.

    Raises:
        ExplainError: the score does not depend on the images.
    """
    columns, source = run.scores.unbind(1), get_gradient_edge(run.images)
    for number, column in enumerate(columns, 1):
        keep = create_graph or number < len(columns)
        image, *others = torch.autograd.grad(
            column.sum(), [source, *inside], retain_graph=keep, create_graph=create_graph, allow_unused=True
        )
        if image is None:
            raise ExplainError("the score does not depend on the images: choose another target")
        yield full_precision(image), [None if each is None else full_precision(each) for each in others]
