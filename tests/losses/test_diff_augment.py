"""Differentiable augmentation: ranges, draws, gradients, and each change by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from models.losses.diff_augment import AUGMENTATIONS, BLUR, HOLE, NOISE, SHIFT, diff_augment
from util.seeding import generator


def keyed(number: int) -> torch.Generator:
    return generator(3, "test", number)


def keyed_as(own: int, number: int) -> torch.Generator:
    return keyed(own + number)


@pytest.mark.parametrize("word", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_change_is_drawn_per_image_and_passes_a_gradient(word: str, channels: int) -> None:
    images = torch.rand(4, channels, 16, 24, dtype=torch.float64).requires_grad_(True)
    changed = diff_augment(images, [word], keyed)
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
    assert torch.equal(changed[2:3], diff_augment(images[2:3], [word], lambda number: keyed(2)))  # no neighbour matters
    (slope,) = torch.autograd.grad(changed.sum(), images)
    assert bool((slope.flatten(1).abs().sum(1) > 0).all())
    assert torch.autograd.gradcheck(
        lambda x: diff_augment(x, [word], keyed), images[:1, :, :4, :4].detach().requires_grad_()
    )


def test_the_same_draws_give_the_same_picture_and_others_another() -> None:
    images = torch.rand(2, 3, 16, 16)
    first = diff_augment(images, list(AUGMENTATIONS), keyed)
    assert torch.equal(first, diff_augment(images, list(reversed(AUGMENTATIONS)), keyed))  # the order is fixed
    assert not torch.equal(first, diff_augment(images, list(AUGMENTATIONS), lambda n: keyed(n + 9)))
    assert torch.equal(images, diff_augment(images, [], keyed))


def test_a_translation_moves_whole_pixels_by_no_more_than_an_eighth() -> None:
    images = torch.arange(1.0, 1 + 16 * 24).view(1, 1, 16, 24)
    moves = set()
    for number in range(300):
        moved = diff_augment(images, ["translation"], partial(keyed_as, number))[0, 0]
        inside = moved[8, 12]
        row, column = divmod(int(inside) - 1, 24)
        moves.add((row - 8, column - 12))
        top, left = row - 8, column - 12
        expected = torch.zeros(16, 24)
        rows, columns = range(max(0, -top), min(16, 16 - top)), range(max(0, -left), min(24, 24 - left))
        for r in rows:
            for c in columns:
                expected[r, c] = images[0, 0, r + top, c + left]
        assert torch.equal(moved, expected)
    assert {abs(v) for v, _ in moves} == set(range(round(16 * SHIFT) + 1))
    assert {abs(h) for _, h in moves} == set(range(round(24 * SHIFT) + 1))


def test_cutout_hides_a_square_of_half_the_side_at_most() -> None:
    images = torch.ones(200, 1, 16, 16)
    holes = diff_augment(images, ["cutout"], keyed) == 0
    area = holes.flatten(1).sum(1)
    assert int(area.max()) == (16 * HOLE) ** 2
    assert int(area.min()) >= (16 * HOLE / 2) ** 2
    for hole in holes[:20, 0]:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert bool(hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all())


def test_colour_is_brightness_saturation_and_contrast_by_hand() -> None:
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    brightness, saturation, contrast = torch.rand(3, generator=keyed(0)).double().tolist()
    expected: Tensor = image + brightness - 0.5
    grey = expected.mean(1, keepdim=True)
    expected = grey + 2 * saturation * (expected - grey)
    expected = expected.mean() + (contrast + 0.5) * (expected - expected.mean())
    assert torch.allclose(diff_augment(image, ["color"], keyed), expected)


def test_a_blur_keeps_the_mean_and_spreads_a_point_as_a_gaussian_does() -> None:
    images = torch.zeros(200, 1, 33, 33, dtype=torch.float64)
    images[:, :, 16, 16] = 1
    blurred = diff_augment(images, ["blur"], keyed)[:, 0]
    assert torch.allclose(blurred.sum((1, 2)), torch.ones(200, dtype=torch.float64))
    row = blurred.sum(1)
    place = torch.arange(33.0) - 16
    deviations = (row * place.square()).sum(1).sqrt()
    assert 0.95 * BLUR < float(deviations.max()) < BLUR + 0.01
    assert float(deviations.min()) < 0.1
    wide = deviations > 0.7  # below, a few pixels say little of the curve
    assert bool(wide.any())
    expected = torch.exp(-place.square() / (2 * deviations[wide, None].square()))
    assert torch.allclose(row[wide], expected / expected.sum(1, keepdim=True), atol=0.01)


def test_noise_has_its_deviation_and_no_mean() -> None:
    images = torch.full((300, 1, 32, 32), 0.5)
    noise = diff_augment(images, ["noise"], keyed) - images
    deviations = noise.flatten(1).std(1)
    assert 0.97 * NOISE < float(deviations.max()) < 1.1 * NOISE
    assert float(deviations.min()) < 0.05 * NOISE
    assert abs(float(deviations.mean()) - NOISE / 2) < 0.1 * NOISE  # drawn evenly
    assert abs(float(noise.mean())) < 0.01 * NOISE


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'colour': choose of color, translation, cutout"):
        diff_augment(torch.zeros(1, 1, 4, 4), ["colour"], keyed)
