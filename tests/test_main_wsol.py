"""The published command lines of F-CAM: every flag has its place or its reason, and a classifier is trained by one."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from models import MODELS, load_run
from models.std_cl_model import StdClModel
from options.groups import COMMON
from options.parse import train_options
from options.published_wsol import DATA_ROOT, READERS, SPLITS_ROOT, train_flags
from options.schema import OptionError, fields_of
from scripts import main_wsol
from tests.conftest import make_data
from util.errors import exit_code

# Of the published README, but for the line breaks.
CLASSIFIER = (
    "--task STD_CL --encoder_name resnet50 --arch STDClassifier --opt__name_optimizer sgd --batch_size 32 "
    "--opt__step_size 15 --opt__gamma 0.1 --max_epochs 50 --freeze_cl False --support_background True --method CAM "
    "--spatial_pooling WGAP --dataset CUB --box_v2_metric False --cudaid --debug_subfolder None --opt__lr 0.0017 "
    "--exp_id 08_19_2021_14_05_20_620912__6229687"
)
FCAM = (
    "--task F_CL --encoder_name resnet50 --arch UnetFCAM --opt__name_optimizer sgd --batch_size 32 "
    "--eval_checkpoint_type best --opt__step_size 1000 --opt__gamma 0.1 --max_epochs 50 --freeze_cl True "
    "--support_background True --method CAM --spatial_pooling WGAP --dataset CUB --box_v2_metric False --cudaid 1 "
    "--debug_subfolder None --opt__lr 0.01 --elb_init_t 1.0 --elb_max_t 10.0 --elb_mulcoef 1.01 --sl_fc True "
    "--sl_fc_lambda 1.0 --sl_start_ep 0 --sl_end_ep -1 --sl_min 1 --sl_max 1 --sl_ksz 3 --sl_min_p 0.1 "
    "--sl_fg_erode_k 11 --sl_fg_erode_iter 1 --crf_fc True --crf_lambda 2e-09 --crf_sigma_rgb 15.0 "
    "--crf_sigma_xy 100.0 --crf_scale 1.0 --crf_start_ep 0 --crf_end_ep -1 --max_sizepos_fc True "
    "--max_sizepos_fc_lambda 0.1 --max_sizepos_fc_start_ep 0 --max_sizepos_fc_end_ep -1 --entropy_fc False "
    "--exp_id 08_19_2021_14_09_48_915565__1492324"
)
RUN = " --classifier_run classifier"


@pytest.fixture(autouse=True)
def data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT, "/data")
    monkeypatch.delenv(SPLITS_ROOT, raising=False)


def read(command: str) -> tuple[dict[str, str], list[str]]:
    """Flags of train.py by name, and the notes."""
    flags, notes = train_flags(shlex.split(command))
    pairs = [flag.removeprefix("--").partition("=") for flag in flags if "=" in flag]
    assert len({name for name, _, _ in pairs}) == len(pairs)
    return {name: value for name, _, value in pairs}, notes


# --- the two published commands


def test_the_published_classifier_is_ours_option_by_option() -> None:
    flags, notes = train_flags(shlex.split(CLASSIFIER))
    run = train_options(flags)
    assert (run.experiment.model, run.experiment.name) == ("std_cl", "08_19_2021_14_05_20_620912__6229687")
    assert (run.data.dataroot, run.data.dataset_mode, run.data.batch_size) == ("/data/CUB", "wsol", 32)
    optim, schedule = run.optim, run.schedule
    assert (optim.optimizer, optim.lr, optim.momentum, optim.nesterov) == ("sgd", 0.0017, 0.9, True)
    assert (schedule.lr_policy, schedule.lr_decay_iters, schedule.lr_gamma) == ("step", 15, 0.1)
    assert (schedule.n_epochs, schedule.last_epoch) == (50, 50)
    model = run.model
    assert (model.arch, model.spatial_pooling, model.pretrained) == ("resnet50", "WGAP", True)  # type: ignore[attr-defined]
    assert (model.select, model.loc_measure) == ("last", "MaxBoxAcc")  # type: ignore[attr-defined]
    assert run.runtime.gpu_ids == "auto"
    assert any(note.startswith("--support_background True: has no meaning here: ") for note in notes)
    assert any(note.startswith("--method CAM: belongs to --task F_CL") for note in notes)
    assert any("first weights are ImageNet's" in note for note in notes)


def test_the_published_f_cam_is_ours_option_by_option() -> None:
    flags, notes = read(FCAM + RUN)
    assert flags | {"dataroot": "", "name": ""} == {
        **{"model": "fcam", "optimizer": "sgd", "batch_size": "32", "lr": "0.01", "dataroot": "", "name": ""},
        **{"lr_policy": "step", "lr_decay_iters": "1000", "lr_gamma": "0.1", "n_epochs": "50", "n_epochs_decay": "0"},
        **{"teacher": "cam", "dataset_mode": "wsol", "loc_measure": "MaxBoxAcc", "gpu_ids": "1"},
        **{"elb_init_t": "1.0", "elb_max_t": "10.0", "elb_mulcoef": "1.01", "lambda_SL": "1.0", "sl_start_ep": "0"},
        **{"sl_end_ep": "-1", "sl_min": "1", "sl_max": "1", "sl_ksz": "3", "sl_min_p": "0.1", "sl_fg_erode_k": "11"},
        **{"sl_fg_erode_iter": "1", "crf_lambda": "2e-09", "crf_sigma_rgb": "15.0", "crf_sigma_xy": "100.0"},
        **{"crf_scale": "1.0", "crf_start_ep": "0", "crf_end_ep": "-1", "lambda_SIZE": "0.1", "size_start_ep": "0"},
        **{"size_end_ep": "-1", "lambda_ENT": "0"},
    }
    assert any(note.startswith("--eval_checkpoint_type best: ") and "--select best_loc" in note for note in notes)
    for flag in ("--encoder_name resnet50", "--spatial_pooling WGAP"):
        assert f"{flag}: is said by the classifier of --classifier_run" in notes


@pytest.mark.skipif("fcam" not in MODELS.names(), reason="there is no --model fcam")
def test_every_flag_of_f_cam_is_an_option_there() -> None:
    flags, _ = read(FCAM + RUN)
    kinds = (*COMMON, MODELS.get("fcam").Options)
    known = {name for kind in kinds for name in fields_of(kind)}
    assert set(flags) - known == set()
    assert train_options(train_flags(shlex.split(FCAM + RUN))[0]).experiment.model == "fcam"


def test_every_flag_is_read_and_said_in_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {word.removeprefix("--") for word in shlex.split(f"{CLASSIFIER} {FCAM}") if word.startswith("--")}
    assert words <= set(READERS)
    monkeypatch.setattr(sys, "argv", ["main_wsol.py", "--help"])
    assert main_wsol.main() == 0
    shown = capsys.readouterr().out
    assert all(f"--{flag}" in shown for flag in READERS)


# --- one flag at a time


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--crf_fc False --crf_lambda 2e-9", {"lambda_CRF": "0", "crf_lambda": ""}),
        ("--crf_fc True", {"lambda_CRF": "", "crf_lambda": ""}),
        ("", {"lambda_CRF": "0", "lambda_SIZE": "0", "lambda_ENT": "0", "lambda_SL": ""}),
        ("--entropy_fc True", {"lambda_ENT": "1"}),
        ("--entropy_fc --entropy_fc_lambda 0.3 --entropy_fc_end_ep 4", {"lambda_ENT": "0.3", "ent_end_ep": "4"}),
        ("--max_sizepos_fc True", {"lambda_SIZE": ""}),
        ("--sl_fc_lambda 2", {"lambda_SL": "2"}),
        ("--method GradCAM++", {"teacher": "gradcam++"}),
        ("--method SmoothGradCAMpp", {"teacher": "smoothgradcam++"}),
        ("--method WILDCAT", {"teacher": "builtin"}),
        ("--method SSCAM", {"teacher": "sscam"}),
        ("--debug_subfolder tries --exp_id one", {"name": "tries/one"}),
        ("--cudaid ''", {"gpu_ids": ""}),
    ],
)
def test_a_flag_of_f_cam(flags: str, expected: dict[str, str]) -> None:
    found, _ = read(f"--task F_CL --dataset CUB --sl_fc True {flags} {RUN}")
    assert {name: found.get(name, "") for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--encoder_name inceptionv3", {"arch": "inceptionv3"}),
        ("--spatial_pooling WildCatCLHead", {"spatial_pooling": "WILDCAT"}),
        ("--box_v2_metric True", {"loc_measure": "MaxBoxAccV2"}),
        ("--dataset OpenImages --box_v2_metric True", {"loc_measure": "auto", "dataroot": "/data/OpenImages"}),
        ("--data_root /other --splits_root=/folds", {"dataroot": "/other/CUB", "wsol_splits": "/folds/CUB"}),
        ("--opt__name_optimizer adam", {"optimizer": "adam"}),
        ("--pretrained False", {"pretrained": ""}),
        ("--arch_weights x.pth", {"pretrained": ""}),
        ("--encoder_name vgg16 --method CAM", {"name": "CUB-STD_CL-vgg16-CAM"}),
        ("--sl_fc False --crf_lambda 3", {"lambda_SL": "", "crf_lambda": ""}),
    ],
)  # fmt: skip
def test_a_flag_of_the_classifier(flags: str, expected: dict[str, str]) -> None:
    found, _ = read(f"--task STD_CL --dataset CUB {flags}")
    assert {name: found.get(name, "") for name in expected} == expected


def test_flags_of_the_other_task_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    _, notes = read("--task STD_CL --dataset CUB --sl_fc True --sl_min 3 --im_rec False")
    assert "--sl_fc True: belongs to --task F_CL and changes nothing" in notes
    assert "--sl_min 3: belongs to --task F_CL and changes nothing" in notes
    assert any(note.startswith("--im_rec False: has no meaning here: ") for note in notes)


def test_the_folder_of_splits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPLITS_ROOT, "/folds")
    assert read("--task STD_CL --dataset ILSVRC")[0]["wsol_splits"] == "/folds/ILSVRC"
    monkeypatch.delenv(DATA_ROOT)
    with pytest.raises(OptionError, match=rf"--dataset CUB: say where it lies by --data_root DIR or {DATA_ROOT}=DIR"):
        read("--task STD_CL --dataset CUB")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--dataset CUB", "--task is missing: choose one of STD_CL, F_CL"),
        ("--task SEG", "--task SEG: choose one of STD_CL, F_CL"),
        ("--task F_CL --sl_fc True", "--task F_CL: name the run of the trained classifier by --classifier_run RUN"),
        (f"--task F_CL {RUN}", "--task F_CL: trains by one of --sl_fc True"),
        (f"--task F_CL --sl_fc True --freeze_cl False {RUN}", "--freeze_cl False: --task F_CL keeps its classifier"),
        (f"--task F_CL --sl_fc True --arch STDClassifier {RUN}", "--arch STDClassifier: --task F_CL goes with"),
        (f"--task F_CL --sl_fc maybe {RUN}", "--sl_fc maybe: is True or False"),
        (f"--task F_CL --sl_fc True --method NoCAM {RUN}", "--method NoCAM: choose one of cam, scorecam"),
        ("--task STD_CL --freeze_cl True", "--freeze_cl True: --task STD_CL trains the classifier here"),
        ("--task STD_CL --opt__lr --batch_size 3", "--opt__lr: needs a value after it"),
        ("--task STD_CL --opt__name_optimizer rmsprop", "--opt__name_optimizer rmsprop: choose one of sgd, adam"),
        ("--task STD_CL --eval_checkpoint_type first", "--eval_checkpoint_type first: choose one of best, last"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(command: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(command)
    assert str(caught.value).startswith(message)


# --- the whole way


@pytest.fixture
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_published_command_trains_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "roots/shapes", count=(9, 4))
    command = CLASSIFIER.replace("resnet50", "judge").replace("--dataset CUB", "--dataset shapes")
    ours = f"--data_root {tmp_path}/roots --checkpoints_dir {tmp_path}/runs --pretrained False"
    ours += " --load_size 36 --crop_size 32"
    tiny = "--num_threads 0 --gpu_ids -1 --display_id 0 --no_html --max_iters 2 --val_share 0.4"
    monkeypatch.setattr(sys, "argv", ["main_wsol.py", *shlex.split(f"{command} {ours} {tiny}")])
    assert exit_code(main_wsol.main) == 0
    captured = capsys.readouterr()
    assert "python train.py --model=std_cl --arch=judge" in captured.err
    run = tmp_path / "runs" / "08_19_2021_14_05_20_620912__6229687"
    assert isinstance(load_run(run), StdClModel)


def test_a_flag_that_nobody_knows_is_train_pys_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["main_wsol.py", *shlex.split("--task STD_CL --dataset CUB --opt_lr 3")])
    with pytest.raises(OptionError, match="--opt_lr: no such flag"):
        main_wsol.main()
    assert train.main.__module__ == "train"
