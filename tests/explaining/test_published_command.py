"""scripts/cam.py: the published ResNetCAM project's flags, checkpoints and names of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision

from data.imagenette import IMAGENETTE
from scripts import cam
from tests.conftest import picture
from util.errors import UserError

CONFIG = """
model: {{name: {arch}, input_shape: [3, 64, 64], num_classes: {classes}, residual: true}}
training: {{num_epochs: 1, batch_size: 4, checkpoint_dir: runs/, log_every: 1}}
dataset: {{name: imagenette, data_dir: data/, img_size: 64, val_size: 4}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Imagenette's folders with one image a class, the configuration, and a published checkpoint.

    Its network always answers class 6: the seventh folder, garbage truck.
    """
    for number, code in enumerate(IMAGENETTE):
        for split in ("train", "val"):
            (tmp_path / "data" / split / code).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "data" / split / code / f"{number}.JPEG"), picture(number, 0, (40, 60), 3))
    (tmp_path / "cam_config.yaml").write_text(CONFIG.format(arch="resnet_cam", classes=10))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(weights=None, num_classes=10)
    with torch.no_grad():
        net.fc.bias[6] = 50.0
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 1, "model_state_dict": state, "loss": 0.1}, tmp_path / "resnet_cam.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_published_checkpoints_draw_published_files_with_right_names(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published project called class 6 a golf ball, and 8 and 9 by each other's names, for --image."""
    before = (home / "cam_config.yaml").read_bytes()
    assert cam.main(["--model", "resnet_cam.pth", "--image", "data/val/n03425413/7.JPEG"]) == 0
    assert cam.main(["--model", "resnet_cam.pth", "--random", "2"]) == 0
    assert cam.main(["--model", "resnet_cam.pth", "--index", "3", "--class_idx", "8", "--output_dir", "other"]) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (home / "cam_results").iterdir()} == {
        "cam_7.JPEG",
        "random_cam_0.png",
        "random_cam_1.png",
    }
    assert [path.name for path in (home / "other").iterdir()] == ["index_3_cam.png"]
    assert "122 tensors loaded" in out
    assert out.count("predicted garbage truck (6)") == 4
    assert "actual class gas pump (7)" in out
    assert "index 3, n03000684/3.JPEG: predicted garbage truck (6)" in out
    assert "actual class chain saw (3), explained golf ball (8)" in out
    assert "2 images explained" in out
    for file in (home / "cam_results").iterdir():
        panels = cv2.imread(str(file))
        assert panels is not None
        assert panels.shape[1] > 2 * panels.shape[0], "three panels"
        assert file.read_bytes()[:2] == (b"\xff\xd8" if file.suffix == ".JPEG" else b"\x89P")
    assert (home / "cam_config.yaml").read_bytes() == before
    assert not (home / "runs").exists()


def test_an_image_far_from_any_data_set_is_named_by_the_published_order(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(home / "data/val/n03425413/7.JPEG", home / "photo.jpg")
    shutil.rmtree(home / "data")
    assert cam.main(["--model", "resnet_cam.pth", "--image", "photo.jpg"]) == 0
    assert "photo.jpg: predicted garbage truck (6)" in capsys.readouterr().out


def test_random_images_are_the_same_every_time(home: Path) -> None:
    for folder in ("one", "two"):
        assert cam.main(["--model", "resnet_cam.pth", "--random", "3", "--output_dir", folder]) == 0
    for number in range(3):
        first, second = (cv2.imread(str(home / folder / f"random_cam_{number}.png")) for folder in ("one", "two"))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "nothing to do"),
        ("--model nosuch.pth --index 0", r"nosuch\.pth"),
        ("--model resnet_cam.pth --index 500", "--index 500: --phase val has 10 images, 0 to 9"),
        ("--model resnet_cam.pth --index 0 --class_idx 77", "--class_idx 77: the network has the classes 0 to 9"),
        ("--model resnet_cam.pth --image nosuch.png", "--image nosuch.png: no such file or folder"),
        ("--index 0", "--model: runs/resnet_cam_imagenette holds no trained run; give --train"),
        ("--index 0 --dataset test", "--dataset"),
        ("--config nosuch.yaml --train", r"nosuch\.yaml"),
    ],
)
def test_a_mistake_is_one_line(home: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        cam.main(flags.split())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_training_and_drawing_in_one_call(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "cam_config.yaml").write_text(CONFIG.format(arch="judge", classes=10))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    assert cam.main(["--train", "--index", "1", "--dataset", "train"]) == 0
    assert (home / "runs/judge_imagenette/latest_net_C.pth").is_file()
    assert (home / "cam_results/index_1_cam.png").is_file()
    assert "actual class English springer (1)" in capfd.readouterr().out
    assert cam.main(["--model", "runs/judge_imagenette", "--image", "data/val/n03425413/7.JPEG"]) == 0
    assert (home / "cam_results/cam_7.JPEG").is_file()
