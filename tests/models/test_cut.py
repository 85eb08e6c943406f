"""CUT against its formulas written out slowly: every feature encoded anew, every loss in a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from models import MODELS
from models.cut_model import CutState
from models.networks import Generator, draw_patch_ids
from options.parse import train_options
from options.schema import OptionError
from util.checkpoint import load_weights
from util.engine.step import only_trains

if TYPE_CHECKING:
    from tests.conftest import Bench, BenchMaker, DataMaker

KEYS = Path(__file__).parents[1] / "golden" / "cut_state_dict_keys.txt"


# --- the slow, obvious version


def slow_nce(made: Bench, x: Tensor, translated: Tensor, step: int, mirrored: bool) -> Tensor:
    """PatchNCE of one side from image pairs alone: keys and queries are encoded anew, rows compared one by one."""
    model: Any = made.model
    net: Generator = model.nets["G"]
    with torch.no_grad():
        keys = net.encode(x, model.nce_layers)
    queries = net.encode(translated, model.nce_layers)
    queries = [f.flip(-1) for f in queries] if mirrored else queries
    ids = draw_patch_ids([k[0, 0].numel() for k in keys], model.num_patches, made.run.experiment.seed, step)
    layers = []
    for number, (key, query, chosen) in enumerate(zip(keys, queries, ids, strict=True)):
        mlp = model.nets["F"].get_submodule(f"mlp_{number}")
        rows = []
        for k, q in zip(key.flatten(2), query.flatten(2), strict=True):  # each image by itself
            embedded_k, embedded_q = (mlp(f[:, chosen].t()) for f in (k, q))
            embedded_k, embedded_q = (v / (v.norm(dim=1, keepdim=True) + 1e-7) for v in (embedded_k, embedded_q))
            embedded_k = embedded_k.detach()
            for i in range(len(chosen)):
                likeness = [embedded_q[i] @ embedded_k[i]]
                likeness += [embedded_q[i] @ embedded_k[j] for j in range(len(chosen)) if j != i]
                likeness += [torch.tensor(-10.0)]  # CUT keeps the own position among the negatives, at -10
                logits = torch.stack(likeness) / model.nce_T
                rows.append(logits.logsumexp(0) - logits[0])
        layers.append(torch.stack(rows).mean())
    return torch.stack(layers).mean()


def slow_total(made: Bench, batch: Any, step: int, mirrored: bool) -> Tensor:
    """G's loss of plain CUT or FastCUT, with a pass of its own for every image and feature."""
    model: Any = made.model
    net, critic = model.nets["G"], model.nets["D"]
    turned: Callable[[Tensor], Tensor] = (lambda image: image.flip(-1)) if mirrored else (lambda image: image)
    fake = net(turned(batch.A))
    total: Tensor = (critic(fake) - 1).square().mean()
    share = 0.5 if model.nce_idt else 1.0
    total = total + share * model.lambda_NCE * slow_nce(made, batch.A, fake, step, mirrored)
    if model.nce_idt:
        same = net(turned(batch.B))
        total = total + share * model.lambda_NCE * slow_nce(made, batch.B, same, step, mirrored)
    return total


def gradients(made: Bench, total: Tensor) -> dict[str, Tensor]:
    wanted = {name: list(made.model.nets[name].parameters()) for name in "GF"}
    return {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters, retain_graph=True)])
        for name, parameters in wanted.items()
    }


@pytest.mark.parametrize(
    ("flags", "mirrored"),
    [
        ((), False),
        (("--CUT_mode", "FastCUT"), False),
        (("--CUT_mode", "FastCUT"), True),
        (("--flip_equivariance",), True),
        (("--flip_equivariance", "--normG", "none"), True),
    ],
)
def test_reused_features_give_the_gradients_of_encoding_anew(
    bench: BenchMaker, flags: tuple[object, ...], mirrored: bool
) -> None:
    made = bench("--model", "cut", "--batch_size", 2, "--init_gain", 1, "--num_patches", 8, *flags)
    for net in made.model.nets.values():
        net.double()
    batch = replace(made.batch(), A=made.batch().A.double(), B=made.batch().target.double())
    step = step_that_is(made, mirrored)
    state = made.model.forward_train(batch, made.info(step))
    assert state.mirrored == mirrored
    total = torch.stack(list(made.model.phases[1].losses(state).values())).sum()
    slow = slow_total(made, batch, step, mirrored)
    torch.testing.assert_close(total, slow, rtol=1e-9, atol=1e-9)
    fast_gradients, slow_gradients = gradients(made, total), gradients(made, slow)
    for name in "GF":
        difference = (fast_gradients[name] - slow_gradients[name]).norm() / slow_gradients[name].norm()
        assert float(difference) < 1e-9, name  # exact: round-off only


