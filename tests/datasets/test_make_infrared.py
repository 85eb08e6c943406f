"""The generated example data set: its files agree with one another, and are written safely."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import make_infrared
import numpy as np
import pytest
from infrared_scenes import writer
from infrared_scenes.recipe import CLASS_NAMES, Recipe, RecipeError, class_of, shots
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--size", "48", "--train", "9", "--test", "4")


def make(folder: Path, *arguments: str) -> Path:
    assert make_infrared.main(["--out", str(folder), *arguments]) == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def picture(path: Path) -> NDArray[np.float64]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, dtype=np.float64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data") / "infrared", *SMALL)


# ---- files


def test_runs_as_the_readme_says(tmp_path: Path, made: Path) -> None:
    script = [sys.executable, "datasets/make_infrared.py", "--out", str(tmp_path / "again"), *SMALL]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert digests(tmp_path / "again") == digests(made)  # the same bytes, in another process
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_another_seed_makes_other_pictures(tmp_path: Path, made: Path) -> None:
    other = digests(make(tmp_path / "other", *SMALL, "--seed", "1"))
    same = [file for file, digest in digests(made).items() if file.endswith(".png") and other[file] == digest]
    assert not same


def test_tables_and_files_match(made: Path) -> None:
    pictures = {f"{d}/{p.name}" for d in ("trainA", "trainB", "testA", "testB") for p in (made / d).iterdir()}
    assert len(pictures) == 2 * 9 + 2 * 4
    labels, boxes = table(made / "labels.csv"), table(made / "boxes.csv")
    assert list(labels[0]) == ["file", "label", "label_id"]
    assert list(boxes[0]) == ["file", "x0", "y0", "x1", "y1", "class"]
    assert sorted(row["file"] for row in labels) == sorted(pictures)
    assert [row["file"] for row in boxes] == [row["file"] for row in labels]
    assert [row["class"] for row in boxes] == [row["label"] for row in labels]
    assert all(CLASS_NAMES[int(row["label_id"])] == row["label"] for row in labels)
    assert {str(p.relative_to(made / "masks")) for p in (made / "masks").rglob("*.png")} == pictures
    assert not {path.name for path in (made / "trainA").iterdir()} & {p.name for p in (made / "trainB").iterdir()}
    assert not (made / "pairs_train.csv").exists()


def test_boxes_bound_masks_exactly(made: Path) -> None:
    for row in table(made / "boxes.csv"):
        mask = picture(made / "masks" / row["file"])
        assert mask.shape == (48, 48)
        assert set(np.unique(mask)) == {0, 255}
        pixels = [(x, y) for y in range(48) for x in range(48) if mask[y, x]]
        xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
        box = [int(row[name]) for name in ("x0", "y0", "x1", "y1")]
        assert box == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
        assert min(box[:2]) > 0  # the vehicle is wholly in view
        assert max(box[2:]) < 48


def test_test_pairs_show_one_scene(made: Path) -> None:
    pairs = table(made / "pairs_test.csv")
    assert len(pairs) == 4
    label = {row["file"]: row["label"] for row in table(made / "labels.csv")}

    def edges(file: str) -> NDArray[np.float64]:
        smooth = cv2.GaussianBlur(picture(made / file), (0, 0), 1.5)
        return np.hypot(cv2.Sobel(smooth, cv2.CV_64F, 1, 0), cv2.Sobel(smooth, cv2.CV_64F, 0, 1)).ravel()

    for i, pair in enumerate(pairs):
        a, b, other = pair["A"], pair["B"], pairs[i - 1]["B"]
        assert Path(a).name == Path(b).name
        assert label[a] == label[b]
        assert np.array_equal(picture(made / "masks" / a), picture(made / "masks" / b))
        alike = np.corrcoef([edges(a), edges(b), edges(other)])
        assert alike[0, 1] > max(0.3, alike[0, 2])


def test_paired_training_scenes(tmp_path: Path) -> None:
    folder = make(tmp_path / "paired", *SMALL, "--paired_train")
    pairs = table(folder / "pairs_train.csv")
    assert len(pairs) == 9
    for pair in pairs:
        assert Path(pair["A"]).name == Path(pair["B"]).name
        assert np.array_equal(picture(folder / "masks" / pair["A"]), picture(folder / "masks" / pair["B"]))
        assert not np.array_equal(picture(folder / pair["A"]), picture(folder / pair["B"]))


def test_more_training_scenes_keep_the_earlier_ones(tmp_path: Path, made: Path) -> None:
    grown = make(tmp_path / "grown", "--size", "48", "--train", "12", "--test", "6")
    before, after = digests(made), digests(grown)
    assert all(after[file] == digest for file, digest in before.items() if file.endswith(".png"))
    labels = {row["file"]: row["label"] for row in table(grown / "labels.csv")}
    assert all(labels[row["file"]] == row["label"] for row in table(made / "labels.csv"))


def test_16_bits_are_used(tmp_path: Path) -> None:
    folder = make(tmp_path / "counts", "--size", "128", "--train", "2", "--test", "1", "--bits", "16")
    for path in (*folder.glob("train*/*.png"), *folder.glob("test*/*.png")):
        image = picture(path)
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        assert stored.dtype == np.uint16
        assert 5000 < image.min() < image.max() < 16384
        assert len(np.unique(image)) > 256
        assert np.unique(image, return_counts=True)[1].max() < 0.1 * image.size  # no level holds it all, not white
    assert not np.array_equal(picture(folder / "testA/scene_00000.png"), picture(folder / "testB/scene_00000.png"))


# ---- classes


def test_prior_of_b_is_respected() -> None:
    recipe = Recipe(train=200, test=70, classes=4, prior_B=(6, 2, 0, 2))
    count: dict[str, Counter[int]] = {"A": Counter(), "B": Counter(), "test": Counter()}
    for shot in shots(recipe):
        domain = "test" if shot.folder_a == "testA" else "A" if shot.folder_a else "B"
        count[domain][shot.label_id] += 1
    assert [count["B"][i] for i in range(4)] == pytest.approx([120, 40, 0, 40], abs=3)
    assert count["B"][2] == 0
    assert [count["A"][i] for i in range(4)] == pytest.approx([50] * 4, abs=3)
    assert [count["test"][i] for i in range(4)] == pytest.approx([17.5] * 4, abs=3)


def test_prior_of_b_reaches_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "skewed", *SMALL, "--classes", "3", "--prior_B", "0,1,0")
    labels = table(folder / "labels.csv")
    assert {row["label"] for row in labels if row["file"].startswith("trainB/")} == {CLASS_NAMES[1]}
    assert {row["label"] for row in labels if row["file"].startswith("trainA/")} == set(CLASS_NAMES[:3])


def test_every_prefix_is_balanced() -> None:
    drawn = [class_of(5, 0, i, (1.0,) * 7) for i in range(210)]
    for n in (70, 140, 210):
        assert max(abs(c - n / 7) for c in Counter(drawn[:n]).values()) <= 2.5


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bits", "12"), "--bits 12"),
        (("--size", "16"), "--size 16"),
        (("--size", "big"), "--size"),
        (("--train", "0"), "--train 0"),
        (("--test", "-3"), "--test -3"),
        (("--seed", "-1"), "--seed -1"),
        (("--classes", "8"), "from 2 to 7"),
        (("--prior_B", "1,2,3"), "give 7 numbers"),
        (("--prior_B", "0,0,0,0,0,0,0"), "--prior_B"),
        (("--prior_B", "1,1,1,1,1,1,nan"), "--prior_B"),
        (("--prior_B", "a,b"), "not a list of numbers"),
        (("--prior_B", "1,1,1,1,1,1,2", "--paired_train"), "--paired_train"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_bad_arguments_say_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    try:
        status = make_infrared.main(["--out", str(tmp_path / "out"), *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    message = capsys.readouterr().err
    assert status == 2
    assert message.count("\n") == 1
    assert words in message
    assert not list(tmp_path.iterdir())


def test_foreign_folder_is_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for extra in ((), ("--overwrite",)):
        assert make_infrared.main(["--out", str(tmp_path / "mine"), *SMALL, *extra]) == 2
        assert "not made by this script (it holds thesis.txt)" in capsys.readouterr().err
    assert digests(tmp_path) == {"mine/thesis.txt": hashlib.sha256(b"years of work").hexdigest()}


def test_own_folder_with_something_added_is_not_replaced(tmp_path: Path) -> None:
    folder = make(tmp_path / "own", *SMALL)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(RecipeError, match=r"notes\.txt"):
        writer.check_target(folder, Recipe(), overwrite=True)


def test_overwrite_is_asked_for_when_arguments_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "own", *SMALL)
    before = digests(folder)
    make(folder, *SMALL)  # the same again is no loss
    assert digests(folder) == before
    assert make_infrared.main(["--out", str(folder), *SMALL, "--seed", "9"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert digests(folder) == before
    make(folder, *SMALL, "--seed", "9", "--overwrite")
    assert digests(folder) != before
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", *SMALL)
    assert (tmp_path / "empty" / "labels.csv").exists()


def test_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "own", *SMALL)
    before, save, written = digests(folder), writer._save_png, []

    def full_disk(path: Path, image: writer.Picture) -> None:
        written.append(path)
        if len(written) > 7:
            raise OSError("no space left on the disk")
        save(path, image)

    monkeypatch.setattr(writer, "_save_png", full_disk)
    assert make_infrared.main(["--out", str(folder), *SMALL, "--seed", "2", "--overwrite"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    make(tmp_path / "own", *SMALL, "--bits", "16", "--contact_sheet", str(sheet))
    assert picture(sheet).shape == (7 * 2 * 50, 6 * 50)
    inside = str(tmp_path / "new" / "sheet.png")
    assert make_infrared.main(["--out", str(tmp_path / "new"), *SMALL, "--contact_sheet", inside]) == 2
    assert "--contact_sheet" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# ---- classes by name


def test_classes_may_be_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", *SMALL, "--classes", "tank,car")
    rows = {(row["label_id"], row["label"]) for row in table(folder / "labels.csv")}
    assert rows == {("0", "tank"), ("1", "car")}
    assert "--classes tank,car" in (folder / "README.md").read_text()


@pytest.mark.parametrize("names", ["car,ship", "car,car", "car"])
def test_wrong_class_names_are_one_line(tmp_path: Path, names: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_infrared.main(["--out", str(tmp_path / "d"), "--classes", names]) == 2
    assert f"--classes {names}" in capsys.readouterr().err
