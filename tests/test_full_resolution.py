"""Full-resolution maps of a split: of an F-CAM run itself, of a classifier, and of a translation run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.base import DataError
from models import load_run
from models.fcam_model import FcamModel
from options.groups import Explanation, Inference
from options.parse import inference_options
from options.schema import OptionError
from scripts import evaluate
from scripts.explaining.curves import box_points, curves_figure, pixel_points
from scripts.explaining.full_resolution import COLUMNS, found_box, map_split
from scripts.explaining.inputs import drawn
from tests.commands import run
from tests.conftest import make_data
from tests.models.fcam_bench import CUTCAM, JUDGE, SMALL
from util.metrics.wsol import folder_scores, truth_from

SIZES = (40, 44)  # of the files; the networks see 32 x 32


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with boxes and masks of a test split, and three runs beside each other: judge, translator, fcam."""
    root = tmp_path_factory.mktemp("full")
    data = make_data(root / "data", count=(8, 4))
    shutil.copytree(data / "trainA", data / "testA")
    table = data / "labels.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows, *(row.replace("trainA", "testA") for row in rows if "trainA" in row)]) + "\n")
    (data / "masks_test").mkdir()
    rows = ["file,x0,y0,x1,y1"]
    for file in sorted((data / "testA").iterdir())[:6]:
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        mask = picture > 120
        cv2.imwrite(str(data / "masks_test" / file.name), 255 * mask.astype(np.uint8))
        ys, xs = np.nonzero(mask)
        rows.append(f"testA/{file.name},{xs.min()},{ys.min()},{xs.max() + 1},{ys.max() + 1}")
    (data / "boxes.csv").write_text("\n".join(rows) + "\n")
    monkeypatch = pytest.MonkeyPatch()
    train(monkeypatch, root, "judge", *JUDGE)
    train(monkeypatch, root, "translator", *CUTCAM)
    train(monkeypatch, root, "fcam", "--model", "fcam", "--classifier_run", "judge", *SMALL)
    monkeypatch.undo()
    return root


def train(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, *flags: object) -> None:
    import sys

    import train as program
    from tests.conftest import tiny_flags
    from util.engine.signals import StopRequest

    words = (*flags, "--name", name, "--batch_size", 4, "--max_iters", 2, "--n_epochs", 1, "--n_epochs_decay", 0)
    monkeypatch.setattr(StopRequest, "listen", lambda self: self)
    monkeypatch.setattr(sys, "argv", ["train.py", *tiny_flags(root / "ck", root / "data", *words)])
    assert program.main() == 0


def mapped(home: Path, name: str, results: Path, fcam: str | None = None, *flags: object) -> Path:
    words = ["--dataroot", home / "data", "--checkpoints_dir", home / "ck", "--name", name, "--results_dir", results]
    options = inference_options((Inference, Explanation), [str(word) for word in (*words, *flags)], prog="cam_infer.py")
    page = map_split(options, torch.device("cpu"), fcam)
    assert page == results / name / "latest_fcam" / "index.html"
    return page.parent


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "maps.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_fcam_run_maps_its_own_images(home: Path, tmp_path: Path) -> None:
    folder = mapped(home, "fcam", tmp_path)
    stems = [f"{n:02d}" for n in range(8)]
    kinds = ("input", "overlay_input", "target_input")
    expected = {f"{kind}/{stem}.png" for kind in kinds for stem in stems} | {f"map_input/{stem}.npy" for stem in stems}
    assert expected <= files_in(folder)
    assert {"index.html", "maps.csv", "scores.json", "curves.png", "curves.pdf"} <= files_in(folder)
    maps = [np.load(folder / f"map_input/{stem}.npy") for stem in stems]
    assert {(one.shape, str(one.dtype)) for one in maps} == {(SIZES, "float32")}
    assert all(0 <= one.min() <= one.max() <= 1 for one in maps)
    rows = rows_of(folder)
    assert tuple(rows[0]) == COLUMNS
    assert [row["file"] for row in rows] == [f"{stem}.png" for stem in stems]
    assert [row["class"] for row in rows] == [str(n % 4) for n in range(8)]  # their labels
    for row, one in zip(rows, maps, strict=True):
        assert float(row["foreground"]) == pytest.approx((one >= 0.5).mean(), abs=1e-4)
    assert [row["IoU"] == "" for row in rows] == [False] * 6 + [True] * 2  # two have neither box nor mask


