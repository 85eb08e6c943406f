"""--preset: flags over YAML over preset over default; what is printed; help pages; a run from its own options file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import train
from data import DATASETS
from models import MODELS
from options import help_page
from options.parse import RunOptions, train_options
from options.presets import PRESETS
from options.schema import OptionError, fields_of
from tests.conftest import DataMaker, Trained


def options(*argv: str) -> RunOptions:
    return train_options(["--dataroot", "d", *argv])


def value(run: RunOptions, name: str) -> Any:
    return next(getattr(group, name) for group in run.groups() if hasattr(group, name))


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_of_a_preset_reaches_the_run_and_differs_from_nothing_else(name: str) -> None:
    run, plain = options("--preset", name), options("--model", str(PRESETS[name].values["model"]))
    for group in run.groups():
        for option in fields_of(type(group)):
            expected = PRESETS[name].values.get(option, value(plain, option))
            assert value(run, option) == expected, option


def test_flags_over_yaml_over_preset_over_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("ngf: 24\nndf: 24\n")
    run = options("--preset", "demo", "--config", str(file), "--ngf", "8")
    assert (run.networks.ngf, run.networks.ndf, run.optim.lr, run.data.num_threads) == (8, 24, 0.0004, 4)


def test_what_follows_from_a_given_mode_goes_before_the_preset() -> None:
    run = options("--preset", "paper", "--CUT_mode", "FastCUT", "--netG", "unet_256")
    assert (value(run, "lambda_NCE"), value(run, "nce_idt")) == (10.0, False)
    assert value(run, "nce_layers") == (0, 1, 2, 3, 4), "the preset's are layers of a ResNet"
    assert value(run, "lambda_EDGE") == 5.0


def test_a_mode_that_a_files_lines_overrule_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--CUT_mode FastCUT over a whole configuration would train plain CUT without a word."""
    file = tmp_path / "whole.yaml"
    file.write_text("CUT_mode: CUT\nlambda_NCE: 1\nnce_idt: true\nflip_equivariance: true\nn_epochs_decay: 50\n")
    run = options("--config", str(file), "--CUT_mode", "FastCUT", "--nce_idt", "False", "--model", "cut")
    assert (value(run, "lambda_NCE"), value(run, "nce_idt"), value(run, "n_epochs")) == (1.0, False, 150)
    printed = capsys.readouterr().err
    assert f"WARNING: the flags given stand for --lambda_NCE 10.0 too, but {file} says otherwise" in printed
    options("--config", str(file), "--model", "cut", "--CUT_mode", "FastCUT", "--nce_idt", "0", "--lambda_NCE", "2")
    file.write_text("CUT_mode: FastCUT\nlambda_NCE: 2\n")
    options("--config", str(file), "--CUT_mode", "FastCUT")  # the file's own choice
    assert "stand for" not in capsys.readouterr().err


def test_a_preset_is_printed_as_far_as_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--preset", "demo", "--ngf", "8", "--dry_run")
    printed = capsys.readouterr()
    assert printed.err.startswith("--preset demo: --model cutcam --ndf 16 --load_size 76 --crop_size 72")
    assert "--ngf" not in printed.err
    assert "ngf: 8\n" in printed.out
    assert "preset" not in printed.out, "the YAML has the values themselves"


def test_a_preset_for_another_model_leaves_out_what_that_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    run = options("--preset", "demo", "--model", "cycle_gan")
    assert (run.experiment.model, run.networks.ngf) == ("cycle_gan", 16)
    assert "(this model has no cam_weight_adv, lambda_IDT)" in capsys.readouterr().err


def test_no_such_preset_and_none_for_a_run_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--preset dmeo: choose one of demo, paper, infrared16"):
        options("--preset", "dmeo")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "options.yaml").write_text("ngf: 8\n")
    with pytest.raises(OptionError, match="--preset demo: a run that goes on keeps its own options"):
        options("--preset", "demo", "--continue_train", "--name", "run", "--checkpoints_dir", str(tmp_path))


# --- help


def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *argv: str) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        train_options([*argv, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    return text


def test_help_without_a_model_names_what_there_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_of(capsys, monkeypatch)
    assert sorted(help_page.MODELS_IN_WORDS) == MODELS.names()
    assert sorted(help_page.DATASETS_IN_WORDS) == DATASETS.names()
    for name in (*MODELS.names(), *DATASETS.names(), *PRESETS):
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), name
    assert len(text.splitlines()) < 75, "a page or two"


def test_help_of_a_model_has_its_own_flags_first_with_defaults_and_ranges(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(help_of(capsys, monkeypatch, "--model", "cutcam").split())
    assert text.index("CUTCAM: contrastive") < text.index("--lambda_CAM X") < text.index("--checkpoints_dir TEXT")
    assert "classes of the head [7; at least 2]" in text
    assert "0: no weighting, 1: the map alone [1.0; between 0 and 1]" in text
    assert "--preset {demo,paper,infrared16}" in text
    assert "--lambda_CAM" not in help_of(capsys, monkeypatch, "--model", "pix2pix").split("presets (")[0]


@pytest.mark.parametrize("model", MODELS.names())
def test_every_example_can_be_typed(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("model: cutcam\ndataroot: datasets/my_data\n")
    (tmp_path / "checkpoints" / "my_run").mkdir(parents=True)
    (tmp_path / "checkpoints" / "my_run" / "options.yaml").write_text(f"model: {model}\ndataroot: d\n")
    page = help_page.examples(model).split("\nexamples\n")[1]
    commands = [line.split("   ")[0].split(" > ")[0] for line in page.replace("  python", "python").splitlines()]
    trained = [re.sub(r"^.*train\.py ", "", line.strip()).split() for line in commands if "train.py" in line]
    assert len(trained) >= 5
    for argv in trained:
        if "fcam" not in argv:  # it needs the run of a classifier
            train_options([word for word in argv if word != "--dry_run"])


# --- the options of a run as the next run's


def test_the_options_file_of_a_run_makes_the_same_run_again(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "cutcam", "--num_classes", 4, "--max_iters", 3, "--seed", 7, "--lambda_IDT", 1)
    first = train_run("first", data(), *flags)
    again = first.parent.parent / "again" / "run"
    # Only the place is another; the tiny sizes come from the file.

    with pytest.MonkeyPatch.context() as patch:
        place = ["--checkpoints_dir", str(again.parent)]
        patch.setattr("sys.argv", ["train.py", "--config", str(first / "options.yaml"), *place])
        assert train.main() == 0
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (first, again)]
    for one, two in zip(*logs, strict=True):
        times = {"seconds", "data_seconds"}
        assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in two.items() if k not in times}
    assert len(logs[0]) == 3
    files = [(run / "options.yaml").read_text() for run in (first, again)]
    assert files[0].replace(str(first.parent), "X") == files[1].replace(str(again.parent), "X")
