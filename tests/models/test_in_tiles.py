"""`--tile`: a model translates and explains large images in tiles as it does in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from models.networks.tiling import TiledGenerator, TilingError
from util.engine.inference import explain_image, translate_image

if TYPE_CHECKING:
    from tests.conftest import BenchMaker

CUTCAM = ("--model", "cutcam", "--num_classes", 4, "--init_gain", 0.2)


def test_translation_and_maps_are_those_of_the_whole_image(bench: BenchMaker) -> None:
    made, image = bench(*CUTCAM), torch.rand(3, 150, 203, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for step in range(3):
        made.step(step)
    size = (150, 203)
    whole, seen = explain_image(made.model, image, size, 2)
    alone = translate_image(made.model, image, size)
    weights = {name: value.clone() for name, value in made.model.nets["G"].state_dict().items()}
    made.model.in_tiles(64)
    tiled, seen_tiled = explain_image(made.model, image, size, 2)
    assert whole.std() > 0.01
    assert torch.allclose(tiled, whole, atol=1e-4)
    assert torch.allclose(translate_image(made.model, image, size), alone, atol=1e-4)
    for a, b in ((seen.cam, seen_tiled.cam), (seen.cam_fake, seen_tiled.cam_fake)):
        assert a.max() > 0
        assert torch.allclose(a, b, atol=1e-4 * float(a.max()))
    again = made.model.nets["G"].state_dict()
    assert all(torch.equal(again[f"generator.{name}"], value) for name, value in weights.items())


@pytest.mark.parametrize(
    "words", [CUTCAM, ("--model", "cycle_gan"), ("--model", "pix2pix", "--netG", "resnet_4blocks")]
)
def test_the_size_of_tiles_can_be_changed_and_taken_back(bench: BenchMaker, words: tuple[object, ...]) -> None:
    model, image = bench(*words, "--no_dropout").model, torch.rand(3, 150, 203) * 2 - 1
    name = model.translator
    whole, net = translate_image(model, image, (150, 203)), model.nets[name]
    for tile in (64, 128):
        model.in_tiles(tile)
        tiled = model.nets[name]
        assert isinstance(tiled, TiledGenerator)
        assert (tiled.tile, tiled.generator) == (tile, net)
        assert model.works_in_tiles
        assert torch.allclose(translate_image(model, image, (150, 203)), whole, atol=1e-4)
    model.in_tiles(0)
    assert model.nets[name] is net
    assert not model.works_in_tiles
    assert torch.equal(translate_image(model, image, (150, 203)), whole)


@pytest.mark.parametrize("side", [16, 17, 30])
def test_small_images_are_left_in_one_piece(bench: BenchMaker, side: int) -> None:
    model = bench(*CUTCAM).model
    image = torch.rand(3, side, side + 5) * 2 - 1
    whole = translate_image(model, image, (side, side + 5))
    model.in_tiles(64)
    assert whole.shape == (3, side, side + 5)
    assert torch.equal(translate_image(model, image, (side, side + 5)), whole)


@pytest.mark.parametrize(
    ("flags", "tile", "words"),
    [
        (("--netG", "unet_128", "--crop_size", 128, "--load_size", 128), 128, r"--tile 128: .*sees the whole image"),
        ((), 70, r"--tile 70: must be at least 64 pixels and a multiple of 4"),
        ((), 32, r"--tile 32: must be at least 64"),
    ],
)
def test_what_cannot_be_tiled_is_refused(bench: BenchMaker, flags: tuple[object, ...], tile: int, words: str) -> None:
    model = bench("--model", "cut", *flags).model
    with pytest.raises(TilingError, match=words):
        model.in_tiles(tile)


def test_dropout_that_draws_is_refused_with_the_remedy(bench: BenchMaker) -> None:
    made = bench("--model", "cut", "--no_dropout", False)
    made.model.in_tiles(64)
    with pytest.raises(TilingError, match="--tile 64: dropout would draw anew for every tile; turn it off with --eval"):
        translate_image(made.model, torch.zeros(3, 80, 80), (80, 80))
    made.model.train(False)
    translate_image(made.model, torch.zeros(3, 80, 80), (80, 80))
