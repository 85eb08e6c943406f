"""What maps cost, counted: passes of the network and bytes kept for gradients. Nothing here is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from scripts.benchmark import main
from scripts.benchmarks import cam
from scripts.benchmarks.cam import (
    BYTES_LIMIT,
    FORWARD,
    LIBRARY,
    RECORDED,
    Setup,
    ablation_calls,
    count,
    eigen_calls,
    ratios,
)
from util.errors import UserError

SMALL = Setup(arch="judge", size=32, batch=3, num_classes=4)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the other library is installed makes no difference."""
    monkeypatch.setattr(cam, "library_there", lambda: False)


def test_a_map_needs_one_pass_of_the_batch() -> None:
    calls = SMALL.calls()
    images = {name: count(SMALL, call).images for name, call in calls.items()}
    assert images.pop("gradcam, layer auto") == 4  # one image more, to find the layer
    assert set(images) == {FORWARD, RECORDED, "gradcam", "gradcam, channels_last", "cam", "eigencam", "ablationcam"}
    assert set(images.values()) == {3}


def test_only_what_follows_the_layer_is_recorded() -> None:
    """The head keeps its pooled input, (3, 128), and what a mean needs; the trunk keeps nothing."""
    calls = SMALL.calls()
    assert count(SMALL, calls[FORWARD]).saved == 0
    recorded = count(SMALL, calls[RECORDED]).saved
    assert recorded > 100_000
    for name in ("gradcam", "gradcam, channels_last", "eigencam", "cam", "ablationcam"):
        saved = count(SMALL, calls[name]).saved
        assert saved <= min(BYTES_LIMIT * recorded, 4 * 3 * 128 * (2 * 2 + 2)), name


def test_maps_are_the_same_in_channels_last() -> None:
    torch.testing.assert_close(SMALL.maps("gradcam"), SMALL.maps_channels_last("gradcam"), atol=1e-4, rtol=0)


def test_both_ways_give_one_map() -> None:
    setup = Setup(arch="judge", size=64, batch=2, num_classes=4)
    small, full = (call() for call in eigen_calls(setup).values())
    assert isinstance(small, torch.Tensor)
    assert isinstance(full, torch.Tensor)
    for one, other in zip(small, full, strict=True):
        sign = torch.sign((one.flatten() * other.flatten()).sum())
        torch.testing.assert_close(one, sign * other.view_as(one), atol=1e-4, rtol=1e-4)
    closed, slow = (call() for call in ablation_calls(setup).values())
    torch.testing.assert_close(closed, slow, atol=1e-3, rtol=1e-3)


def test_rounds_interleave_and_ratios_are_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down threefold in the second round does not change the ratio."""
    clock: list[float] = [0.0]
    order: list[str] = []
    costs = {"a": [2.0, 6.0, 2.0], "b": [3.0, 9.0, 4.0]}

    def call(name: str) -> None:
        clock[0] += costs[name][order.count(name)]
        order.append(name)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    found = ratios({"a": lambda: call("a"), "b": lambda: call("b")}, "a", rounds=3, warm_up=0, device="cpu")
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": {"seconds": 2.0, "ratio": 1.0}, "b": {"seconds": 4.0, "ratio": 1.5}}


def test_the_command_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "cam.json"
    flags = ["--arch", "judge", "--size", "32", "--batch", "2", "--rounds", "1", "--warm_up", "0"]
    assert main(["cam", *flags, "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert result["settings"]["layer"] == "trunk"
    assert result["versions"]["torch"] == torch.__version__
    assert result["subjects"][FORWARD]["ratio"] == 1
    assert result["subjects"]["gradcam"]["saved_ratio"] < 0.1
    assert result["library_over_ours"] is None
    assert set(result["arithmetic"]) == {"eigencam", "ablationcam"}
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in result["subjects"])


def test_counting_alone_times_nothing(tmp_path: Path) -> None:
    target = tmp_path / "cam.json"
    flags = ["--arch", "judge", "--size", "32", "--batch", "1", "--rounds", "0"]
    assert main(["cam", *flags, "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert all(entry["ratio"] is None for entry in result["subjects"].values())
    assert result["arithmetic"] == {}


def test_the_library_is_compared_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cam, "library_there", lambda: True)
    assert LIBRARY in SMALL.calls()
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError):
        SMALL.calls()[LIBRARY]()


def test_a_network_without_a_linear_head_has_no_closed_forms() -> None:
    calls = Setup(arch="vgg11", size=64, batch=1, num_classes=4).calls()
    assert "cam" not in calls
    assert "gradcam" in calls


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(UserError, match="--arch cat: no such network"):
        main(["cam", "--arch", "cat", "--rounds", "0"])
