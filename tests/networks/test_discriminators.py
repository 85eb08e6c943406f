from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from models.networks import PatchDiscriminator, PixelDiscriminator, build_discriminator
from models.networks.discriminators import with_spectral_norm


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def test_state_dict_is_cuts(published_keys: dict[str, dict[str, tuple[int, ...]]]) -> None:
    net = build_discriminator("basic")
    assert shapes(net) == published_keys["D"]
    assert sum(p.numel() for p in net.parameters()) == 2_764_737


def test_golden_map(golden: dict[str, npt.NDArray[np.float32]], golden_weights: Callable[[nn.Module], None]) -> None:
    net = build_discriminator("basic", ndf=8)
    golden_weights(net)
    with torch.no_grad():
        values = net(torch.from_numpy(golden["y"]))
    np.testing.assert_allclose(values.numpy(), golden["d"], atol=1e-5)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(128, 128), (97, 126), (99, 101)])
def test_output_size(antialias: bool, n_layers: int, size: tuple[int, int]) -> None:
    net = PatchDiscriminator(1, 2, n_layers, "none", antialias)
    values = net(torch.zeros(1, 1, *size))
    assert values.shape == (1, 1, *net.output_size(*size))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_smallest_side_is_just_judged(antialias: bool, n_layers: int, norm: str) -> None:
    net = PatchDiscriminator(1, 2, n_layers, norm, antialias)
    least = net.smallest_side
    for size in ((least, least), (least, 2 * least)):
        assert net(torch.zeros(2, 1, *size)).isfinite().all()
        with pytest.raises((ValueError, RuntimeError)):
            net(torch.zeros(2, 1, size[0] - 1, size[1]))
    assert [net.levels_for(least + n) for n in (-1, 0)] == [n_layers - 1, n_layers]


def test_output_size_at_256_is_30() -> None:
    assert PatchDiscriminator(3, 2).output_size(256, 256) == (30, 30)
    assert PixelDiscriminator(3, 2).output_size(17, 23) == (17, 23)


def test_receptive_field_without_antialiasing_is_70() -> None:
    net = PatchDiscriminator(1, 2, 3, "none", antialias=False)
    x = torch.rand(1, 1, 160, 160, requires_grad=True)
    values = net(x)
    values[0, 0, values.shape[2] // 2, values.shape[3] // 2].backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_channels_are_capped_at_eight_times_ndf() -> None:
    widths = [m.out_channels for m in PatchDiscriminator(3, 4, 5).model if isinstance(m, nn.Conv2d)]
    assert widths == [4, 8, 16, 32, 32, 32, 1]


def test_basic_has_three_levels_whatever_n_layers_says() -> None:
    assert shapes(build_discriminator("basic", ndf=2, n_layers=1)) == shapes(PatchDiscriminator(3, 2, 3))
    assert shapes(build_discriminator("n_layers", ndf=2, n_layers=2)) == shapes(PatchDiscriminator(3, 2, 2))


def test_names_without_antialiasing() -> None:
    net = build_discriminator("basic", ndf=2, norm="batch", antialias=False)
    names = set(shapes(net))
    assert {n for n in names if n.endswith("weight")} == {f"model.{i}.weight" for i in (0, 2, 3, 5, 6, 8, 9, 11)}
    assert {"model.0.bias", "model.11.bias"} <= names
    assert "model.2.bias" not in names


def test_pixel_sees_one_pixel_and_keeps_the_published_names() -> None:
    net = build_discriminator("pixel", input_nc=1, ndf=4, norm="none", init_type="kaiming")
    assert shapes(net) == {
        "net.0.weight": (4, 1, 1, 1),
        "net.0.bias": (4,),
        "net.2.weight": (8, 4, 1, 1),
        "net.5.weight": (1, 8, 1, 1),
    }
    x = torch.rand(1, 1, 6, 9, requires_grad=True)
    net(x)[0, 0, 2, 3].backward()
    assert x.grad is not None
    assert x.grad.nonzero().tolist() == [[0, 0, 2, 3]]


@pytest.mark.parametrize("netD", ["basic", "n_layers", "pixel"])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_gradients_reach_every_parameter(netD: str, norm: str) -> None:
    net = build_discriminator(netD, ndf=4, n_layers=2, norm=norm, init_type="kaiming")
    x = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    net(x).square().sum().backward()
    # Instance norm takes a bias before it away: its gradient is round-off, present but not to be counted on.
    missing = [n for n, p in net.named_parameters() if p.grad is None or (p.dim() > 1 and not p.grad.any())]
    assert not missing


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown netD 'patch'.*basic, n_layers, pixel, stylegan2"):
        build_discriminator("patch")
    with pytest.raises(ValueError, match="n_layers_D is 0"):
        build_discriminator("n_layers", n_layers=0)


def test_spectral_norm_bounds_every_convolution_and_is_seeded() -> None:
    def built(seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return build_discriminator(ndf=8, spectral=True, init_type="normal", init_gain=1.0, generator=generator)

    net, plain = built(0), PatchDiscriminator(ndf=8)
    state = torch.random.get_rng_state()
    with_spectral_norm(plain, torch.Generator())
    assert torch.equal(state, torch.random.get_rng_state())
    for _ in range(60):  # each pass iterates once
        net(torch.zeros(1, 3, 32, 32))
    norms = [
        float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2))
        for module in net.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert len(norms) == 5
    assert norms == pytest.approx([1.0] * 5, rel=0.02)
    again, other = built(0).state_dict(), built(1).state_dict()
    first = built(0).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(key.endswith("._u") and not torch.equal(value, other[key]) for key, value in first.items())
