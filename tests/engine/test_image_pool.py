"""The pool of earlier translations, against a slow version that keeps a list of numbers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from util.engine.image_pool import ImagePool
from util.seeding import StepInfo, generator


def numbered(*numbers: float) -> Tensor:
    """Images of 1 x 2 x 2 pixels, each of one value."""
    return torch.tensor([float(n) for n in numbers]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def numbers_of(images: Tensor) -> list[float]:
    assert torch.equal(images, images[:, :1, :1, :1].expand_as(images))
    return images[:, 0, 0, 0].tolist()


def feed(pool: ImagePool, steps: range, batch: int = 2, seed: int = 3) -> list[float]:
    """What comes back for images 0, 1, 2, ... in batches."""
    back: list[float] = []
    for step in steps:
        places = range(step * batch, (step + 1) * batch)
        back += numbers_of(pool.exchange(numbered(*places), StepInfo(seed, step), torch.tensor(places)))
    return back


def slow(size: int, count: int, batch: int, seed: int, purpose: str) -> list[float]:
    """The same with a list of numbers."""
    kept: list[float] = []
    back: list[float] = []
    for image in range(count):
        draw = generator(seed, purpose, image // batch, image)
        replaces, slot = torch.rand((), generator=draw) < 0.5, int(torch.randint(size, (), generator=draw))
        if len(kept) < size:
            kept.append(image)
            back.append(image)
        elif replaces:
            back.append(kept[slot])
            kept[slot] = image
        else:
            back.append(image)
    return back


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (3, 2), (50, 2), (7, 4)])
def test_agrees_with_a_list(size: int, batch: int) -> None:
    found = feed(ImagePool(size, "pool A"), range(60), batch)
    assert found == slow(size, 60 * batch, batch, 3, "pool A")
    assert found[:size] == list(range(size))  # until it is full, every image comes back


def test_half_of_the_images_are_earlier_ones_and_every_place_is_drawn() -> None:
    back = feed(ImagePool(4, "pool A"), range(500))[4:]
    earlier = [image - number for number, image in enumerate(back, start=4) if image != number]
    assert all(lag < 0 for lag in earlier)
    assert 0.45 < len(earlier) / len(back) < 0.55
    # A kept image waits until its place is drawn: with probability 1/8 at each image, hence 8 images on average.
    assert 7 < -sum(earlier) / len(earlier) < 9
    assert max(Counter(back).values()) <= 2  # once when new, once from the pool


def test_a_pool_of_none_gives_back_what_it_gets() -> None:
    images = numbered(1, 2).requires_grad_()
    back = ImagePool(0, "pool A").exchange(images, StepInfo(0, 0), torch.tensor([0, 1]))
    assert torch.equal(back, images)
    assert not back.requires_grad


def test_what_is_kept_is_a_copy_without_a_graph() -> None:
    pool, weight = ImagePool(1, "pool A"), torch.ones((), requires_grad=True)
    images = numbered(5) * weight
    assert not pool.exchange(images, StepInfo(0, 0), torch.tensor([0])).requires_grad
    images.detach().zero_()
    (kept,) = pool.state()
    assert numbers_of(kept[None]) == [5]
    assert not kept.requires_grad


def test_draws_go_by_an_image_s_place_not_by_the_batch_it_came_in() -> None:
    """What two ranks draw for their images is what one process would."""
    info, places = StepInfo(3, 9), torch.arange(16)
    whole, parts = ImagePool(1, "pool A"), ImagePool(1, "pool A")
    for pool in (whole, parts):
        pool.load([numbered(-1)[0]])
    together = numbers_of(whole.exchange(numbered(*range(16)), info, places))
    apart: list[float] = []
    for part in torch.split(places, 5):
        apart += numbers_of(parts.exchange(numbered(*part.tolist()), info, part))
    assert together == apart


def test_purposes_and_seeds_draw_differently() -> None:
    found = {
        tuple(feed(ImagePool(2, purpose), range(30), seed=seed))
        for purpose, seed in (("pool A", 0), ("pool B", 0), ("pool A", 1))
    }
    assert len(found) == 3


def test_continued_equals_unbroken_bit_for_bit() -> None:
    whole = feed(ImagePool(5, "pool A"), range(40))
    first, second = ImagePool(5, "pool A"), ImagePool(5, "pool A")
    begun = feed(first, range(17))
    second.load(first.state())
    assert begun + feed(second, range(17, 40)) == whole


def test_a_smaller_pool_keeps_the_first_images() -> None:
    large, small = ImagePool(5, "pool A"), ImagePool(2, "pool A")
    feed(large, range(3))
    small.load(large.state())
    assert [image[0, 0, 0].item() for image in small.state()] == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_never_kept(bad: float) -> None:
    pool = ImagePool(1, "pool A")
    pool.exchange(numbered(1), StepInfo(3, 0), torch.tensor([0]))
    for step in range(1, 12):  # of these draws about half replace the image kept
        back = pool.exchange(numbered(bad), StepInfo(3, step), torch.tensor([step]))
        assert not bool(torch.isfinite(back).any())
    assert numbers_of(torch.stack(pool.state())) == [1]


def test_an_image_of_another_size_takes_the_place_and_is_returned() -> None:
    pool = ImagePool(1, "pool A")
    pool.exchange(numbered(1), StepInfo(3, 0), torch.tensor([0]))
    wide = torch.full((1, 1, 2, 6), 7.0)
    for step in range(1, 12):
        assert torch.equal(pool.exchange(wide, StepInfo(3, step), torch.tensor([step])), wide)
    assert pool.state()[0].shape == (1, 2, 6)


def test_kept_images_come_back_in_the_type_of_the_new_ones() -> None:
    pool = ImagePool(1, "pool A")
    pool.load([numbered(1)[0]])
    found = [pool.exchange(numbered(2).double(), StepInfo(3, step), torch.tensor([step])) for step in range(9)]
    assert {image.dtype for image in found} == {torch.float64}
    assert 1.0 in numbers_of(torch.cat(found))
