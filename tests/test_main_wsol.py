"""The published command lines of F-CAM: every flag has its place or its reason, and a classifier is trained by one."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

import train
from data import DATASETS
from data.base import DataError
from models import MODELS, load_run
from models.std_cl_model import StdClModel
from options.groups import COMMON
from options.parse import train_options
from options.published_wsol import DATA_ROOT, DATA_SETS, READERS, SPLITS_ROOT, train_flags
from options.schema import OptionError, fields_of, spec_of
from scripts import main_wsol, prepare_wsol
from scripts.preparing.sources import SOURCES
from tests.conftest import make_data, picture
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
# What its parser knows.
EVERY_FLAG = (
    "arch batch_size box_v2_metric cam_curve_interval crf_end_ep crf_fc crf_lambda crf_scale crf_sigma_rgb "
    "crf_sigma_xy crf_start_ep crop_size cudaid data_root dataset debug_subfolder elb_init_t elb_max_t elb_mulcoef "
    "encoder_name encoder_weights entropy_fc entropy_fc_lambda eval_checkpoint_type exp_id fd_exp "
    "folder_pre_trained_cl freeze_cl im_rec im_rec_elb im_rec_lambda in_channels lse_r mask_root max_epochs "
    "max_sizepos_fc max_sizepos_fc_end_ep max_sizepos_fc_lambda max_sizepos_fc_start_ep metadata_root method "
    "multi_contour_eval multi_iou_eval multi_label_flag MYSEED num_classes num_val_sample_per_class num_workers "
    "opt__amsgrad opt__beta1 opt__beta2 opt__dampening opt__eps_adam opt__gamma opt__last_epoch opt__lr "
    "opt__lr_classifier_ratio opt__lr_scheduler opt__min_lr opt__momentum opt__name_lr_scheduler "
    "opt__name_optimizer opt__nesterov opt__step_size opt__t_max opt__weight_decay path_pre_trained "
    "proxy_training_set resize_size scale_in seg_ignore_idx seg_mode sl_block sl_end_ep sl_fc sl_fc_lambda "
    "sl_fg_erode_iter sl_fg_erode_k sl_ksz sl_max sl_max_ext sl_min sl_min_ext sl_min_p sl_start_ep spatial_pooling "
    "strict support_background task verbose wc_alpha wc_dropout wc_kmax wc_kmin wc_modalities "
)


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


@pytest.mark.parametrize(("task", "model"), [("STD_CL", "std_cl"), ("F_CL", "fcam")])
def test_every_flag_of_the_published_parser_has_an_option_or_a_reason(task: str, model: str) -> None:
    kinds = (*COMMON, MODELS.get(model).Options, DATASETS.get("wsol").Options)
    fields = [pair for kind in kinds for pair in fields_of(kind).items()]
    known = {spelling for name, (_, item) in fields for spelling in (name, *spec_of(item).aliases)}
    assert set(EVERY_FLAG.split()) <= known | set(READERS)
    words = {"encoder_weights": "None", "method": "cam", "spatial_pooling": "WGAP", "eval_checkpoint_type": "best"}
    words |= {"opt__name_optimizer": "adam", "opt__name_lr_scheduler": "mycosine", "sl_fc": "True"}
    for flag in set(EVERY_FLAG.split()) - {"task", "dataset", "arch", "freeze_cl"}:
        found, _ = read(f"--task {task} --dataset CUB --sl_fc True --{flag} {words.get(flag, '1')} {RUN}")
        assert set(found) - {"classifier_run"} <= known, flag


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--MYSEED 7 --resize_size 99 --opt__beta1 0.8", {"seed": "7", "load_size": "99", "beta1": "0.8"}),
        ("--opt__lr_classifier_ratio 3 --encoder_weights None", {"head_lr_factor": "3", "pretrained": "False"}),
        ("--encoder_weights imagenet", {"pretrained": "True"}),
        ("--wc_kmax 0.4 --wc_kmin 0.2", {"wildcat_kmax": "0.4", "wildcat_kmin": "0.2"}),
        ("--wc_alpha 0.3 --wc_modalities 2", {"wildcat_alpha": "0.3", "wildcat_modalities": "2"}),
        ("--opt__name_lr_scheduler mystep --opt__step_size 4", {"lr_policy": "step", "lr_decay_iters": "4"}),
        ("--opt__step_size 4 --opt__name_lr_scheduler cosine", {"lr_policy": "cosine", "lr_decay_iters": "4"}),
        ("--opt__lr_scheduler False --opt__step_size 4", {"lr_policy": "none"}),
        ("--opt__step_size 4 --opt__lr_scheduler False", {"lr_policy": "none"}),
        ("--metadata_root /folds", {"wsol_splits": "/folds/CUB"}),
        ("--in_channels 1", {"input_nc": "1"}),
    ],
)
def test_a_flag_that_the_readme_does_not_show(flags: str, expected: dict[str, str]) -> None:
    found, _ = read(f"--task STD_CL --dataset CUB {flags}")
    assert {name: found.get(name, "") for name in expected} == expected


def test_split_files_of_images_of_ones_own() -> None:
    assert read("--task STD_CL --dataset_mode wsol --dataroot x --metadata_root f")[0]["wsol_splits"] == "f"


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
        ("--task STD_CL --dataset BIRDS", "--dataset BIRDS: choose one of CUB, ILSVRC, OpenImages; for images of"),
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
    command = CLASSIFIER.replace("resnet50", "judge").replace("--dataset CUB", "--dataset_mode wsol")
    ours = f"--dataroot {tmp_path}/roots/shapes --checkpoints_dir {tmp_path}/runs --pretrained False"
    ours += " --load_size 36 --crop_size 32"
    tiny = "--num_threads 0 --gpu_ids -1 --display_id 0 --no_html --max_iters 2 --val_share 0.4"
    monkeypatch.setattr(sys, "argv", ["main_wsol.py", *shlex.split(f"{command} {ours} {tiny}")])
    assert exit_code(main_wsol.main) == 0
    captured = capsys.readouterr()
    assert "python train.py --model=std_cl --arch=judge" in captured.err
    name = "08_19_2021_14_05_20_620912__6229687"
    maps, scores = captured.out.splitlines()[-2:]
    assert maps.strip() == (
        f"python cam_infer.py --checkpoint {tmp_path}/runs/{name} --cam_method cam,gradcam++,layercam --explained both "
        "--num_test 100000 --maps_only"
    )
    assert (
        scores.strip() == f"python scripts/evaluate.py --maps results/{name}/latest --dataroot {tmp_path}/roots/shapes"
    )
    run = tmp_path / "runs" / "08_19_2021_14_05_20_620912__6229687"
    assert isinstance(load_run(run), StdClModel)


def test_a_flag_that_nobody_knows_is_train_pys_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["main_wsol.py", *shlex.split("--task STD_CL --dataset CUB --opt_lr 3")])
    with pytest.raises(OptionError, match="--opt_lr: no such flag"):
        main_wsol.main()
    assert train.main.__module__ == "train"


# --- data that are not there


def trained(root: Path, dataset: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    words = ["--task", "STD_CL", "--encoder_name", "judge", "--pretrained", "False", "--dataset", dataset, *more]
    monkeypatch.setattr(sys, "argv", ["main_wsol.py", *words, "--data_root", str(root), "--exp_id", "run"])
    return main_wsol.main()


def test_every_data_set_can_be_prepared() -> None:
    assert list(DATA_SETS) == list(SOURCES)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("CUB", "get CUB from https://www.vision.* unpack it as {0}/CUB_200_2011/images, and give python "
                "scripts/prepare_wsol.py CUB --dataroot {0}/CUB_200_2011/images$"),
        ("ILSVRC", "get ILSVRC from https://image-net.* and give python scripts/prepare_wsol.py ILSVRC --dataroot {0}"),
        ("OpenImages", "get OpenImages from https://.*wsolevaluation.* unpack it as {0}/OpenImages, and give python "),
    ],
)  # fmt: skip
def test_a_missing_data_set_says_where_it_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, message: str
) -> None:
    """Imagenette was recommended."""
    with pytest.raises(DataError, match=rf"/{dataset}: no such folder; {message.format(tmp_path)}") as caught:
        trained(tmp_path, dataset, monkeypatch)
    assert "Imagenette" not in str(caught.value)
    (tmp_path / dataset).mkdir()
    prepare = f"python scripts/prepare_wsol.py {dataset} --dataroot {tmp_path}/{dataset} makes its split files"
    with pytest.raises(DataError, match=f"has no folder trainA; {prepare}"):
        trained(tmp_path, dataset, monkeypatch)


def test_images_of_ones_own_are_not_answered_with_a_published_data_set(tmp_path: Path) -> None:
    run = train_options(["--model", "std_cl", "--dataroot", str(tmp_path / "mine")])
    with pytest.raises(DataError, match="mine: no such folder; give train/<class>/ or trainA, or split files, which"):
        DATASETS.get("wsol").settled(run)


@pytest.mark.usefixtures("handlers")
def test_cub_is_found_as_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link from CUB was needed, and nothing said so."""
    archive = tmp_path / "CUB_200_2011"
    names = [f"{n % 2 + 1:03d}.Bird/{n}.jpg" for n in range(6)]
    for number, name in enumerate(names):
        (archive / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(archive / "images" / name), picture(number, 0, (20, 30), 3))
    tables: dict[str, list[str]] = {"images": names, "image_class_labels": ["1", "2"] * 3}
    tables |= {"train_test_split": ["1"] * 4 + ["0"] * 2, "bounding_boxes": ["1 1 9 9"] * 6}
    for table, cells in tables.items():
        lines = (f"{number} {cell}\n" for number, cell in enumerate(cells))
        (archive / f"{table}.txt").write_text("".join(lines))
    with pytest.raises(DataError, match=rf"prepare_wsol.py CUB --dataroot {archive}/images makes its split files"):
        trained(tmp_path, "CUB", monkeypatch)
    assert prepare_wsol.main(["CUB", "--dataroot", str(archive / "images")]) == 0
    (tmp_path / "CUB").mkdir()  # the one with split files goes first
    tiny = ["--num_threads", "0", "--gpu_ids", "-1", "--display_id", "0", "--no_html", "--max_iters", "1"]
    sizes = ["--load_size", "20", "--crop_size", "16", "--batch_size", "2", "--checkpoints_dir", str(tmp_path / "runs")]
    assert trained(tmp_path, "CUB", monkeypatch, *tiny, *sizes) == 0
    assert isinstance(load_run(tmp_path / "runs/run"), StdClModel)
