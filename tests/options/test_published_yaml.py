"""The published ResNetCAM project's configuration file: read unchanged, by a table, and never written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.classifier_model import ClassifierOptions
from options.parse import RunOptions, train_options
from options.published_yaml import KEYS, has_sections
from options.schema import OptionError, fields_of
from options.yaml_config import read_config, read_yaml

SHIPPED = Path(__file__).parents[2] / "datasets" / "cam_config.yaml"
# The published file, as its README prints it, without the comments.
PUBLISHED: dict[str, dict[str, Any]] = {
    "model": {"name": "resnet_cam", "input_shape": [3, 160, 160], "num_classes": 10, "residual": True},
    "training": {
        "learning_rate": 0.001,
        "batch_size": 64,
        "num_epochs": 50,
        "weight_decay": 0.0001,
        "checkpoint_dir": "checkpoints/",
        "log_every": 10,
        "save_every": 2,
        "early_stopping_patience": 5,
        "optimizer": "adam",
        "scheduler": "reduce_lr",
    },
    "dataset": {"name": "imagenette", "data_dir": "data/", "img_size": 160, "val_size": 1000},
}


def write(folder: Path, **changes: Any) -> Path:
    """The published file with some keys changed, `section__key=value`; a value of ... leaves the key out."""
    content = {name: dict(section) for name, section in PUBLISHED.items()}
    for where, value in changes.items():
        section, _, key = where.partition("__")
        if value is ...:
            del content[section][key]
        else:
            content.setdefault(section, {})[key] = value
    path = folder / "cam_config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def read(folder: Path, *flags: object, **changes: Any) -> RunOptions:
    return train_options(["--model", "classifier", "--config", str(write(folder, **changes)), *map(str, flags)])


def test_the_shipped_file_is_the_published_one() -> None:
    assert yaml.safe_load(SHIPPED.read_text()) == PUBLISHED


def test_every_key_has_its_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the published project num_classes, input_shape, log_every and val_size had none."""
    run = train_options(["--model", "classifier", "--config", str(SHIPPED)])
    assert isinstance(run.model, ClassifierOptions)
    assert (run.model.arch, run.model.num_classes, run.model.early_stopping_patience) == ("resnet18", 10, 5)
    assert (run.networks.input_nc, run.data.crop_size, run.data.load_size) == (3, (160, 160), (192, 192))
    assert (run.optim.lr, run.optim.weight_decay, run.optim.optimizer) == (0.001, 0.0001, "adam")
    assert (run.data.batch_size, run.schedule.last_epoch, run.log.save_epoch_freq) == (64, 50, 2)
    assert run.log.print_freq == 10 * 64  # batches there, images here
    schedule = run.schedule
    assert (schedule.lr_policy, schedule.plateau_factor, schedule.plateau_patience) == ("plateau", 0.5, 3)
    assert (schedule.plateau_min_lr, schedule.plateau_threshold) == (1e-6, 1e-4)
    assert (run.data.dataroot, run.data.dataset_mode, run.dataset.val_size) == ("data/", "classes", 1000)  # type: ignore[attr-defined]
    assert (run.experiment.checkpoints_dir, run.experiment.name) == ("checkpoints/", "resnet_cam_imagenette")
    assert run.model.label_smoothing == 0
    said = capsys.readouterr().err
    assert f"{SHIPPED}: model.residual: has no meaning here" in said
    assert "add --pretrained to begin with ImageNet's weights" in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"training__optimizer": "SGD"}, {"optimizer": "sgd", "momentum": 0.9}),
        ({"training__optimizer": "adamw"}, {"optimizer": "adamw"}),
        ({"training__scheduler": "cosine"}, {"lr_policy": "cosine"}),
        ({"training__scheduler": None}, {"lr_policy": "none"}),
        ({"training__learning_rate": "1e-4"}, {"lr": 1e-4}),  # YAML 1.1 takes 1e-4 for a text
        ({"model__name": "vgg16", "dataset__name": ...}, {"arch": "vgg16", "name": "vgg16"}),
        ({"model__input_shape": [1, 64, 96], "dataset__img_size": ...}, {"input_nc": 1, "crop_size": (64, 96)}),
        ({"dataset__img_size": 224}, {"crop_size": (224, 224), "load_size": (256, 256)}),
        ({"training__batch_size": ..., "training__log_every": 3}, {"print_freq": 192, "batch_size": 16}),
    ],
)
def test_changed_keys(tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    run = read(tmp_path, **changes)
    found = {
        name: getattr(group, name) for group in run.groups() for name in fields_of(type(group)) if name in expected
    }
    assert found == expected


def test_two_sizes_that_differ_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, dataset__img_size=224)
    assert (
        "dataset.img_size 224: is taken, and not the size in model.input_shape [3, 160, 160]" in capsys.readouterr().err
    )


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    run = read(tmp_path, "--lr", 0.5, "--n_epochs", 2, "--name", "mine", "--dataroot", "elsewhere")
    assert (run.optim.lr, run.schedule.last_epoch, run.experiment.name) == (0.5, 2, "mine")
    assert run.data.dataroot == "elsewhere"
    assert run.data.batch_size == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training__lerning_rate": 1},
            r"training\.lerning_rate: no such key \(did you mean learning_rate\?\); training knows learning_rate, b",
        ),
        (
            {"model__num_epochs": 1},
            r"model\.num_epochs: no such key; model knows name, input_shape, num_classes, resid",
        ),
        ({"optim__lr": 1}, r"optim: no section; there are model, training, dataset$"),
        ({"training__optimizer": "lion"}, r"training\.optimizer lion: choose one of adam, adamw, sgd$"),
        ({"training__scheduler": "step"}, r"training\.scheduler step: choose one of reduce_lr, cosine, none$"),
        ({"training__learning_rate": [1, 2]}, r"training\.learning_rate \[1, 2\]: expected one value$"),
        ({"training__learning_rate": "fast"}, r"--lr fast: expected a number$"),
        ({"training__num_epochs": None}, r"training\.num_epochs None: expected one value$"),
        ({"training__log_every": "often"}, r"training\.log_every often: expected a whole number of batches$"),
        ({"model__input_shape": [160, 160]}, r"model\.input_shape \[160, 160\]: expected \[channels, height, width\]$"),
        ({"dataset__img_size": "160px"}, r"dataset\.img_size 160px: expected a whole number of pixels$"),
        ({"dataset__name": "mnist"}, r"dataset\.name mnist: is not known; for class folders of your own leave the lin"),
        ({"dataset__val_size": -1}, r"--val_size -1: must be at least 0$"),
    ],
)
def test_a_mistake_names_the_file_the_key_and_the_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=rf"^{tmp_path}/cam_config\.yaml: {message}") as error:
        read(tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_a_section_without_lines_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: resnet_cam\ntraining:\n  num_epochs: 1\n")
    with pytest.raises(OptionError, match=r"a\.yaml: model: is a section and must hold lines"):
        read_config(path)


@pytest.mark.parametrize(
    "text", ["model: [\n", "training:\n  learning_rate: 1\n  x: {\n", "", "training:\n  nonsense: 1\n"]
)
def test_the_users_file_is_never_written(tmp_path: Path, text: str) -> None:
    """The published project replaced a file with a syntax error by its defaults, and made one where there was none."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    os.utime(path, (1, 1))
    with pytest.raises(OptionError, match=rf"^{path}: "):
        read_config(path)
    read_config(SHIPPED)
    assert (path.read_text(), path.stat().st_mtime) == (text, 1)
    with pytest.raises(OptionError, match=r"absent\.yaml: cannot be read"):
        read_config(tmp_path / "absent.yaml")
    assert os.listdir(tmp_path) == ["mine.yaml"]


def test_files_of_our_own_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("model: classifier\nlr: 0.5\n")
    assert read_config(path) == read_yaml(path) == {"model": "classifier", "lr": 0.5}
    with pytest.raises(OptionError, match="without sections"):
        read_yaml(write(tmp_path))  # a run's own file has none
    assert not has_sections({"model": "classifier"})
    assert not has_sections(["model"])


def test_the_table_knows_the_published_keys_and_no_others() -> None:
    assert set(KEYS) == {f"{section}.{key}" for section, keys in PUBLISHED.items() for key in keys}


def test_what_a_flag_says_already_is_not_recommended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--pretrained"], ["--arch_weights", "x.pth"], ["--pretrained=False"]):
        read(tmp_path, *flags)
        said = capsys.readouterr().err
        assert "model.name resnet_cam: --arch resnet18\n" in said
        assert "add --pretrained" not in said
