"""Translating whole images: preprocess, pad, run, and bring the result back to the image's own size."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from data.images import ImageError
from data.transforms import crop_to, pad_to_multiple, resize_to, small
from util.engine.step import Precision
from util.seeding import key

if TYPE_CHECKING:
    from data.base import Sample
    from models.base import Explanation, Model

_HELD_BACK = 4


class _HasSample(Protocol):
    @property
    def sample(self) -> Sample: ...


Image = TypeVar("Image", bound=_HasSample)
Result = TypeVar("Result")


def to_network(sample: Tensor, multiple: int, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """A preprocessed (C, H, W) image as a padded batch of one, and its size before padding."""
    padded, size = pad_to_multiple(sample[None].to(device), multiple)
    return padded, size


def to_image(output: Tensor, padded_from: tuple[int, int], own_size: tuple[int, int]) -> Tensor:
    """A batch of one in [-1, 1] as (C, H, W) in [0, 1] on the CPU, at the image's own size."""
    cropped_output = crop_to(output.float(), padded_from).cpu()  # MPS may lack antialiased bicubic resizing
    return resize_to(cropped_output, own_size, -1.0, 1.0)[0].add(1).div(2).clamp(0, 1)


def noise_key(seed: int, file: PurePath | str) -> int:
    """What keys the draws of dropout for an image: --seed, and its path below its folder or another name of its own."""
    name = file.as_posix() if isinstance(file, PurePath) else file
    return key(seed, f"noise {os.fsencode(name).hex()}")  # as bytes: a name may be no text


@contextmanager
def drawing(model: Model[Any], keys: Sequence[int]) -> Iterator[None]:
    """Within, dropout draws what these keys say, whatever was drawn before and in whichever process.

    Dropout takes no generator of its own: it draws from PyTorch's global one, which is therefore seeded for every pass
    and put back afterwards, so that no other draw is shifted. That costs a GPU a wait, so it is left out for networks
    that draw nothing.

    Args:
        keys: of the images that go together, see `noise_key`; none: the global generator as it is.
    """
    if not keys or not _draws(model):
        yield
        return
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(keys[0] if len(keys) == 1 else key(0, "noise of several", *keys))
        yield


def translate_image(model: Model[Any], sample: Tensor, own_size: tuple[int, int], noise: int | None = None) -> Tensor:
    """The translation of one preprocessed image (C, H, W) in [-1, 1], as (C, H, W) in [0, 1] of `own_size`.

    Args:
        noise: what dropout draws by, see `noise_key`.
    """
    return translate_images(model, [sample], [own_size], noise=[] if noise is None else [noise])[0]


@torch.inference_mode()
def translate_images(
    model: Model[Any],
    samples: Sequence[Tensor],
    own_sizes: Sequence[tuple[int, int]],
    amp: str = "off",
    noise: Sequence[int] = (),
) -> list[Tensor]:
    """The translations of preprocessed images of one size, each as `translate_image` gives it.

    Args:
        amp: off, bf16 or fp16: the number format of the networks.
        noise: what dropout draws by, for each image; where it draws, images go one by one, see `together`.
    """
    batch, size = _padded(model, samples)
    with Precision(amp, model.device).autocast(), drawing(model, noise):
        output = model.translate(batch)
    return _to_images(output, size, own_sizes)


def explain_image(
    model: Model[Any], sample: Tensor, own_size: tuple[int, int], class_id: int, noise: int | None = None
) -> tuple[Tensor, Explanation]:
    """The translation as translate_image makes it, and the explanation of both; maps cover the unpadded image.

    Args:
        class_id: the class explained; -1: the head's choice on the input.
        noise: what dropout draws by, see `noise_key`.
    """
    return explain_images(model, [sample], [own_size], [class_id], noise=[] if noise is None else [noise])[0]


