"""Seeds: Otsu against OpenCV, erosion and dilation against SciPy, draws counted, and what must never happen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from models.seeding import (
    BACKGROUND,
    FOREGROUND,
    IGNORED,
    Seeder,
    dilate,
    erode,
    lowest,
    otsu,
    precision_counts,
    sample,
)
from util.seeding import StepInfo, generator

INFO = StepInfo(seed=3, step=7)


def maps(count: int, *size: int, seed: int = 0) -> Tensor:
    """Smooth maps (N, H, W) from 0 to 1."""
    coarse = torch.rand(count, 1, 5, 5, generator=generator(seed, "test maps"))
    grown = F.interpolate(coarse, size, mode="bicubic")[:, 0]
    low, high = grown.amin((1, 2), keepdim=True), grown.amax((1, 2), keepdim=True)
    return (grown - low) / (high - low)


def blobs(count: int, *size: int) -> Tensor:
    return maps(count, *size, seed=4) > 0.6


# --- parts


def test_otsus_threshold_is_opencvs() -> None:
    levels = (maps(60, 40, 36) * 255).floor().long()
    found = otsu(levels)
    for one, threshold in zip(levels, found, strict=True):
        wanted, _ = cv2.threshold(one.numpy().astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        assert int(threshold) == int(wanted)


def test_otsu_by_hand() -> None:
    two = torch.tensor([[[10, 10], [10, 200]], [[0, 0], [0, 0]], [[255, 255], [0, 0]]])
    assert otsu(two).tolist() == [10, 0, 0]  # of equal ones the lowest


@pytest.mark.parametrize("side", [1, 3, 5])
def test_dilation_and_erosion_are_scipys(side: int) -> None:
    region = blobs(6, 20, 17)
    square = np.ones((side, side))
    for one, grown, shrunk in zip(region, dilate(region, side), erode(region, side, 1), strict=True):
        np.testing.assert_array_equal(grown, ndimage.binary_dilation(one, square))
        expected = ndimage.binary_erosion(one, square, border_value=1)  # beyond the border counts as inside
        np.testing.assert_array_equal(shrunk, expected if expected.any() else one)


def test_erosion_stops_at_the_last_set_that_is_not_empty_image_by_image() -> None:
    region = torch.zeros(3, 15, 15, dtype=torch.bool)
    region[0, 3:12, 3:12] = True  # 9 pixels a side: four erosions leave its middle
    region[1, 6:9, 6:9] = True  # 3: one
    eroded = erode(region, 3, 100)
    assert [int(one.sum()) for one in eroded] == [1, 1, 0]
    assert bool(eroded[0, 7, 7])
    assert bool(eroded[1, 7, 7])


def test_the_lowest_share_has_ties_in_proportion() -> None:
    values = torch.tensor(
        [[[0.0, 0, 0, 0], [0, 0, 0.5, 0.5], [1, 1, 1, 1]], [[3.0, 1, 2, 9], [9, 9, 9, 9], [9, 9, 9, 9]]]
    )
    found = lowest(values, 0.25)  # 3 of 12 pixels: half of the six zeros; and exactly 1, 2 and 3
    assert found[0].flatten().tolist() == [0.5] * 6 + [0] * 6
    assert found[1].flatten().tolist() == [1, 1, 1] + [0] * 9
    assert lowest(values, 0.5)[0].flatten().tolist() == [1] * 6 + [0] * 6
    assert float(lowest(values, 1e-6)[1].sum()) == 1  # at least one


def test_draws_follow_the_weights_without_replacement() -> None:
    weights = torch.tensor([[[1.0, 0.0, 3.0, 0.0, 4.0]]]).expand(4000, 1, 5)
    draws = torch.rand(4000, 2, generator=generator(1, "draws"))
    once = sample(weights, draws[:, :1]).float().mean(0).flatten()
    assert once.tolist() == pytest.approx([1 / 8, 0, 3 / 8, 0, 1 / 2], abs=0.03)
    twice = sample(weights, draws)
    assert twice.flatten(1).sum(1).tolist() == [2] * 4000
    assert float(twice[:, 0, 0].float().mean()) == pytest.approx(1 / 8 + 3 / 8 / 5 + 1 / 2 / 4, abs=0.03)


def test_no_more_is_drawn_than_there_is() -> None:
    weights = torch.tensor([[[0.0, 2.0, 0.0]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]])
    drawn = sample(weights, torch.full((3, 3), 1 - 2**-24))
    assert drawn.flatten(1).tolist() == [[False, True, False], [False] * 3, [True] * 3]


# --- seeds


def test_seeds_are_as_in_the_paper() -> None:
    """Against a slow version of one image: region and lowest share, one square of each."""
    cams, seeder = maps(16, 40, 36), Seeder(erode=5)
    for cam, seeds in zip(cams, seeder(cams, INFO, range(16)), strict=True):
        levels = np.floor(255 * cam.numpy()).astype(np.uint8)
        threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        region = levels > threshold
        eroded = ndimage.binary_erosion(region, np.ones((5, 5)), border_value=1)
        region = eroded if eroded.any() else region
        limit = np.sort(cam.numpy().ravel())[int(0.1 * cam.numel()) - 1]
        for side, allowed in ((FOREGROUND, region), (BACKGROUND, cam.numpy() <= limit)):
            marked = seeds.numpy() == side
            middles = ndimage.binary_erosion(marked, np.ones((3, 3)), border_value=1)
            assert marked.sum() <= 9
            assert (middles & allowed).any()
            np.testing.assert_array_equal(ndimage.binary_dilation(middles, np.ones((3, 3))), marked)
        assert set(seeds.flatten().tolist()) == {FOREGROUND, BACKGROUND, IGNORED}


def test_what_is_of_both_sides_is_ignored() -> None:
    cam = torch.zeros(1, 1, 8)
    cam[..., 5:] = 1
    # All of the low half is drawn from, all of the high half is: grown by 2, they meet on the pixels between.
    seeds = Seeder(foreground=3, background=5, lowest=0.6, grow=5, erosions=0)(cam, INFO, [0])
    assert seeds.flatten().tolist() == [0, 0, 0, -1, -1, -1, -1, 1]


def test_background_of_a_map_with_a_flat_ground_is_spread_over_it() -> None:
    """Rectified maps are 0 over much of the image: its first rows must not be all that is ever drawn."""
    cams = torch.zeros(400, 20, 20)
    cams[:, 8:12, 8:12] = 1
    seeds = Seeder(grow=1, erosions=0)(cams, INFO, range(400)) == BACKGROUND
    rows = seeds.float().sum((0, 2))
    assert float(rows.sum()) == 400
    assert float(rows[:10].sum()) == pytest.approx(200, abs=40)
    assert int((rows > 0).sum()) == 20


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, float("nan"), float("inf")])
def test_maps_that_say_nothing_give_no_seeds_and_no_error(value: float) -> None:
    cams = maps(3, 12, 12)
    cams[1] = value
    seeds = Seeder(erode=3)(cams, INFO, range(3))
    assert bool((seeds[1] == IGNORED).all())
    for n in (0, 2):
        assert {FOREGROUND, BACKGROUND} <= set(seeds[n].flatten().tolist())


def test_a_map_of_two_neighbouring_levels_has_no_region() -> None:
    """Otsu parts levels 0 and 1 at 0, which counts as 1 (a published rule): nothing is above it."""
    cam = torch.zeros(1, 6, 6)
    cam[:, :3] = 1.5 / 255
    assert bool((Seeder()(cam, INFO, [0]) == IGNORED).all())


def test_seeds_depend_on_seed_step_and_sample_and_on_nothing_else() -> None:
    cams, seeder = maps(4, 24, 24), Seeder(erode=3)
    seeds = seeder(cams, INFO, [10, 11, 12, 13])
    assert torch.equal(seeds, seeder(cams, StepInfo(3, 7, rank=1, world_size=2, progress=4.0), [10, 11, 12, 13]))
    state = torch.random.get_rng_state()
    parts = torch.cat([seeder(cams[2:], INFO, [12, 13]), seeder(cams[:2], INFO, [10, 11])])
    assert torch.equal(parts, seeds[[2, 3, 0, 1]])  # of any batch, on any rank
    assert torch.equal(state, torch.random.get_rng_state())
    same = cams[:1].expand(2, -1, -1)
    assert not torch.equal(*seeder(same, INFO, [10, 11]))
    for other in (StepInfo(3, 8), StepInfo(4, 7)):
        assert not torch.equal(seeds, seeder(cams, other, [10, 11, 12, 13]))


def test_over_many_steps_every_pixel_of_the_region_is_drawn_alike() -> None:
    cam, seeder = maps(1, 16, 16, seed=2), Seeder(grow=1, erode=3)
    region = seeder.region(cam)[0]
    drawn = torch.stack([seeder(cam, StepInfo(0, step), [0])[0] == FOREGROUND for step in range(1500)])
    counts = drawn.sum(0)
    assert int(counts[~region].sum()) == 0
    expected = 1500 / int(region.sum())
    assert bool(((counts[region] - expected).abs() < 6 * expected**0.5).all())


def test_seeds_carry_no_gradient_and_work_under_autocast() -> None:
    cams = maps(2, 12, 12).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seeds = Seeder(erode=3)(cams, INFO, [0, 1])
    assert (seeds.dtype, seeds.requires_grad) == (torch.int64, False)


def test_precision_counts_by_hand() -> None:
    seeds = torch.tensor([[[1, 1, 0, 0, 0, -1]]])
    truth = torch.tensor([[[True, False, True, False, False, True]]])
    assert precision_counts(seeds, truth).tolist() == [1, 2, 2, 3]


def test_arguments_are_checked() -> None:
    for wrong in ({"grow": 2}, {"erode": 4}, {"lowest": 0.0}, {"lowest": 1.5}):
        with pytest.raises(ValueError, match=r"odd|share"):
            Seeder(**wrong)
