"""`scripts/evaluate.py` in miniature: what it writes, what it agrees with, and what it says when something lacks."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from data.images import DomainFormat, Window, decode
from scripts import evaluate
from scripts.evaluating.outlines import annotated
from scripts.evaluating.table import protocol_of
from tests.comparing.conftest import content, number, write
from tests.conftest import make_data, make_splits
from util.errors import UserError
from util.evaluations import read_evaluations, read_features
from util.metrics.base import Boxes, ImageSet, Material
from util.visual.boxes import class_colour

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
    make_splits(root, count=(16, 16))
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
    named = {"fid", "kid", "precision", "density", "coverage", "ssim", "ssim_input", "psnr", "cc", "flip_rate"}
    named |= {"acc_fake_real_judge", "acc_train_fake", "acc_train_real", "CAM_corr_gain", "CAM_energy", "box_area"}
    named |= {"CAM_pointing_random", "deletion", "insertion_random", "CAM_corr_random_head"}
    assert {name for name in named if metrics[name]["value"] is None} == set()
    assert "at least 176 pixels" in metrics["ms_ssim"]["note"]
    assert "too few images (16), at least 100 are needed" in metrics["isc"]["note"]
    assert "alexnet" in metrics["lpips"]["note"]
    assert "needs a segmenter (--segmenter" in metrics["segmentation"]["note"]
    assert metrics["box_area"]["value"] == pytest.approx(400 / (40 * 44))
    assert "classifier trained on trainB" in metrics["fid"]["kind"]
    assert (found["step"], found["epoch"], found["seed"]) == (32, "2", 0)
    assert found["options"]["lambda_IDT"] == 1
    assert {"command", "date", "python", "device"} <= set(found["made"])
    assert found["data"]["source"]["count"] == 16
    assert len(found["per_image"]["file"]) == len(found["per_image"]["CAM_corr"]) == 16
    assert sum(map(sum, found["tables"]["flips"]["counts"])) == 16
    assert found["per_image_better"]["class_kept"] == "higher"
    assert set(found["per_image_better"]) == set(found["per_image"]) - {"file", "label"}
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
    headings = re.findall(r'<th scope="col" class="value">([^<]*)</th>', page)
    assert headings[:4] == ["epoch 2", "last (2)", "mean of 1, 2", headings[3]]
    assert headings[3].startswith("best by kid (")
    assert '"annotated": [0, 1, 3, 4]' in page  # input, translation and their maps, but not the true target
    for figure in ("examples", "targets", "intensities", "features", "t-sne", "semantic_flips"):
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
    page = (run / "evaluations" / "test_latest" / "report.html").read_text()
    assert re.findall(r'<th scope="col" class="value">([^<]*)</th>', page)[:2] == ["epoch latest"] * 2
    assert "<fieldset hidden><legend>pictures</legend>" in page
    assert not (run / "evaluations" / "test_latest" / "targets.png").exists()


@pytest.fixture(scope="module")
def uneven(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with labels, in six sizes."""
    root = tmp_path_factory.mktemp("uneven") / "data"
    shutil.copytree(images, root)
    sizes = ((40, 44), (36, 60), (52, 48), (40, 64), (64, 40), (48, 48))
    for n, file in enumerate(sorted(root.glob("*/*.png"))):
        with Image.open(file) as picture:
            picture.resize(sizes[n % 6]).save(file)
    return root


