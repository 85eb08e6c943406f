"""A classifier for localisation, trained on split files, is explained on the images that they name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts import explainers_table
from tests.commands import run
from tests.wsol_folder import write_cub


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `CUB` and the run `std` on it."""
    home = tmp_path_factory.mktemp("birds")
    write_cub(home / "CUB")
    sizes = ("--load_size", 20, "--crop_size", 16, "--batch_size", 2, "--num_threads", 0, "--max_iters", 2)
    silent = ("--gpu_ids", "-1", "--display_id", 0, "--no_html")
    words = ("--model", "std_cl", "--arch", "judge", "--dataroot", "CUB", "--name", "std", *sizes, *silent)
    outcome = run("train", [*words], home)
    assert outcome.status == 0, outcome.err
    return home


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        (("--num_test", 9), ["test_0.jpg", "test_1.jpg"]),
        (("--index", 3, "--split", "val"), ["val_3.jpg"]),
        (("--index", 5, "--split", "train"), ["train_5.jpg"]),
    ],
)
def test_images_are_those_of_the_split_files(
    birds: Path, tmp_path: Path, flags: tuple[object, ...], files: list[str]
) -> None:
    words = ("--name", "std", "--results_dir", tmp_path, "--gpu_ids", "-1", "--cam_method", "gradcam,layercam")
    outcome = run("cam_infer", [*words, *flags], birds)
    assert outcome.status == 0, outcome.err
    written = json.loads((tmp_path / "std/latest/manifest.json").read_text())
    assert [Path(image["file"]).name for image in written["images"]] == files


def test_the_table_of_explainers_reads_them_too(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--name", "std", "--methods", "gradcam", "--num_test", 2, "--gpu_ids", "-1", "--output", tmp_path / "t.md")
    monkeypatch.chdir(birds)
    monkeypatch.setattr(sys, "argv", ["explainers_table.py", *map(str, words)])
    assert explainers_table.main() == 0, capsys.readouterr().err
    assert "\ngradcam " in (tmp_path / "t.md").read_text()
