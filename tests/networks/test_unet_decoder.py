"""The decoder: published numbers of weights, sizes, and what each stage is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.unet_decoder import UnetDecoder
from util.seeding import generator

# Stages of F-CAM's encoders, whether there is a centre, and the weights of its decoder without the last convolution.
PUBLISHED = {
    "resnet50": ((3, 64, 256, 512, 1024, 2048), False, 9_012_928),
    "vgg16": ((64, 128, 256, 1024), True, 23_119_616),
    "inceptionv3": ((3, 64, 80, 288, 768, 1024), False, 5_704_384),
}


def stages(channels: tuple[int, ...], sides: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    draws = generator(seed, "test stages")
    return [torch.rand(2, c, side, side, generator=draws) for c, side in zip(channels, sides, strict=True)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_weights_are_the_published_ones(name: str) -> None:
    channels, center, expected = PUBLISHED[name]
    decoder = UnetDecoder(channels, center=center)
    own = sum(p.numel() for p in decoder.parameters())
    assert own - sum(p.numel() for p in decoder.head.parameters()) == expected


@pytest.mark.parametrize(
    ("channels", "sides"),
    [
        ((3, 4, 6, 8, 10, 12), (64, 32, 16, 8, 8, 8)),  # as ResNet-50's: three stages of one resolution
        ((3, 4, 6, 8, 10, 12), (64, 32, 17, 9, 9, 9)),  # as Inception's: odd sides
        ((4, 6, 8, 10), (64, 32, 16, 8)),
        ((3, 8), (64, 32)),
    ],
)
def test_maps_have_the_images_size(channels: tuple[int, ...], sides: tuple[int, ...]) -> None:
    decoder = UnetDecoder(channels, 16)
    for size in ((64, 64), (61, 70)):
        assert decoder(stages(channels, sides), size).shape == (2, 2, *size)


def test_maps_are_stretched_from_corner_to_corner() -> None:
    decoder, inputs = UnetDecoder((3, 6), 16), stages((3, 6), (16, 4))
    decoder.eval()
    exact, larger = decoder(inputs, (8, 8)), decoder(inputs, (15, 29))
    for row in (0, -1):
        for column in (0, -1):
            torch.testing.assert_close(larger[:, :, row, column], exact[:, :, row, column])
    torch.testing.assert_close(larger[:, :, ::2, ::4], exact)


def test_every_stage_but_the_first_has_a_say() -> None:
    channels, sides = (3, 4, 6, 8), (32, 16, 8, 4)
    decoder = UnetDecoder(channels, 16, "none")
    inputs = [stage.requires_grad_() for stage in stages(channels, sides)]
    decoder(inputs, (32, 32)).sum().backward()
    assert inputs[0].grad is None
    assert all(stage.grad is not None and bool(stage.grad.any()) for stage in inputs[1:])


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_images_do_not_mix_without_batch_norm(norm: str) -> None:
    channels, sides = (3, 4, 6), (16, 8, 4)
    decoder = UnetDecoder(channels, 16, norm)
    both = decoder(stages(channels, sides), (16, 16))
    alone = decoder([stage[:1] for stage in stages(channels, sides)], (16, 16))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)


def test_first_weights_follow_from_the_generator() -> None:
    def made(seed: int) -> UnetDecoder:
        return UnetDecoder((3, 4, 6), 16, generator=generator(seed, "init"))

    state = torch.random.get_rng_state()
    first, again, other = (nn.utils.parameters_to_vector(made(seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(bool(value.any()) for name, value in made(1).named_parameters() if name.endswith("bias"))


def test_too_few_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="1 stages: a decoder needs one"):
        UnetDecoder((3,))