@pytest.mark.slow
def test_labelled_images_of_unequal_sizes_are_judged_at_one_size(
    train_run: Trained, images: Path, uneven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run("run", uneven, *RUN, "--max_iters", 2)
    wanted = ("--metrics", "fid,semantics,transfer", "--judge_epochs", 2)
    assert run_script(monkeypatch, run, uneven, *wanted) == 0
    metrics = read(run, "test_latest.json")["metrics"]
    for name in ("acc_train_fake", "acc_train_source", "acc_train_real", "acc_fake_real_judge", "flip_rate", "fid"):
        assert metrics[name]["value"] is not None, name
        assert ", all resized to 32 x 32 (12 images, 4 classes)" in metrics[name]["kind"]
    assert run_script(monkeypatch, run, images, *wanted) == 0
    assert "resized" not in str(read(run, "test_latest.json")["metrics"]), "equal sizes are judged as they are"


@pytest.mark.slow
def test_what_needs_no_training_images_does_without_their_folders(
    train_run: Trained, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_run("run", images, *RUN, "--max_iters", 2)
    shutil.copytree(images / "testA", tmp_path / "bare" / "testA")
    assert run_script(monkeypatch, run, tmp_path / "bare", "--metrics", "cam_consistency") == 0
    assert read(run, "test_latest.json")["metrics"]["CAM_corr"]["value"] is not None
    assert run_script(monkeypatch, run, tmp_path / "bare") == 0
    metrics = read(run, "test_latest.json")["metrics"]
    assert metrics["CAM_corr"]["value"] is not None
    assert "needs images of the target in this split and training images of the source" in metrics["transfer"]["note"]
    assert "over 16 inputs" in metrics["deletion"]["note"]


def test_the_protocol_is_over_the_same_images_measured_in_the_same_way(tmp_path: Path) -> None:
    values = {"1": (9.0, "a"), "2": (2.0, "a"), "3": (4.0, "b"), "4": (1.0, "b")}
    for epoch, (fid, kind) in values.items():
        changes: dict[str, Any] = {"metrics": {"fid": number(fid, kind=kind), "acc": number(fid, "higher")}}
        if epoch == "1":
            changes["data"] = content("run")["data"] | {"source": {"count": 3, "digest": "cc"}}
        write(tmp_path, content("run", epoch=epoch, **changes))
    found = protocol_of(tmp_path / "run", "test", "4")
    assert list(found) == ["last (4)", "mean of 2, 3, 4", "best by fid (4)"]
    assert {name: value.value for name, value in found["mean of 2, 3, 4"].items()} == {"acc": pytest.approx(7 / 3)}
    assert found["last (4)"]["fid"].value == 1.0
    assert protocol_of(tmp_path / "run", "test", "1") == {}, "the only one on its images"


def outlined(boxes: Boxes | None, **more: Any) -> dict[str, np.ndarray]:
    """What is drawn into grey pictures of 8 x 6 pixels under every heading, translations being black."""
    image = ImageSet("x", [Path("x")], lambda number: torch.zeros(1, 8, 6), [0])
    headings = ("input", "translation", "target", "CAM of input", "translation - input")
    drawn = annotated(
        Material(image, image, boxes=boxes, **more), 0, {name: np.full((8, 6, 3), 50, np.uint8) for name in headings}
    )
    return dict(drawn)


def test_the_target_is_outlined_where_it_is_known() -> None:
    box = outlined(Boxes([[(2.0, 3.0, 4.0, 5.0)]], [None]))
    assert list(box) == ["input", "translation", "CAM of input"]
    around = np.zeros((8, 6), np.bool_)
    around[2:6, 1:5] = True
    around[3:5, 2:4] = False
    for heading, colour in (("input", class_colour(0)), ("translation", class_colour(0)), ("CAM of input", (255,) * 3)):
        np.testing.assert_array_equal(box[heading], np.where(around[..., None], colour, 50))
    mask = np.zeros((8, 6), np.bool_)
    mask[6, 2] = True
    both = outlined(Boxes([[(2.0, 3.0, 4.0, 5.0)]], [mask]))
    assert both["input"][5, 2].tolist() == list(class_colour(0)), "the mask, ..."
    assert both["input"][2, 2].tolist() == [50] * 3, "... which the measures go by, instead of the box"
    assert outlined(None) == outlined(Boxes([[]], [None])) == outlined(Boxes([[]], [mask.T])) == {}


def test_what_the_segmenter_sees_is_outlined_in_the_translation() -> None:
    def corner(images: torch.Tensor) -> torch.Tensor:
        seen = torch.zeros(1, 8, 6, dtype=torch.bool)
        seen[0, 0, 0] = bool((images == 0).all())
        return seen

    drawn = outlined(None, segmenter=corner)
    assert list(drawn) == ["translation"]
    assert drawn["translation"][0, 1].tolist() == list(class_colour(1))
    assert drawn["translation"][0, 0].tolist() == [50] * 3
    with pytest.raises(UserError, match=r"--segmenter: gave \(8, 6\) for an image of \(1, 1, 8, 6\)"):
        outlined(None, segmenter=lambda images: images[0, 0] > 0)


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
