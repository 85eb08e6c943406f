"""Geometry on float images: CUT's `--preprocess` words for training, padding and resizing for inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

RESIZERS = ("resize", "scale_width", "scale_shortside")
WORDS = (*RESIZERS, "zoom", "crop", "patch", "trim", "none")
_ZOOM_MIN = 0.8
Draws = tuple[float, ...]  # nine, see Preprocess


@dataclass(frozen=True)
class Preprocess:
    """CUT's preprocess string as a function of an image. Each word is a stage; the stages run in this order:

    - one of `resize` (to load_size), `scale_width` (to load_size's width, aspect kept, but at least crop_size
      high, as in CUT: lower images are stretched), `scale_shortside` (enlarged, aspect kept, until load_size fits
      in; never reduced);
    - `zoom`: each side times its own random factor in [0.8, 1], but at least crop_size;
    - `crop`: a random crop_size;
    - `patch`: tile `patch_index` of a grid of crop_size tiles, placed at random within the remainder;
    - `trim`: a random crop_size along the sides that are longer, the others left;
    - always: resized to the nearest multiple of `multiple`; then mirrored with probability 1/2 if `flip`.

    `none` stands for no word. An image too small for `crop` or `patch` is enlarged, aspect kept, until
    crop_size fits in, as `scale_shortside` would (the published code stops with an error there; mirrored
    borders would teach the discriminator mirrored scenes). With `crop` or `patch`, or `resize` without `zoom`
    and `trim`, every result has the same size; with the other words alone sizes follow the files. Resizing is
    bicubic with antialiasing, clamped to [0, 1], where bicubic overshoots. Sizes are (height, width).
    """

    words: tuple[str, ...]
    load_size: tuple[int, int]
    crop_size: tuple[int, int]
    flip: bool
    multiple: int = 4

    def __post_init__(self) -> None:
        if self.multiple < 1 or min(*self.load_size, *self.crop_size) < 1:
            raise ValueError(f"--load_size {_show(self.load_size)} and --crop_size {_show(self.crop_size)} start at 1")
        self._check_words()
        resizer = next((word for word in self.words if word in RESIZERS), None)
        cuts = "crop" in self.words or "patch" in self.words
        sides = {None: (), "scale_width": (1,)}.get(resizer, (0, 1))  # scale_width sees to the height itself
        if cuts and any(self.crop_size[side] > self.load_size[side] for side in sides):
            raise ValueError(
                f"--crop_size {_show(self.crop_size)} is larger than --load_size {_show(self.load_size)}, "
                f"to which {resizer} brings the images; raise --load_size or lower --crop_size"
            )

    def _check_words(self) -> None:
        if unknown := [word for word in self.words if word not in WORDS]:
            raise ValueError(
                f"--preprocess does not know {', '.join(map(repr, unknown))}; "
                f"its words are {', '.join(WORDS)}, joined by _and_"
            )
        if "none" in self.words and len(self.words) > 1:
            raise ValueError("--preprocess none stands alone; leave out the other words, or none")
        if len(resizers := [word for word in self.words if word in RESIZERS]) > 1:
            raise ValueError(f"--preprocess takes one of {' and '.join(resizers)}, not both")

    @classmethod
    def parse(
        cls,
        preprocess: str,
        load_size: tuple[int, int],
        crop_size: tuple[int, int],
        flip: bool,
        multiple: int = 4,
    ) -> Preprocess:
        """From an option's value: words joined by `_and_`, as in `resize_and_crop`.

        Raises:
            ValueError: an unknown word, words that exclude each other, a crop larger than the loaded size.
        """
        words = tuple(word.strip() for word in preprocess.strip().split("_and_"))
        return cls(words, load_size, crop_size, flip, multiple)

    def for_inference(self) -> Preprocess:
        """Without zoom, crop, patch, trim and flip; what is resized comes to `test_size`."""
        words = tuple(word for word in self.words if word in RESIZERS) or ("none",)
        return replace(self, words=words, load_size=self.test_size, flip=False)

    @property
    def test_size(self) -> tuple[int, int]:
        """What words that resize bring images to in a test: crop_size, as in CUT; load_size where nothing is cut."""
        return self.crop_size if {"crop", "patch", "trim"}.intersection(self.words) else self.load_size

    @property
    def resizes(self) -> bool:
        """Whether inference brings every image to `test_size`, large ones too, as `resize` and `scale_width` do."""
        return bool({"resize", "scale_width"}.intersection(self.words))

    def at_own_size(self) -> Preprocess:
        """The same where it keeps the size of large images; `none` where it `resizes`."""
        return replace(self, words=("none",)) if self.resizes else self

    def __call__(self, image: Tensor, generator: torch.Generator, patch_index: int = 0) -> Tensor:
        """(C, H, W) in [0, 1] to (C, h, w) in [0, 1].

        All nine random numbers are drawn at once, whatever the words and the size, so that no draw shifts
        another.
        """
        return self._rest(self._load(image), draws_of(generator), patch_index)

    def all_at_once(self, images: Tensor, draws: Sequence[Draws], patch_indices: Sequence[int]) -> list[Tensor]:
        """The same of (N, C, H, W), on their device: what is resized is resized together, the rest one by one.

        Args:
            draws: `draws_of` each image's generator.
        """
        loaded = self._load(images)
        each = zip(loaded, draws, patch_indices, strict=True)
        return [self._rest(image, own, patch_index) for image, own, patch_index in each]

    def _rest(self, image: Tensor, draws: Draws, patch_index: int) -> Tensor:
        zoom_y, zoom_x, crop_y, crop_x, patch_y, patch_x, trim_y, trim_x, mirror = draws
        if "zoom" in self.words:
            factors = (1 - (1 - _ZOOM_MIN) * u for u in (zoom_y, zoom_x))
            pairs = zip(image.shape[-2:], factors, self.crop_size, strict=True)
            image = _resize(image, *(round(max(least, side * factor)) for side, factor, least in pairs))
        if "crop" in self.words:
            image = _cut(_cover(image, self.crop_size), self.crop_size, crop_y, crop_x)
        if "patch" in self.words:
            image = _tile(_cover(image, self.crop_size), self.crop_size, patch_index, patch_y, patch_x)
        if "trim" in self.words:
            image = _cut(image, self.crop_size, trim_y, trim_x)
        image = _resize(image, *(self.round_side(side) for side in image.shape[-2:]))
        return image.flip(-1) if self.flip and mirror < 0.5 else image

    def round_side(self, side: int) -> int:
        """The multiple of `multiple` nearest to a side, at least one of them."""
        return max(round(side / self.multiple), 1) * self.multiple

    def stretched(self, height: int, width: int) -> tuple[int, int] | None:
        """The size that `scale_width` gives an image whose shape it does not keep; None: it keeps it."""
        low = "scale_width" in self.words and self._scaled(height, width) < self.crop_size[0]
        return (self.crop_size[0], self.load_size[1]) if low else None

    def size_of(self, height: int, width: int) -> tuple[int, int] | None:
        """The size that an image of this size comes to; None: it is drawn at random."""
        words = set(self.words)
        if words & {"crop", "patch"}:
            height, width = self.crop_size
        elif "zoom" in words:
            return None
        elif "resize" in words:
            height, width = self.load_size
        elif "scale_width" in words:
            height, width = max(self._scaled(height, width), self.crop_size[0]), self.load_size[1]
        elif "scale_shortside" in words:
            height, width = _covering((height, width), self.load_size)
        if "trim" in words:
            height, width = min(height, self.crop_size[0]), min(width, self.crop_size[1])
        return self.round_side(height), self.round_side(width)

    def _scaled(self, height: int, width: int) -> int:
        """The height at load_size's width, the aspect kept."""
        return round(height * self.load_size[1] / width)

    def _load(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if "resize" in self.words:
            return _resize(image, *self.load_size)
        if "scale_width" in self.words:
            return _resize(image, max(self._scaled(height, width), self.crop_size[0]), self.load_size[1])
        return _cover(image, self.load_size) if "scale_shortside" in self.words else image


def _show(size: tuple[int, int]) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]} {size[1]}"


