"""`benchmark.py data`, `infer` and `eval` in miniature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark import main
from scripts.benchmarks import data, infer
from scripts.benchmarks.material import medians
from util.errors import UserError


def result_of(file: Path, *flags: str) -> dict[str, Any]:
    assert main([*flags, "--size", "32", "--rounds", "1", "--json", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("data", "--count", "3", "--workers", "0", "--need", "1", "--kind", "png16")
    result = result_of(tmp_path / "new" / "data.json", *flags)
    assert result.keys() == {"benchmark", "settings", "versions", "machine", "images_per_second", "cores_needed"}
    assert list(result["images_per_second"]) == ["decoding alone", *(f"{way}, 0 worker(s)" for way in data.WAYS)]
    for way, needed in result["cores_needed"].items():
        assert needed == pytest.approx(1 / result["images_per_second"][f"{way}, 0 worker(s)"])
    assert "8 cores are enough" in capsys.readouterr().out


def test_infer(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def by_hand(subjects: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        for name in ("translate", "explain", "test.py ahead and beside, few", "cam_infer.py one after another, few"):
            subjects[name]()
            called.append(name)
        seconds = dict.fromkeys(subjects, 1.0) | {"translate": 3.0, "explain": 6.0}
        return seconds | {name: 3.0 for name in subjects if name.endswith("many")}

    monkeypatch.setattr(infer, "medians", by_hand)
    flags = ("infer", "--count", "3", "--few", "1", "--ngf", "8", "--num_threads", "1", "--gpu_ids", "-1")
    result = result_of(tmp_path / "infer.json", *flags)
    assert len(called) == 4
    assert result["images_per_second"] == {"test.py": 1.0, "cam_infer.py": 0.5}
    ratios = {name: entry["ratio_to_networks"] for name, entry in result["commands"].items()}
    assert ratios["test.py, ahead and beside"] == pytest.approx(1.0)  # two more images in two more seconds
    assert ratios["cam_infer.py, one after another"] == pytest.approx(0.5)
    assert "| test.py, ahead and beside | 1.00 | 1.00 |" in capsys.readouterr().out


def test_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.evaluate.draw", lambda *_: Path())  # figures take seconds
    flags = ("eval", "--count", "2", "--ngf", "8", "--gpu_ids", "-1", "--metrics", "ssim")
    result = result_of(tmp_path / "eval.json", *flags)
    assert {"translate", "pictures"} <= set(result["seconds"])
    assert capsys.readouterr().out.splitlines()[-1].endswith("100% |")


def test_rounds_interleave_and_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = [0.0]
    took = {"a": iter([50.0, 1.0, 3.0, 2.0]), "b": iter([50.0, 6.0, 4.0, 5.0])}

    def work(name: str) -> None:
        calls.append(name)
        clock[0] += next(took[name])

    monkeypatch.setattr("scripts.benchmarks.material.time.perf_counter", lambda: clock[0])
    assert medians({"a": lambda: work("a"), "b": lambda: work("b")}, 3) == {"a": 2.0, "b": 5.0}
    assert "".join(calls) == "abbaabba"


@pytest.mark.parametrize("flags", [("data", "--workers", "x"), ("eval", "--rounds", "0")])
def test_mistakes_are_named(flags: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=flags[1]):
        main([*flags])
