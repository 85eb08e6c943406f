"""At which size images are translated: that of the training's --preprocess, which is said, or their own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import cam_infer
import test as entry_test
from data.decoders import read_raw
from models import load_run
from models.pictures import PictureReader
from options.groups import Inference
from options.parse import inference_options
from tests.conftest import picture
from tests.runs import CUTCAM, make_run
from util.errors import exit_code

Main = Callable[..., tuple[int, str, str]]
SIZE = (100, 136)
SAID = "images of 100 x 136 are translated at 64 x 64 (height x width), as the run was trained with --preprocess "
REMEDY = "; --preprocess none translates them at their own size"


@pytest.fixture(scope="module")
def resized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ("--preprocess", "resize_and_crop", "--load_size", "72", "--crop_size", "64")
    return make_run(tmp_path_factory.mktemp("ck") / "resized", *CUTCAM, *words)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose testA holds two images, larger than --crop_size."""
    folder = tmp_path_factory.mktemp("data") / "testA"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number, 0, SIZE, 3))
    return folder.parent


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """`command(module, *words)` -> status, stdout, stderr, in this process."""

    def go(module: object, *words: object) -> tuple[int, str, str]:
        words = (*words, "--gpu_ids", "-1", "--num_threads", 0)
        monkeypatch.setattr(sys, "argv", ["x.py", *map(str, words)])
        status = exit_code(module.main)  # type: ignore[attr-defined]
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return go


def apart(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> float:
    """The largest difference, in counts."""
    return float(abs(one.astype(int) - two.astype(int)).max())


def test_a_split_goes_as_it_was_trained_and_says_so_once(resized: Path, images: Path, command: Main) -> None:
    place = images / "results"
    words = ["--checkpoint", resized, "--dataroot", images, "--results_dir", place, "--class_idx", 0]
    for module, given in ((entry_test, words[:-2]), (cam_infer, words)):
        status, _, err = command(module, *given)
        assert status == 0, err
        assert err.count(f"{SAID}resize_and_crop{REMEDY}") == 1
        assert "images of" not in command(module, *given, "--preprocess", "none")[2]
    _, _, err = command(cam_infer, *words, "--cam_method", "gradcam", "--image", images / "testA/0.png")
    assert SAID in err
    _, _, err = command(entry_test, *words[:-2], "--preprocess", "resize")
    assert "translated at 72 x 72 (height x width), by --preprocess resize;" in err


def test_what_was_not_translated_and_what_an_earlier_command_left_is_said(
    resized: Path, images: Path, command: Main, tmp_path: Path
) -> None:
    other = tmp_path / "D" / "testA"
    other.mkdir(parents=True)
    for number in range(4, 7):
        cv2.imwrite(str(other / f"{number}.png"), picture(number, 0, SIZE, 3))
    for module, kinds in ((entry_test, 2), (cam_infer, 5)):
        words = ["--checkpoint", resized, "--results_dir", tmp_path / module.__name__]
        words += ["--class_idx", 0] if module is cam_infer else []
        _, out, _ = command(module, *words, "--dataroot", images)
        assert "2 images translated" in out
        assert "earlier" not in out
        _, out, _ = command(module, *words, "--dataroot", other.parent, "--num_test", 2)
        assert "2 of 3 images translated" in out
        assert "(--num_test 2)" in out
        assert f"{2 * kinds} pictures of other inputs, which an earlier command has left, are still in" in out


def test_tiles_ask_for_the_own_size(resized: Path, images: Path, command: Main, tmp_path: Path) -> None:
    """For one picture, the way users saw its detail go: with --tile it came out squeezed, and nothing was said."""
    words = ["--checkpoint", resized, "--input", images / "testA/0.png", "--output"]
    said = {}
    for name, more in (("plain", []), ("own", ["--preprocess", "none"]), ("tiles", ["--tile", 64])):
        status, _, said[name] = command(entry_test, *words, tmp_path / name, *more)
        assert status == 0, said[name]
    plain, own, tiles = (read_raw(tmp_path / name / "0.png") for name in said)
    assert SAID in said["plain"]
    assert said["tiles"] == (
        "images go at their own size, for --tile (--preprocess none), not brought to 64 x 64 (height x width) by "
        "--preprocess resize_and_crop\n"
    )
    assert "images of" not in said["own"] + said["tiles"]
    assert apart(own, tiles) <= 1
    assert apart(own, plain) > 5
    status, _, err = command(entry_test, *words, tmp_path / "x", "--tile", 64, "--preprocess", "resize_and_crop")
    assert (status, err.count("\n")) == (2, 1)
    assert "--tile 64: is for images at their own size, and --preprocess resize_and_crop brings them to 64 x 64" in err
    assert "leave one of them out" in err


def test_tiles_change_nothing_where_sizes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "kept", *CUTCAM, "--preprocess", "scale_shortside_and_crop")
    words = ["--checkpoint", str(run), "--tile", "64"]
    assert inference_options((Inference,), words).data.preprocess == "scale_shortside_and_crop"
    assert capsys.readouterr().err == ""


def test_load_run_gives_what_test_py_gives(resized: Path, images: Path, command: Main, tmp_path: Path) -> None:
    file = images / "testA/0.png"
    for name, more in (("plain", []), ("own", ["--preprocess", "none"])):
        assert command(entry_test, "--checkpoint", resized, "--input", file, "--output", tmp_path / name, *more)[0] == 0
    plain, own = (read_raw(tmp_path / name / "0.png") for name in ("plain", "own"))
    model = load_run(resized)
    with pytest.warns(UserWarning, match='64 x 64 .*resize, and back.*preprocess="none"') as caught:
        assert apart(model.translate(file), plain) <= 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="pictures are brought to 64 x 64"):
        assert apart(model.translate(file, explain=True)[0], plain) <= 1
    assert isinstance(model.pictures, PictureReader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert apart(load_run(resized, preprocess="none").translate(file), own) <= 1
        model.in_tiles(64)  # as --tile
        assert apart(model.translate(file), own) <= 1
        model.in_tiles(128)
        assert apart(model.translate(file, explain=True)[0], own) <= 1
    model.in_tiles(0)
    with pytest.warns(UserWarning, match="pictures are brought to 64 x 64"):
        assert apart(model.translate(file), plain) <= 1
