"""FullGrad: a score taken apart to the last term."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.fullgrad_explainer import FullGrad, fullgrad, fullgrad_terms, implicit_bias
from models.cam.subject import Subject
from models.cam.targets import Margin
from tests.cam.relu_networks import ReluNet
from tests.cam.tiny_networks import CLASSES, DenseLike, TinyNet, filled, pictures

CLASS = torch.tensor([[0, 3], [1, 2], [4, 0]])


def exact(net: nn.Module) -> nn.Module:
    return filled(net, seed=3).double()


@pytest.mark.parametrize(
    "net",
    [
        ReluNet(nn.ReLU),
        ReluNet(lambda: nn.ReLU(inplace=True)),
        ReluNet(lambda: torch.relu_),
        ReluNet(lambda: nn.LeakyReLU(0.1)),
        TinyNet(),
        TinyNet(deep=True, inplace=True),
        DenseLike(),
    ],
)
def test_the_terms_of_fullgrad_add_up_to_the_score(net: nn.Module) -> None:
    exact(net)
    images = pictures(3, dtype=torch.float64)
    found = Subject(net, images, None, CLASS)
    terms = fullgrad_terms(found)
    torch.testing.assert_close(terms.total(), net(images).detach().gather(1, CLASS), rtol=1e-12, atol=1e-13)
    assert terms.image.shape == (3, 2, 3, 24, 24)
    biases = torch.stack([term.sum((2, 3, 4)).abs() for term in terms.biases])
    assert (biases > 1e-3).any(1).all()  # every layer adds something
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf)[torch.arange(3), CLASS[:, 1]].sum(), leaf)
    torch.testing.assert_close(terms.image[:, 1], images * slope)


def test_every_layer_of_the_net_has_its_terms() -> None:
    terms = fullgrad_terms(Subject(exact(ReluNet(nn.ReLU)), pictures(3, dtype=torch.float64), None, CLASS))
    # norm, step, norm_step, more, last; stem has no bias, hidden no positions, classify no bias
    assert [term.shape[2] for term in terms.biases] == [6, 6, 6, 4, 8]
    assert (terms.flat != 0).any()


def test_a_margin_and_a_layer_called_twice_add_up_too() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, 1, 1)
            self.norm = nn.BatchNorm2d(3)
            self.classify = nn.Linear(3, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.norm(self.conv(self.norm(self.conv(images)).relu())).relu()
            # a linear layer at every position
            logits: Tensor = self.classify(maps.permute(0, 2, 3, 1)).mean((1, 2))
            return logits

    found = Subject(exact(Twice()), pictures(3, dtype=torch.float64), None, Margin(CLASS))
    terms = fullgrad_terms(found)
    assert [term.shape[2] for term in terms.biases] == [3, 3, 3, 3, CLASSES]
    torch.testing.assert_close(terms.total(), found.scores, rtol=1e-12, atol=1e-13)


def test_rows_that_are_not_the_images_are_an_error() -> None:
    class Quarters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, CLASSES, 3)

        def forward(self, images: Tensor) -> Tensor:
            parts = self.conv(torch.cat([images[..., :12], images[..., 12:]]))
            logits: Tensor = parts.mean((2, 3)).view(2, len(images), CLASSES).mean(0)
            return logits

    with pytest.raises(ExplainError, match="6 rows for 3 images"):
        fullgrad_terms(Subject(exact(Quarters()), pictures(3, dtype=torch.float64), None, 0))


def test_implicit_bias_by_hand() -> None:
    norm = nn.BatchNorm2d(1, eps=0.25).eval()
    norm.running_mean, norm.running_var = torch.tensor([3.0]), torch.tensor([3.75])
    norm.weight.data, norm.bias.data = torch.tensor([4.0]), torch.tensor([0.5])
    assert implicit_bias(norm).tolist() == [-3 * 4 / 2 + 0.5]  # type: ignore[union-attr]
    assert implicit_bias(norm.train()).tolist() == [0.5]  # type: ignore[union-attr]
    assert implicit_bias(nn.Conv2d(1, 1, 1, bias=False)) is None
    assert implicit_bias(nn.BatchNorm2d(1, affine=False, track_running_stats=False).eval()) is None
    assert implicit_bias(nn.ReLU()) is None


def test_fullgrad_by_hand() -> None:
    image = torch.tensor([[[[-2.0, 0.0], [1.0, 4.0]], [[0.0, 8.0], [0.0, 0.0]]]])
    bias = torch.tensor([[[[-3.0]]]])
    expected = {"none": [5, 11, 4, 7], "channel": [0.5, 1, 0.25, 1], "layer": [0.25, 1, 0.125, 0.5]}
    for rescale, values in expected.items():
        assert fullgrad(image, [bias], rescale).flatten().tolist() == pytest.approx(values)
    # enlarged: a bias map of two columns
    columns = torch.tensor([[[[0.0, 4.0]]]])
    enlarged = fullgrad(torch.zeros(1, 1, 1, 4), [columns], "none").flatten().tolist()
    assert enlarged == pytest.approx([0, 1, 3, 4])


def test_fullgrad_without_scaling_is_the_sum_of_its_terms() -> None:
    found = Subject(exact(ReluNet(nn.ReLU)), pictures(3, dtype=torch.float64), None, CLASS)
    terms = fullgrad_terms(found)
    expected = terms.image.abs().sum(2)
    for term in terms.biases:
        expected += F.interpolate(term.abs().sum(2), (24, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(FullGrad("none").maps(found), expected)
