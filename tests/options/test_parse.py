"""From a command line to options: precedence, presets, the choice of a model, and runs that are read back."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from options import groups
from options.groups import Explanation, Inference
from options.parse import OPTIONS_FILE, RunOptions, assemble, extra, inference_options, train_options
from options.schema import Group, OptionError, option
from options.yaml_config import dump_yaml

DATA = ["--dataroot", "data"]


def train(*flags: str) -> RunOptions:
    return train_options([*DATA, *flags])


def value(run: RunOptions, name: str) -> Any:
    return next(getattr(group, name) for group in run.groups() if hasattr(group, name))


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def start(folder: Path, *flags: str) -> Path:
    """What train.py leaves of its options; returns the run's folder."""
    run = train("--checkpoints_dir", str(folder), "--name", "run", *flags)
    run.folder.mkdir(parents=True)
    (run.folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()), encoding="utf-8")
    return run.folder


def read_back(folder: Path, *flags: str, extras: tuple[type[Group], ...] = ()) -> RunOptions:
    return inference_options(extras, ["--checkpoints_dir", str(folder), "--name", "run", *flags])


# --- precedence


@pytest.mark.parametrize(
    ("flags", "text", "expected"),
    [
        ([], None, 1.0),  # default
        (["--CUT_mode", "FastCUT"], None, 10.0),  # preset
        (["--CUT_mode", "fastcut"], None, 10.0),
        (["--CUT_mode", "FastCUT"], "lambda_NCE: 3", 3.0),  # YAML
        ([], "CUT_mode: fastcut", 10.0),  # a preset chosen by YAML
        (["--lambda_NCE", "2"], "lambda_NCE: 3\nCUT_mode: FastCUT", 2.0),  # flag
    ],
)
def test_flags_win_over_yaml_over_preset_over_default(
    tmp_path: Path, flags: list[str], text: str | None, expected: float
) -> None:
    config = ["--config", yaml_file(tmp_path, text)] if text else []
    assert value(train(*flags, *config), "lambda_NCE") == expected


@pytest.mark.parametrize("model", ["cut", "cutcam"])
def test_fastcut_sets_the_published_values_in_both_models(model: str) -> None:
    run = train("--model", model, "--CUT_mode", "FastCUT")
    names = ("CUT_mode", "lambda_NCE", "nce_idt", "flip_equivariance", "n_epochs", "n_epochs_decay")
    assert [value(run, name) for name in names] == ["FastCUT", 10.0, False, True, 150, 50]


def test_the_default_mode_changes_nothing() -> None:
    for model, mode in (("cut", "CUT"), ("cutcam", "CUTCAM")):
        assert train("--model", model, "--CUT_mode", mode) == train("--model", model)


def test_unets_have_layers_of_their_own_unless_some_are_given() -> None:
    assert value(train("--netG", "unet_128"), "nce_layers") == (0, 1, 2, 3, 4)
    assert value(train("--netG", "unet_128", "--nce_layers", "1,2"), "nce_layers") == (1, 2)
    assert value(train("--netG", "resnet_6blocks"), "nce_layers") == (0, 4, 8, 12, 16)


def test_the_last_of_two_equal_flags_counts() -> None:
    assert value(train("--lr", "1", "--lr=0.5"), "lr") == 0.5


# --- YAML


def test_a_dry_run_prints_yaml_alone_that_reads_back_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(5)
    for number in range(25):
        flags = [
            *("--name", draw.choice(["a b", "007", "yes", "x: y", "ünïcode", "#"])),
            *("--load_size", *draw.choice([["286"], ["300", "512"], ["300,512"]])),
            *("--nce_layers", ",".join(str(layer) for layer in sorted(draw.sample(range(20), 3)))),
            *("--lr", str(draw.uniform(1e-6, 1e-2))),
            *("--max_dataset_size", draw.choice(["inf", "12"])),
            *("--nce_idt", draw.choice(["True", "no"])),
            *("--display_id", draw.choice(["none", "-1", "3"])),
            *("--window_A", draw.choice(["auto", "0,100", "1%,99%", "image"])),
            *draw.choice([["--CUT_mode", "FastCUT"], ["--no_flip"], ["--serial_batches", "False"]]),
            *draw.choice([[], ["--easy_label", "x"], ["--cam_layer", "-2"], ["--netG", "unet_256"]]),
        ]
        expected = train(*flags)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            train(*flags, "--dry_run")
        assert stopped.value.code == 0
        file = yaml_file(tmp_path, capsys.readouterr().out)
        assert train_options(["--config", file]) == expected, number


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"lamda_GAN: no option of this run \(did you mean --lambda_GAN\?\)"):
        train("--config", yaml_file(tmp_path, "lamda_GAN: 1"))


