from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.networks import Generator, ResnetGenerator, build_generator, fast_conv
from models.networks.tiling import TiledGenerator

# In [-1, 1] and float32, what the module promises.
TOLERANCE = 1e-4
TILE = 64


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def trained_like(norm: str = "instance", n_blocks: int = 1, ngf: int = 4, **options: Any) -> ResnetGenerator:
    """A generator whose outputs fill [-1, 1], with norms that have something to do; in evaluation mode."""
    net = ResnetGenerator(ngf=ngf, norm=norm, n_blocks=n_blocks, **options)
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.normal_(0, 1.6 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.1, generator=generator)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.add_(1)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def picture(height: int, width: int, channels: int = 3, batch: int = 1) -> Tensor:
    """Ramps, noise, and one bright spot, so that every tile has its own mean and spread."""
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    noise = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
    image = 0.6 * torch.sin(3 * rows) * columns + 0.1 * (1.5 + columns) * noise
    image[..., height // 3 :, width // 2 :][..., :5, :5] = 1
    return image.clamp(-1, 1)


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return (found - expected).abs().max().item()


def assert_same(net: Generator, x: Tensor, layers: Sequence[int] = (), tolerance: float = TOLERANCE) -> None:
    """Image, and features in units of their spread, with and without each other."""
    tiled = TiledGenerator(net, TILE)
    image, features = net.with_features(x, layers)
    made, seen = tiled.with_features(x, layers)
    assert image.std() > 0.02
    assert difference(made, image) <= tolerance
    assert difference(tiled(x), image) <= tolerance
    for layer, found, again, expected in zip(layers, seen, tiled.encode(x, layers), features, strict=True):
        spread = expected.std().item()
        assert difference(found, expected) <= tolerance * spread, layer
        assert difference(again, expected) <= tolerance * spread, layer


# --- equal to the whole pass


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("antialias_up", [True, False])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_image_and_every_layer(norm: str, antialias: bool, antialias_up: bool) -> None:
    """Neither side is a multiple of the tile; the last row of tiles is 4 pixels high."""
    net = trained_like(norm, antialias=antialias, antialias_up=antialias_up)
    assert_same(net, picture(132, 88), net.valid_layers)


@pytest.mark.parametrize(("n_blocks", "ngf"), [(4, 8), (6, 6), (9, 8)])
def test_deeper_generators_and_cuts_layers(n_blocks: int, ngf: int) -> None:
    net = trained_like(n_blocks=n_blocks, ngf=ngf)
    layers = net.default_layers if n_blocks > 4 else (0, 4, 8, 12)
    assert_same(net, picture(100, 192), layers)


@pytest.mark.parametrize("size", [(68, 64), (16, 256), (200, 8), (64, 128), (129, 67)])
def test_narrow_sizes_and_rests(size: tuple[int, int]) -> None:
    net = trained_like(n_blocks=2)
    x = picture(*size)
    if size[0] % 4 == 0:
        assert_same(net, x, (0, 8))
    for found, expected in zip(TiledGenerator(net, TILE).encode(x, (8, 12)), net.encode(x, (8, 12)), strict=True):
        assert difference(found, expected) <= TOLERANCE  # the encoder takes odd sizes too


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 1), (1, 2)])
def test_channels(inputs: int, outputs: int) -> None:
    net = trained_like(input_nc=inputs, output_nc=outputs)
    assert_same(net, picture(72, 100, inputs), [0, 12])


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_images_of_a_batch(norm: str) -> None:
    """Instance norm must keep them apart, batch norm in training mode must not."""
    net = trained_like(norm, n_blocks=2).train()
    x = picture(96, 68, batch=3) * torch.tensor([1.0, 0.4, 0.1])[:, None, None, None]
    assert_same(net, x, (4, 13))


def test_batch_norm_in_training_mode_leaves_its_statistics_alone() -> None:
    net = trained_like("batch").train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    TiledGenerator(net, TILE)(picture(96, 68))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("antialias", [True, False])