@torch.inference_mode()
def explain_images(
    model: Model[Any],
    samples: Sequence[Tensor],
    own_sizes: Sequence[tuple[int, int]],
    class_ids: Sequence[int],
    amp: str = "off",
    noise: Sequence[int] = (),
) -> list[tuple[Tensor, Explanation]]:
    """The same of preprocessed images of one size, together; explanations on the CPU."""
    batch, size = _padded(model, samples)
    with Precision(amp, model.device).autocast(), drawing(model, noise):
        fake = model.translate(batch)
        seen = model.explain(batch, fake, torch.tensor(list(class_ids), device=model.device))
    seen = cropped(seen, size, batch.shape[-2:])
    found = {item.name: getattr(seen, item.name).cpu() for item in fields(seen)}
    plain = {name: value.float() if value.is_floating_point() else value for name, value in found.items()}
    each = [replace(seen, **{name: v[n : n + 1] for name, v in plain.items()}) for n in range(len(samples))]
    return list(zip(_to_images(fake, size, own_sizes), each, strict=True))


def _padded(model: Model[Any], samples: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
    """The samples as a batch that the networks take, and their size; an ImageError where that is too small."""
    batch, size = pad_to_multiple(torch.stack(list(samples)).to(model.device), model.size_multiple)
    if too_small := small(batch, model.smallest_side):
        raise ImageError(f"the image {too_small}")
    return batch, size


def _to_images(output: Tensor, padded_from: tuple[int, int], own_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    images = crop_to(output.float(), padded_from).cpu()  # one transfer for all of them
    return [to_image(images[n : n + 1], padded_from, own_size) for n, own_size in enumerate(own_sizes)]


def together(model: Model[Any], wanted: int, tile: int = 0) -> int:
    """How many images of one size may go through the networks at once: as many as `wanted`, or 1.

    One by one go images that need the memory for themselves (`tile`), and all where networks in training mode would
    mix them: batch normalisation does, and dropout draws for a batch what it would not draw for its parts.
    """
    mixes = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in _in_training(model))
    return 1 if tile or mixes or _draws(model) else wanted


def _draws(model: Model[Any]) -> bool:
    """Whether dropout draws; that of rate 0 does not."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in _in_training(model))


def _in_training(model: Model[Any]) -> Iterator[nn.Module]:
    """Modules in training mode of the networks that translate and explain: what others hold changes no image."""
    return (module for name in model.inference_nets for module in model.nets[name].modules() if module.training)


def by_size(
    images: Iterable[Image], work: Callable[[list[Image]], Sequence[Result]], most: int
) -> Iterator[tuple[Image, Result]]:
    """Each image with its result, in order; images of one size are worked on together.

    Args:
        most: images at once. At most four times as many are held back for company of their size.
    """
    held: deque[_Held[Image, Result]] = deque()
    waiting: dict[tuple[int, ...], list[_Held[Image, Result]]] = {}

    def do(size: tuple[int, ...]) -> None:
        group = waiting.pop(size)
        for one, result in zip(group, work([one.image for one in group]), strict=True):
            one.results.append(result)

    for image in images:
        one: _Held[Image, Result] = _Held(image, tuple(image.sample.A.shape))
        held.append(one)
        waiting.setdefault(one.size, []).append(one)
        if len(waiting[one.size]) >= most:
            do(one.size)
        while held and (held[0].results or len(held) > _HELD_BACK * most):
            if not held[0].results:
                do(held[0].size)
            first = held.popleft()
            yield first.image, first.results[0]
    for one in held:
        if not one.results:
            do(one.size)
        yield one.image, one.results[0]


@dataclass
class _Held(Generic[Image, Result]):
    image: Image
    size: tuple[int, ...]
    results: list[Result] = field(default_factory=list)


def cropped(seen: Explanation, size: tuple[int, int], padded: tuple[int, ...]) -> Explanation:
    """The explanation without the part of its maps that lies over padding."""

    def cut(cam: Tensor) -> Tensor:
        rows, columns = (
            -(-side * cells // whole) for side, cells, whole in zip(size, cam.shape[-2:], padded, strict=True)
        )
        return cam[:, :rows, :columns]

    return replace(seen, cam=cut(seen.cam), cam_fake=cut(seen.cam_fake))
