"""Translating whole images: preprocess, pad, run, and bring the result back to the image's own size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.transforms import crop_to, pad_to_multiple, resize_to

if TYPE_CHECKING:
    from models.base import Explanation, Model


def to_network(sample: Tensor, multiple: int, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """A preprocessed (C, H, W) image as a padded batch of one, and its size before padding."""
    padded, size = pad_to_multiple(sample[None].to(device), multiple)
    return padded, size


def to_image(output: Tensor, padded_from: tuple[int, int], own_size: tuple[int, int]) -> Tensor:
    """A batch of one in [-1, 1] as (C, H, W) in [0, 1] on the CPU, at the image's own size."""
    cropped_output = crop_to(output.float(), padded_from).cpu()  # MPS may lack antialiased bicubic resizing
    return resize_to(cropped_output, own_size, -1.0, 1.0)[0].add(1).div(2).clamp(0, 1)


@torch.inference_mode()
def translate_image(model: Model[Any], sample: Tensor, own_size: tuple[int, int]) -> Tensor:
    """The translation of one preprocessed image (C, H, W) in [-1, 1], as (C, H, W) in [0, 1] of `own_size`."""
    batch, size = to_network(sample, model.size_multiple, model.device)
    return to_image(model.translate(batch), size, own_size)


@torch.inference_mode()
def explain_image(
    model: Model[Any], sample: Tensor, own_size: tuple[int, int], class_id: int
) -> tuple[Tensor, Explanation]:
    """The translation as translate_image makes it, and the explanation of both; maps cover the unpadded image.

    Args:
        class_id: the class explained; -1: the head's choice on the input.
    """
    batch, size = to_network(sample, model.size_multiple, model.device)
    fake = model.translate(batch)
    seen = model.explain(batch, fake, torch.tensor([class_id], device=model.device))
    return to_image(fake, size, own_size), cropped(seen, size, batch.shape[-2:])


def cropped(seen: Explanation, size: tuple[int, int], padded: tuple[int, ...]) -> Explanation:
    """The explanation without the part of its maps that lies over padding."""

    def cut(cam: Tensor) -> Tensor:
        rows, columns = (
            -(-side * cells // whole) for side, cells, whole in zip(size, cam.shape[-2:], padded, strict=True)
        )
        return cam[:, :rows, :columns]

    return replace(seen, cam=cut(seen.cam), cam_fake=cut(seen.cam_fake))
