"""cam_infer.py over several epochs: the same results as one by one, and grids made of them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from options.groups import Explanation, Inference
from options.parse import inference_options
from scripts.epochs import epochs_of, exported
from scripts.explaining.grid import KINDS, fitted
from tests.commands import Outcome, run
from tests.conftest import TINY, make_data
from util.errors import UserError
from util.visual.grid import panel

NAMES = [f"{number:02d}.png" for number in range(5)]
MINUTE = re.compile(rb"\d\d \w{3} \d{4} \d\d:\d\d")  # when a page was made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with a testA, and a run of two epochs: weights 1, 2 and latest, which are those of 2."""
    home = tmp_path_factory.mktemp("epochs")
    data = make_data(home / "data", labelled=(0, 1, 2, 3))
    (data / "testA").mkdir()
    for name in NAMES:
        (data / "testA" / name).write_bytes((data / "trainA" / name).read_bytes())
    flags = ["--model", "cutcam", "--num_classes", 4, "--n_epochs", 2, "--n_epochs_decay", 0, "--save_epoch_freq", 1]
    outcome = run("train", ["--dataroot", "data", "--name", "run", *TINY, *flags], home)
    assert outcome.status == 0, outcome.err
    return home


def explain(home: Path, results: str, *flags: object) -> Outcome:
    words = ["--dataroot", "data", "--name", "run", "--gpu_ids", "-1", "--results_dir", results]
    return run("cam_infer", [*words, *flags], home)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): MINUTE.sub(b"", file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image[:, :, ::-1]


def enlarged(image: np.ndarray) -> np.ndarray:
    """40 x 44 pixels three times as large: the smallest whole factor that makes 128 of them."""
    return np.kron(image, np.ones((3, 3, 1), np.uint8))


@pytest.mark.slow
def test_several_epochs_write_what_each_writes_alone_and_grids_of_it(home: Path) -> None:
    assert explain(home, "all", "--epochs", "2,1", "--grid", "--grid_images", 2, "--save_raw").status == 0
    for epoch in ("1", "2"):
        assert explain(home, f"alone{epoch}", "--epoch", epoch, "--save_raw").status == 0
        assert contents(home / "all/run" / epoch) == contents(home / f"alone{epoch}/run" / epoch)
        assert [path.name for path in (home / f"alone{epoch}/run").iterdir()] == [epoch]
    folder = home / "all/run/epochs"
    written = {f"{kind}.{suffix}" for kind in ("overlay_input", "overlay_output", "fake") for suffix in ("png", "pdf")}
    assert {path.name for path in folder.iterdir()} == {*written, "index.html"}
    for kind in KINDS:
        cells = [
            [enlarged(picture(home / "data/testA" / name))]
            + [enlarged(picture(home / f"all/run/{epoch}/{Path(name).stem}_{kind}.png")) for epoch in (1, 2)]
            for name in ("00.png", "04.png")  # two of five, evenly spaced
        ]
        expected = panel(cells, ["input", "epoch 1", "epoch 2"], ["00.png", "04.png"])
        np.testing.assert_array_equal(picture(folder / f"{kind}.png"), expected)
        assert (folder / f"{kind}.pdf").read_bytes()[:4] == b"%PDF"
        assert not np.array_equal(cells[0][1], cells[0][2]), "the epochs differ"
    page = (folder / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(KINDS)
    assert page.count("src=") == len(KINDS), "nothing from outside"
    assert "2 images, epochs 2, 1" in page
    assert "the class that the head sees in it" in page


@pytest.mark.slow
def test_a_grid_without_epochs_is_of_all_that_were_exported(home: Path) -> None:
    outcome = explain(home, "grid", "--grid", "--num_test", 1, "--class_idx", 3)
    assert outcome.status == 0, outcome.err
    assert {path.name for path in (home / "grid/run").iterdir()} == {"1", "2", "epochs"}
    assert "1 image by 2 epochs" in outcome.out
    assert "Explained is class 3." in (home / "grid/run/epochs/index.html").read_text()


@pytest.mark.slow
def test_an_epoch_without_weights_is_refused_before_any_work(home: Path) -> None:
    outcome = explain(home, "none", "--epochs", "1,7")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "error: --epochs 7: checkpoints/run has no weights of it; there are 1, 2, latest\n"
    assert not (home / "none").exists()


@pytest.mark.slow
def test_all_epochs_are_in_order_and_latest_only_where_it_is_new(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    options = inference_options((Inference, Explanation), ["--dataroot", "data", "--name", "run", "--epoch", "1"])
    assert epochs_of(options, ()) == ["1"]
    assert epochs_of(options, ("2", "latest", "2"), every=True) == ["2", "latest"]
    assert epochs_of(options, (), every=True) == ["1", "2"]
    files = [home / f"checkpoints/run/{epoch}_net_G.pth" for epoch in ("10", "iter_900", "iter_1000", "latest")]
    before = files[-1].read_bytes()
    try:
        for file in files:
            file.write_bytes(file.name.encode())
        every = ["1", "2", "10", "iter_900", "iter_1000", "latest"]
        assert exported(options.folder) == every
        assert epochs_of(options, (), every=True) == every
    finally:
        for file in files[:-1]:
            file.unlink()
        files[-1].write_bytes(before)
    with pytest.raises(UserError, match="there are 1, 2, latest"):
        epochs_of(options, ("10",))


def test_pictures_of_a_grid_are_neither_too_small_nor_too_large() -> None:
    small = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fitted(small), np.kron(small, np.ones((7, 7, 1), np.uint8)))
    stripes = np.tile(np.array([[[0], [100]]], np.uint8), (600, 150, 3))  # columns of 0 and 100
    large = fitted(stripes)
    assert large.shape == (256, 128, 3)
    assert abs(float(large.mean()) - 50) < 1
    fits = np.zeros((256, 3, 3), np.uint8)
    np.testing.assert_array_equal(fitted(fits), fits)