def step_that_is(made: Bench, mirrored: bool) -> int:
    model: Any = made.model
    for step in range(50):
        draw = torch.rand((), generator=made.info(step).generator("flip"))
        if (model.flip_equivariance and bool(draw < 0.5)) == mirrored:
            return step
    raise AssertionError("fifty flips in a row fell the same way")


def test_keys_of_fastcut_come_from_the_unmirrored_image(bench: BenchMaker) -> None:
    made = bench("--model", "cut", "--batch_size", 2, "--init_gain", 1, "--CUT_mode", "FastCUT")
    batch, model = made.batch(), made.model
    state: CutState = model.forward_train(batch, made.info(step_that_is(made, True)))
    net: Any = model.nets["G"]
    layers = model.nce_layers  # type: ignore[attr-defined]
    for key, seen, expected, turned in zip(
        state.key_A, state.seen_A, net.encode(batch.A, layers), net.encode(batch.A.flip(-1), layers), strict=True
    ):
        assert torch.equal(key, expected)
        assert not key.requires_grad
        assert torch.equal(seen, turned.flip(-1))
    for query, expected in zip(state.query_A, net.encode(state.fake_B, layers), strict=True):
        assert torch.equal(query, expected.flip(-1))
    assert torch.equal(state.fake_B, model.translate(batch.A.flip(-1)))
    assert torch.equal(state.upright(state.fake_B), state.fake_B.flip(-1))


def test_mirrored_and_straight_steps_are_both_drawn_and_the_same_for_a_seed(bench: BenchMaker) -> None:
    draws = []
    for _ in range(2):
        made = bench("--model", "cut", "--CUT_mode", "FastCUT")
        steps = range(20)
        draws.append([made.model.forward_train(made.batch(), made.info(s)).mirrored for s in steps])
    assert draws[0] == draws[1]
    assert 4 < sum(draws[0]) < 16


# --- what is computed at all