def test_nothing_but_rounding_in_double_precision(norm: str, antialias: bool) -> None:
    net = trained_like(norm, n_blocks=2, antialias=antialias, antialias_up=antialias).double().train()
    assert_same(net, picture(68, 104).double(), (0, 4, 8, 12), tolerance=1e-10)


def test_statistics_stand_a_large_mean() -> None:
    """A sum of squares in float32 would lose the variance: here the mean is 300 times the spread."""
    net = trained_like()
    bias = net.model[1].bias
    assert isinstance(bias, Tensor)
    bias.add_(300.0)
    assert_same(net, picture(96, 68), tolerance=2e-3)
    assert_same(net.double(), picture(96, 68).double(), tolerance=1e-9)


def test_nearly_constant_images_are_as_near_to_the_exact_ones() -> None:
    """Rounding of the first layers, magnified by the norms, is seen in the image of either pass."""
    net = trained_like(n_blocks=9, ngf=8)
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    x = 0.0024 * noise.round() - 0.8
    whole, tiled = net(x), TiledGenerator(net, TILE)(x)
    exact = net.double()(x.double()).float()
    assert difference(whole, exact) > TOLERANCE  # else there is nothing to see
    assert difference(tiled, exact) <= 3 * difference(whole, exact)


@pytest.mark.skipif(not fast_conv.available(), reason="this PyTorch has no NNPACK for this processor")
def test_convolutions_with_fewer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = trained_like(ngf=16, n_blocks=4), picture(132, 140)
    plain = net(x)
    for conv in (module for module in net.modules() if isinstance(module, fast_conv.Conv2d)):
        conv.fewer_products = True
    asked: list[object] = []
    real = fast_conv._FewerProducts.apply
    monkeypatch.setattr(fast_conv._FewerProducts, "apply", lambda *given: (asked.append(given), real(*given))[1])  # type: ignore[func-returns-value]
    made = TiledGenerator(net, TILE)(x)
    assert len(asked) > 2 * 9  # tiles of the first and the last layer
    assert difference(made, plain) <= 1e-4


# --- no seams


def test_no_seam() -> None:
    """Within 4 pixels of a border between tiles the difference is no larger than elsewhere."""
    net = trained_like(n_blocks=4, ngf=8)
    x = picture(192, 192)
    off = (TiledGenerator(net, TILE)(x) - net(x)).abs().mean((0, 1))
    seam = torch.zeros(192, dtype=torch.bool)
    for border in (64, 128):
        seam[border - 4 : border + 4] = True
    near = seam[:, None] | seam[None]
    assert off[near].mean() <= 2 * off[~near].mean() + 1e-9


def test_the_size_of_the_tile_does_not_matter() -> None:
    net, x = trained_like(), picture(160, 200)
    images = [TiledGenerator(net, tile)(x) for tile in (64, 68, 128)]
    assert max(difference(image, images[0]) for image in images) <= TOLERANCE


def test_statistics_of_each_tile_alone_would_be_noticed() -> None:
    net, x = trained_like(n_blocks=2), picture(128, 128)
    quarters = [torch.cat([net(part) for part in torch.split(row, TILE, 3)], 3) for row in torch.split(x, TILE, 2)]
    assert difference(torch.cat(quarters, 2), net(x)) > 1000 * TOLERANCE