def test_a_key_of_one_model_chooses_that_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--config", yaml_file(tmp_path, "lambda_CAM: 5")).experiment.model == "cutcam"
    assert "--model cutcam: chosen because of --lambda_CAM" in capsys.readouterr().err


def test_a_bad_value_in_yaml_is_named(tmp_path: Path) -> None:
    for text, message in (("lr: fast", "--lr fast: expected a number"), ("name:", "--name: has no value")):
        with pytest.raises(OptionError, match=message):
            train("--config", yaml_file(tmp_path, text))


# --- the model


def test_without_a_model_cut_is_trained() -> None:
    assert train("--lambda_NCE", "2").experiment.model == "cut"


def test_a_flag_of_one_model_chooses_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--cam_layer=-1", "--lambda_NCE", "2").experiment.model == "cutcam"
    captured = capsys.readouterr()
    assert captured.err == "--model cutcam: chosen because of --cam_layer\n"
    assert captured.out == ""  # stdout belongs to the YAML of --dry_run


def test_flags_that_models_share_are_settled_by_those_they_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--num_classes", "3", "--cam_layer", "-1").experiment.model == "cutcam"
    assert capsys.readouterr().err == "--model cutcam: chosen because of --cam_layer\n"
    assert train("--num_classes", "3", "--arch", "resnet18").experiment.model == "classifier"  # std_cl extends it
    assert train("--num_classes", "3", "--spatial_pooling", "GAP").experiment.model == "std_cl"
    with pytest.raises(OptionError, match=r"^--num_classes: belongs to --model classifier or cutcam or std_cl$"):
        train("--num_classes", "3")


def test_a_model_that_was_chosen_is_kept_and_the_flags_owner_named() -> None:
    with pytest.raises(OptionError, match=r"^--cam_layer: belongs to --model cutcam$"):
        train("--model", "cut", "--cam_layer", "-1")


def test_an_unknown_model_or_dataset_lists_the_known_ones() -> None:
    near = r"--model cutcat: unknown \(did you mean 'cutcam'\?\); known: classifier, cut, cutcam"
    with pytest.raises(ValueError, match=near):
        train("--model", "cutcat")
    with pytest.raises(
        ValueError, match=r"--dataset_mode pairs: unknown; known: aligned, classes, single, singleimage, unaligned"
    ):
        train("--dataset_mode", "pairs")


def test_one_name_in_two_groups_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Doubled(Group):
        """doubled"""

        lr: float = option(1.0, "the same name as in Optim")

    monkeypatch.setattr(groups, "COMMON", (*groups.COMMON, Doubled))
    with pytest.raises(TypeError, match="the option lr is in both Optim and Doubled"):
        train()


# --- names of runs


def test_a_suffix_becomes_a_part_of_the_name() -> None:
    flags = ["--name", "run", "--load_size", "300", "--crop_size", "256", "512", "--preprocess", "none"]
    run = train(*flags, "--suffix", "{model}_{netG}_{load_size}_{crop_size}_{lr:.4f}_{no_flip}")
    assert run.experiment.name == "run_cut_resnet_9blocks_300_256,512_0.0002_False"
    assert run.folder == Path("checkpoints") / run.experiment.name
    assert run.experiment.suffix == ""  # the name is whole: reading it back must not append again


def test_a_run_is_continued_by_its_whole_name(tmp_path: Path) -> None:
    """--suffix is filled in after the run's own options are read, which would then be those of no run."""
    words = ["--checkpoints_dir", str(tmp_path), "--name", "run", "--suffix", "{netG}"]
    with pytest.raises(
        OptionError, match=r"^--suffix \{netG\}: give the run's whole name, suffix included, by --name$"
    ):
        train(*words, "--continue_train")
    assert train(*words, "--continue_train", "False").experiment.name == "run_resnet_9blocks"


def test_flags_of_a_loss_name_the_loss_that_brings_them() -> None:
    with pytest.raises(OptionError, match=r"^--lambda_PAIR: belongs to --extra_losses pair$"):
        train("--model", "cut", "--lambda_PAIR", "3")
    with pytest.raises(OptionError, match=r"^--reg: belongs to --model srunit or --extra_losses sr$"):
        train("--model", "cutcam", "--reg", "3")


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [("{lrr}", "'lrr' is no option"), ("{", "single"), ("{}", "positional"), ("{lr.x}", "attribute")],
)
def test_a_suffix_that_cannot_be_filled_in_is_explained(suffix: str, reason: str) -> None:
    with pytest.raises(OptionError, match=rf"--suffix .*(?i:{reason}).*write options as"):
        train("--suffix", suffix)


