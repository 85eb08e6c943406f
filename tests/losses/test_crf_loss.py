"""The dense CRF: golden energies, the grid against the definition, gradients, independence of size and batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import crf
from models.losses.crf import (
    FCAM_FILTER,
    Affinity,
    crf_energy,
    exact_crf_energy,
    exact_filter,
    filtered,
    grid_cells,
    weight_from_fcam,
)
from util.seeding import generator

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fcam_crf.json").read_text())["cases"]


def scene(size: int, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A soft map (1, H, W) and an image (1, C, H, W) in 0..255 with regions, ramps and a little noise, in float64."""
    random = generator(seed, "crf scene")
    rows, columns = torch.meshgrid(*[torch.linspace(0, 1, size, dtype=torch.float64)] * 2, indexing="ij")
    ground = torch.stack([60 + 80 * rows, 90 + 40 * columns, 120 - 50 * rows])
    disc = (rows - 0.45).square() + (columns - 0.55).square() < 0.06
    image = torch.where(disc, torch.tensor([190.0, 150.0, 60.0], dtype=torch.float64)[:, None, None], ground)
    image = image[:channels] + 4 * torch.randn(channels, size, size, generator=random, dtype=torch.float64)
    coarse = torch.rand(1, 1, 5, 5, generator=random, dtype=torch.float64)
    soft = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return soft[0], image.clamp(0, 255)[None]


def slow_affinity(image: Tensor, affinity: Affinity) -> Tensor:
    """A, (P, P), pixel by pixel."""
    channels, height, width = image.shape
    pixels = [(row, column) for row in range(height) for column in range(width)]
    found = torch.empty(len(pixels), len(pixels), dtype=torch.float64)
    for i, (y, x) in enumerate(pixels):
        for j, (v, u) in enumerate(pixels):
            colours = float((image[:, y, x] - image[:, v, u]).square().sum()) * (3 if channels == 1 else 1)
            places = (y - v) ** 2 + (x - u) ** 2
            found[i, j] = np.exp(-0.5 * (places / affinity.sigma_xy**2 + colours / affinity.sigma_rgb**2))
    return found


# --- the definition


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['H']}x{case['W']}, {case['sigma_rgb']:.0f}")
def test_golden_energies_and_gradients(case: dict[str, float]) -> None:
    height, width = int(case["H"]), int(case["W"])
    random = np.random.default_rng(int(case["seed"]))
    image = torch.from_numpy(np.floor(random.random((3, height, width)) * 256))[None]
    p = torch.from_numpy(np.round(random.random((height, width)) * 1024) / 1024)[None]
    affinity, pairs = Affinity(case["sigma_rgb"], case["sigma_xy"]), (height * width) ** 2
    found = exact_crf_energy(p, image, affinity)
    assert float(found.energy) * pairs == pytest.approx(case["energy"], rel=1e-12)
    assert float(found.cut) == pytest.approx(1 + case["energy"] / case["sum_A"], rel=1e-12)
    gradient = -2 * exact_filter(p.flatten(1), image, affinity)[0]  # of both maps as if they were independent
    assert gradient[:3].tolist() == pytest.approx(case["grad_fg_first3"], rel=1e-12)
    assert float(gradient.norm()) == pytest.approx(case["grad_fg_norm"], rel=1e-12)
    # Noise is the hardest image: no two pixels share a cell. Natural ones are below.
    near = crf_energy(p, image, Affinity(case["sigma_rgb"], case["sigma_xy"], 0.25))
    assert float(near.energy) == pytest.approx(float(found.energy), rel=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_exact_filter_is_the_definition(channels: int) -> None:
    p, image = scene(5, channels)
    affinity = Affinity(40.0, 3.0)
    matrix = slow_affinity(image[0], affinity)
    for chunk in (5, 512):
        torch.testing.assert_close(exact_filter(p.flatten(1), image, affinity, chunk)[0], matrix @ p.flatten())
    sides = torch.stack([1 - p.flatten(), p.flatten()])
    expected = -torch.einsum("kp,pq,kq->", sides, matrix, sides) / 25**2
    assert float(exact_crf_energy(p, image, affinity).energy) == pytest.approx(float(expected), rel=1e-12)


# --- the grid


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("cell", "value", "slope"), [(0.5, 0.01, 0.02), (0.7, 0.02, 0.045), (1.0, 0.07, 0.14)])
def test_the_grid_is_near_the_definition(channels: int, cell: float, value: float, slope: float) -> None:
    p, image = scene(56, channels)
    p.requires_grad_()
    exact = exact_crf_energy(p, image)
    (wanted,) = torch.autograd.grad(exact.energy.sum(), p)
    near = crf_energy(p, image, Affinity(cell=cell))
    (found,) = torch.autograd.grad(near.energy.sum(), p)
    assert float(near.energy.detach()) == pytest.approx(float(exact.energy.detach()), rel=value)
    assert float(near.cut) == pytest.approx(float(exact.cut), abs=0.01)
    assert float((found - wanted).norm() / wanted.norm()) < slope
    assert float(F.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)) > 1 - slope / 5


