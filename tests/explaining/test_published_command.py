"""scripts/cam.py: the published ResNetCAM project's flags, checkpoints and names of files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision

from data import imagenette
from data.imagenette import FOLDERS, IMAGENETTE
from models.classifier_model import ClassifierOptions
from options.parse import train_options
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


def test_training_does_not_take_a_trained_model(home: Path) -> None:
    with pytest.raises(UserError, match=r"^--model resnet_cam\.pth: --train makes new weights; leave out one of them"):
        cam.main(["--train", "--model", "resnet_cam.pth"])
    assert not (home / "runs").exists()


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


def test_another_seed_draws_other_images(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = []
    for seed in ("0", "1"):
        words = ["--random", "3", "--output_dir", seed, "--seed", seed, "--gpu_ids", "-1"]
        assert cam.main(["--model", "resnet_cam.pth", *words]) == 0
        drawn.append([line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "index" in line])
    assert len(drawn[0]) == len(drawn[1]) == 3
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "nothing to do"),
        ("--model nosuch.pth --index 0", r"nosuch\.pth"),
        ("--model resnet_cam.pth --index 500", "--index 500: --dataset val has 10 images, 0 to 9"),
        ("--model resnet_cam.pth --index 0 --class_idx 77", "--class_idx 77: the network has the classes 0 to 9"),
        ("--model resnet_cam.pth --image nosuch.png", "--image nosuch.png: no such file or folder"),
        ("--index 0", "--model: runs/resnet_cam_imagenette holds no trained run; give --train"),
        ("--index 0 --dataset test", "--dataset"),
        ("--config nosuch.yaml --train", r"nosuch\.yaml"),
        ("--index 0 --pretrained", "^--pretrained: a flag of train.py, which goes with --train$"),
        ("--index 0 --clas_idx 3", r"--clas_idx: no such flag \(did you mean --class_idx\?\); --help lists them"),
        ("photo.jpg", "photo.jpg: belongs to no flag"),
        ("--train --pretraind", r"--pretraind: no such flag \(did you mean --pretrained\?\)"),
    ],
)
def test_a_mistake_is_one_line(home: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        cam.main(flags.split())
    assert "\n" not in str(caught.value)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be trained, a command each."""
    found: list[list[str]] = []

    def keep(flags: Sequence[str]) -> int:
        found.append(list(flags))
        return 0

    monkeypatch.setattr(cam, "_train", keep)
    return found


@pytest.mark.usefixtures("home")
def test_flags_of_train_py_go_on_to_the_training(commands: list[list[str]]) -> None:
    """They are what its messages recommend."""
    more = ["--pretrained", "--name", "other", "--n_epochs", "2", "--load_size", "70", "70"]
    assert cam.main(["--lr", "0.5", "--train", *more, "--download", "--on_bad_image", "skip"]) == 0
    (flags,) = commands
    run = train_options(flags)
    assert isinstance(run.model, ClassifierOptions)
    assert (run.model.pretrained, run.model.download, run.model.arch) == (True, True, "resnet18")
    assert (run.experiment.name, run.optim.lr, run.schedule.n_epochs) == ("other", 0.5, 2)
    assert (run.data.load_size, run.data.on_bad_image, run.data.dataroot) == ((70, 70), "skip", "data/")


def test_notes_on_the_configuration_belong_to_training(
    home: Path, commands: list[list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cam.main(["--train"]) == 0
    assert cam.main(["--model", "resnet_cam.pth", "--index", "0"]) == 0
    assert capfd.readouterr().err == ""  # of the process that has only looked at the flags, and of drawing
    train_options(commands[0])
    said = capfd.readouterr().err
    assert said.count("model.residual: has no meaning here") == said.count("add --pretrained") == 1
    train_options([*commands[0], "--pretrained"])
    assert "add --pretrained" not in capfd.readouterr().err


def test_images_that_are_missing_or_bad_have_a_flag_that_is_recommended(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "data").rename(home / "kept")
    look = ["--model", "resnet_cam.pth", "--index", "0"]
    with pytest.raises(UserError, match="for Imagenette add --download"):
        cam.main(look)
    monkeypatch.setattr(imagenette, "_fetch", lambda root: shutil.copytree(home / "kept", root / FOLDERS[0]))
    assert cam.main([*look, "--download"]) == 0
    assert cam.main([*look, "--dataroot", "kept"]) == 0
    (home / "photos").mkdir()
    shutil.copy(home / "kept/val/n03425413/7.JPEG", home / "photos/7.JPEG")
    (home / "photos/8.JPEG").write_bytes(b"none")
    with pytest.raises(UserError, match="--on_bad_image skip goes on without it"):
        cam.main([*look[:2], "--image", "photos"])
    capsys.readouterr()
    assert cam.main([*look[:2], "--image", "photos", "--on_bad_image", "skip"]) == 0
    assert "7.JPEG: predicted garbage truck" in capsys.readouterr().out


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
    capfd.readouterr()
    assert cam.main(["--train"]) == 2
    assert "add --continue_train to continue it, choose another --name" in capfd.readouterr().err
    assert cam.main(["--train", "--continue_train", "--n_epochs", "2"]) == 0
    assert cam.main(["--train", "--name", "other", "--index", "0", "--output_dir", "more"]) == 0
    assert (home / "runs/other/latest_net_C.pth").is_file()
    said = capfd.readouterr().err
    assert said.count("model.residual: has no meaning here") == 2, "once for each training"
    (home / "data").rename(home / "kept")
    look = ["--model", "runs/other", "--index", "0", "--output_dir", "again", "--on_bad_image", "skip"]
    assert cam.main([*look, "--dataroot", "kept", "--download"]) == 0, "no flag of its network's"
