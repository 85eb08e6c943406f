"""A network on a batch, cut at a layer: against autograd, by hand, and in every mode a caller may be in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.cam.errors import ExplainError
from models.cam.layers import find_layer
from models.cam.subject import Memory, Subject, layer_name
from models.cam.targets import ClassTarget, LogProbability, MaskTarget, PatchTarget, TopK
from tests.cam.tiny_networks import CLASSES, DenseLike, TinyNet, WithBypass, compiled, filled, pictures


def by_hand(net: TinyNet, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations at features.3, logits, and the gradients (N, T, C, h, w), image by image and class by class."""
    taken = net.features[:4](images).detach()
    gradients = []
    for image, row in zip(taken, classes, strict=True):
        for number in row:
            leaf = image[None].clone().requires_grad_()
            maps = leaf.relu()
            pooled = maps.mean((2, 3)) if net.more is None else net.more(maps).flatten(1)
            gradients.append(torch.autograd.grad(net.classify(pooled)[0, number], leaf)[0][0])
    return taken, net(images).detach(), torch.stack(gradients).view(*classes.shape, *taken.shape[1:])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_activations_output_and_gradients_against_autograd(deep: bool, inplace: bool) -> None:
    net, images = filled(TinyNet(deep=deep, inplace=inplace)), pictures()
    classes = torch.tensor([[0, 3], [1, 1], [4, 2]])
    taken, logits, gradients = by_hand(filled(TinyNet(deep=deep)), images, classes)
    subject = Subject(net, images, net.features[3], classes)
    torch.testing.assert_close(subject.activations, taken)
    torch.testing.assert_close(subject.gradients, gradients)
    torch.testing.assert_close(subject.output, logits)
    torch.testing.assert_close(subject.scores, logits.gather(1, classes))
    assert subject.layer_name == "features.3"
    assert subject.classes is not None
    assert torch.equal(subject.classes, classes)
    assert not any(v.requires_grad for v in (subject.activations, subject.gradients, subject.output, subject.scores))


def test_every_target_alone_gives_what_all_give_together() -> None:
    net, images = filled(TinyNet(deep=True)), pictures()
    together = Subject(net, images, net.features, TopK(CLASSES))
    assert together.classes is not None
    for number in range(CLASSES):
        alone = Subject(net, images, net.features, together.classes[:, number])
        torch.testing.assert_close(together.gradients[:, number], alone.gradients[:, 0], rtol=0, atol=0)


def test_a_batch_gives_what_its_images_give() -> None:
    net, images = filled(TinyNet(deep=True)), pictures()
    whole = Subject(net, images, net.features, 2)
    for number, image in enumerate(images):
        alone = Subject(net, image[None], net.features, 2)
        torch.testing.assert_close(whole.gradients[number], alone.gradients[0])


# --- where the caller stands

Context = Callable[[], AbstractContextManager[Any]]
AROUND: dict[str, Context] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", AROUND)
def test_modes_and_frozen_parameters(mode: str, frozen: bool) -> None:
    net = filled(TinyNet(deep=True, inplace=True)).requires_grad_(not frozen)
    _, _, expected = by_hand(filled(TinyNet(deep=True)), pictures(), torch.tensor([[1]] * 3))
    with AROUND[mode]():
        subject = Subject(net, pictures(), net.features[3], 1)  # images, too, are made in the mode
        torch.testing.assert_close(subject.gradients, expected)
        torch.testing.assert_close(subject.from_layer(subject.activations), subject.output)
        torch.testing.assert_close(subject.score(pictures()), subject.scores)
        attached = Subject(net, pictures(), net.features[3], 1, create_graph=True)
        torch.testing.assert_close(attached.gradients, expected)
    assert all(p.requires_grad is not frozen and p.grad is None for p in net.parameters())


def test_autocast_gives_float32_near_the_exact_values() -> None:
    net, images = filled(TinyNet(deep=True)), pictures()
    exact = Subject(net, images, net.features, LogProbability(1)).gradients
    with torch.autocast("cpu", torch.bfloat16):
        rough = Subject(net, images, net.features, LogProbability(1))
        assert rough.activations.dtype == rough.gradients.dtype == rough.scores.dtype == torch.float32
        assert rough.from_layer(rough.activations).dtype == torch.float32
        torch.testing.assert_close(rough.gradients, exact, rtol=0.1, atol=0.02)
        # What comes after the network is exact: its own output, rounded, is what is scored.
        torch.testing.assert_close(rough.scores[:, 0], rough.output.log_softmax(1)[:, 1], rtol=0, atol=0)
    assert not torch.equal(rough.gradients, exact)


