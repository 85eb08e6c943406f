"""`benchmark.py scale` in miniature, and its ways of averaging against the mean by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from scripts.benchmark import main
from scripts.benchmarks import scale
from scripts.benchmarks.step import Sizes, Subject
from tests.processes import as_ranks, meet_at, meeting_places
from util.errors import UserError


def average(rank: int, port: int) -> None:
    meet_at(port)
    dist.init_process_group("gloo")
    sent: list[int] = []
    all_reduce: Callable[..., object] = dist.all_reduce

    def counted(message: torch.Tensor, **rest: bool) -> object:
        sent.append(message.numel())
        return all_reduce(message, **rest)

    dist.all_reduce = counted  # type: ignore[assignment]
    ways: dict[str, Callable[[list[torch.Tensor]], object]] = {
        **scale.WAYS,
        "buckets of 40 bytes": lambda some: scale.in_buckets(some, 40),
    }
    expected = {"flat": [15], "buckets of 25 MiB": [15], "tensor by tensor": [6, 4, 5], "buckets of 40 bytes": [9, 6]}
    for name, way in ways.items():
        parameters = [torch.zeros(shape, requires_grad=True) for shape in ((2, 3), (4,), (5,))]
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, (number + 1) * 10.0**rank)
        sent.clear()
        way(parameters)
        assert sent == expected[name], name
        for number, parameter in enumerate(parameters):
            assert parameter.grad is not None
            assert bool((parameter.grad == (number + 1) * 5.5).all()), name
    dist.destroy_process_group()


def test_every_way_gives_the_mean() -> None:
    with meeting_places(1) as ports:
        as_ranks(2, average, ports[0])


def test_worlds() -> None:
    assert [scale.worlds_up_to(most) for most in (2, 3, 4, 6)] == [[1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 6]]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "METHOD", "fork")  # everything is imported
    file = tmp_path / "scale.json"
    assert main(["scale", "--model", "cut", "--size", "32", "--ngf", "4", "--rounds", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert list(found["step_seconds"]) == ["1", "2"]
    assert list(found["averaging_seconds"]) == list(scale.WAYS)
    assert min((*found["step_seconds"].values(), *found["averaging_seconds"].values())) > 0
    subject = Subject("cut", Sizes(32, 4))
    subject.step(1)
    assert found["bytes_per_step"] == 4 * sum(p.numel() for net in subject.nets.values() for p in net.parameters())
    rows = list(_rows(capsys.readouterr().out))
    ratio = found["step_seconds"]["2"] / found["step_seconds"]["1"]
    assert rows[1] == ["2", f"{ratio:.2f}", f"{1 / ratio:.2f}", f"{2 / ratio:.2f}"]


def _rows(text: str) -> Iterator[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    return ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)


def test_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--ranks 1: must be at least 2"):
        main(["scale", "--ranks", "1"])
