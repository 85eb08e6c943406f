"""The benchmark's counts by hand, and the limits of a step: operations, bytes for backward, generator passes.

Nothing here is timed. 64 px and ngf 8 stand for larger sizes: the patch embeddings, which are equal in every order
of passes, weigh more here, so that ratios lie nearer to 1 on both sides.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.networks import ClassHead
from scripts.benchmark import main
from scripts.benchmarks.counting import GeneratorPasses, SavedTensors, cost_of, operations
from scripts.benchmarks.step import BYTES_LIMIT, FLOP_LIMIT, SUBJECTS, Costs, Sizes, Subject, count, time_ratios
from util.errors import UserError

SMALL = Sizes(size=64, ngf=8)


@pytest.fixture(scope="module")
def costs() -> dict[str, Costs]:
    return {name: count(Subject(name, SMALL)) for name in SUBJECTS}


# --- the counters, by hand


def test_saved_tensors_by_hand() -> None:
    weight = torch.randn(5, 4, requires_grad=True)
    x = torch.randn(3, 4)
    with SavedTensors([weight]) as saved:
        y = (x @ weight.t()).tanh()  # keeps x for the weight's gradient, and tanh its output
        assert saved.bytes == 4 * (3 * 4 + 3 * 5)
        z = y.square() + y.exp()  # keeps y once more, in the same storage, and exp its output
        assert saved.bytes == 4 * (3 * 4 + 2 * 3 * 5)
        z.sum().backward()  # type: ignore[no-untyped-call]
        assert saved.bytes == 0
    assert saved.at_backward == [saved.peak] == [4 * (3 * 4 + 2 * 3 * 5)]


def test_saved_tensors_of_a_dropped_graph_are_gone() -> None:
    weight = torch.randn(4, requires_grad=True)
    with SavedTensors() as saved:
        for _ in range(3):
            dropped = (weight * 2).exp()
            assert saved.bytes == 16
            del dropped
            assert saved.bytes == 0
    assert saved.peak == 16
    assert saved.at_backward == []


def test_a_view_holds_its_whole_storage() -> None:
    scale = torch.ones((), requires_grad=True)
    whole = torch.randn(10, 7)
    with SavedTensors([scale]) as saved:
        product = whole[2:4] * scale
        assert saved.bytes == whole.numel() * 4
    assert product.requires_grad


def test_operations_of_one_convolution_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.Tanh())
    x = torch.randn(2, 3, 8, 10)
    cost = cost_of(lambda: net(x).sum().backward(), [net], net)
    forward = 2 * (2 * 6 * 8) * (3 * 3) * 3 * 5
    assert cost.forward_flops == forward
    assert cost.backward_flops == forward  # to the weights alone: x needs no gradient
    assert cost.other_flops == 0
    assert cost.flops == 2 * forward
    assert cost.saved_at_backward == 4 * (x.numel() + 2 * 5 * 6 * 8)
    assert (cost.full_passes, cost.encoder_passes) == (2, 0)


def test_generator_passes_count_images() -> None:
    generator = Subject("cut", Sizes(size=16, ngf=2)).model.generator
    with GeneratorPasses(generator) as passes, torch.no_grad():
        generator(torch.randn(2, 3, 16, 16))
        generator.encode(torch.randn(3, 3, 16, 16), [4, 8])
    assert (passes.full, passes.encoded) == (2, 5)
    with torch.no_grad():
        generator(torch.randn(1, 3, 16, 16))
    assert (passes.full, passes.encoded) == (2, 5)  # the hooks are gone


# --- the yardstick


def test_the_published_order_computes_what_the_model_computes() -> None:
    """Otherwise the ratios would compare two different steps: weights after one step agree, in float64."""
    published, ours = Subject("published", SMALL), Subject("cut", SMALL)
    before = {name: [p.detach().double() for p in net.parameters()] for name, net in ours.nets.items()}
    for subject in (published, ours):
        subject.batch = replace(subject.batch, A=subject.batch.A.double(), B=subject.batch.target.double())
        for name, net in subject.nets.items():  # SGD: Adam's first step has one length whatever the gradient
            subject.optimizers[name] = torch.optim.SGD(net.double().parameters(), lr=1.0)
        subject.step(1)
    for name, net in ours.nets.items():
        theirs = list(published.nets[name].parameters())
        moved = 0.0
        for parameter, other, old in zip(net.parameters(), theirs, before[name], strict=True):
            torch.testing.assert_close(parameter, other, atol=1e-10, rtol=1e-8)
            moved = max(moved, (parameter.detach() - old).abs().max().item())
        assert moved > 1e-4, name


def test_passes_of_the_generator(costs: dict[str, Costs]) -> None:
    """Per pair of images: (through all of G, through the encoder alone); the published numbers are CUT's own."""
    passes = {name: (cost.plain.full_passes, cost.plain.encoder_passes) for name, cost in costs.items()}
    assert passes == {"published": (2, 4), "published_cutcam": (2, 9), "cut": (2, 2), "cutcam": (2, 2)}