def test_compiled_networks_before_and_after_their_first_call() -> None:
    images = pictures()
    plain = filled(TinyNet(deep=True))
    expected = Subject(plain, images, plain.features[3], 1).gradients

    compilations: list[object] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph

    fresh = compiled(filled(TinyNet(deep=True)), backend)
    used = compiled(filled(TinyNet(deep=True)), backend)
    inside = filled(TinyNet(deep=True))
    inside.add_module("features", compiled(inside.features, backend))  # a part only
    own = filled(TinyNet(deep=True))
    own.compile(backend=backend)
    for net in (used, inside, own):
        net(images)
    compilations.clear()
    for net in (used, inside, own, fresh):
        layer = [module for module in net.modules() if isinstance(module, nn.Conv2d)][1]
        subject = Subject(net, images, layer, 1)
        torch.testing.assert_close(subject.gradients, expected)
        torch.testing.assert_close(net(images).detach(), subject.output)
        # Nothing is compiled for a map, which may take minutes, nor thrown away.
        assert compilations == [] or net is fresh


# --- nothing is left behind


def state(net: nn.Module) -> list[Any]:
    """Everything of a network that a stranger may not change."""
    found: list[Any] = [module.training for module in net.modules()]
    found += [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()]
    found += [(p.requires_grad, p.grad if p.grad is None else p.grad.tolist()) for p in net.parameters()]
    return [*found, *(value.tolist() for value in net.state_dict().values())]


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_network_in_the_middle_of_training_is_left_as_it_was(create_graph: bool) -> None:
    net = filled(TinyNet(deep=True)).train()
    net(pictures()).sum().backward()
    net.classify.bias.requires_grad_(False)
    if create_graph:
        net.eval()  # otherwise its statistics move, as the caller wants
    before = copy.deepcopy(state(net))
    images = pictures()
    subject = Subject(net, images, net.features, TopK(2), create_graph=create_graph)
    assert subject.gradients.isfinite().all()
    subject.from_layer(subject.activations.detach())
    subject.score(images)
    assert state(net) == before
    assert images.grad is None
    assert not images.requires_grad


def fails(output: Tensor) -> Tensor:
    raise KeyError("the user's own mistake")


@pytest.mark.parametrize("mode", AROUND)
def test_an_exception_inside_leaves_nothing_and_is_not_hidden(mode: str) -> None:
    net = filled(TinyNet()).train()
    before = copy.deepcopy(state(net))
    with AROUND[mode]():
        grad = torch.is_grad_enabled()
        with pytest.raises(KeyError, match="own mistake"):
            _ = Subject(net, pictures(), net.features, fails).gradients
        with pytest.raises(RuntimeError, match="channels"):
            _ = Subject(net, pictures()[:, :2], net.features, 1).gradients
        subject = Subject(net, pictures(), net.features, 1)
        with pytest.raises(RuntimeError):
            subject.from_layer(subject.activations[:, :3])
        assert torch.is_grad_enabled() is grad
    assert state(net) == before


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_network_that_normalises_in_place_does_not_change_the_images(create_graph: bool) -> None:
    class Normalising(TinyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.sub_(0.5).mul_(2))

    net, plain, images = filled(Normalising()), filled(TinyNet()), pictures().requires_grad_(create_graph)
    subject = Subject(net, images, net.features, 1, create_graph=create_graph)
    expected = plain(pictures().sub(0.5).mul(2))
    torch.testing.assert_close(subject.output, expected, check_stride=False)
    torch.testing.assert_close(subject.from_layer(subject.activations), expected)
    torch.testing.assert_close(subject.score(images.detach()), expected[:, 1:2])
    find_layer(net, "auto", images)
    assert torch.equal(images, pictures())


@contextmanager
def saved_bytes(layer: nn.Module) -> Iterator[dict[str, int]]:
    """Bytes kept for a backward pass, before and after the layer has been called."""
    counted, where = {"trunk": 0, "head": 0}, ["trunk"]
    handle = layer.register_forward_hook(lambda *_: where.__setitem__(0, "head"))

    def pack(tensor: Tensor) -> Tensor:
        counted[where[0]] += tensor.nbytes
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield counted
    finally:
        handle.remove()


def test_the_trunk_keeps_nothing_for_the_backward_pass() -> None:
    net, images = filled(TinyNet()), pictures().requires_grad_()
    with saved_bytes(net.features) as kept, torch.no_grad():
        net(images)
    assert kept == {"trunk": 0, "head": 0}
    with saved_bytes(net.features) as kept:
        _ = Subject(net, images, net.features, 1).scores
    assert kept["trunk"] == 0
    weights = sum(p.nbytes for p in net.classify.parameters())
    assert kept["head"] <= weights + 2 * 4 * 12 * len(images) + 8 * len(images)  # no map is kept, only their means
    with saved_bytes(net.features) as kept:
        _ = Subject(net, images, net.features, 1, create_graph=True).scores
    assert kept["trunk"] > 4 * 12 * 10 * 10 * len(images)


