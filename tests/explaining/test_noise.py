"""Dropout that stays at test, as pix2pix's does, draws by --seed and the file, and by nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cam_infer
import test as entry_test
from models import load_run
from options.groups import Evaluation, MeasuredInference
from options.parse import inference_options
from scripts.evaluating.bench import Bench
from scripts.explaining.generator import GeneratorExplainer
from scripts.explaining.inputs import Input
from scripts.explaining.written import Explained
from tests.conftest import picture
from tests.runs import CUTCAM, make_run
from util.engine.inference import drawing, noise_key
from util.errors import exit_code

Files = dict[str, bytes]
Main = Callable[..., Files]
P2P = ("--model", "pix2pix", "--netG", "resnet_4blocks")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with dropout in G, one with batch normalisation, and four images."""
    home = tmp_path_factory.mktemp("home")
    make_run(home / "p2p", *P2P, "--no_dropout", "False")
    make_run(home / "cam", *CUTCAM, "--no_dropout", "False")
    make_run(home / "norm", *CUTCAM, "--normG", "batch")
    for folder in ("trainA", "testA"):
        (home / "data" / folder).mkdir(parents=True)
        for number in range(4):
            cv2.imwrite(str(home / "data" / folder / f"{number}.png"), picture(number, 0, (32, 40), 3))
    return home


@pytest.fixture
def command(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """`command(module, run, *words)` -> pictures by name; what was drawn before differs from call to call."""
    calls: list[Path] = []

    def go(module: object, run: str, *words: object) -> Files:
        calls.append(tmp_path / f"{len(calls)}")
        torch.manual_seed(len(calls))
        to = (
            ["--output", calls[-1]] if "--input" in words else ["--results_dir", calls[-1], "--dataroot", home / "data"]
        )
        given = ["--checkpoint", home / run, "--gpu_ids", -1, "--num_threads", 0, *to, *words]
        monkeypatch.setattr(sys, "argv", ["x.py", *map(str, given)])
        assert exit_code(module.main) == 0  # type: ignore[attr-defined]
        assert calls[-1].is_dir()
        return {file.name: file.read_bytes() for file in calls[-1].rglob("*.png") if "real" not in str(file.parent)}

    return go


def test_the_same_command_gives_the_same_files(home: Path, command: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    first = command(entry_test, "p2p")
    assert len(first) == len(set(first.values())) == 4
    assert command(entry_test, "p2p") == first
    assert command(entry_test, "p2p", "--batch_size", 3) == first
    assert command(entry_test, "p2p", "--num_test", 2) == {name: first[name] for name in ("0.png", "1.png")}
    assert command(entry_test, "p2p", "--input", home / "data/testA") == first
    assert command(entry_test, "p2p", "--input", home / "data/testA/2.png") == {"2.png": first["2.png"]}
    with monkeypatch.context() as patch:  # the share of one of two processes
        patch.setattr(entry_test, "mine", lambda count: range(1, count, 2))
        assert command(entry_test, "p2p") == {name: first[name] for name in ("1.png", "3.png")}
    other, still = command(entry_test, "p2p", "--seed", 7), command(entry_test, "p2p", "--eval")
    assert not set(other.values()) & set(first.values())
    assert not set(still.values()) & set(first.values())


def test_explaining_and_evaluating_draw_what_translating_does(home: Path, command: Main, tmp_path: Path) -> None:
    translated = command(entry_test, "cam")
    explained = command(cam_infer, "cam", "--class_idx", 0)
    assert command(cam_infer, "cam", "--class_idx", 0) == explained
    assert {name: explained[f"{name[0]}_fake.png"] for name in translated} == translated
    given = command(cam_infer, "cam", "--class_idx", 0, "--input", home / "data/testA")
    assert {name: given[name] for name in explained} == explained
    for number in range(2):
        place = tmp_path / f"measured {number}"
        flags = ["--checkpoint", home / "cam", "--dataroot", home / "data", "--results_dir", place, "--num_threads", 0]
        run = inference_options((MeasuredInference, Evaluation), list(map(str, flags)), "evaluate.py")
        torch.manual_seed(number)
        found = Bench(run, torch.device("cpu")).translated(run)
        files = {file.name: file.read_bytes() for file in place.rglob("fake_B/*.png")}
        assert files == translated
        assert found.maps is not None
        image = found.source.read(0)[None]
        assert torch.equal(found.maps.confidence(image, 1), found.maps.confidence(image, 1))


@pytest.mark.parametrize("run", ["cam", "norm"])
@pytest.mark.parametrize("flags", [(), ("--eval",)])
def test_explainers_explain_what_translating_writes(
    command: Main, monkeypatch: pytest.MonkeyPatch, run: str, flags: tuple[str, ...]
) -> None:
    views, pictures = GeneratorExplainer.views, dict[str, np.ndarray]()

    def watched(self: GeneratorExplainer, source: Input) -> Iterator[Explained]:
        for seen in views(self, source):
            if seen.side == "output":
                pictures[source.file.name] = seen.picture
            yield seen

    monkeypatch.setattr(GeneratorExplainer, "views", watched)
    explain = ("--explain", "head", "--explain_with", "gradcam", "--class_idx", 0, *flags)
    explained, translated = command(cam_infer, run, *explain), command(entry_test, run, *flags)
    assert sorted(pictures) == sorted(translated)
    for name, content in translated.items():
        written = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert written is not None
        assert np.array_equal(written[:, :, ::-1], pictures[name])
    alone = command(cam_infer, run, *explain, "--index", 3)
    assert alone == {name: explained[name] for name in alone}, "images explained before change nothing"


def test_other_draws_are_not_shifted(home: Path) -> None:
    model = load_run(home / "p2p")
    model.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with drawing(model, [noise_key(0, "a.png")]):
        one = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with drawing(model, [noise_key(0, "a.png")]):
        assert torch.equal(torch.rand(2), one)
    with drawing(model, [noise_key(0, "b.png")]):
        assert not torch.equal(torch.rand(2), one)
    assert noise_key(0, Path("a.png")) == noise_key(0, "a.png")
    assert noise_key(0, Path("\udcff.png")) != noise_key(0, "a.png")