def test_passes_go_with_the_batch() -> None:
    subject = Subject("cutcam", Sizes(size=32, ngf=2, batch=3))
    subject.step(0)
    cost = subject.cost(lambda: subject.step(1))
    assert (cost.full_passes, cost.encoder_passes) == (6, 6)


# --- the limits


@pytest.mark.parametrize("name", ["cut", "cutcam"])
def test_operations_stay_within_the_limit(costs: dict[str, Costs], name: str) -> None:
    assert costs[name].flops <= FLOP_LIMIT * costs["published"].flops
    assert costs[name].plain.flops < costs["published"].plain.flops


def test_reuse_saves_forward_passes_only(costs: dict[str, Costs]) -> None:
    """Keys are never trained: CUT's backward convolutions are the published ones, its forward ones fewer.

    But for those of the blurs, whose own backward pass is counted as forward: 2 % of all at this width.
    """
    backward = costs["cut"].plain.backward_flops / costs["published"].plain.backward_flops
    assert 0.97 < backward <= 1
    assert costs["cut"].plain.forward_flops < 0.8 * costs["published"].plain.forward_flops


def test_the_public_order_of_cutcam_would_not_pass(costs: dict[str, Costs]) -> None:
    assert costs["published_cutcam"].flops > FLOP_LIMIT * costs["published"].flops
    assert costs["published_cutcam"].plain.saved_peak > BYTES_LIMIT * costs["published"].plain.saved_peak


@pytest.mark.parametrize("name", ["cut", "cutcam"])
def test_saved_bytes_stay_within_the_limit(costs: dict[str, Costs], name: str) -> None:
    """The published order is at its highest while it holds the graph of the keys of y, just before G's backward."""
    limit = BYTES_LIMIT * costs["published"].plain.saved_peak
    steps = [cost for cost in (costs[name].plain, costs[name].capped) if cost is not None]
    assert all(0 < step.saved_at_backward <= step.saved_peak <= limit for step in steps)


def test_the_class_terms_keep_next_to_nothing(costs: dict[str, Costs]) -> None:
    """When G's backward begins, CUT holds what the published order holds, and CUTCAM 1 % more at most."""
    published = costs["published"].plain.saved_at_backward
    assert costs["cut"].plain.saved_at_backward <= published
    assert costs["cutcam"].plain.saved_at_backward <= 1.01 * published


def test_a_frozen_head_keeps_a_mask_only() -> None:
    head, feature = ClassHead(6, 3), torch.randn(2, 6, 8, 8, requires_grad=True)
    with SavedTensors([*head.parameters()]) as saved:
        hidden = head.hidden_map(feature, frozen=True)
        assert saved.bytes == hidden.numel()  # one byte a value
    torch.testing.assert_close(hidden, head.hidden_map(feature))


def test_the_gradient_cap_is_measured_once_a_cycle(costs: dict[str, Costs]) -> None:
    cutcam = costs["cutcam"]
    assert cutcam.capped is not None
    assert cutcam.capped.flops > cutcam.plain.flops
    average = (cutcam.capped.flops + 49 * cutcam.plain.flops) / 50
    assert cutcam.flops == pytest.approx(average)


# --- variants


def test_a_forgetful_generator_keeps_an_eighth() -> None:
    """Of one pass through all of G: the inputs of its blocks and of what doubles, and the padded image."""
    kept = {}
    for name in ("cut", "checkpoint_blocks"):
        subject = Subject(name, SMALL)
        net = subject.model.generator
        with SavedTensors([*net.parameters(), *net.buffers()]) as saved:
            out = net(subject.batch.A)
            kept[name] = saved.bytes
            del out
    assert kept["checkpoint_blocks"] < 0.13 * kept["cut"]


def test_a_forgetful_generator_computes_its_forward_pass_once_more(costs: dict[str, Costs]) -> None:
    again = count(Subject("checkpoint_blocks", SMALL)).plain
    plain = costs["cut"].plain
    assert again.saved_peak < 0.61 * plain.saved_peak  # D's share is large at these sizes
    assert again.backward_flops == plain.backward_flops
    assert plain.forward_flops < again.forward_flops < 1.8 * plain.forward_flops
    assert again.other_flops == plain.other_flops


@pytest.mark.parametrize("name", ["cut", "cutcam", "bf16"])
def test_peaks_are_within_what_was_reached(costs: dict[str, Costs], name: str) -> None:
    made = costs[name].plain if name in costs else count(Subject(name, SMALL)).plain
    assert made.saved_peak <= (0.72 if name == "bf16" else 0.80) * costs["published"].plain.saved_peak