# --- memory and graph


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in args if isinstance(x, Tensor)}
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and id(x.untyped_storage()) not in given | self.alive.keys():
                self._follow(x.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _follow(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            self.now -= size
            del self.alive[key]

        self.now += size
        self.alive[key] = weakref.ref(storage, gone)


def peak(net: Generator, x: Tensor) -> int:
    memory = PeakMemory()
    with memory:
        net(x)
    return memory.peak


def test_peak_memory() -> None:
    net = ResnetGenerator(ngf=16, n_blocks=1)
    x = picture(512, 512)
    unit = 4 * 16 * 512 * 512  # bytes of one map of ngf channels at full resolution
    whole, tiled = peak(net, x), peak(TiledGenerator(net, TILE), x)
    assert whole >= 4 * unit  # the scale itself: a map of 2 ngf channels and its normalised copy
    assert tiled <= 0.9 * unit  # three quarters, and tiles
    assert tiled < whole / 4


def test_arithmetic() -> None:
    """What is computed twice stays small beside the residual blocks, halos included."""
    net, x = ResnetGenerator(ngf=8, n_blocks=9), picture(256, 256)
    operations = []
    for generator in (net, TiledGenerator(net, 128)):
        with FlopCounterMode(display=False) as counter:
            generator(x)
        operations.append(counter.get_total_flops())
    assert 1 < operations[1] / operations[0] < 1.45


def test_no_graph() -> None:
    tiled, x = TiledGenerator(trained_like(), TILE), picture(96, 68)
    with torch.inference_mode():
        image, (feature,) = tiled.with_features(x, [12])
    assert image.is_inference()
    assert feature.is_inference()
    image, (feature,) = tiled.with_features(x, [12])
    assert image.grad_fn is None
    assert feature.grad_fn is None


# --- where the wrapped generator runs as it is


def test_gradients_come_from_the_whole_pass() -> None:
    net, x = trained_like(), picture(96, 68)
    with torch.enable_grad():
        image, (feature,) = TiledGenerator(net, TILE).with_features(x, [12])
        (gradient,) = torch.autograd.grad(image.sum(), feature)
    assert gradient.any()
    assert torch.equal(image, net(x))


@pytest.mark.parametrize(("size", "whole"), [((64, 64), True), ((32, 64), True), ((32, 68), False)])
def test_an_image_of_one_tile_runs_whole(size: tuple[int, int], whole: bool) -> None:
    net, x, seen = trained_like(), picture(*size), []
    net.model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    TiledGenerator(net, TILE)(x)
    assert bool(seen) is whole  # tiles use the weights of the modules, not the modules


# --- in the generator's place


def test_declares_what_the_wrapped_one_declares() -> None:
    net = trained_like(antialias=False)
    tiled = TiledGenerator(net, TILE)
    layers = net.valid_layers
    assert tiled.valid_layers == layers
    assert tiled.feature_channels(layers) == net.feature_channels(layers)
    for layer in layers:
        assert tiled.feature_stride(layer) == net.feature_stride(layer)
        assert tiled.feature_border(layer) == net.feature_border(layer)
    assert (tiled.size_multiple, tiled.default_layers) == (net.size_multiple, net.default_layers)
    assert tiled.generator is net
    with pytest.raises(ValueError, match="70x66 pixels, but both must be multiples of 4"):
        tiled(torch.zeros(1, 3, 70, 66))


@pytest.mark.parametrize("mode", [True, False])
def test_keeps_the_mode_of_the_wrapped_one(mode: bool) -> None:
    net = ResnetGenerator(ngf=4, n_blocks=1, dropout=True).train(mode)
    tiled = TiledGenerator(net, TILE)
    assert tiled.training is mode
    assert all(module.training is mode for module in net.modules())
    tiled.train(not mode)
    assert net.training is not mode


def test_features_come_in_the_order_asked_and_twice_if_asked_twice() -> None:
    tiled, x = TiledGenerator(trained_like(), TILE), picture(96, 68)
    one, other = tiled.encode(x, [4, 12])
    features = tiled.encode(x, [12, 4, 12])
    for found, expected in zip(features, (other, one, other), strict=True):
        assert torch.equal(found, expected)


# --- refused


def test_dropout_in_training_mode_is_refused() -> None:
    net = trained_like(dropout=True)
    x = picture(96, 68)
    assert_same(net, x)
    with pytest.raises(ValueError, match=r"--tile 64: dropout .* --eval"):
        TiledGenerator(net.train(), TILE)(x)


def test_unets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"UnetGenerator sees the whole image.*resnet_9blocks"):
        TiledGenerator(build_generator("unet_128", ngf=4), 128)


@pytest.mark.parametrize("tile", [-64, 0, 60, 66, 129])
def test_tiles_that_do_not_fit_are_refused(tile: int) -> None:
    with pytest.raises(ValueError, match=rf"--tile {tile}: must be at least 64 pixels and a multiple of 4"):
        TiledGenerator(ResnetGenerator(ngf=4, n_blocks=1), tile)
