"""Results may not lie where inputs are read: the next command would translate what the last one has written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

import cam_infer
import test as entry_test
from scripts import evaluate
from tests.conftest import picture
from tests.runs import CUTCAM, make_run
from util.errors import exit_code

Main = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("ck") / "run", *CUTCAM)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root whose inputs are read from testA, test and odd, and a plain folder of pictures beside it."""
    for name in ("D/testA/a.png", "D/test/a.png", "D/oddA/a.png", "plain/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), picture(0, 0, (32, 40), 3))
    return tmp_path


@pytest.fixture
def command(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    def go(module: object, *words: object) -> tuple[int, str]:
        given = ["--checkpoint", folder, "--gpu_ids", "-1", "--num_threads", "0", *words]
        monkeypatch.setattr(sys, "argv", ["x.py", *map(str, given)])
        monkeypatch.chdir(root)
        status = exit_code(module.main)  # type: ignore[attr-defined]
        return status, capsys.readouterr().err

    return go


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("--input D/testA --output D/testA", "D/testA: is"),
        ("--input plain --output plain", "plain: is"),
        ("--input plain --output plain/out", "plain/out: lies in plain, which is"),
        ("--input plain --output ./plain/../D/testA/out --dataroot D", "lies in D/testA, which is"),
        ("--input D/testA/*.png --output D/testA/out", "/D/testA, which is"),
        ("--input D/testA/a.png --output D/testA", "D/testA: is"),
        ("--input D/test/a.png --output D/test --dataroot D", "D/test: is"),
        ("--input plain --output linked", "linked: is"),
        ("--dataroot D --results_dir D/testA/results", "results: lies in D/testA, which is"),
        ("--dataroot D --phase odd --results_dir D/oddA", "D/oddA: is"),
    ],
)
@pytest.mark.parametrize("module", [entry_test, cam_infer])
def test_a_folder_of_inputs_is_refused(command: Main, root: Path, module: object, words: str, place: str) -> None:
    (root / "linked").symlink_to("plain")
    before = sorted(root.rglob("*"))
    status, err = command(module, *words.split())
    assert (status, err.count("\n")) == (2, 1)
    assert place in err
    assert "a folder of inputs, and the next command would read the results there as such; give another folder" in err
    assert sorted(root.rglob("*")) == before


def test_an_evaluation_s_too(command: Main, root: Path) -> None:
    status, err = command(evaluate, "--dataroot", "D", "--results_dir", "D/testA")
    assert (status, err.count("\n")) == (2, 1)
    assert "--results_dir D/testA: is a folder of inputs" in err


def test_other_folders_are_free(command: Main, root: Path) -> None:
    for words in 2 * (
        "--input D/testA --output D/out",
        "--input plain --output .",
        "--input plain/a.png --output plain/out",
        "--input D/testA/*.png --output D/results/testA",
        "--dataroot D --results_dir D/results",
    ):
        status, err = command(entry_test, *words.split())
        assert status == 0, (words, err)
    assert (root / "D/results/testA/a.png").is_file()
