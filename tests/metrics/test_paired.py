"""Measures of likeness against slow obvious versions, and what they do without partners."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.metrics.conftest import noise
from util.metrics import METRICS
from util.metrics.base import Material, MetricError

if TYPE_CHECKING:
    from tests.metrics.conftest import SetMaker

Array = NDArray[np.float64]


def slow_ssim(a: Array, b: Array) -> float:
    """Wang et al. 2004, eq. 13: Gaussian window of sigma 1.5; beyond the border the image is mirrored."""

    def blur(x: Array) -> Array:
        smooth: Array = gaussian_filter(x, 1.5, truncate=3.4, mode="mirror")
        return smooth

    found = []
    for x, y in zip(a, b, strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        found.append(((2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(np.mean(found))


@pytest.fixture
def material(images_of: SetMaker) -> Material:
    """Three inputs and translations; images 0 and 2 have a true target, numbers 1 and 0."""
    source, fake, real = noise(3, seed=1), noise(3, seed=2), noise(2, seed=3)
    fake[2] = real[0].clone()
    return Material(images_of(source), images_of(fake), images_of(real), pairs=[(0, 1), (2, 0)])


def double(image: torch.Tensor) -> Array:
    return image.double().numpy()


def test_ssim_is_the_papers(material: Material) -> None:
    scores = METRICS.get("ssim")().compute(material)
    assert material.real is not None
    expected = slow_ssim(double(material.fake.read(0)), double(material.real.read(1)))
    assert scores.per_image["ssim"] == [pytest.approx(expected, abs=1e-4), None, pytest.approx(1.0, abs=1e-5)]
    assert scores.values["ssim"].value == pytest.approx((expected + 1) / 2, abs=1e-4)
    own = [slow_ssim(double(material.fake.read(n)), double(material.source.read(n))) for n in range(3)]
    assert scores.per_image["ssim_input"] == pytest.approx(own, abs=1e-4)
    assert (scores.values["ssim"].better, scores.values["ssim_input"].better) == ("higher", "")


def test_cc_is_numpys(material: Material) -> None:
    scores = METRICS.get("cc")().compute(material)
    assert material.real is not None
    expected = np.corrcoef(double(material.fake.read(0)).ravel(), double(material.real.read(1)).ravel())[0, 1]
    assert scores.per_image["cc"] == [pytest.approx(expected, abs=1e-9), None, pytest.approx(1.0)]
    assert scores.values["cc_input"].value == pytest.approx(
        np.mean(
            [
                np.corrcoef(double(material.fake.read(n)).ravel(), double(material.source.read(n)).ravel())[0, 1]
                for n in range(3)
            ]
        )
    )


def test_cc_of_a_constant_image_is_zero(images_of: SetMaker) -> None:
    flat = images_of([torch.full((1, 20, 20), 0.5)])
    assert METRICS.get("cc")().compute(Material(images_of(noise(1, (20, 20), 1)), flat)).values["cc_input"].value == 0.0


def test_psnr_is_the_mean_of_each_images_own(material: Material) -> None:
    scores = METRICS.get("psnr")().compute(material)
    assert material.real is not None
    error = float(((double(material.fake.read(0)) - double(material.real.read(1))) ** 2).mean())
    first = 10 * math.log10(1 / error)
    assert scores.per_image["psnr"] == [pytest.approx(first, abs=1e-4), None, 100.0]
    assert scores.values["psnr"].value == pytest.approx((first + 100) / 2, abs=1e-4)


def test_without_pairs_only_the_inputs_are_compared(images_of: SetMaker) -> None:
    alone = Material(images_of(noise(2)), images_of(noise(2, seed=5)), images_of(noise(2, seed=6)))
    assert set(METRICS.get("ssim")().compute(alone).values) == {"ssim_input"}
    assert set(METRICS.get("cc")().compute(alone).values) == {"cc_input"}


def test_a_grey_translation_beside_a_colour_input(images_of: SetMaker) -> None:
    grey = noise(1, channels=1)
    colour = [grey[0].expand(3, -1, -1)]
    value = METRICS.get("ssim")().compute(Material(images_of(colour), images_of(grey))).values["ssim_input"].value
    assert value == pytest.approx(1.0, abs=1e-5)


def test_partners_of_other_sizes_are_left_out_and_counted(images_of: SetMaker) -> None:
    fake, real = images_of(noise(2)), images_of([*noise(1, seed=4), *noise(1, (20, 20))])
    scores = METRICS.get("psnr")().compute(Material(fake, fake, real, pairs=[(0, 0), (1, 1)]))
    assert scores.per_image["psnr"][1] is None
    assert "1 left out, whose size differs" in scores.values["psnr"].note
    with pytest.raises(MetricError, match="no image has the size of its partner"):
        METRICS.get("psnr")().compute(Material(fake, fake, real, pairs=[(1, 1)]))


def test_ms_ssim_says_which_size_it_needs(images_of: SetMaker) -> None:
    small, large = images_of(noise(1, (200, 160))), images_of(noise(1, (180, 176)))
    with pytest.raises(MetricError, match=r"at least 176 pixels a side .* and one has 160"):
        METRICS.get("ms_ssim")().compute(Material(small, small, small, pairs=[(0, 0)]))
    value = METRICS.get("ms_ssim")().compute(Material(large, large, large, pairs=[(0, 0)])).values["ms_ssim"].value
    assert value == pytest.approx(1.0, abs=1e-5)


def test_lpips_needs_its_file_and_is_a_distance(
    images_of: SetMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fake, real = images_of(noise(2, (64, 64), 1)), images_of(noise(2, (64, 64), 1, seed=9))
    material = Material(fake, fake, real, pairs=[(0, 0), (1, 1)])
    address = r"curl -LO https://download\.pytorch\.org/models/alexnet-owt-7be5be79\.pth\)"
    with pytest.raises(MetricError, match=address + ".*--lpips_weights.*nothing is downloaded"):
        METRICS.get("lpips")().compute(material)
    with pytest.raises(MetricError, match=r"--lpips_weights .*nowhere\.pth: no such file"):
        METRICS.get("lpips")().compute(
            Material(fake, fake, real, pairs=[(0, 0)], lpips_weights=tmp_path / "nowhere.pth")
        )
    file = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no weights")
    with pytest.raises(MetricError, match="holds no weights of AlexNet"):
        METRICS.get("lpips")().compute(material)
    original = torchvision.models.alexnet
    torch.manual_seed(0)
    torch.save(original(weights=None).state_dict(), file)
    scores = METRICS.get("lpips")().compute(material)
    assert min(v for v in scores.per_image["lpips"] if v is not None) > 0
    same = METRICS.get("lpips")().compute(Material(fake, fake, fake, pairs=[(0, 0), (1, 1)]))
    assert same.values["lpips"].value == pytest.approx(0, abs=1e-7)
    assert torchvision.models.alexnet is original