def test_passes_through_the_generator(bench: BenchMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over x and y, one encoding of what it made; the published code takes six."""
    seen: list[tuple[int, bool]] = []
    run = Generator.__subclasses__  # the concrete class, whichever --netG gives
    made = bench("--model", "cut", "--batch_size", 2)
    kind = type(made.model.nets["G"])
    assert kind in run()
    original = kind._run

    def counting(self: Any, x: Tensor, layers: Any, decode: bool) -> Any:
        seen.append((len(x), decode))
        return original(self, x, layers, decode)

    monkeypatch.setattr(kind, "_run", counting)
    made.step()
    assert seen == [(4, True), (4, False)]
    seen.clear()
    bench("--model", "cut", "--batch_size", 2, "--nce_idt", False).step()
    assert seen == [(2, True), (2, False)]
    seen.clear()
    bench("--model", "cut", "--batch_size", 2, "--lambda_NCE", 0).step()
    assert seen == [(2, True)]


def test_d_terms_by_hand(bench: BenchMaker) -> None:
    made = bench("--model", "cut", "--batch_size", 2)
    batch, critic = made.batch(), made.model.nets["D"]
    state = made.model.forward_train(batch, made.info())
    with only_trains(made.model.nets, ("D",)):
        terms = made.model.phases[0].losses(state)
    torch.testing.assert_close(terms["D_fake"], critic(state.fake_B).square().mean() / 2)
    torch.testing.assert_close(terms["D_real"], (critic(batch.target) - 1).square().mean() / 2)


def test_gradient_penalty_draws_by_sample(bench: BenchMaker) -> None:
    """A batch's penalty is the mean of its images' own, wherever in the batch they stand."""
    made = bench("--model", "cut", "--batch_size", 2, "--gan_mode", "wgangp", "--init_gain", 2)
    batch = made.batch()

    def penalty(rows: list[int]) -> float:
        part = replace(batch, A=batch.A[rows], B=batch.target[rows], index=batch.index[rows])
        state = made.model.forward_train(part, made.info())
        return float(made.model.phases[0].losses(state)["D_GP"].detach())

    assert penalty([0, 1]) == pytest.approx((penalty([0]) + penalty([1])) / 2, rel=1e-5)
    assert penalty([0, 1]) == pytest.approx(penalty([1, 0]), rel=1e-5)
    assert penalty([0]) != pytest.approx(penalty([1]), rel=1e-4)


# --- channels and sizes


def translation(made: Bench) -> Tensor:
    """What G makes in a training step."""
    state: CutState = made.step().state  # type: ignore[assignment]
    return state.fake_B


@pytest.mark.parametrize("model", ["cut", "cutcam"])
def test_channels(bench: BenchMaker, data: DataMaker, model: str) -> None:
    grey = bench("--model", model, "--input_nc", 1, "--output_nc", 1, data=data(channels=1))
    assert translation(grey).shape == (1, 1, 32, 32)
    colour = bench("--model", model, data=data(channels=1))
    assert translation(colour).shape == (1, 3, 32, 32)
    with pytest.raises(OptionError, match=r"--input_nc 1 and --output_nc 3:.*both must be equal"):
        bench("--model", model, "--input_nc", 1, "--nce_idt", False)


def test_without_contrast_channels_may_differ(bench: BenchMaker) -> None:
    made = bench("--model", "cut", "--input_nc", 1, "--lambda_NCE", 0)
    assert translation(made).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("model", ["cut", "cutcam"])
def test_odd_sizes(bench: BenchMaker, data: DataMaker, model: str) -> None:
    """Files of 37x45 come as 36x44, neither square nor a multiple of 8."""
    made = bench("--model", model, "--preprocess", "none", "--batch_size", 2, data=data(size=(37, 45)))
    assert made.batch().A.shape[-2:] == translation(made).shape[-2:] == (36, 44)


# --- published weights and bad options


def test_published_weights_load(data: DataMaker, tmp_path: Path) -> None:
    """State dicts with the published names and shapes go into the default networks, value by value."""
    run = train_options(["--dataroot", str(data()), "--gpu_ids", "-1"])
    model = MODELS.get(run.experiment.model).from_options(run)
    assert run.experiment.model == "cut"
    for name, shapes in published().items():
        weights = {key: torch.full(shape, 0.01 * n) for n, (key, shape) in enumerate(shapes.items())}
        file = tmp_path / f"latest_net_{name}.pth"
        torch.save(weights, file)
        load_weights(file, model.nets[name])
        loaded = model.nets[name].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in weights.items())
        assert loaded.keys() == weights.keys()
    assert set(published()) == {"G", "D", "F"}


def published() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by name of the published networks G, D and F at default size."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    name = ""
    for line in KEYS.read_text().splitlines():
        if line.startswith("## "):
            name = line.split()[1]
        elif line.startswith("   "):
            key, shape = line.strip().removesuffix("(buffer)").split(" ", 1)
            found.setdefault(name, {})[key] = tuple(int(n) for n in shape.strip(" (),").split(",") if n.strip())
    return found


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--nce_layers", "0,99"), r"--nce_layers 0,99: no layer 99.*valid ids are 0, 1"),
        (("--nce_layers", ""), "--nce_layers: name at least one layer"),
        (("--netG", "resnet_5blocks"), "--netG resnet_5blocks.*resnet_9blocks"),
        (("--netD", "patchy"), "--netD patchy.*basic"),
        (("--netG", "unet_128", "--nce_layers", "0,1"), "--crop_size 32,32: --netG unet_128 needs multiples of 128"),
    ],
)
def test_bad_options_are_named(bench: BenchMaker, flags: tuple[object, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        bench("--model", "cut", *flags)


def test_first_weights_depend_on_the_seed_and_the_network_alone(bench: BenchMaker) -> None:
    def first(*flags: object) -> list[Tensor]:
        nets: dict[str, nn.Module] = bench(*flags).model.nets
        return [next(nets[name].parameters()).detach() for name in "GDF"]

    same = first("--model", "cutcam", "--num_classes", 9)
    for a, b in zip(first("--model", "cut"), same, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first("--model", "cut", "--seed", 1), same, strict=True):
        assert not torch.equal(a, b)
