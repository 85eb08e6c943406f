"""Edge consistency between a translation and its source, by Sobel gradients of the luminance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from models.cam.functional import full_precision

EPS = 1e-6
_BT601 = (0.299, 0.587, 0.114)


def luminance(image: Tensor) -> Tensor:
    """ITU-R BT.601 luma of RGB, or the single channel itself: (N,C,H,W) in [-1,1] -> (N,H,W) in [-1,1].

    Raises:
        ValueError: neither 1 nor 3 channels.
    """
    image = full_precision(image)
    if image.shape[1] == 1:
        return image[:, 0]
    if image.shape[1] != 3:
        raise ValueError(
            f"an image with {image.shape[1]} channels has no luminance: the edge loss takes 1 or 3 channels"
        )
    return sum((share * image[:, i] for i, share in enumerate(_BT601)), torch.zeros_like(image[:, 0]))


def _reflect(plane: Tensor) -> Tensor:
    """One reflected row and column on each side, by slices, whose backward is deterministic on any device."""
    plane = torch.cat([plane[:, 1:2], plane, plane[:, -2:-1]], dim=1)
    return torch.cat([plane[:, :, 1:2], plane, plane[:, :, -2:-1]], dim=2)


def sobel(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical Sobel gradients (1 2 1 times -1 0 1, not divided by 8), (N,H,W) -> 2 x (N,H,W).

    Raises:
        ValueError: a side shorter than 2 pixels, which cannot be reflected.
    """
    if min(plane.shape[1:]) < 2:
        raise ValueError(f"an image of {tuple(plane.shape[1:])} pixels has no edges: both sides must be at least 2")
    padded = _reflect(plane)
    across = padded[:, :, 2:] - padded[:, :, :-2]
    down = padded[:, 2:] - padded[:, :-2]
    horizontal = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    vertical = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return horizontal, vertical


def sobel_magnitude(image: Tensor, eps: float = EPS) -> Tensor:
    """Edge strength sqrt(gx^2 + gy^2 + eps) of the luminance, (N,C,H,W) -> (N,H,W), smooth by eps."""
    horizontal, vertical = sobel(luminance(image))
    return (horizontal.square() + vertical.square() + eps).sqrt()


def _l1(fake: Tensor, source: Tensor, eps: float) -> Tensor:
    return (sobel_magnitude(fake, eps) - sobel_magnitude(source, eps)).abs().mean(dim=(1, 2))


def _keep(fake: Tensor, source: Tensor, eps: float) -> Tensor:
    return (sobel_magnitude(source, eps) - sobel_magnitude(fake, eps)).relu().mean(dim=(1, 2))


def _normalised_field(image: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients over sqrt(|g|^2 + eta^2), eta the image's mean gradient: edges near 1, noise near 0."""
    horizontal, vertical = sobel(luminance(image))
    square = horizontal.square() + vertical.square()
    eta = (square + eps).sqrt().mean(dim=(1, 2), keepdim=True)
    length = (square + eta.square()).sqrt()
    return horizontal / length, vertical / length


def _ngf(fake: Tensor, source: Tensor, eps: float) -> Tensor:
    fake_x, fake_y = _normalised_field(fake, eps)
    source_x, source_y = _normalised_field(source, eps)
    return (1 - (fake_x * source_x + fake_y * source_y).square()).mean(dim=(1, 2))


EDGE_MODES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = MappingProxyType(
    {"l1": _l1, "ngf": _ngf, "keep": _keep}
)


def edge_loss(fake: Tensor, source: Tensor, mode: str = "l1", eps: float = EPS) -> Tensor:
    """How much the edges of a translation differ from those of its source.

    Args:
        fake: (N,C,H,W) in [-1,1], C 1 or 3; gets the gradient.
        source: (N,C',H,W) in [-1,1], C' 1 or 3; detached here.
        mode: "l1", mean absolute difference of edge strength, which assumes equal contrast in both domains;
            "ngf", 1 - <n_fake, n_source>^2 of normalised gradient fields (Haber and Modersitzki 2006, with
            their noise level eta set to each image's mean gradient), blind to contrast and polarity, never 0
            as flat positions count 1;
            "keep", mean max(0, source - fake) of edge strength: edges may appear but not vanish.
        eps: added under the root.

    Returns:
        (N,).

    Raises:
        ValueError: unknown mode, channels other than 1 or 3, sizes that differ.
    """
    if mode not in EDGE_MODES:
        raise ValueError(f"unknown edge_mode {mode!r}: choose one of {', '.join(EDGE_MODES)}")
    if fake.shape[0] != source.shape[0] or fake.shape[2:] != source.shape[2:]:
        raise ValueError(
            f"translation {tuple(fake.shape)} and source {tuple(source.shape)} must agree in all but channels"
        )
    return EDGE_MODES[mode](fake, source.detach(), eps)