def draws_of(generator: torch.Generator) -> Draws:
    """The random numbers of one image, uniform in [0, 1)."""
    return tuple(torch.rand(9, generator=generator, dtype=torch.float64).tolist())


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.ndim == 4:
        return resize_to(image, (height, width), 0.0, 1.0)
    return resize_to(image[None], (height, width), 0.0, 1.0)[0]


def _cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge, aspect kept, until `size` fits in; larger images are left."""
    return _resize(image, *_covering((image.shape[-2], image.shape[-1]), size))


def _covering(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """What `_cover` makes of an image's size."""
    scale = max(size[0] / own[0], size[1] / own[1])
    return own if scale <= 1 else (max(round(own[0] * scale), size[0]), max(round(own[1] * scale), size[1]))


def _cut(image: Tensor, size: tuple[int, int], u_y: float, u_x: float) -> Tensor:
    """At most `size` of an image; uniform u in [0, 1) make all positions equally likely."""
    height, width = (min(side, most) for side, most in zip(image.shape[-2:], size, strict=True))
    top = int(u_y * (image.shape[-2] - height + 1))
    left = int(u_x * (image.shape[-1] - width + 1))
    return image[..., top : top + height, left : left + width]


def _tile(image: Tensor, size: tuple[int, int], index: int, u_y: float, u_x: float) -> Tensor:
    """Tile `index` (modulo their number) of the shifted grid, counted down the columns, as in CUT."""
    rows, columns = (side // tile for side, tile in zip(image.shape[-2:], size, strict=True))
    grid = _cut(image, (rows * size[0], columns * size[1]), u_y, u_x)
    column, row = divmod(index % (rows * columns), rows)
    top, left = row * size[0], column * size[1]
    return grid[..., top : top + size[0], left : left + size[1]]


def resize_to(x: Tensor, size: tuple[int, int], low: float, high: float) -> Tensor:
    """(N, C, H, W) to (N, C, *size), bicubic, antialiased, clamped to [low, high]: bicubic overshoots."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(low, high)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad (N, C, H, W) below and on the right to multiples of `multiple`.

    By reflection; a side too short to be reflected so far is replicated.

    Returns:
        The padded batch and the size (H, W) to give to `crop_to` afterwards.
    """
    height, width = x.shape[-2:]
    below, right = -height % multiple, -width % multiple
    for side, pad, sides in ((width, right, (0, right, 0, 0)), (height, below, (0, 0, 0, below))):
        if pad:
            x = F.pad(x, sides, mode="reflect" if pad < side else "replicate")
    return x, (height, width)


def small(image: Tensor, least: int) -> str:
    """What is to be said of (..., H, W) with a side below `least`, which a network needs; nothing where it has none."""
    height, width = image.shape[-2:]
    if min(height, width) >= least:
        return ""
    return f"comes to {height} x {width} (height x width), and the network needs sides of {least} pixels or more"


def crop_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left `size` of (N, C, H, W): undoes `pad_to_multiple`.

    Raises:
        ValueError: x is smaller than `size`.
    """
    if x.shape[-2] < size[0] or x.shape[-1] < size[1]:
        raise ValueError(f"a result of {tuple(x.shape[-2:])} cannot be cropped to {tuple(size)}")
    return x[..., : size[0], : size[1]]
