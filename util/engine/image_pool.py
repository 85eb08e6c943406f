"""Translations of earlier steps, so that a discriminator does not follow the newest ones alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from util.seeding import StepInfo


class ImagePool:
    """A history of single images (Shrivastava et al., CVPR 2017, section 2.3; as in CycleGAN).

    Until it is full, every image is kept and returned. From then on each image is returned as it is with probability
    1/2; else it takes the place of one kept image, drawn evenly, which is returned in its stead.

    An image that is not finite is returned and never kept, as it would spoil later steps: what it would have replaced
    stays, and where nothing was, a grey image (0 everywhere) is kept. One of another size than the image that is drawn
    takes that one's place and is returned itself: a batch has one size.

    What is drawn depends on seed, step and the image's place in the epoch's order, not on the rank. Every process has
    a pool of its own images all the same, so that two processes do not equal one with twice the batch; and
    when they continue from a checkpoint, all begin with the first one's images.

    Args:
        size: images kept; 0 keeps none and returns what it is given.
        purpose: tells this pool's draws from another's.
    """

    def __init__(self, size: int, purpose: str) -> None:
        self.size, self._purpose = size, purpose
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def exchange(self, images: Tensor, info: StepInfo, index: Tensor) -> Tensor:
        """Images for the discriminator in place of the newest ones.

        Args:
            images: (N, C, H, W), detached here.
            index: (N,), the place of each in its epoch's order over all ranks.

        Returns:
            (N, C, H, W), without a gradient; like `images` in type and device.
        """
        images = images.detach()
        if self.size == 0:
            return images
        pairs = zip(images, index.tolist(), strict=True)
        return torch.stack([self._exchange(image, info, place) for image, place in pairs])

    def _exchange(self, image: Tensor, info: StepInfo, place: int) -> Tensor:
        draw = info.generator(self._purpose, place)
        replaces = bool(torch.rand((), generator=draw) < 0.5)
        slot = int(torch.randint(self.size, (), generator=draw))  # both are drawn always: no draw shifts another
        finite = torch.isfinite(image).all()  # not asked for on the host, which would wait for a GPU
        if len(self._kept) < self.size:
            self._kept.append(torch.where(finite, image, 0.0))
            return image
        if not replaces:
            return image
        former = self._kept[slot].to(image)
        if former.shape != image.shape:
            self._kept[slot] = torch.where(finite, image, 0.0)
            return image
        self._kept[slot] = torch.where(finite, image, former)
        return torch.where(finite, former, image)

    def state(self) -> list[Tensor]:
        """The images kept, in order: what a run continues from."""
        return list(self._kept)

    def load(self, kept: Sequence[Tensor]) -> None:
        """Continue with the images that `state` returned, the first of them where the pool is smaller now."""
        self._kept = [image.clone() for image in kept[: self.size]]
