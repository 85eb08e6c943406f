"""The doctor: what it says of good, poor and broken folders, of packages and disks, and the command it ends with."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from options.parse import RunOptions, train_options
from scripts import doctor
from scripts.doctoring import environment
from scripts.doctoring.environment import check_disk, wrong_packages
from scripts.doctoring.pace import Pace
from scripts.doctoring.report import FAULT, OK, WARNING, Report
from tests.conftest import TINY, TINY_CUT

FAST = ("--model", "cutcam", *TINY, *TINY_CUT, "--steps", "0")
Examined = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def sound_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of folders; what is installed here does not matter to them."""
    monkeypatch.setattr(doctor, "check_environment", lambda report, file: None)


@pytest.fixture
def examined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Examined:
    """`examined(*flags)` -> the report of `tmp_path`, as JSON; its status is the exit status."""

    def go(*flags: object) -> dict[str, Any]:
        capsys.readouterr()
        status = doctor.main(["--json", "--dataroot", str(tmp_path), *FAST, *map(str, flags)])
        content: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert content["status"] == status
        return content

    return go


def fill(root: Path, *, dtype: type = np.uint16, count: int = 24, size: tuple[int, int] = (40, 40)) -> Path:
    """trainA, trainB and testA with grey images, and labels of three classes."""
    random = np.random.default_rng(0)
    rows = ["file,label,label_id"]
    for folder in ("trainA", "trainB", "testA"):
        (root / folder).mkdir()
        for number in range(count):
            high = 8000 if dtype is np.uint16 else 200
            image: np.ndarray = random.integers(high // 2, high, size).astype(dtype)
            cv2.imwrite(str(root / folder / f"{number:02d}.png"), image)
            if folder == "trainA":
                rows.append(f"trainA/{number:02d}.png,{'abc'[number % 3]},{number % 3}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def said(report: dict[str, Any], kind: str) -> str:
    return "\n".join(f"{f['text']} -> {f['remedy']}" for f in report["findings"] if f["kind"] == kind)


def test_sound_data_lead_to_a_command_that_train_py_takes(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path)
    report = examined("--name", "one")
    assert report["status"] == 0
    assert said(report, WARNING) == ""
    good = said(report, OK)
    assert "trainA: 24 images, 40 x 40 (height x width; 24 of them), 16 bits, 1 channel" in good
    assert "counts from 400" in good, "of 16 bits, not of the 8 that a viewer shows"
    assert "6% of what 16 bits hold" in good
    assert "a: 8, b: 8, c: 8" in good
    words = shlex.split(report["command"])
    assert words[:2] == ["python", "train.py"]
    run = train_options(words[2:])
    assert (run.networks.input_nc, run.networks.output_nc) == (1, 1)
    assert getattr(run.model, "num_classes") == 3  # noqa: B009
    assert run.experiment.name == "one"


def test_a_trial_measures_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    fill(tmp_path / "d")
    flags = [*FAST[:-2], "--steps", "1", "--n_epochs", "3", "--n_epochs_decay", "1"]
    place = ["--dataroot", str(tmp_path / "d"), "--checkpoints_dir", str(tmp_path / "runs")]
    assert doctor.main([*flags, *place]) == 0
    text = capsys.readouterr().out
    assert "96 steps, 24 an epoch: about" in text
    assert "s a step on cpu (median of 1)" in text
    assert "GB free for" in text
    assert "training can start" in text
    assert not (tmp_path / "runs").exists()


def test_too_little_memory_is_a_fault_of_the_report(
    tmp_path: Path, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> Pace:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(doctor, "measure", measure)
    fill(tmp_path)
    report = examined("--steps", 1)
    assert report["status"] == 1
    assert "out of memory: lower --batch_size" in said(report, FAULT)
    assert "trainA: 24 images" in said(report, OK), "what was found before is said"
    assert report["command"] == ""


def test_a_larger_batch_that_does_not_fit_is_not_suggested(
    tmp_path: Path, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[int]()

    def measure(run: RunOptions, *_: object) -> Pace:
        tried.append(run.data.batch_size)
        if tried[-1] > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Pace(0.1, 0.1, 24, 24, 0, 2**30)

    monkeypatch.setattr(doctor, "measure", measure)
    monkeypatch.setattr(doctor, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(doctor, "check_device", lambda *_: None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2**34, 2**34))
    fill(tmp_path)
    report = examined("--steps", 1)
    assert (tried, report["status"]) == ([1, doctor.MOST_BATCH], 0)
    assert "batch size 1 at" in said(report, OK)
    assert "--batch_size" not in report["command"]


def broken(root: Path) -> str:
    (root / "trainB").rename(root / "wrong")
    return "has no folder trainB"


def empty(root: Path) -> str:
    for file in (root / "trainA").iterdir():
        file.write_bytes(b"")
    return "none is left"


def doubled_label(root: Path) -> str:
    with (root / "labels.csv").open("a") as stream:
        stream.write("trainA/00.png,a,0\n")
    return "appears twice"


def no_number(root: Path) -> str:
    (root / "labels.csv").write_text("file,label,label_id\ntrainA/00.png,a,first\n")
    return "is no whole number"


@pytest.mark.parametrize("spoil", [broken, empty, doubled_label, no_number])
def test_a_fault_is_named_and_there_is_no_command(
    spoil: Callable[[Path], str], tmp_path: Path, examined: Examined
) -> None:
    message = spoil(fill(tmp_path))
    report = examined()
    assert report["status"] == 1
    assert message in said(report, FAULT)
    assert report["command"] == ""


def test_a_fault_of_the_flags_is_named(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path)
    assert "--ngff: no such flag (did you mean --ngf?)" in said(examined("--ngff", 3), FAULT)
    report = examined("--window_A", "1,2")
    assert "the window holds none of the counts" in said(report, FAULT)
    assert "--num_classes 3" in said(examined("--num_classes", 2), FAULT)


def test_bad_files_are_left_out_by_the_command(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path)
    (tmp_path / "trainB" / "05.png").write_bytes(b"no image")
    report = examined()
    assert report["status"] == 0
    assert "trainB: 1 of 24 files cannot be used" in said(report, WARNING)
    assert "trainB/05.png" in said(report, WARNING)
    assert "--on_bad_image skip" in report["command"]


def test_sixteen_bit_data_saved_at_eight_bits_are_noticed(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path, dtype=np.uint8)
    for number in range(24):
        cv2.imwrite(str(tmp_path / "trainA" / f"{number:02d}.png"), np.full((40, 40), 30 + number % 3, np.uint8))
    warned = said(examined(), WARNING)
    assert "constant images: 00.png" in warned
    assert "nearly flat" in warned
    assert "--window_A 30,32" in warned


def test_shapes_sub_folders_and_few_images(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path, count=6, size=(40, 64))
    (tmp_path / "labels.csv").unlink()
    shutil.rmtree(tmp_path / "testA")
    for number in range(6):
        place = tmp_path / "trainA" / ("car" if number < 3 else "bus")
        place.mkdir(exist_ok=True)
        (tmp_path / "trainA" / f"{number:02d}.png").rename(place / f"{number}.png")
    report = examined()
    assert "--labels_from_folders" in report["command"]
    assert "--preprocess scale_shortside_and_crop" in report["command"]
    warned = said(report, WARNING)
    assert "fewer than 20 images" in warned
    assert "fewer than 5 images of bus, car" in warned
    assert "no testA" in warned
    assert "would be squeezed" in said(report, OK)


def test_advice_for_few_images_is_what_their_depth_and_the_run_allow(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path, count=6)
    for flags, advice in (
        ((), "; --diffaug translation,cutout helps"),
        (("--diffaug", "translation,cutout"), "; more images help"),
        (("--cam_weight_adv",), "; --lambda_R1 1 helps"),
        (("--preset", "infrared16"), "; --lambda_R1 1 helps"),
    ):
        warned = said(examined(*flags), WARNING)
        assert f"heart{advice}" in warned
        assert "color" not in warned
    for folder in ("trainA", "trainB"):
        for file in (tmp_path / folder).iterdir():
            cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    assert "; --diffaug color,cutout helps" in said(examined(), WARNING)
    assert "; --diffaug color helps" in said(examined("--cam_weight_adv"), WARNING)


def test_a_file_in_colours_among_grey_ones_is_named_and_changes_no_advice(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path, count=30)
    colours = np.random.default_rng(1).integers(0, 65535, (40, 40, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "trainB" / "07.png"), colours)  # none of those whose pixels are looked at
    report = examined()
    warned = said(report, WARNING)
    assert "trainB: 1 of 30 images has 3 channels and the others 1: 07.png -> convert it to 1 channel" in warned
    assert "images are nearly flat: --window_B 4" in warned, "the window is chosen with it"
    assert "--input_nc 1 --output_nc 1" in report["command"]
    assert "trainB: 30 images, 40 x 40 (height x width; 30 of them), 16 bits, 1 channel" in said(report, OK)


def test_a_folder_that_is_not_there_is_one_fault(tmp_path: Path, examined: Examined) -> None:
    report = examined("--dataroot", tmp_path / "nowhere")
    (fault,) = [finding for finding in report["findings"] if finding["kind"] == FAULT]
    assert fault["text"] == f"--dataroot {tmp_path / 'nowhere'}: no such folder"
    assert said(report, WARNING) == ""


def test_label_rows_without_a_file_are_a_warning_of_the_report(
    tmp_path: Path, examined: Examined, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    with (tmp_path / "labels.csv").open("a") as stream:
        stream.write("trainA/lost.png,a,0\n")
    warned = said(examined(), WARNING)
    assert "1 of 25 rows name no file below" in warned
    assert "trainA/lost.png -> correct these rows or remove them" in warned
    capsys.readouterr()
    doctor.main(["--dataroot", str(tmp_path), *FAST])
    said_there = capsys.readouterr()
    assert "no faults, 1 warning" in said_there.out
    assert said_there.err == ""


def test_no_labels_are_said_where_the_model_has_classes(tmp_path: Path, examined: Examined) -> None:
    (fill(tmp_path) / "labels.csv").unlink()
    assert "classes are made by clustering" in said(examined(), WARNING)
    assert "clustering" not in said(examined("--model", "cut"), WARNING)


# --- environment


def test_packages_against_requirements() -> None:
    text = "# a comment\nnumpy>=1.0\nnumpy<1.0  # too old\nno-such-package-here>=2\nvisdom>=99; python_version < '3'\n"
    numpy, missing = wrong_packages(text)
    assert numpy.startswith("numpy is ")
    assert numpy.endswith("(asked for: <1.0)")
    assert missing == "no-such-package-here is not installed (asked for: >=2)"


@pytest.mark.parametrize(("free", "kind"), [(3e9, OK), (1.5e9, WARNING), (0.5e9, FAULT)])
def test_disk_space(free: float, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(free))
    report = Report()
    check_disk(report, tmp_path / "not" / "there", 10**9)
    (finding,) = report.findings
    assert finding.kind == kind
    assert f"{free / 1e9:.1f} GB free" in finding.text


def test_visdom_under_a_new_tornado(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("visdom", reason="visdom is not installed")
    monkeypatch.setattr(environment, "tornado_fault", lambda: "every page answers 403; pip install 'tornado<6.6'")
    file = tmp_path / "requirements.txt"
    file.write_text("numpy\n")
    report = Report()
    environment.check_environment(report, file)
    assert [f.remedy for f in report.findings if f.kind == WARNING] == ["pip install 'tornado<6.6'"]
    assert report.status == 0


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.ok("data", "fine")
    report.warn("data", "two lines\n  of it", "do this")
    report.command = "python train.py"
    assert report.text() == (
        "data\n  ok       fine\n  WARNING  two lines\n           of it\n           -> do this\n\n"
        "command\n  python train.py\n\nno faults, 1 warning: training can start"
    )
    report.fault("labels", "gone")
    assert report.text().endswith("1 fault, 1 warning: mend the faults first")
    assert report.status == 1


def test_sizes_that_would_stop_or_stretch_a_training(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path, size=(48, 80))
    report = examined("--preprocess", "scale_width_and_crop", "--load_size", 64, "--crop_size", 56)
    assert "48 of 48 images are stretched by --preprocess scale_width_and_crop: those of 48 x 80 to 56 x 64" in said(
        report, WARNING
    )
    image = np.random.default_rng(1).integers(4000, 8000, (32, 80)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "trainB/00.png"), image)
    report = examined("--preprocess", "none", "--load_size", 286, "--crop_size", 256)
    assert "trainB/00.png (32 x 80); A and B, and all images of a batch, need one size" in said(report, FAULT)
    assert "would be enlarged" not in said(report, WARNING)
    assert report["status"] == 1


def test_images_that_would_be_enlarged_are_judged_by_their_median(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], examined: Examined
) -> None:
    fill(tmp_path, size=(70, 70))
    cv2.imwrite(str(tmp_path / "trainB/00.png"), np.full((24, 24), 5000, np.uint16) + np.eye(24, dtype=np.uint16))
    flags = [*TINY_CUT, "--model", "cutcam", "--steps", "0"]
    capsys.readouterr()
    doctor.main(["--json", "--dataroot", str(tmp_path), *flags])
    report = json.loads(capsys.readouterr().out)
    told = "images of 70 pixels (the median side) would be enlarged to 286 -> --load_size 72 --crop_size 72, as the "
    assert f"{told}command below has it, costs less and loses nothing" in said(report, WARNING)
    assert "--load_size 72 --crop_size 72" in report["command"]
    cv2.imwrite(str(tmp_path / "trainB/01.png"), np.full((99, 99), 5000, np.uint16) + np.eye(99, dtype=np.uint16))
    report = examined("--load_size", 200, "--crop_size", 128)
    assert "--load_size 72 --crop_size 72 costs less; images up to 99 lose detail" in said(report, WARNING)
    cv2.imwrite(str(tmp_path / "trainB/02.png"), np.full((24, 24), 5000, np.uint16) + np.eye(24, dtype=np.uint16))
    assert "enlarged" not in said(examined("--load_size", 120, "--crop_size", 64), WARNING)


def test_classes_that_no_image_has_are_a_warning(tmp_path: Path, examined: Examined) -> None:
    fill(tmp_path)
    warned = said(examined("--num_classes", 30), WARNING)
    assert "classes 3, 4, 5, ... never have an example -> use --num_classes 3" in warned
    assert "--num_classes" not in said(examined("--num_classes", 4), WARNING)