def test_the_grid_is_symmetric_and_not_negative() -> None:
    image = scene(20)[1]
    draws = [torch.randn(1, 20, 20, generator=generator(n, "sides"), dtype=torch.float64) for n in range(2)]
    seen = [filtered(each, image, Affinity())[0] for each in draws]
    first, second = (float((draws[i].flatten() * seen[1 - i].flatten()).sum()) for i in range(2))
    assert first == pytest.approx(second, rel=1e-10)
    assert all(float((d.flatten() * s.flatten()).sum()) > 0 for d, s in zip(draws, seen, strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_gradient_is_that_of_the_energy(scale: float) -> None:
    p, image = scene(8)
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: crf_energy(m, image, Affinity(80.0, 6.0), scale).energy, p)


def test_two_sides_need_one_filter() -> None:
    """E from u = 2p - 1 is E from both maps, and A 1 sends no gradient."""
    p, image = scene(16)
    affinity = Affinity(30.0, 10.0)
    both = [filtered(2 * side - 1, image, affinity) for side in (p, torch.ones_like(p))]
    of_p = (both[0][0] + both[0][1]) / 2  # A p = (A u + A 1) / 2
    whole = both[0][1]
    flat = p.flatten(1)
    expected = -((flat * of_p) + (1 - flat) * (whole - of_p)).sum() / 256**2
    assert float(crf_energy(p, image, affinity).energy) == pytest.approx(float(expected), rel=1e-10)


def test_images_of_a_batch_do_not_mix() -> None:
    pairs = [scene(24, seed=seed) for seed in range(3)]
    maps, images = torch.cat([m for m, _ in pairs]), torch.cat([i * (n + 1) / 3 for n, (_, i) in enumerate(pairs)])
    together = crf_energy(maps, images)
    for n in range(3):
        alone = crf_energy(maps[n : n + 1], images[n : n + 1])
        torch.testing.assert_close(together.energy[n : n + 1], alone.energy, rtol=1e-12, atol=0)


def test_large_grids_go_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [scene(16, seed=seed) for seed in range(3)]
    maps, images = torch.cat([m for m, _ in pairs]), torch.cat([i for _, i in pairs])
    expected = crf_energy(maps, images).energy
    cells = grid_cells(Affinity(), images.shape[1:])
    assert cells == 5 * 5 * 26**3
    monkeypatch.setattr(crf, "CACHED_CELLS", 3 * cells)
    torch.testing.assert_close(crf_energy(maps, images).energy, expected, rtol=1e-12, atol=0)
    monkeypatch.setattr(crf, "MOST_CELLS", 1000)
    with pytest.raises(ValueError, match=r"^the grid of the CRF would have [\d,]+ cells .* raise crf_sigma_rgb"):
        crf_energy(maps, images)


# --- units


def test_the_size_of_the_image_does_not_matter() -> None:
    small, large = scene(28), scene(56)
    smooth = [F.interpolate(m[None], (size, size), mode="bilinear")[0] for (m, _), size in ((small, 28), (small, 56))]
    found = [crf_energy(m, i) for m, (_, i) in zip(smooth, (small, large), strict=True)]
    assert float(found[0].energy) == pytest.approx(float(found[1].energy), rel=0.05)
    halved = crf_energy(smooth[1], large[1], scale=0.5)
    assert float(halved.energy) == pytest.approx(float(found[1].energy), rel=0.05)
    near = Affinity(sigma_xy=6.0)  # pixels of the image as it is, so that fewer of a smaller one are within reach
    whole, half = (crf_energy(smooth[1], large[1], near, scale).energy for scale in (1.0, 0.5))
    assert float(half) == pytest.approx(float(whole), rel=0.1)


def test_every_pixel_gets_gradient_at_a_lower_scale() -> None:
    p, image = scene(16)
    p.requires_grad_()
    (slope,) = torch.autograd.grad(crf_energy(p, image, scale=0.25).energy.sum(), p)
    assert bool((slope != 0).all())


def test_fcams_weight_is_converted() -> None:
    assert weight_from_fcam(2e-9, 224 * 224) == pytest.approx(2.8, rel=0.01)
    p, image = scene(6)
    affinity = Affinity(15.0, 100.0)
    matrix = slow_affinity(image[0], affinity)
    sides = torch.stack([1 - p.flatten(), p.flatten()])
    published = -2e-9 * FCAM_FILTER * torch.einsum("kp,pq,kq->", sides, matrix, sides)
    ours = weight_from_fcam(2e-9, 36) * exact_crf_energy(p, image, affinity).energy
    assert float(ours) == pytest.approx(float(published), rel=1e-12)


def test_cut_of_known_maps() -> None:
    _, image = scene(20)
    one_side, half = torch.ones(1, 20, 20, dtype=torch.float64), torch.full((1, 20, 20), 0.5, dtype=torch.float64)
    assert float(crf_energy(one_side, image).cut) == pytest.approx(0, abs=1e-12)
    assert float(crf_energy(half, image).cut) == pytest.approx(0.5, rel=1e-12)


def test_a_flat_image_prefers_what_is_of_one_colour_together() -> None:
    _, image = scene(32)
    inside = (image[:, 0] > 165).double()
    shifted = inside.roll(8, -1)
    assert float(crf_energy(inside, image).energy) < float(crf_energy(shifted, image).energy)


# --- precision and mistakes


def test_sixteen_bits_are_computed_in_full_precision() -> None:
    p, image = (value.float() for value in scene(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = crf_energy(p.bfloat16(), image)
    assert found.energy.dtype == torch.float32
    torch.testing.assert_close(found.energy, crf_energy(p.bfloat16().float(), image).energy)


def test_only_the_map_gets_gradient() -> None:
    p, image = scene(8)
    image.requires_grad_()
    crf_energy(p.requires_grad_(), image).energy.sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is None
    assert p.grad is not None


def test_arguments_are_checked() -> None:
    p, image = scene(8)
    with pytest.raises(ValueError, match="do not fit images"):
        crf_energy(p[:, :4], image)
    for wrong in ({"sigma_rgb": 0.0}, {"sigma_xy": -1.0}, {"cell": 1.6}):
        with pytest.raises(ValueError, match=r"sigma|cell"):
            Affinity(**wrong)