def test_saved_maps_have_the_scores_that_are_written(home: Path, tmp_path: Path) -> None:
    folder = mapped(home, "fcam", tmp_path)
    boxes = list(csv.DictReader((home / "data" / "boxes.csv").open()))
    masks = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in sorted((home / "data" / "masks_test").iterdir())]
    truths = [
        truth_from([tuple(float(row[c]) for c in ("x0", "y0", "x1", "y1"))], SIZES, mask > 128)  # type: ignore[arg-type,list-item,operator]
        for row, mask in zip(boxes, masks, strict=True)
    ]
    found = folder_scores(folder / "map_input", [row["file"] for row in boxes], truths, scale=False)
    written = json.loads((folder / "scores.json").read_text())
    assert set(written) == {"input", "input by CAM"}
    for name, value in found.values.items():
        assert written["input"][name] == pytest.approx(value.value), name
    assert [float(row["IoU"]) for row in rows_of(folder)[:6]] == pytest.approx(found.per_image["loc_IoU"], abs=0.01)


def test_evaluate_finds_the_same_scores(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the manifest; without pictures the maps are the same. Named rightly means by the classifier, not by the label
    that the teacher's map was asked for."""
    folder = mapped(home, "fcam", tmp_path, None, "--maps_only")
    assert not {name for name in files_in(folder) if "overlay" in name or "target" in name}
    target = tmp_path / "found.json"
    words = ["--maps", folder, "--dataroot", home / "data", "--format", "json", "--output", target]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, words)])
    assert evaluate.main() == 0
    found = json.loads(target.read_text())["localisation"]["fcam"]
    written = json.loads((folder / "scores.json").read_text())["input"]
    for name, value in written.items():
        assert found[name]["value"] == pytest.approx(value), name
    model = load_run(home / "ck" / "fcam")
    pictures = [cv2.imread(str(home / "data" / "testA" / f"{n:02d}.png"))[:, :, ::-1].copy() for n in range(8)]  # type: ignore[index]
    images = torch.stack([torch.from_numpy(one) for one in pictures]).permute(0, 3, 1, 2) / 127.5 - 1
    small = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    right = model.classify(small).argmax(1) == torch.arange(8) % 4
    assert 0 < right.sum() < 8
    assert found["top1_cls"]["value"] == pytest.approx(100 * right.float().mean())


