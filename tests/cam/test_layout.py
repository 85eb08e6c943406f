"""Maps in layers that do not put channels first: transformers of tokens, and of windows with channels last."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.ops import Permute

from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.explain import explain
from models.cam.functional import full_precision
from models.cam.layers import find_layer
from models.cam.layout import FIRST, LAST, TOKENS, Layout, layout_of
from models.cam.subject import Subject
from models.cam.targets import ClassTarget
from tests.cam.make_golden_tokens import FILE, LAYERS, METHODS
from tests.cam.token_networks import LAST_LAYER, randn, swin, vit


@pytest.mark.parametrize(
    ("module", "shape", "images", "expected"),
    [
        (nn.Conv2d(3, 4, 1), (2, 8, 8, 4), (2, 3, 32, 32), Layout(FIRST, (8, 4))),
        (nn.Linear(4, 4), (2, 4, 4, 4), (2, 3, 32, 32), Layout(LAST, (4, 4))),
        (nn.LayerNorm(4), (2, 6, 8, 4), (2, 3, 48, 64), Layout(LAST, (6, 8))),
        (Permute([0, 3, 1, 2]), (2, 7, 7, 7), (2, 3, 28, 28), Layout(FIRST, (7, 7))),
        (Permute([0, 2, 3, 1]), (2, 7, 7, 7), (2, 3, 28, 28), Layout(LAST, (7, 7))),
        (nn.Identity(), (2, 7, 7, 96), (2, 3, 224, 224), Layout(LAST, (7, 7))),
        (nn.Identity(), (2, 96, 7, 7), (2, 3, 224, 224), Layout(FIRST, (7, 7))),
        (nn.Identity(), (2, 8, 10, 96), (2, 3, 240, 320), Layout(LAST, (8, 10))),
        (nn.Identity(), (2, 7, 7, 7), (2, 3, 224, 224), Layout(FIRST, (7, 7))),
        (CNBlock(7, 1.0, 0.0), (2, 7, 7, 7), (2, 3, 224, 224), Layout(FIRST, (7, 7))),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(7, 7), nn.GELU()),
            (2, 7, 7, 7),
            (2, 3, 28, 28),
            Layout(LAST, (7, 7)),
        ),
        (nn.Identity(), (2, 197, 768), (2, 3, 224, 224), Layout(TOKENS, (14, 14), 1)),
        (nn.Identity(), (2, 196, 768), (2, 3, 224, 224), Layout(TOKENS, (14, 14), 0)),
        (nn.Identity(), (2, 198, 768), (2, 3, 224, 224), Layout(TOKENS, (14, 14), 2)),
        (nn.Identity(), (2, 261, 384), (2, 3, 224, 224), Layout(TOKENS, (16, 16), 5)),
        (nn.Identity(), (2, 13, 8), (2, 3, 48, 64), Layout(TOKENS, (3, 4), 1)),
        (nn.Identity(), (2, 100, 768), (3, 3, 224, 224), None),  # windows: rows are not the images'
        (nn.Identity(), (2, 191, 768), (2, 3, 224, 224), None),
        (nn.Identity(), (2, 768), (2, 3, 224, 224), None),
    ],
)
def test_layouts(module: nn.Module, shape: tuple[int, ...], images: tuple[int, ...], expected: Layout | None) -> None:
    assert layout_of(module, torch.zeros(shape), images) == expected


def test_what_is_no_tensor_of_numbers_holds_no_maps() -> None:
    for output in ((torch.zeros(2, 3, 4, 4),), torch.zeros(2, 3, 4, 4, dtype=torch.int64), None):
        assert layout_of(nn.Identity(), output, (2, 3, 8, 8)) is None


@pytest.mark.parametrize("layout", [Layout(FIRST, (3, 4)), Layout(LAST, (3, 4)), Layout(TOKENS, (3, 4), 2)])
def test_maps_go_back_where_they_came_from(layout: Layout) -> None:
    output = randn(*{FIRST: (2, 5, 3, 4), LAST: (2, 3, 4, 5), TOKENS: (2, 14, 5)}[layout.kind])
    maps = layout.maps_of(output)
    assert maps.shape == (2, 5, 3, 4)
    if layout.kind == TOKENS:
        assert torch.equal(maps[1, :, 2, 3], output[1, 2 + 2 * 4 + 3])
    assert torch.equal(layout.with_maps(maps, output), output)
    more = layout.with_maps(torch.cat([maps, -maps]), output)
    assert torch.equal(more[:2], output)
    assert torch.equal(layout.maps_of(more)[2:], -maps)
    if layout.kind == TOKENS:
        assert torch.equal(more[2:, :2], output[:, :2])


def test_auto_is_where_the_last_attention_still_sees_the_positions() -> None:
    """Behind it only the class token leads to the logits, and gradients at the positions are 0."""
    net, images = vit(), randn(2, 3, 32, 32)
    assert [name for name, _ in find_layer(net, "auto", images)] == [LAST_LAYER]
    assert [name for name, _ in find_layer(net, "encoder.layers.*.ln_1", images)] == [
        LAST_LAYER.replace("1.ln", "0.ln"),
        LAST_LAYER,
    ]
    assert find_layer(net, -1, images)[0][0] == "encoder"
    assert [name for name, _ in find_layer(swin(), "auto", images)] == ["permute"]


def test_auto_of_a_head_of_zeros_is_the_last_layer() -> None:
    net = vit()
    for parameter in net.get_submodule("heads.head").parameters():
        nn.init.zeros_(parameter)
    assert find_layer(net, "auto", randn(1, 3, 32, 32))[0][0] == "encoder"


def test_gradcam_of_tokens_by_hand() -> None:
    net, images = vit(), randn(2, 3, 32, 32)
    seen: list[Tensor] = []
    handle = net.get_submodule(LAST_LAYER).register_forward_hook(lambda *call: seen.append(call[-1]))
    logits = net(images)
    handle.remove()
    (slope,) = torch.autograd.grad(logits[:, 3].sum(), seen[0])
    weights = slope[:, 1:].mean(1, keepdim=True)
    expected = (weights * seen[0][:, 1:]).sum(2).view(2, 4, 4)
    found = explain(net, images, "gradcam", targets=ClassTarget(3))["gradcam"]
    torch.testing.assert_close(found.raw[:, 0], expected.detach(), rtol=1e-4, atol=1e-6)
    assert not found.flat.any()


def test_channels_last_and_first_of_one_network_give_the_same_maps() -> None:
    """`norm` has channels last, `permute` behind it turns the same numbers round."""
    net, images = swin(), randn(2, 3, 32, 32)
    methods = ["cam", "gradcam", "gradcam++", "layercam", "eigencam", "ablationcam"]
    last, first = (explain(net, images, methods, layer=name) for name in ("norm", "permute"))
    for name in methods:
        torch.testing.assert_close(last[name].raw, first[name].raw, rtol=1e-4, atol=1e-5)
        assert last[name].raw.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("make", [vit, swin])
@pytest.mark.parametrize("method", EXPLAINERS.names())
def test_every_method_explains_a_transformer_or_says_why_not(make: Callable[[], nn.Module], method: str) -> None:
    images = randn(1, 3, 32, 32)
    refused = "has GELU" if "guided" in method else "cam needs a mean" if method == "cam" and make is vit else ""
    if refused:
        with pytest.raises(ExplainError, match=refused):
            explain(make(), images, method)
        return
    found = explain(make(), images, method)[method]
    assert found.maps.shape == (1, 1, 32, 32)
    assert found.maps.isfinite().all()


@pytest.mark.parametrize(("make", "layer"), [(vit, LAST_LAYER), (swin, "features.1"), (swin, "features.2")])
def test_a_network_continued_from_its_own_activations_is_itself(make: Callable[[], nn.Module], layer: str) -> None:
    net, images = make(), randn(2, 3, 32, 32)
    subject = Subject(net, images, net.get_submodule(layer), ClassTarget(1))
    rows = torch.cat([subject.activations, subject.activations])
    torch.testing.assert_close(
        subject.from_layer(rows), full_precision(net(images)).detach().repeat(2, 1), rtol=1e-4, atol=1e-5
    )


def test_a_layer_without_positions_says_what_would_do() -> None:
    net, images = vit(), randn(2, 3, 32, 32)
    with pytest.raises(ExplainError, match=r"'heads.head' gives a tensor \(2, 5\), and no maps .* tokens"):
        explain(net, images, "gradcam", layer="heads.head")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", LAYERS)
def test_maps_of_grad_cam_with_its_reshape_transform(network: str, method: str) -> None:
    make, layer = LAYERS[network]
    with np.load(FILE) as golden:
        wanted, classes = golden[f"{network}/{method}"], golden["classes"].tolist()
        images = torch.tensor(golden["images"])
        net = make()
        net.load_state_dict({key: torch.tensor(golden[f"{network}/weights/{key}"]) for key in net.state_dict()})
    found = explain(net, images, method, targets=ClassTarget(classes), layer=layer)[method].maps[:, 0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