def test_the_graph_is_given_back_with_the_gradients() -> None:
    net = filled(TinyNet())
    subject = Subject(net, pictures(), net.features, 1)
    first = subject.gradients
    assert subject._pass is not None
    assert not subject._pass.scores.requires_grad
    assert subject.gradients is first
    assert subject.activations.shape == (3, 12, 10, 10)


def test_the_network_runs_once() -> None:
    net, calls = filled(TinyNet()), []
    net.register_forward_hook(lambda *_: calls.append(1))
    subject = Subject(net, pictures(), net.features, TopK(3))
    _ = subject.output, subject.scores, subject.activations, subject.gradients, subject.classes, subject.linear_head()
    assert len(calls) == 1


# --- for losses


def test_create_graph_reaches_parameters_and_images() -> None:
    """Derivative of a loss of activations and gradients, against differences."""
    net = filled(TinyNet(deep=True)).double()
    images = pictures(2, dtype=torch.float64).requires_grad_()

    def loss() -> Tensor:
        subject = Subject(net, images, net.features[3], 1, create_graph=True)
        return (subject.activations[:, None] * subject.gradients).square().sum() * 1000

    parameters = [images, next(net.features.parameters()), net.classify.weight]
    found = torch.autograd.grad(loss(), parameters)
    step = 1e-6
    for value, gradient in zip(parameters, found, strict=True):
        at = int(gradient.abs().argmax())
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                value.view(-1)[at] += sign * step
            ends.append(loss().item())
            with torch.no_grad():
                value.view(-1)[at] -= sign * step
        assert float(gradient.view(-1)[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_create_graph_runs_the_network_as_it_stands() -> None:
    net = filled(TinyNet()).train()
    seen = net.get_buffer("features.1.num_batches_tracked")
    before = seen.item()
    _ = Subject(net, pictures(), net.features, 1).scores
    assert seen == before
    _ = Subject(net, pictures(), net.features, 1, create_graph=True).scores
    assert seen == before + 1


# --- going on from a layer, other images


def test_from_layer_against_the_rest_of_the_network() -> None:
    net, images = filled(TinyNet(deep=True, inplace=True)), pictures()
    subject = Subject(net, images, net.features[3], TopK(2), chunk=6)
    changed = torch.cat([subject.activations * factor for factor in (1, 0, -1, 2, 0.5)])
    kept = changed.clone()
    found, more = subject.from_layer(changed), net.get_submodule("more")
    assert torch.equal(changed, kept)  # the ReLU in place has another tensor
    torch.testing.assert_close(found, net.classify(more(changed.relu()).flatten(1)).detach())
    assert subject.classes is not None
    torch.testing.assert_close(subject.score_of(found), found.gather(1, subject.classes.repeat(5, 1)))
    with pytest.raises(ExplainError, match="4 rows for 3 images"):
        subject.from_layer(changed[:4])


def test_from_layer_runs_what_lies_before_on_few_images() -> None:
    net, rows = filled(TinyNet()), []
    subject = Subject(net, pictures(), net.features, 1)
    activations = subject.activations.repeat(4, 1, 1, 1)
    net.features[0].register_forward_hook(lambda *call: rows.append(len(call[-1])))
    subject.from_layer(activations)
    assert rows == [3]


@pytest.mark.parametrize("count", [1, 2])
def test_from_layer_where_something_passes_by_the_layer(count: int) -> None:
    net, images = filled(WithBypass()), pictures(count)
    subject = Subject(net, images, net.bottom, MaskTarget(1, torch.ones(24, 24)), chunk=4)
    changed = torch.cat([subject.activations * factor for factor in (1, 0, -1, 2, 3)])
    first = net.down(images).relu().repeat(5, 1, 1, 1)
    expected = net.up(torch.cat([first, changed.relu()], 1)).detach()
    calls: list[int] = []
    net.down.register_forward_hook(lambda *call: calls.append(len(call[-1])))
    torch.testing.assert_close(subject.from_layer(changed), expected)
    chunks = [4, 1] if count == 1 else [4, 4, 2]
    assert calls == [count, *chunks]  # it is tried once


def test_score_and_other_images_keep_the_classes_of_the_first() -> None:
    net, images = filled(TinyNet(deep=True)), pictures()
    subject = Subject(net, images, net.features, TopK(2), chunk=4)
    other = pictures(12, seed=5)
    assert subject.classes is not None
    classes = subject.classes.repeat(4, 1)
    assert not torch.equal(net(other).topk(2).indices, classes)
    torch.testing.assert_close(subject.score(other), net(other).detach().gather(1, classes))
    noisy = subject.with_images(other)
    torch.testing.assert_close(noisy.gradients, Subject(net, other, net.features, classes).gradients)


# --- the linear head


def test_linear_head_is_found_by_numbers() -> None:
    net = filled(TinyNet()).train()  # dropout before the linear layer
    subject = Subject(net, pictures(), net.features, 1)
    head = subject.linear_head()
    assert head is not None
    assert torch.equal(head.weight, net.classify.weight)
    assert torch.equal(head.bias, net.classify.bias)
    assert not head.weight.requires_grad
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert Subject(net, pictures(), net.features, 1).linear_head() is not None


def test_linear_head_is_none_where_the_network_goes_on_otherwise() -> None:
    deep, shallow = filled(TinyNet(deep=True)), filled(TinyNet())
    assert Subject(deep, pictures(), deep.features, 1).linear_head() is None
    assert Subject(shallow, pictures(), shallow.features[3], 1).linear_head() is None  # a ReLU comes between
    maps = filled(WithBypass())
    assert Subject(maps, pictures(), maps.bottom, PatchTarget()).linear_head() is None


def test_linear_head_behind_a_relu_and_without_a_bias() -> None:
    net = filled(DenseLike())
    net.classify.register_parameter("bias", None)
    subject = Subject(net, pictures(), net.features, 1)
    assert subject.linear_head() is None
    head = subject.linear_head(subject.activations.relu())
    assert head is not None
    assert torch.equal(head.bias, torch.zeros(CLASSES))


def test_what_was_found_once_holds_for_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    net, memory = filled(DenseLike()), Memory()
    assert Subject(net, pictures(), net.features, 1, memory=memory).averaged() is not None
    assert memory.linear == (True, net.classify)
    fresh = Subject(net, pictures() * 0.5, net.features, 1).averaged()
    monkeypatch.setattr(Subject, "_explains_output", lambda *_: pytest.fail("looked again"))
    again = Subject(net, pictures() * 0.5, net.features, 1, memory=memory).averaged()
    assert fresh is not None
    assert again is not None
    assert torch.equal(fresh[0], again[0])
    assert torch.equal(fresh[1].weight, again[1].weight)


def test_linear_head_is_not_another_layer_of_the_same_shape() -> None:
    net = filled(TinyNet())
    net.decoy = nn.Linear(12, CLASSES)
    head = Subject(net, pictures(), net.features, 1).linear_head()
    assert head is not None
    assert torch.equal(head.weight, net.classify.weight)


# --- what does not fit


class Several(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = filled(TinyNet()), kind

    def forward(self, images: Tensor) -> Any:
        logits = self.net(images)
        return (logits, images) if self.kind == "tuple" else {"logits": logits, "images": images}


@pytest.mark.parametrize(
    ("kind", "pick", "described"),
    [
        ("tuple", lambda out: out[0], "a tuple of 2"),
        ("dict", lambda out: out["logits"], "a dict with keys logits, images"),
    ],
)
def test_outputs_of_several_parts_need_a_choice(kind: str, pick: Callable[[Any], Tensor], described: str) -> None:
    net, images = Several(kind), pictures()
    with pytest.raises(ExplainError, match=f"{described}: say by output="):
        _ = Subject(net, images, net.net.features, 1).scores
    subject = Subject(net, images, net.net.features, 1, output=pick)
    torch.testing.assert_close(subject.output, net.net(images).detach())
    torch.testing.assert_close(subject.from_layer(subject.activations), subject.output)
    assert subject.linear_head() is not None


class Aside(nn.Module):
    """Calls a layer whose output it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        self.unused(images)
        scores: Tensor = self.used(images).mean((2, 3))
        return scores


def test_a_score_that_does_not_depend_on_the_layer_is_an_error() -> None:
    net = Aside()
    with pytest.raises(ExplainError, match="does not depend on layer 'unused'"):
        _ = Subject(net, pictures(), net.unused, 1).gradients
    with pytest.raises(ExplainError, match="does not depend on layer 'used'"):
        _ = Subject(net, pictures(), net.used, lambda out: out.detach().mean(1)).gradients


def test_messages_for_what_is_no_batch_and_no_layer_of_the_network() -> None:
    net = filled(TinyNet())
    for wrong in (pictures()[0], pictures()[:0]):
        with pytest.raises(ExplainError, match="give \\(N, C, H, W\\)"):
            Subject(net, wrong, net.features, 1)
    with pytest.raises(ExplainError, match="Conv2d is no part of the network TinyNet"):
        Subject(net, pictures(), nn.Conv2d(3, 3, 1), 1)
    with pytest.raises(ExplainError, match="needs a layer"):
        _ = Subject(net, pictures(), None, 1).activations
    assert Subject(net, pictures(), None, 1).scores.shape == (3, 1)
    assert layer_name(compiled(net), net.features[0]) == "features.0"
    with pytest.raises(ExplainError, match="one row an image"):
        _ = Subject(nn.Sequential(nn.Flatten(0)), pictures(), None, ClassTarget(1)).scores
