"""`benchmark.py crf`: the table in miniature, and its clock by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.losses.crf import Affinity, crf_energy, exact_crf_energy
from scripts.benchmark import main
from scripts.benchmarks.crf import measure, scene
from util.errors import UserError

CPU = torch.device("cpu")


def test_the_command_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "crf.json"
    flags = ["--sizes", "12,20", "--cells", "0.7,1.0", "--repeats", "1", "--most_exact", "12", "--json", str(target)]
    assert main(["crf", *flags]) == 0
    result = json.loads(target.read_text())
    assert result.keys() == {"benchmark", "settings", "versions", "machine", "cases"}
    names = [(case["size"], case["filter"]) for case in result["cases"]]
    assert names == [(12, "grid 0.7"), (12, "grid 1.0"), (12, "exact"), (20, "grid 0.7"), (20, "grid 1.0")]
    assert all(case["milliseconds"] > 0 for case in result["cases"])
    exact = result["cases"][2]
    assert (exact["energy_ratio"], exact["gradient_error"]) == (1, 0)
    assert result["cases"][3]["energy_ratio"] is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split()[-2:] == ["-", "-"]
    assert lines[-3].split()[1:3] == ["exact", lines[-3].split()[2]]


def test_differences_are_those_of_energies_and_gradients() -> None:
    maps, images = scene(12, 2, CPU)
    maps.requires_grad_()
    near, exact = crf_energy(maps, images, Affinity(cell=1.0)).energy, exact_crf_energy(maps, images).energy
    slopes = [torch.autograd.grad(energy.sum(), maps)[0] for energy in (near, exact)]
    case = measure(12, [1.0], 2, 1, True, CPU)[0]
    assert case.energy_ratio == pytest.approx((near / exact).mean().item(), rel=1e-5)
    assert case.gradient_error == pytest.approx(float((slopes[0] - slopes[1]).norm() / slopes[1].norm()), rel=1e-4)


def test_times_are_medians_an_image_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ticks = [0.0], iter([9.0, 9.0, 0.2, 0.4, 0.6])  # grid and exact; then the grid three times

    def counter() -> float:
        clock.append(clock[-1] if len(clock) % 2 else clock[-1] + next(ticks))
        return clock[-1]

    monkeypatch.setattr("scripts.benchmarks.crf.time.perf_counter", counter)
    cases = measure(8, [1.0], 4, 3, True, CPU)
    assert [case.filter for case in cases] == ["grid 1.0", "exact"]
    assert [case.milliseconds for case in cases] == pytest.approx([100, 2250])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "a"], "--sizes a: is no comma list"),
        (["--cells", "0"], "--cells 0: must be above 0"),
        (["--repeats", "0"], "must be at least 1"),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["crf", *flags])
