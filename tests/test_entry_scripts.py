"""The three entry scripts as a user runs them, at the smallest sizes: each once as a program, else in this process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.images import DomainFormat, Window, decode
from data.single_dataset import SingleDataset
from data.transforms import resize_to
from models import MODELS, load_run
from models.cam.functional import correlation
from options.groups import Explanation, Inference
from options.parse import OPTIONS_FILE, inference_options, train_options
from options.yaml_config import dump_yaml, read_yaml
from tests.commands import run
from util.checkpoint import export_weights
from util.engine.inference import explain_image, translate_image
from util.files import write_atomic

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"a.png": (33, 45), "day/b.png": (40, 30), "day/c.png": (31, 64)}  # of testA: no multiples of 4
KINDS = ("fake", "cam_input", "cam_output", "overlay_input", "overlay_output")
# The commands of the README, word for word but for the folders.
TRAIN = [
    "--model",
    "cutcam",
    "--CUT_mode",
    "CUTCAM",
    "--nce_layers",
    "0,4,8,12,16",
    "--cam_layer",
    "-1",
    "--num_classes",
    "7",
    "--lambda_GAN",
    "1",
    "--lambda_NCE",
    "1",
    "--lambda_CLS",
    "1",
    "--lambda_CAM",
    "25",
    "--lambda_IDT",
    "10",
    "--nce_idt",
    "--lambda_EDGE",
    "5",
    "--cam_weight_adv",
    "--netG",
    "resnet_9blocks",
    "--netD",
    "basic",
    "--input_nc",
    "3",
    "--output_nc",
    "3",
    "--batch_size",
    "4",
    "--preprocess",
    "resize_and_crop",
    "--load_size",
    "286",
    "--crop_size",
    "256",
]
EXPLAIN = [
    "--model",
    "cutcam",
    "--CUT_mode",
    "CUTCAM",
    "--phase",
    "test",
    "--epoch",
    "latest",
    "--nce_layers",
    "0,4,8,12,16",
    "--cam_layer",
    "-1",
    "--num_test",
    "10000",
    "--input_nc",
    "3",
    "--output_nc",
    "3",
]
TINY = [
    "--ngf",
    "8",
    "--ndf",
    "8",
    "--netF_nc",
    "16",
    "--num_patches",
    "16",
    "--load_size",
    "36",
    "--crop_size",
    "32",
    "--num_threads",
    "0",
]
SHORT = [
    "--n_epochs",
    "1",
    "--n_epochs_decay",
    "1",
    "--max_iters",
    "4",
    "--print_freq",
    "1",
    "--display_id",
    "-1",
    "--gpu_ids",
    "-1",
]


def run_program(script: str, *flags: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an entry script from another folder, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def run_script(script: str, *flags: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, which spares the start of another."""
    outcome = run(script.removesuffix(".py"), flags, cwd)
    return subprocess.CompletedProcess([script, *map(str, flags)], outcome.status, outcome.out, outcome.err)


