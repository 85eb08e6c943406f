"""The methods: closed forms, libraries' maps, derivatives, and networks that trip others up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam.base import EXPLAINERS
from models.cam.cam_explainer import cam
from models.cam.counterfactual_explainer import counterfactual
from models.cam.eigencam_explainer import eigencam
from models.cam.eigengradcam_explainer import eigengradcam
from models.cam.errors import ExplainError
from models.cam.explain import explain
from models.cam.functional import gradcam_at_feature
from models.cam.gradcam_explainer import gradcam
from models.cam.gradcam_pp_explainer import GradCamPlusPlus, gradcam_pp
from models.cam.hirescam_explainer import hirescam
from models.cam.layercam_explainer import layercam
from models.cam.subject import Subject
from models.cam.targets import LogProbability, Margin, Negated, PatchTarget, TopK
from models.cam.xgradcam_explainer import xgradcam
from models.networks.class_head import ClassHead
from models.networks.classifier import build_classifier
from models.networks.discriminators import PatchDiscriminator
from tests.cam.make_golden import EXPLAINED, FILE, GRAD_CAM, NETWORKS
from tests.cam.tiny_networks import CLASSES, DenseLike, TinyNet, compiled, filled, pictures

Method = Callable[[Tensor, Tensor], Tensor]
OF_GRADIENTS: dict[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_pp,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "hirescam": hirescam,
    "eigengradcam": eigengradcam,
    "counterfactual": counterfactual,
}
HERE = (*OF_GRADIENTS, "cam", "eigencam", "labelfree")


def raw(name: str, net: nn.Module, images: Tensor, targets: Any, layer: nn.Module, **settings: Any) -> Tensor:
    return EXPLAINERS.get(name)().maps(Subject(net, images, layer, targets, **settings))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- closed forms


def test_a_linear_head_over_a_mean_in_closed_form() -> None:
    """Grad-CAM Z = CAM = HiRes Z = XGrad Z, and what the others become, before any ReLU."""
    net, images = filled(TinyNet(), 3).double(), pictures(4, dtype=torch.float64)
    classes = torch.tensor([[0, 1], [4, 2], [3, 3], [1, 0]])
    activations = net.features(images).detach()[:, None]
    rows = net.classify.weight.detach()[classes]
    z = activations[0, 0, 0].numel()
    g = rows / z
    total = activations.sum((-2, -1))
    alpha = g**2 / (2 * g**2 + g**3 * total + 1e-6)
    plain = torch.einsum("ntc,nchw->nthw", rows, activations[:, 0])
    expected = {
        "cam": plain,
        "gradcam": plain / z,
        "hirescam": plain / z,
        "xgradcam": plain / z,
        "counterfactual": -plain / z,
        "layercam": torch.einsum("ntc,nchw->nthw", rows.clamp(min=0) / z, activations[:, 0]),
        "gradcam++": torch.einsum("ntc,nchw->nthw", z * alpha * g.clamp(min=0), activations[:, 0]),
        "labelfree": activations.mean(2).expand(-1, 2, -1, -1),
    }
    assert (total == 0).any()  # a channel without activation has no weight in XGrad-CAM
    for name, wanted in expected.items():
        torch.testing.assert_close(raw(name, net, images, classes, net.features), wanted, rtol=1e-10, atol=1e-14)


def test_the_mean_of_cam_and_the_bias_is_the_logit() -> None:
    net, images = filled(TinyNet()).double(), pictures(dtype=torch.float64)
    subject = Subject(net, images, net.features, TopK(CLASSES))
    maps = EXPLAINERS.get("cam")().maps(subject)
    assert subject.classes is not None
    bias = net.classify.bias.detach()[subject.classes]
    torch.testing.assert_close(maps.mean((2, 3)) + bias, subject.output.gather(1, subject.classes), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", [LogProbability, Margin])
def test_cam_of_other_targets_weighs_the_rows(kind: Any) -> None:
    """As Grad-CAM does, by the chain rule."""
    net, images = filled(TinyNet()).double(), pictures(dtype=torch.float64)
    for target in (kind([[1, 2]] * 3), Negated(TopK(2))):
        found = raw("cam", net, images, target, net.features)
        torch.testing.assert_close(found, 100 * raw("gradcam", net, images, target, net.features))


def test_cam_goes_through_a_relu_before_the_mean() -> None:
    net, images = filled(DenseLike()), pictures()
    found = raw("cam", net, images, 2, net.features)[:, 0]
    wanted = torch.einsum("c,nchw->nhw", net.classify.weight[2], net.features(images).relu())
    torch.testing.assert_close(found, wanted.detach())


def test_cam_of_another_head_says_what_to_take() -> None:
    net = filled(TinyNet(deep=True))
    with pytest.raises(ExplainError, match=r"cam needs a mean .* behind layer 'features.*gradcam"):
        raw("cam", net, pictures(), 1, net.features)


def test_rectified_grad_cam_and_counterfactual_are_the_two_halves() -> None:
    activations, gradients = random(2, 6, 4, 5), random(2, 3, 6, 4, 5, seed=1)
    for one, wanted in zip(gradients.unbind(1), gradcam(activations[:, None], gradients).unbind(1), strict=True):
        signed = (one.mean((2, 3), keepdim=True) * activations).sum(1)
        torch.testing.assert_close(wanted, signed)
        torch.testing.assert_close(gradcam(activations, one).relu() - counterfactual(activations, one).relu(), signed)


def test_grad_cam_pp_is_not_the_known_wrong_ones() -> None:
    """One library loses the division by alpha's denominator, one project takes a Hessian's row sum for its diagonal."""
    activations, gradients = random(6, 5, 5).relu(), random(6, 5, 5, seed=1)
    found = gradcam_pp(activations, gradients, eps=0.0)
    by_hand = torch.zeros(5, 5, dtype=torch.float64)
    for a, g in zip(activations, gradients, strict=True):
        weight = sum(
            float(x**2 / (2 * x**2 + x**3 * a.sum())) * max(float(x), 0.0) for x in g.flatten() if float(x) != 0.0
        )
        by_hand += weight * a
    torch.testing.assert_close(found, by_hand)
    lost = (activations * (gradients.square() * gradients.relu()).sum((1, 2), keepdim=True)).sum(0)
    row_sums = (activations * gradients.mean((1, 2), keepdim=True).relu()).sum(0)  # what that collapses to
    for wrong in (lost, row_sums):
        assert (found / found.amax() - wrong / wrong.amax()).abs().max() > 0.05


def test_grad_cam_pp_without_gradient_is_0() -> None:
    assert gradcam_pp(random(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.float64), eps=0.0).abs().max() == 0
    with pytest.raises(ExplainError, match="eps of gradcam"):
        GradCamPlusPlus(eps=-1.0)


def test_xgrad_cam_passes_over_channels_that_sum_to_0() -> None:
    activations, gradients = random(4, 3, 3), random(4, 3, 3, seed=1)
    activations[2] -= activations[2].mean()
    without = xgradcam(activations[[0, 1, 3]], gradients[[0, 1, 3]])
    torch.testing.assert_close(xgradcam(activations, gradients), without)


# --- Eigen-CAM


@pytest.mark.parametrize("shape", [(40, 3, 4), (5, 7, 6), (12, 3, 4)])
def test_eigencam_against_a_singular_value_decomposition(shape: tuple[int, int, int]) -> None:
    """Both Gram matrices, with a sign that means something."""
    activations = random(*shape)
    rows = activations.flatten(1).T.numpy()
    rows = rows - rows.mean(0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    wanted = (rows @ directions[0]).reshape(shape[1:])
    if (wanted * activations.mean(0).numpy()).sum() < 0:
        wanted = -wanted
    np.testing.assert_allclose(eigencam(activations).numpy(), wanted, atol=1e-10)


def test_eigencam_shows_the_object_whatever_the_solver_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    activations = 0.05 * random(2, 8, 6, 6)
    activations[:, :5, 2:4, 1:3] += 3  # where the channels are active
    solver = torch.linalg.eigh
    first = eigencam(activations)
    assert (first[:, 2:4, 1:3].amin((1, 2)) > 3).all()
    assert (first.flatten(1).amin(1) > -2).all()
    monkeypatch.setattr(torch.linalg, "eigh", lambda gram: (solver(gram)[0], -solver(gram)[1]))
    torch.testing.assert_close(eigencam(activations), first)


@pytest.mark.parametrize("level", [0.0, 1.0, 1 / 3])
def test_eigencam_of_constant_channels_is_0(level: float) -> None:
    channels = torch.linspace(1, 2, 12)[:, None, None].expand(12, 5, 5)
    assert eigencam(level * channels).abs().max() == 0


def test_eigencam_has_a_derivative_where_channels_are_dead() -> None:
    activations = random(12, 3, 3).requires_grad_()
    alive = torch.arange(12, dtype=torch.float64).lt(5).double()[:, None, None]
    gradient = torch.autograd.grad(eigencam(activations * alive).square().sum(), activations)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


# --- derivatives and shapes of the functions


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_derivatives(name: str) -> None:
    activations, gradients = random(5, 3, 3).requires_grad_(), random(5, 3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(OF_GRADIENTS[name], (activations, gradients))
    assert torch.autograd.gradcheck(eigencam, (activations,))
    assert torch.autograd.gradcheck(eigencam, (activations[:, :2, :2].detach().requires_grad_(),))
    assert torch.autograd.gradcheck(cam, (activations, random(5, seed=2).requires_grad_()))


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_leading_axes_broadcast(name: str) -> None:
    method = OF_GRADIENTS[name]
    activations, gradients = random(2, 1, 5, 3, 4), random(2, 3, 5, 3, 4, seed=1)
    found = method(activations, gradients)
    assert found.shape == (2, 3, 3, 4)
    for image in range(2):
        for target in range(3):
            alone = method(activations[image, 0], gradients[image, target])
            torch.testing.assert_close(found[image, target], alone)


def test_functions_are_exact_under_autocast() -> None:
    activations, gradients = random(2, 5, 3, 4).float(), random(2, 5, 3, 4, seed=1).float()
    methods: list[Callable[[], Tensor]] = [partial(m, activations, gradients) for m in OF_GRADIENTS.values()]
    methods += [partial(eigencam, activations), partial(cam, activations, gradients.mean((2, 3)))]
    for method in methods:
        exact = method()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(method(), exact)
    assert gradcam(activations.bfloat16(), gradients.bfloat16()).dtype == torch.float32


# --- a loss of a map


@pytest.mark.parametrize("name", [name for name in HERE if name != "labelfree"])
def test_a_loss_of_the_map_reaches_the_first_layer(name: str) -> None:
    """The derivative of a map's loss to a weight of the trunk, against differences."""
    net, images = filled(TinyNet(deep=name != "cam")).double(), pictures(2, dtype=torch.float64)
    weight = next(net.features.parameters())

    def loss() -> Tensor:
        maps = raw(name, net, images, [0, 2], net.features, create_graph=True)
        return (maps * random(*maps.shape)).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    at, step, ends = int(gradient.abs().argmax()), 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.view(-1)[at] += sign * step
        ends.append(loss().item())
        with torch.no_grad():
            weight.view(-1)[at] -= sign * step
    assert gradient.view(-1)[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_a_loss_of_the_map_teaches_the_network() -> None:
    """The libraries' maps are detached: a few steps move this one to the left half."""
    net, images = filled(TinyNet()), pictures()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    shares = []
    for _ in range(30):
        maps = raw("gradcam", net, images, 1, net.features, create_graph=True)
        share = (100 * maps).flatten(1).softmax(1).view(-1, 10, 10)[..., :5].sum() / len(images)
        shares.append(share.item())
        optimizer.zero_grad()
        torch.autograd.backward(-share)
        optimizer.step()
    assert shares[-1] > shares[0] + 0.2


# --- modes, kinds of networks


@pytest.mark.parametrize("name", HERE)
def test_ways_to_stand_and_to_wrap_give_the_same_map(name: str) -> None:
    net, images = filled(TinyNet()), pictures()
    expected = raw(name, net, images, TopK(2), net.features)
    frozen = filled(TinyNet(inplace=True)).requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(raw(name, frozen, images, TopK(2), frozen.features), expected)
    with torch.inference_mode():
        torch.testing.assert_close(raw(name, frozen, pictures(), TopK(2), frozen.features), expected)
    wrapped = compiled(net)
    wrapped(images)
    torch.testing.assert_close(raw(name, wrapped, images, TopK(2), net.features), expected)
    with torch.autocast("cpu", torch.bfloat16):
        rough = raw(name, net, images, TopK(2), net.features)
    assert rough.dtype == torch.float32
    assert (rough - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", HERE)
def test_batches_and_targets_are_the_same_as_one_by_one(name: str) -> None:
    net, images = filled(TinyNet()), pictures()
    classes = torch.tensor([[0, 3], [1, 2], [4, 4]])
    together = raw(name, net, images, classes, net.features)
    for image in range(3):
        for target in range(2):
            alone = raw(name, net, images[image : image + 1], classes[image : image + 1, target], net.features)
            torch.testing.assert_close(together[image, target], alone[0, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in HERE if name != "cam"])
def test_layers_before_an_in_place_relu(name: str) -> None:
    """As of VGG, which two libraries see behind the ReLU."""
    for deep in (False, True):
        plain, inplace = filled(TinyNet(deep=deep)), filled(TinyNet(deep=deep, inplace=True))
        expected = raw(name, plain, pictures(), 1, plain.features[3])
        torch.testing.assert_close(raw(name, inplace, pictures(), 1, inplace.features[3]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["judge", "densenet121"])
def test_whole_networks(arch: str) -> None:
    """Our judge, and a published network with functional in-place ReLUs: CAM is Grad-CAM times the positions."""
    net = build_classifier(arch, 4, 3, torch.Generator().manual_seed(0)).eval()
    images = F.interpolate(pictures(2), 64)
    found = explain(net, images, HERE, targets=TopK(2))
    assert found["gradcam"].layer == {"judge": "trunk", "densenet121": "net.features"}[arch]
    for result in found.values():
        assert result.raw.isfinite().all()
        assert result.maps.shape == (2, 2, 64, 64)
    if arch == "judge":
        z = found["cam"].raw[0, 0].numel()
        torch.testing.assert_close(found["gradcam"].raw * z, found["cam"].raw, rtol=1e-3, atol=1e-5)


def test_the_class_head_of_a_translation_is_explained() -> None:
    """Grad-CAM at its feature, against the closed form that the training uses."""

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Conv2d(3, 6, 3, 2), ClassHead(6, CLASSES, hidden=9)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.trunk(images))
            return logits

    net, images, classes = filled(Headed()), pictures(), torch.tensor([0, 3, 1])
    feature = net.trunk(images).detach()
    hidden = net.head.hidden_map(feature)
    wanted = gradcam_at_feature(feature, hidden, net.head.project.weight, net.head.effective_weight(), classes)
    torch.testing.assert_close(raw("gradcam", net, images, classes, net.trunk)[:, 0], wanted)


def test_the_decision_of_a_discriminator_is_explained() -> None:
    """What makes an image look real, and what looks fake: at a layer whose LeakyReLU works in place."""
    net = filled(PatchDiscriminator(ndf=4, n_layers=2)).requires_grad_(False)
    images = F.interpolate(pictures(), 48)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    real = raw("gradcam", net, images, PatchTarget(), layers[1])
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.requires_grad_())
        return output.clone()

    handle = layers[1].register_forward_hook(keep)
    decision = net(images).mean((1, 2, 3)).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(decision, seen[0])
    wanted = (gradient.mean((2, 3), keepdim=True) * seen[0].detach()).sum(1)
    torch.testing.assert_close(real[:, 0], wanted)
    torch.testing.assert_close(raw("gradcam", net, images, Negated(PatchTarget()), layers[1]), -real)


# --- libraries


@pytest.fixture(scope="module")
def golden() -> dict[str, npt.NDArray[np.float32]]:
    with np.load(FILE) as archive:
        return {name: archive[name] for name in archive.files}


def rebuilt(golden: dict[str, npt.NDArray[np.float32]], network: str, *, inplace: bool) -> tuple[nn.Module, Tensor]:
    """The network and images that the libraries were given; its ReLUs may be in place."""
    net = TinyNet(deep=NETWORKS[network][0], inplace=inplace)
    prefix = f"{network}/weights/"
    net.load_state_dict({key[len(prefix) :]: torch.tensor(golden[key]) for key in golden if key.startswith(prefix)})
    return net.train(), torch.tensor(golden["images"])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", GRAD_CAM)
def test_maps_of_grad_cam(golden: dict[str, npt.NDArray[np.float32]], name: str, network: str, inplace: bool) -> None:
    net, images = rebuilt(golden, network, inplace=inplace)
    wanted = golden[f"{network}/grad_cam/{name}"]
    result = explain(net, images, name, targets=EXPLAINED, layer=NETWORKS[network][1])[name]
    compared = 0
    for image, library in enumerate(wanted):
        if not library.any():
            assert result.flat[image, 0]
            continue
        compared += 1
        if name.startswith("eigen"):  # of either sign
            either = [_grown(sign * result.raw[image, 0]) for sign in (1, -1)]
            assert min(np.abs(found - library).max() for found in either) < 1e-4
        else:
            np.testing.assert_allclose(result.maps[image, 0].numpy(), library, rtol=0, atol=1e-5)
    assert compared >= 2


def _grown(signed: Tensor) -> npt.NDArray[np.float32]:
    grown = F.interpolate(signed.relu()[None, None], size=(24, 24), mode="bilinear", align_corners=False)[0, 0].numpy()
    shown: npt.NDArray[np.float32] = (grown - grown.min()) / (grown.max() - grown.min())
    return shown


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["gradcam", "xgradcam", "layercam", "cam"])
def test_maps_of_torchcam(golden: dict[str, npt.NDArray[np.float32]], name: str, network: str) -> None:
    if name == "cam" and network == "deep":
        assert "deep/torchcam/cam" not in golden
        return
    net, images = rebuilt(golden, network, inplace=False)
    found = explain(net, images, name, targets=EXPLAINED, layer=NETWORKS[network][1])[name].raw[:, 0].numpy()
    if name != "cam":
        found = np.maximum(found, 0)
    low, high = found.min((1, 2), keepdims=True), found.max((1, 2), keepdims=True)
    shown = (found - low) / (high - low + 1e-8)
    np.testing.assert_allclose(shown, golden[f"{network}/torchcam/{name}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["gradcam", "hirescam"])
def test_raw_maps_of_captum(golden: dict[str, npt.NDArray[np.float32]], name: str, network: str) -> None:
    net, images = rebuilt(golden, network, inplace=True)
    found = explain(net, images, name, targets=EXPLAINED, layer=NETWORKS[network][1])[name].raw[:, 0].numpy()
    wanted = golden[f"{network}/captum/{name}"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


# --- the registry


def test_names_with_a_plus_are_found_by_their_files() -> None:
    assert EXPLAINERS.get("gradcam++").__module__ == "models.cam.gradcam_pp_explainer"
    assert set(HERE) <= set(EXPLAINERS.names())
    assert "gradcam_pp" not in EXPLAINERS.names()
    with pytest.raises(ValueError, match=r"must be defined in models\.cam\.other_pp_explainer"):
        EXPLAINERS.register("other++")(GradCamPlusPlus)