def test_a_map_is_what_the_model_sees_in_the_whole_image(home: Path, tmp_path: Path) -> None:
    folder = mapped(home, "fcam", tmp_path)
    model = load_run(home / "ck" / "fcam")
    assert isinstance(model, FcamModel)
    picture = cv2.imread(str(home / "data" / "testA" / "03.png"))
    assert picture is not None
    image = torch.from_numpy(picture[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.interpolate(image, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    map_ = model.full_resolution_maps(small * 2 - 1)
    expected = torch.nn.functional.interpolate(map_[None], SIZES, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(np.load(folder / "map_input" / "03.npy"), expected, atol=1e-5)


def test_inputs_and_translations_of_a_translation_run(home: Path, tmp_path: Path) -> None:
    folder = mapped(home, "translator", tmp_path, "fcam", "--num_test", 3)
    found = files_in(folder)
    for side in ("input", "output"):
        assert {f"{kind}{side}/02.png" for kind in ("", "overlay_", "target_")} | {f"map_{side}/02.npy"} <= found
    rows = rows_of(folder)
    assert [(row["file"], row["side"]) for row in rows] == [
        (f"{n:02d}.png", side) for n in range(3) for side in ("input", "output")
    ]
    own = mapped(home, "fcam", tmp_path / "own")
    for n in range(3):  # the inputs' maps do not depend on who translates them
        name = f"map_input/{n:02d}.npy"
        np.testing.assert_array_equal(np.load(folder / name), np.load(own / name))
    assert not np.array_equal(np.load(folder / "map_input/00.npy"), np.load(folder / "map_output/00.npy"))
    assert set(json.loads((folder / "scores.json").read_text())) == {
        *("input", "input by CAM", "output", "output by CAM")
    }


def test_a_classifiers_images_by_the_fcam_run_of_that_folder(home: Path, tmp_path: Path) -> None:
    folder = mapped(home, "judge", tmp_path, str(home / "ck" / "fcam"), "--class_idx", 2, "--num_test", 2)
    assert [row["class"] for row in rows_of(folder)] == ["2", "2"]
    assert "map_output" not in {path.name for path in folder.iterdir()}
    own = mapped(home, "fcam", tmp_path / "own", None, "--class_idx", 1)
    for name in ("map_input/00.npy", "map_input/01.npy"):  # a class changes the teacher's map alone
        np.testing.assert_array_equal(np.load(folder / name), np.load(own / name))


def test_without_truth_there_are_maps_and_no_scores(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "plain"
    shutil.copytree(home / "data", data, ignore=shutil.ignore_patterns("masks_test", "boxes.csv"))
    words = ["--dataroot", data, "--checkpoints_dir", home / "ck", "--name", "fcam", "--results_dir", tmp_path / "r"]
    options = inference_options((Inference, Explanation), [str(word) for word in words], prog="cam_infer.py")
    folder = map_split(options, torch.device("cpu")).parent
    assert {"scores.json", "curves.png"}.isdisjoint(files_in(folder))
    assert {row["IoU"] for row in rows_of(folder)} == {""}


@pytest.mark.parametrize(
    ("name", "more"), [("fcam", ()), ("judge", ("--fcam", "fcam")), ("translator", ("--fcam", "fcam"))]
)
def test_the_command(home: Path, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    words = ["--dataroot", home / "data", "--checkpoints_dir", home / "ck", "--name", name, "--gpu_ids", -1]
    outcome = run("cam_infer", [*words, "--results_dir", tmp_path, "--num_test", 2, *more], home)
    assert outcome.status == 0, outcome.err
    assert f"page: {tmp_path / name / 'latest_fcam' / 'index.html'}" in outcome.out
    assert len(rows_of(tmp_path / name / "latest_fcam")) == (4 if name == "translator" else 2)


@pytest.mark.parametrize(("name", "more"), [("fcam", ()), ("translator", ("--fcam", "fcam"))])
def test_a_picture_that_is_given_needs_no_data(home: Path, tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    picture = tmp_path / "photo.png"
    shutil.copy(home / "data" / "testA" / "03.png", picture)
    words = ["--checkpoint", home / "ck" / name, "--input", picture, "--output", tmp_path / "out", "--dataroot", "gone"]
    outcome = run("cam_infer", [*words, "--gpu_ids", -1, *more], tmp_path)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "out" / name / "latest_fcam"
    assert {row["file"] for row in rows_of(folder)} == {"photo.png"}
    own = mapped(home, name, tmp_path / "own", "fcam" if more else None, "--index", 3)
    assert [row["file"] for row in rows_of(own)] == ["03.png"] * (1 + len(more) // 2)
    np.testing.assert_array_equal(np.load(folder / "map_input/photo.npy"), np.load(own / "map_input/03.npy"))


@pytest.mark.parametrize("name", ["fcam", "judge"])
def test_a_video_is_refused_under_the_flag_that_was_given(home: Path, tmp_path: Path, name: str) -> None:
    words = ["--checkpoint", home / "ck" / name, "--input", "clip.mp4", "--output", tmp_path / "out", "--gpu_ids", -1]
    outcome = run("cam_infer", words, tmp_path)
    assert outcome.status == 2
    assert outcome.err.startswith("error: --input clip.mp4: is a video, which a translation run alone takes")


def test_random_images_of_the_split_are_those_of_the_other_explainers(home: Path, tmp_path: Path) -> None:
    stems = [f"{n:02d}.png" for n in drawn(8, 3, 0)]
    for name, fcam in (("fcam", None), ("translator", "fcam")):
        folder = mapped(home, name, tmp_path, fcam, "--random", 3)
        assert list(dict.fromkeys(row["file"] for row in rows_of(folder))) == stems
        assert (folder / "scores.json").is_file()


def test_the_class_predicted_is_named_where_that_is_asked_for(home: Path, tmp_path: Path) -> None:
    folder = mapped(home, "fcam", tmp_path, None, "--explained", "predicted")
    views = [image["views"][0] for image in json.loads((folder / "manifest.json").read_text())["images"]]
    assert [row["class"] for row in rows_of(folder)] == [str(view["predicted"]) for view in views]


def test_masks_are_found_where_the_scorer_finds_them(home: Path, tmp_path: Path) -> None:
    """Below `masks/FOLDER` as well, as the generated scenes have them."""
    data = tmp_path / "data"
    shutil.copytree(home / "data", data)
    (data / "boxes.csv").unlink()
    (data / "masks").mkdir()
    (data / "masks_test").rename(data / "masks" / "testA")
    folder = mapped(home, "translator", tmp_path, "fcam", "--dataroot", data)
    assert [row["IoU"] == "" for row in rows_of(folder)[::2]] == [False] * 6 + [True] * 2
    assert "PxAP" in json.loads((folder / "scores.json").read_text())["input"]


def test_mistakes_are_one_line(home: Path, tmp_path: Path) -> None:
    for name, fcam, message in (
        ("judge", "nowhere", r"^--fcam nowhere: neither nowhere nor .*nowhere is a run$"),
        ("judge", "translator", r"^--fcam translator: is a run of --model cutcam, not of fcam$"),
        ("judge", None, r"^--fcam judge: is a run of --model classifier, not of fcam$"),
        ("translator", None, r"^--fcam translator: is a run of --model cutcam"),
    ):
        with pytest.raises(OptionError, match=message):
            mapped(home, name, tmp_path, fcam)
    with pytest.raises(OptionError, match=r"^--class_idx 9: the classifier of fcam has the classes 0 to 3$"):
        mapped(home, "fcam", tmp_path, None, "--class_idx", 9)
    for flags in (("--cam_method", "gradcam"), ("--layer", "trunk"), ("--top_k", 2), ("--explain", "head")):
        with pytest.raises(OptionError, match=rf"^{flags[0]}: changes nothing in the maps of --model fcam"):
            mapped(home, "fcam", tmp_path, None, *flags)
    with pytest.raises(OptionError, match=r"^--explained both: an F-CAM run has one map"):
        mapped(home, "fcam", tmp_path, None, "--explained", "both")
    with pytest.raises(OptionError, match=r"^--image clip\.mp4: is a video"):
        mapped(home, "fcam", tmp_path, None, "--image", "clip.mp4")
    bare = tmp_path / "bare"
    shutil.copytree(home / "data", bare)
    rows = (bare / "labels.csv").read_text().splitlines()
    (bare / "labels.csv").write_text("\n".join(row for row in rows if "testA" not in row) + "\n")
    with pytest.raises(DataError, match=r"testA: none of its images has a label; .* another phase"):
        mapped(home, "fcam", tmp_path, None, "--dataroot", bare)


# --- parts


def test_the_box_of_a_map_is_around_its_largest_part() -> None:
    one = np.zeros((20, 30), np.float32)
    one[2:5, 2:5] = 0.9
    one[8:18, 10:25] = 0.6
    assert found_box(one) == (10, 8, 25, 18)
    assert found_box(one, 0.8) == (2, 2, 5, 5)
    assert found_box(np.zeros((4, 4), np.float32)) is None


def test_points_of_curves_by_hand() -> None:
    recall, precision = pixel_points({"true": [1, 0, 3], "false": [4, 2, 1]})
    assert recall.tolist() == [0.75, 0.75, 1.0]
    assert precision.tolist() == pytest.approx([75, 50, 100 * 4 / 11])
    thresholds, hit = box_points({"threshold": [0.0, 0.5], "MaxBoxAcc_IoU50": [20.0, 60.0]})
    assert (thresholds.tolist(), hit.tolist()) == ([0, 0.5], [20, 60])
    figure = curves_figure({"a": {"pixel_curve": {"true": [1, 3], "false": [4, 1]}}})
    assert [axes.get_title() for axes in figure.axes] == ["Pixels"]
    with pytest.raises(ValueError, match="no curve"):
        curves_figure({"a": {}})


def test_without_labels_the_class_that_the_classifier_sees_is_named(home: Path, tmp_path: Path) -> None:
    plain = tmp_path / "bare"
    shutil.copytree(home / "data" / "testA", plain / "testA")
    words = ["--dataroot", plain, "--checkpoints_dir", home / "ck", "--name", "translator", "--results_dir", tmp_path]
    options = inference_options(
        (Inference, Explanation), [str(w) for w in (*words, "--num_test", 2)], prog="cam_infer.py"
    )
    rows = rows_of(map_split(options, torch.device("cpu"), "fcam").parent)
    judge = load_run(home / "ck" / "judge")
    assert len(rows) == 4
    for row in rows:
        assert 0.25 <= float(row["probability"]) <= 1  # the class that the classifier sees, of four the likeliest
        assert int(row["class"]) < judge.classifier.num_classes  # type: ignore[attr-defined]