def test_a_suffix_leads_into_no_other_folder() -> None:
    assert train("--suffix", "{dataroot}", "--dataroot", "../up").experiment.name == "experiment_name_.._up"


def test_without_a_dataroot_training_is_refused_but_a_dry_run_is_not() -> None:
    with pytest.raises(OptionError, match="--dataroot: give the folder that holds trainA and trainB"):
        train_options([])
    with pytest.raises(SystemExit):
        train_options(["--dry_run"])


# --- continuing


def test_continuing_starts_from_the_options_of_the_run(tmp_path: Path) -> None:
    start(tmp_path, "--model", "cutcam", "--ngf", "8", "--lr", "0.1")
    again = train_options(["--checkpoints_dir", str(tmp_path), "--name", "run", "--continue_train", "--lr", "0.2"])
    assert (again.experiment.model, again.networks.ngf, again.optim.lr) == ("cutcam", 8, 0.2)
    assert again.data.dataroot == "data"
    assert again.experiment.continue_train


@pytest.mark.parametrize("old", ["", "continue_train: true"])
def test_a_run_that_was_continued_can_be_begun_again_from_its_file(tmp_path: Path, old: str) -> None:
    start(tmp_path, "--pretrained_name", "other", "--epoch", "20", "--epoch_count", "3")
    place = ["--checkpoints_dir", str(tmp_path), "--name", "run"]
    once = ["--epoch_count", "1", "--epoch", "latest", "--pretrained_name", "run"]  # as CUT's users continue
    again = train_options([*place, "--continue_train", "--max_iters", "9", *once])
    assert again.experiment.continue_train
    text = dump_yaml(again.lasting())
    file = yaml_file(tmp_path, text.replace("continue_train: false", old) if old else text)
    run = train_options(["--config", file, "--checkpoints_dir", str(tmp_path), "--name", "again"])
    assert not run.experiment.continue_train
    assert (run.experiment.pretrained_name, run.experiment.epoch, run.schedule.epoch_count) == ("other", "20", 3)
    assert run.schedule.max_iters == 9


@pytest.mark.parametrize("flag", ["--epoch 20", "--epoch_count 7"])
def test_a_run_is_not_continued_from_another_epoch(tmp_path: Path, flag: str) -> None:
    start(tmp_path)
    words = ["--checkpoints_dir", str(tmp_path), "--name", "run", "--continue_train", *flag.split()]
    with pytest.raises(OptionError, match=f"{flag}: --continue_train goes on where .* by --pretrained_name RUN"):
        train_options(words)


def test_what_is_not_there_is_not_continued(tmp_path: Path) -> None:
    start(tmp_path)
    words = ["--checkpoints_dir", str(tmp_path), "--name", "nonexist", "--continue_train"]
    with pytest.raises(OptionError) as error:
        train_options(words)
    assert str(error.value) == (
        f"--continue_train: there is no run nonexist in {tmp_path}; there are: run; correct --name or "
        "--checkpoints_dir, or start the run without the flag"
    )


def test_a_new_run_does_not_read_an_older_one_of_its_name(tmp_path: Path) -> None:
    start(tmp_path, "--ngf", "8")
    for flags in ([], ["--continue_train", "False"]):
        again = train_options([*DATA, "--checkpoints_dir", str(tmp_path), "--name", "run", *flags])
        assert again.networks.ngf == 64


# --- test.py and cam_infer.py


def test_a_run_is_read_back_with_flags_over_its_options(tmp_path: Path) -> None:
    start(tmp_path, "--model", "cutcam", "--ngf", "8", "--crop_size", "128")
    run = read_back(tmp_path, "--dataroot", "other", "--num_test", "3", extras=(Inference, Explanation))
    assert (run.networks.ngf, run.data.crop_size, run.data.dataroot) == (8, (128, 128), "other")
    assert extra(run, Inference).num_test == 3
    assert extra(run, Explanation) == Explanation()


def test_flags_that_repeat_the_runs_own_values_are_welcome(tmp_path: Path) -> None:
    start(tmp_path, "--model", "cutcam")
    flags = "--model cutcam --CUT_mode cutcam --nce_layers 0,4,8,12,16 --cam_layer -1 --input_nc 3"
    assert read_back(tmp_path, *flags.split()) == read_back(tmp_path)


