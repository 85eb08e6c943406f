"""`scripts/evaluate.py` in miniature: what it writes, what it agrees with, and what it says when something lacks."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from data.images import DomainFormat, Window, decode
from scripts import evaluate
from tests.conftest import make_data
from util.errors import UserError
from util.evaluations import read_evaluations, read_features

if TYPE_CHECKING:
    from tests.conftest import Trained

RUN = (
    *("--model", "cutcam", "--num_classes", 4, "--lambda_IDT", 1, "--cam_weight_adv", "--n_epochs", 2),
    *("--n_epochs_decay", 0, "--save_epoch_freq", 1, "--cls_start_epoch", 0, "--cam_start_epoch", 0),
)
EIGHT_BITS = DomainFormat(Window(0.0, 255.0), "uint8")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test folders, labels of all, pairs and boxes of the test images."""
    root = tmp_path_factory.mktemp("images")
    make_data(root, count=(16, 16))
    rows = (root / "labels.csv").read_text()
    for side in "AB":
        (root / f"train{side}").rename(root / f"test{side}")
    tests = rows.replace("train", "test").splitlines()[1:]
    (root / "labels.csv").unlink()
    make_data(root, count=(16, 16))
    with (root / "labels.csv").open("a") as stream:
        stream.write("\n".join(tests) + "\n")
    names = [f"{number:02d}.png" for number in range(16)]
    (root / "pairs_test.csv").write_text("A,B\n" + "".join(f"testA/{n},testB/{n}\n" for n in names))
    (root / "boxes.csv").write_text("file,x0,y0,x1,y1\n" + "".join(f"testA/{n},10,10,30,30\n" for n in names))
    return root


def run_script(monkeypatch: pytest.MonkeyPatch, run: Path, data: Path, *flags: object) -> int:
    words = ["--dataroot", data, "--checkpoints_dir", run.parent, "--name", run.name, "--gpu_ids", "-1", "--quiet"]
    words += ["--results_dir", run.parent / "results", *flags]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    monkeypatch.setenv("TORCH_HOME", str(run.parent / "no weights"))
    return evaluate.main()


def read(run: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "evaluations" / name).read_text())
    return content


@pytest.mark.slow
def test_everything_that_can_be_measured_is(
    train_run: Trained, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run("run", images, *RUN)
    assert run_script(monkeypatch, run, images, "--epochs", "1,2,latest", "--report_images", 4) == 0
    said = capsys.readouterr().out
    found = read(run, "test_2.json")
    metrics = found["metrics"]
    named = {"fid", "kid", "isc", "precision", "density", "coverage", "ssim", "ssim_input", "psnr", "cc", "flip_rate"}
    named |= {"acc_fake_real_judge", "acc_train_fake", "acc_train_real", "CAM_corr_gain", "CAM_energy", "box_area"}
    named |= {"CAM_pointing_random", "deletion", "insertion_random", "CAM_corr_random_head"}
    assert {name for name in named if metrics[name]["value"] is None} == set()
    assert "at least 176 pixels" in metrics["ms_ssim"]["note"]
    assert "alexnet" in metrics["lpips"]["note"]
    assert "needs a segmenter (--segmenter" in metrics["segmentation"]["note"]
    assert metrics["box_area"]["value"] == pytest.approx(400 / (40 * 44))
    assert "classifier trained on trainB" in metrics["fid"]["kind"]
    assert (found["step"], found["epoch"], found["seed"]) == (32, "2", 0)
    assert found["options"]["lambda_IDT"] == 1
    assert found["data"]["source"]["count"] == 16
    assert len(found["per_image"]["file"]) == len(found["per_image"]["CAM_corr"]) == 16
    assert sum(map(sum, found["tables"]["flips"]["counts"])) == 16
    # An independent look at one translation that lies on the disk.
    fake = decode(run.parent / "results" / "run" / "test_2" / "images" / "fake_B" / "03.png", 3, EIGHT_BITS)
    real = decode(images / "testB" / "03.png", 3, EIGHT_BITS)
    value = float(structural_similarity_index_measure(fake[None], real[None], data_range=1.0))  # type: ignore[arg-type]
    assert found["per_image"]["ssim"][3] == pytest.approx(value, abs=1e-6)
    # The protocol, and what other tools read.
    evaluations = read_evaluations(run, "test")
    assert [one.epoch for one in evaluations] == ["1", "2"]  # latest is epoch 2
    kept = read_features(evaluations[-1])
    assert kept is not None
    assert np.isfinite(kept.fake).all()
    assert "mean of 1, 2" in said
    assert "translate " in said
    folder = run / "evaluations" / "test_2"
    page = (folder / "report.html").read_text()
    assert "data:image" in page
    assert not re.search(r"""(src|href)=["']?(http|file|//)""", page)
    for figure in ("examples", "intensities", "features", "t-sne", "semantic_flips"):
        with Image.open(folder / f"{figure}.png") as picture:
            assert min(picture.size) > 100
        assert (folder / f"{figure}.pdf").read_bytes()[:4] == b"%PDF"


@pytest.mark.slow
def test_a_run_without_labels_head_or_target(
    train_run: Trained, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "plain", count=(5, 4), labelled=())
    (data / "labels.csv").unlink()
    (data / "trainA").rename(data / "testA")
    make_data(tmp_path / "train", count=(5, 4), labelled=())
    for side in "AB":
        if not (data / f"train{side}").exists():
            (tmp_path / "train" / f"train{side}").rename(data / f"train{side}")
    run = train_run("cut", data, "--model", "cut", "--n_epochs", 1, "--n_epochs_decay", 0)
    assert run_script(monkeypatch, run, data) == 0
    metrics = read(run, "test_latest.json")["metrics"]
    assert metrics["ssim_input"]["value"] is not None
    assert metrics["fid"]["note"] == "needs images of the target in this split and a feature network (--features)"
    assert "a class head" in metrics["cam_consistency"]["note"]
    assert "needs labels of the training images" in metrics["semantics"]["note"]


REFUSED: tuple[tuple[tuple[object, ...], str], ...] = (
    (("--metrics", "fdi"), r"--metrics fdi: unknown \(did you mean 'fid'\?\)"),
    (("--epochs", "7"), r"--epochs 7: .* has no weights of it; there are latest"),
    (("--metrics", "lpips"), r"--metrics lpips: needs torchvision's AlexNet weights"),
    (("--metrics", "fid", "--features", "inception"), r"--inception_weights"),
    (("--metrics", "segmentation", "--segmenter", "nowhere:f"), r"--segmenter nowhere:f: .*give MODULE:FUNCTION"),
    (("--metrics", "psnr", "--pairs", "none.csv"), r"none\.csv: cannot be read as a table"),
    (("--metrics", "fid", "--classifier", "nowhere", "--features", "classifier"), r"nowhere"),
)


@pytest.mark.slow
def test_what_was_asked_for_and_cannot_be_done_is_an_error(
    train_run: Trained, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run("run", images, *RUN, "--max_iters", 3)
    for flags, words in REFUSED:
        with pytest.raises(UserError, match=words) as caught:
            run_script(monkeypatch, run, images, "--num_test", 2, *flags)
        assert "\n" not in str(caught.value)