# --- the command


def test_the_command_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "step.json"
    flags = ["--size", "32", "--ngf", "2", "--models", "cut,cutcam", "--iterations", "1", "--warm_up", "0"]
    trace = tmp_path / "trace" / "step.json"
    more = ["--variants", "fast_bf16", "--profile", str(trace)]
    assert main(["step", *flags, *more, "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert result.keys() == {"benchmark", "settings", "limits", "versions", "machine", "models"}
    assert result["settings"]["size"] == 32
    assert result["versions"]["torch"] == torch.__version__
    assert result["machine"].keys() == {"system", "architecture", "cpu", "threads"}
    assert list(result["models"]) == ["published", "cut", "cutcam", "fast_bf16"]
    for entry in result["models"].values():
        plain = entry["plain_step"]
        assert plain["flops"] == plain["forward_flops"] + plain["backward_flops"] + plain["other_flops"]
        assert entry["saved_peak_bytes"] >= entry["saved_at_backward_bytes"] > 0
        assert entry["time_ratio"] > 0
    ones = [key for key, value in result["models"]["published"].items() if key.endswith("_ratio") and value == 1]
    assert ones == ["flops_ratio", "saved_peak_ratio", "saved_at_backward_ratio", "time_ratio"]
    assert result["models"]["cutcam"]["now_and_then"]["monitors_flops_ratio"] > 0
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in result["models"])
    assert "variants of cut: fast_bf16 (--fast --amp bf16)" in printed
    named = printed.split("the largest of a step of `fast_bf16`")[1].splitlines()[1:6]
    assert all("%" in line and "calls" in line for line in named)
    assert json.loads(trace.read_text())["traceEvents"]


def test_counting_alone_times_nothing(tmp_path: Path) -> None:
    target = tmp_path / "step.json"
    assert (
        main(["step", "--size", "32", "--ngf", "2", "--models", "cut", "--iterations", "0", "--json", str(target)]) == 0
    )
    assert all(entry["time_ratio"] is None for entry in json.loads(target.read_text())["models"].values())


@pytest.mark.parametrize("clock_of", ["wall", "processor"])
def test_runs_interleave(monkeypatch: pytest.MonkeyPatch, clock_of: str) -> None:
    """Each round begins with another subject, and the ratio is one of medians; a clock by hand."""
    clock, order = [0.0], []
    costs_of_a_run = {"published": [2.0, 2.0, 50.0], "cut": [3.0, 1.0, 1.0]}
    subjects = [Subject(name, Sizes(size=16, ngf=2)) for name in costs_of_a_run]
    for subject in subjects:

        def step(number: int, name: str = subject.name) -> None:
            order.append(name)
            clock[0] += costs_of_a_run[name][number - 1]

        monkeypatch.setattr(subject, "step", step)
    monkeypatch.setattr({"wall": "time.perf_counter", "processor": "time.process_time"}[clock_of], lambda: clock[0])
    assert time_ratios(subjects, iterations=3, warm_up=0, clock=clock_of) == {"published": 1.0, "cut": 0.5}
    assert order == ["published", "cut", "cut", "published", "published", "cut"]


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UserError, match="--models cat: choose from published"):
        main(["step", "--models", "cat", "--size", "32", "--ngf", "2", "--iterations", "0"])


def test_choices_are_counted_beside_plain_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--size", "32", "--ngf", "4", "--netG", "resnet_4blocks", "--rounds", "2", "--choices", "r1,src,cutcam"]
    assert main(["choices", *flags, "--json", str(tmp_path / "made/new.json")]) == 0
    found = json.loads((tmp_path / "made/new.json").read_text())["choices"]
    assert list(found) == ["cut", "r1", "src", "cutcam"]
    assert found["cut"] | {"time_ratio": 1.0} == {"flags": "--model cut", "share": 1.0} | dict.fromkeys(
        ("flops_ratio", "saved_peak_ratio", "time_ratio"), 1.0
    )
    assert found["src"]["flops_ratio"] > 1
    assert 1 < found["r1"]["flops_ratio"] < 1.2  # a sixteenth of what a step with it takes more
    assert "| src | `--model cut --extra_losses src` |" in capsys.readouterr().out
    with pytest.raises(UserError, match="--choices cats: choose of cut, FastCUT"):
        main(["choices", *flags[:-1], "cats"])


def test_operations_are_those_of_the_flop_counter() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))
    image = torch.randn(2, 3, 16, 16)

    def call() -> None:
        net(image).mean().backward()

    with FlopCounterMode(display=False) as counter:
        call()
    assert operations(call) == counter.get_total_flops() > 0