def test_the_weights_a_run_began_with_are_not_those_that_are_tested(tmp_path: Path) -> None:
    start(tmp_path, "--pretrained_name", "other", "--epoch", "20")
    assert read_back(tmp_path).experiment.epoch == "latest"
    assert read_back(tmp_path, "--epoch", "5").experiment.epoch == "5"
    again = train_options(["--checkpoints_dir", str(tmp_path), "--name", "run", "--continue_train"])
    assert again.experiment.epoch == "20"


def test_a_run_knows_what_was_given_with_the_command(tmp_path: Path) -> None:
    start(tmp_path, "--labels_A", "x.csv")
    run = read_back(tmp_path, "--dataset_mode", "single")
    assert run.given == {"checkpoints_dir", "name", "dataset_mode"}
    assert not run.published
    with pytest.raises(ValueError, match="--dataset_mode pairs: unknown"):
        read_back(tmp_path, "--dataset_mode", "pairs")


def test_weights_alone_take_flags_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(OptionError, match=r"--name run: .*options.yaml does not exist"):
        read_back(tmp_path)
    (tmp_path / "run" / "20_net_G.pth").touch()
    run = read_back(tmp_path, "--netG", "resnet_6blocks", "--window_B", "0,9", "--num_test", "3", extras=(Inference,))
    assert run.published
    assert (run.experiment.model, run.networks.netG, run.networks.ngf) == ("cut", "resnet_6blocks", 64)
    assert (run.data.window_B, extra(run, Inference).num_test) == ("0,9", 3)
    assert read_back(tmp_path, "--model", "cutcam", "--cam_layer", "-2").experiment.model == "cutcam"
    with pytest.raises(OptionError, match=r"^--cam_layer: belongs to --model cutcam$"):
        read_back(tmp_path, "--cam_layer", "-2")


@pytest.mark.parametrize(
    ("flag", "text", "shown", "saved"),
    [
        ("ngf", "32", "32", "8"),
        ("model", "cut", "cut", "cutcam"),
        ("nce_layers", "0,4", "0,4", "0,4,8,12,16"),
        ("CUT_mode", "FastCUT", "FastCUT", "CUTCAM"),
        ("direction", "btoa", "BtoA", "AtoB"),
        ("window_B", "0,9", "0,9", "auto"),
    ],
)
def test_a_flag_that_contradicts_the_weights_shows_both_values(
    tmp_path: Path, flag: str, text: str, shown: str, saved: str
) -> None:
    folder = start(tmp_path, "--model", "cutcam", "--ngf", "8")
    with pytest.raises(OptionError) as caught:
        read_back(tmp_path, f"--{flag}", text)
    assert str(caught.value) == f"--{flag} {shown}: the run {folder} was trained with {saved}; leave the flag out"


def test_a_missing_run_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        read_back(tmp_path)
    assert str(caught.value) == (
        f"--name run: {tmp_path / 'run' / OPTIONS_FILE} does not exist; give --name and --checkpoints_dir "
        "of a run that train.py has started"
    )
    start(tmp_path)
    with pytest.raises(OptionError, match=r"--name ran: .*; there are: run$"):
        inference_options((), ["--checkpoints_dir", str(tmp_path), "--name", "ran"])


def test_a_damaged_options_file_is_named_and_not_blamed_on_a_flag(tmp_path: Path) -> None:
    folder = start(tmp_path)
    (folder / OPTIONS_FILE).write_text("name: [")
    with pytest.raises(OptionError, match=r"^\S*options.yaml: is no valid YAML"):
        read_back(tmp_path)
    (folder / OPTIONS_FILE).write_text("ngf: 8\n")  # written by hand, with the rest left out
    assert read_back(tmp_path).experiment.model == "cut"


def test_inference_wants_the_whole_name(tmp_path: Path) -> None:
    start(tmp_path)
    with pytest.raises(OptionError, match="--suffix x: give the run's whole name"):
        read_back(tmp_path, "--suffix", "x")


def test_a_dry_run_of_inference_shows_what_it_would_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path, "--ngf", "8")
    with pytest.raises(SystemExit):
        read_back(tmp_path, "--dry_run", "--num_test", "4", extras=(Inference,))
    lines = capsys.readouterr().out.splitlines()
    assert "ngf: 8" in lines
    assert "num_test: 4" in lines


def test_no_group_may_take_a_value_that_is_no_option_of_the_run() -> None:
    run = train()
    kinds = tuple(type(group) for group in [*run.groups()])
    with pytest.raises(OptionError, match="num_test: no option of this run"):
        assemble(kinds, {}, {"num_test": 3}, {})