def done(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def write(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def read(path: Path) -> NDArray[Any]:
    array: NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert array is not None, path
    return array


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True)
class Trained:
    """A run, its data, and the folder that all commands were started in."""

    home: Path
    data: Path
    name: str
    output: str

    @property
    def folder(self) -> Path:
        return self.home / "checkpoints" / self.name


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The seed's training command on eight labelled colour images a domain."""
    home = tmp_path_factory.mktemp("colour")
    data, rng = home / "data", np.random.default_rng(1)
    for number in range(8):
        for side in "AB":
            write(data / f"train{side}/{number}.png", rng.integers(0, 256, (40, 44, 3)).astype(np.uint8))
    for name, size in SIZES.items():
        write(data / "testA" / name, rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    lines = [f"trainA/{number}.png,kind{number % 3},{number % 3}" for number in range(8)]
    lines += ["trainB/0.png,kind6,6", "testA/a.png,kind2,2", "testA/day/b.png,kind0,0"]
    (data / "labels.csv").write_text("\n".join(["file,label,label_id", *lines]) + "\n")
    flags = ["--dataroot", "data", "--name", "cutcam_run", *TRAIN, *TINY, *SHORT]
    result = done(run_program("train.py", *flags, cwd=home))
    return Trained(home, data, "cutcam_run", result.stdout)


@pytest.fixture(scope="module")
def infrared(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """FastCUT's preset of CUTCAM on unlabelled 16-bit images of one channel, B with a window of its own."""
    home = tmp_path_factory.mktemp("infrared")
    rng = np.random.default_rng(2)
    for number in range(4):
        write(home / f"data/trainA/{number}.png", rng.integers(7000, 9000, (36, 36)).astype(np.uint16))
        write(home / f"data/trainB/{number}.tif", rng.integers(20000, 30000, (36, 36)).astype(np.uint16))
    write(home / "data/testA/x.png", rng.integers(7000, 9000, (34, 37)).astype(np.uint16))
    write(home / "data/testA/x.tif", rng.integers(7000, 9000, (36, 36)).astype(np.uint16))
    write(home / "data/testB/y.png", rng.integers(20000, 30000, (38, 35)).astype(np.uint16))
    flags = [
        "--dataroot",
        "data",
        "--name",
        "ir",
        "--model",
        "cutcam",
        "--CUT_mode",
        "FastCUT",
        "--window_B",
        "20000,30000",
    ]
    flags += [
        "--netG",
        "resnet_4blocks",
        "--nce_layers",
        "0,4,8,12",
        "--num_classes",
        "3",
        "--input_nc",
        "1",
        "--output_nc",
        "1",
    ]
    result = done(run_script("train.py", *flags, *TINY, *SHORT, cwd=home))
    return Trained(home, home / "data", "ir", result.stdout)


@pytest.fixture(scope="module")
def explained(colour: Trained) -> Path:
    """The seed's cam_infer command, with raw maps; the folder of its results."""
    flags = ["--dataroot", "data", "--name", "cutcam_run", *EXPLAIN, "--results_dir", "results/cam_vis"]
    done(run_program("cam_infer.py", *flags, "--save_raw", cwd=colour.home))
    return colour.home / "results/cam_vis/cutcam_run/latest"


# --- train.py


def test_training_leaves_a_run_that_can_be_used_and_continued(colour: Trained) -> None:
    names = {path.name for path in colour.folder.iterdir()}
    assert {f"latest_net_{net}.pth" for net in "GFDC"} <= names
    assert {"latest_state.pt", "options.yaml", "environment.txt", "domains.json", "log.jsonl"} <= names
    assert {"loss_log.txt", "panels", "web"} <= names
    saved = read_yaml(colour.folder / OPTIONS_FILE)
    assert saved["lambda_CAM"] == 25
    assert saved["nce_layers"] == [0, 4, 8, 12, 16]
    assert saved["crop_size"] == [32, 32]


def test_training_prints_losses_in_cuts_form_and_the_labels(colour: Trained) -> None:
    lines = [line for line in colour.output.splitlines() if line.startswith("(epoch: ")]
    assert [line.split(",")[:2] for line in lines] == [
        ["(epoch: 1", " iters: 4"],
        ["(epoch: 1", " iters: 8"],
        ["(epoch: 2", " iters: 4"],
        ["(epoch: 2", " iters: 8"],
    ]
    for term in ("G_GAN", "D_real", "D_fake", "NCE", "NCE_Y", "CLS", "IDT", "EDGE"):
        assert all(f" {term}: " in line for line in lines), term
    assert "labels: kind0: 3, kind1: 3, kind2: 2" in colour.output


def test_continuing_needs_only_the_name_and_keeps_every_option(colour: Trained, tmp_path: Path) -> None:
    before = read_yaml(colour.folder / OPTIONS_FILE)
    copy = tmp_path / "checkpoints" / "cutcam_run"
    for file in ("latest_state.pt", OPTIONS_FILE, "domains.json", "log.jsonl"):
        write_atomic(copy / file, (colour.folder / file).read_bytes())
    flags = ["--name", "cutcam_run", "--dataroot", str(colour.data), "--continue_train", "--max_iters", "5"]
    flags += ["--n_epochs_decay", "2"]
    result = done(run_script("train.py", *flags, cwd=tmp_path))
    assert "(epoch: 3, iters: 4" in result.stdout
    after = read_yaml(copy / OPTIONS_FILE)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"dataroot", "max_iters", "n_epochs_decay"}


def test_options_that_do_not_fit_leave_the_run_as_it_was(colour: Trained) -> None:
    files = {path: path.read_bytes() for path in colour.folder.iterdir() if path.suffix in (".yaml", ".json")}
    flags = ["--name", "cutcam_run", "--dataroot", "data", "--continue_train", "--ngf", "4"]
    result = run_script("train.py", *flags, cwd=colour.home)
    assert_one_line(result, "does not fit the options of this command")
    assert {path: path.read_bytes() for path in files} == files


# --- test.py


def test_translations_have_their_inputs_size_and_need_no_target(colour: Trained) -> None:
    done(run_script("test.py", "--dataroot", "data", "--name", "cutcam_run", cwd=colour.home))
    folder = colour.home / "results/cutcam_run/test_latest"
    assert (folder / "index.html").is_file()
    assert not (folder / "images/real_B").exists()
    for name, size in SIZES.items():
        source = read(colour.data / "testA" / name)
        np.testing.assert_array_equal(read(folder / "images/real_A" / name), source)
        assert read(folder / "images/fake_B" / name).shape == (*size, 3)


def test_sixteen_bits_come_back_as_sixteen_bits_in_the_window_of_b(infrared: Trained) -> None:
    flags = ["--dataroot", "data", "--name", "ir", "--gpu_ids", "-1"]
    done(run_program("test.py", *flags, cwd=infrared.home))
    folder = infrared.home / "results/ir/test_latest"
    model, run = load_run(infrared.folder), inference_options((), run_flags(infrared))
    dataset = SingleDataset.for_phase(run, "test", 50)
    for number, stem in enumerate(["x", "x_tif"]):
        whole = dataset.whole(number)
        fake = read(folder / f"images/fake_B/{stem}.png")
        assert fake.dtype == np.uint16
        assert fake.shape == whole.size
        expected = 20000 + 10000 * translate_image(model, whole.sample.A, whole.size)[0].double().numpy()
        assert np.abs(fake - expected).max() <= 1  # the other process may round differently
        # Counts outside A's window (its percentiles 0.1 and 99.9) are clipped, all others are given back.
        low, high = dataset.source.window.low, dataset.source.window.high  # type: ignore[union-attr]
        source = read(infrared.data / "testA" / ("x.png" if number == 0 else "x.tif"))
        kept = read(folder / f"images/real_A/{stem}.png")
        assert np.abs(kept - source.astype(float).clip(low, high)).max() <= 1
    target = read(infrared.data / "testB/y.png")
    np.testing.assert_array_equal(read(folder / "images/real_B/x.png"), target)


def test_published_weights_translate_a_folder_of_images(tmp_path: Path) -> None:
    """Nothing but a G with CUT's keys, and pictures that belong to no split."""
    flags = ["--model", "cut", "--netG", "resnet_6blocks", "--ngf", "4", "--crop_size", "32"]
    run = train_options(["--dataroot", "x", "--init_gain", "1", *flags])
    net = MODELS.get("cut").from_options(run).nets["G"]
    export_weights(tmp_path / "zoo/horse2zebra/latest_net_G.pth", net.state_dict())
    write(tmp_path / "photos/a.png", np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8))
    place = ["--checkpoints_dir", "zoo", "--name", "horse2zebra", "--gpu_ids", "-1", "--dataroot", "photos"]
    result = done(run_script("test.py", *place, *flags, "--dataset_mode", "single", cwd=tmp_path))
    assert "weights without windows; source read as" in result.stdout
    image = decode(tmp_path / "photos/a.png", 3, DomainFormat(Window(0, 255), "uint8"))
    with torch.inference_mode():
        small = resize_to(image[None], (32, 32), 0, 1) * 2 - 1
        expected = resize_to(net(small), (40, 48), -1, 1)[0].add(1).div(2)
    fake = tmp_path / "results/horse2zebra/test_latest/images/fake_B/a.png"
    stored = decode(fake, 3, DomainFormat(Window(0, 255), "uint8"))
    torch.testing.assert_close(stored, expected, atol=0.006, rtol=0)


def test_targets_that_cannot_be_read_are_left_out(infrared: Trained, tmp_path: Path) -> None:
    """An 8-bit testB of a 16-bit run, a broken file in it, and a valB that is of no concern to testA."""
    rng = np.random.default_rng(3)
    for name in ("x", "y", "z"):
        write(tmp_path / f"data/testA/{name}.png", rng.integers(7000, 9000, (36, 36)).astype(np.uint16))
    write(tmp_path / "data/testB/1.png", rng.integers(0, 255, (36, 36)).astype(np.uint8))
    (tmp_path / "data/testB/2.png").write_text("no image")
    write(tmp_path / "data/testB/3.png", rng.integers(20000, 30000, (36, 36)).astype(np.uint16))
    flags = [*run_flags(infrared), "--dataroot", str(tmp_path / "data")]
    result = done(run_script("test.py", *flags, cwd=tmp_path))
    assert result.stdout.count("real_B is left out for 2 images, first because ") == 1
    pictures = tmp_path / "results/ir/test_latest/images"
    assert [file.name for file in sorted((pictures / "real_B").iterdir())] == ["z.png"]
    assert len(list((pictures / "fake_B").iterdir())) == 3
    (tmp_path / "data/testB").rename(tmp_path / "data/valB")
    done(run_script("test.py", *flags, "--results_dir", "other", cwd=tmp_path))
    assert not (tmp_path / "other/ir/test_latest/images/real_B").exists()


# --- cam_infer.py


def test_cam_infer_writes_exactly_the_files_promised(explained: Path) -> None:
    stems = [name.removesuffix(".png") for name in SIZES]
    promised = {f"{stem}_{kind}.png" for stem in stems for kind in KINDS}
    promised |= {f"{stem}_{kind}.npy" for stem in stems for kind in ("cam_input", "cam_output")}
    promised |= {"cams.csv", "index.html", *(f"page/input/{stem}.png" for stem in stems)}
    written = {path.relative_to(explained).as_posix() for path in explained.rglob("*") if path.is_file()}
    assert written == promised
    page = (explained / "index.html").read_text()
    assert 0 < page.index(f"page/input/{stems[0]}.png") < page.index(f"{stems[0]}_fake.png")
    for stem, size in zip(stems, SIZES.values(), strict=True):
        for kind in KINDS:
            assert read(explained / f"{stem}_{kind}.png").shape == (*size, 3)


def test_table_and_maps_agree_with_a_computation_of_our_own(colour: Trained, explained: Path) -> None:
    model, run = load_run(colour.folder), inference_options((), run_flags(colour))
    dataset = SingleDataset.for_phase(run, "test", 50)
    rows = rows_of(explained / "cams.csv")
    assert [row["file"] for row in rows] == list(SIZES)
    assert [row["label"] for row in rows] == ["2", "0", ""]
    assert [row["class_name"] for row in rows[:2]] == ["kind2", "kind0"]
    for number, row in enumerate(rows):
        whole = dataset.whole(number)
        fake, seen = explain_image(model, whole.sample.A, whole.size, whole.sample.label_A)
        before, after = seen.probabilities[0], seen.probabilities_fake[0]
        wanted = int(row["label"] or before.argmax())
        assert int(row["class"]) == wanted
        assert int(row["predicted_input"]) == int(before.argmax())
        assert int(row["predicted_output"]) == int(after.argmax())
        assert float(row["confidence_input"]) == pytest.approx(float(before[wanted]), abs=2e-4)
        assert float(row["confidence_output"]) == pytest.approx(float(after[wanted]), abs=2e-4)
        same = float(correlation(seen.cam, seen.cam_fake)[0])
        assert float(row["cam_correlation"]) == pytest.approx(same, abs=2e-4, nan_ok=True)
        stem = row["file"].removesuffix(".png")
        for side, cam in (("input", seen.cam), ("output", seen.cam_fake)):
            kept = np.load(explained / f"{stem}_cam_{side}.npy")
            np.testing.assert_allclose(kept, cam[0].numpy(), atol=1e-5)
        stored = decode(explained / f"{stem}_fake.png", 3, DomainFormat(Window(0, 255), "uint8"))
        torch.testing.assert_close(stored, fake, atol=0.006, rtol=0)


def test_class_idx_explains_one_class_of_unlabelled_images(infrared: Trained) -> None:
    model, run = load_run(infrared.folder), inference_options((), run_flags(infrared))
    whole = SingleDataset.for_phase(run, "train", 1).whole(0)
    choice = int(explain_image(model, whole.sample.A, whole.size, -1)[1].classes)
    wanted = str((choice + 1) % 3)  # not what would be explained without the flag
    flags = ["--dataroot", "data", "--name", "ir", "--class_idx", wanted, "--results_dir", "out"]
    done(run_script("cam_infer.py", *flags, "--num_test", "1", "--phase", "train", cwd=infrared.home))
    folder = infrared.home / "out/ir/latest"
    (row,) = rows_of(folder / "cams.csv")
    assert (row["file"], row["class"], row["label"]) == ("0.png", wanted, "")
    assert row["predicted_input"] == str(choice)
    fake = read(folder / "0_fake.png")
    assert fake.dtype == np.uint16
    assert fake.shape == (36, 36)
    assert int(fake.min()) >= 20000
    assert int(fake.max()) <= 30000
    assert read(folder / "0_overlay_input.png").dtype == np.uint8
    assert not list(folder.glob("*.npy"))


# --- errors


def run_flags(run: Trained) -> list[str]:
    """Flags for reading a run's options in this process."""
    return ["--checkpoints_dir", str(run.folder.parent), "--name", run.name, "--dataroot", str(run.data)]


def assert_one_line(result: subprocess.CompletedProcess[str], part: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert part in result.stderr


@pytest.mark.parametrize(
    ("script", "flags", "part"),
    [
        ("train.py", "--dataroot nowhere --ngf 4", "--dataroot nowhere: no such folder"),
        (
            "train.py",
            "--dataroot data --lamda_GAN 2",
            "--lamda_GAN: no such flag (did you mean --lambda_GAN?)",
        ),
        ("test.py", "--name cutcam_run --dataroot nowhere", "--dataroot nowhere: no such folder"),
        ("test.py", "--name cutcam_ran --dataroot data", "there are: cutcam_run"),
        ("cam_infer.py", "--name cutcam_run --dataroot data --class_idx 7", "--class_idx 7: the head has"),
        ("cam_infer.py", "--name plain --checkpoints_dir other --dataroot data", "has no class head"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_status_2(colour: Trained, script: str, flags: str, part: str) -> None:
    if "plain" in flags:
        plain_run(colour)
    assert_one_line(run_script(script, *flags.split(), cwd=colour.home), part)


def plain_run(colour: Trained) -> None:
    """A run of model cut that has not been trained, beside the others."""
    flags = ["--dataroot", "data", "--name", "plain", "--checkpoints_dir", str(colour.home / "other")]
    run = train_options([*flags, "--ngf", "4", "--netG", "resnet_4blocks", "--nce_layers", "0,4"])
    write_atomic(run.folder / OPTIONS_FILE, dump_yaml(run.groups()).encode())
    write_atomic(run.folder / "domains.json", (colour.folder / "domains.json").read_bytes())
    export_weights(run.folder / "latest_net_G.pth", MODELS.get("cut").from_options(run).nets["G"].state_dict())


def test_labels_beyond_the_head_stop_training_before_anything_is_written(colour: Trained) -> None:
    table = colour.home / "bad.csv"
    table.write_text("file,label_id\ntrainA/0.png,3\n")
    flags = ["--dataroot", "data", "--name", "bad", "--num_classes", "3", "--labels_A", "bad.csv", *TINY]
    result = run_script("train.py", *flags, "--model", "cutcam", cwd=colour.home)
    assert_one_line(result, "label_id 3 is not in 0..2")
    assert not (colour.home / "checkpoints/bad").exists()


def test_a_run_on_one_domain_is_refused_before_anything_is_written(colour: Trained) -> None:
    flags = ["--dataroot", "data", "--name", "alone", "--dataset_mode", "single", *TINY]
    assert_one_line(run_script("train.py", *flags, cwd=colour.home), "train.py needs source and target")
    assert not (colour.home / "checkpoints/alone").exists()


def test_load_run_reads_a_run_by_its_folder(colour: Trained) -> None:
    model = load_run(colour.folder)
    assert model.translate(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    run = inference_options((Inference, Explanation), run_flags(colour))
    assert run.experiment.model == "cutcam"
