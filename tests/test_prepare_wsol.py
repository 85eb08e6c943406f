"""Split files from tiny stand-ins of CUB, ILSVRC and OpenImages, read back by the data set that trains on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.base import DataError
from data.wsol_dataset import WsolDataset
from data.wsol_splits import SplitTruth, read_split
from options.parse import train_options
from options.schema import OptionError
from scripts import prepare_wsol


def picture(path: Path, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


def lines(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts))


def prepare(dataset: str, root: Path, *more: object) -> int:
    return prepare_wsol.main([dataset, "--dataroot", str(root), *map(str, more)])


def opened(root: Path, *flags: object) -> WsolDataset:
    places = ("--dataroot", root, "--checkpoints_dir", root / "runs", "--model", "std_cl", "--arch", "judge")
    run = train_options([str(flag) for flag in (*places, "--load_size", 16, "--crop_size", 16, *flags)])
    return WsolDataset.from_options(run, 1)


# --- CUB


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """`CUB_200_2011` with six images of two classes, and its tables."""
    place = tmp_path / "CUB_200_2011"
    names = [f"{n % 2 + 1:03d}.Bird{n % 2}/b_{n}.jpg" for n in range(6)]
    for name in names:
        picture(place / "images" / name)
    lines(place / "images.txt", *(f"{n + 1} {name}" for n, name in enumerate(names)))
    lines(place / "image_class_labels.txt", *(f"{n + 1} {n % 2 + 1}" for n in range(6)))
    lines(place / "train_test_split.txt", *(f"{n + 1} {int(n < 4)}" for n in range(6)))
    lines(place / "bounding_boxes.txt", *(f"{n + 1} {n}.0 2.0 10.5 8.0" for n in range(6)))
    return place


def test_cub_from_its_own_tables(cub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cub / "images"
    assert prepare("CUB", root) == 0
    out = capsys.readouterr().out
    assert "train: 4 images (published: 5994), 2 classes, boxes" in out
    assert "test: 2 images (published: 5794), 2 classes, boxes" in out
    assert "val: not there; without it a share of train is held out" in out
    assert f"--dataset_mode wsol --dataroot {root} --name RUN" in out
    split = read_split(root / "splits/train")
    assert split.labels == {f"{n % 2 + 1:03d}.Bird{n % 2}/b_{n}.jpg": n % 2 for n in range(4)}
    truth = SplitTruth(root / "splits/test", root)("001.Bird0/b_4.jpg")
    assert truth is not None
    assert (truth.size, truth.boxes.tolist()) == ((20, 30), [[4, 2, 14, 10]])
    dataset = opened(root, "--val_share", 0.5)
    assert dict(dataset.class_names) == {0: "001.Bird0", 1: "002.Bird1"}


def test_cubs_val_comes_from_the_published_files(cub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, val = cub / "images", tmp_path / "metadata/CUB/val"
    names = ["001.Bird0/v 0.jpg", "002.Bird1/v1.jpg"]
    for name in names:
        picture(root / name)
    lines(val / "image_ids.txt", *names)
    lines(val / "class_labels.txt", *(f"{name},{n}" for n, name in enumerate(names)))
    lines(val / "image_sizes.txt", *(f"{name},30,20" for name in names))
    lines(val / "localization.txt", *(f"{name},1,2,9,9" for name in names))
    assert prepare("CUB", root, "--metadata", tmp_path / "metadata") == 0
    assert "val: 2 images (published: 1000), 2 classes, boxes; from" in capsys.readouterr().out
    assert (root / "splits/val/localization.txt").read_bytes() == (val / "localization.txt").read_bytes()
    dataset = opened(root, "--select", "best_loc")
    assert dataset.validation is not None
    assert len(dataset.validation) == 2
    (root / names[0]).unlink()
    with pytest.raises(DataError, match=r"1 of 2 images of the split val .* are missing: 001\.Bird0/v 0\.jpg"):
        prepare("CUB", root, "--metadata", tmp_path / "metadata/CUB")


def test_cub_says_what_is_missing_or_wrong(cub: Path, tmp_path: Path) -> None:
    root = cub / "images"
    with pytest.raises(DataError, match="none: no such folder; CUB is at https://"):
        prepare("CUB", tmp_path / "none")
    with pytest.raises(OptionError, match="invalid choice: 'CAB'"):
        prepare("CAB", root)
    (cub / "images.txt").rename(tmp_path / "images.txt")
    with pytest.raises(DataError, match=r"images\.txt: cannot be read .*--tables names the folder CUB_200_2011"):
        prepare("CUB", root)
    (tmp_path / "images.txt").rename(cub / "images.txt")
    lines(cub / "bounding_boxes.txt", "1 a 2 3 4")
    with pytest.raises(DataError, match="image 1 lacks a cell, or holds a wrong one"):
        prepare("CUB", root)
    assert not (root / "splits").exists()


@pytest.mark.parametrize("flag", ["--metadata", "--tables"])
def test_a_folder_that_is_given_is_there(cub: Path, tmp_path: Path, flag: str) -> None:
    """Published split files were looked for in vain, and their boxes silently left out."""
    file = cub / "images.txt"
    for place in (tmp_path / "none", file, ""):
        with pytest.raises(DataError, match=f"^{flag} {place or repr('')}: no such folder; correct it or leave it out"):
            prepare("CUB", cub / "images", flag, place)
    assert not (cub / "images/splits").exists()


def test_published_split_files_of_another_data_set_are_none(cub: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata/ILSVRC/val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"--metadata .*metadata: has no split, such as CUB/val/image_ids\.txt"):
        prepare("CUB", cub / "images", "--metadata", tmp_path / "metadata")


def test_other_split_files_are_not_written_over_unasked(cub: Path) -> None:
    root = cub / "images"
    prepare("CUB", root)
    prepare("CUB", root)  # the same again
    with (cub / "train_test_split.txt").open("a") as stream:
        stream.write("5 1\n")
    with pytest.raises(DataError, match=r"train/image_ids\.txt: is there already and says something else; --force"):
        prepare("CUB", root)
    assert prepare("CUB", root, "--force") == 0
    assert len(read_split(root / "splits/train").names) == 5


def test_another_place_for_the_split_files(cub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("CUB", cub / "images", "--out", tmp_path / "folds")
    assert f"--wsol_splits {tmp_path / 'folds'}" in capsys.readouterr().out
    assert len(opened(cub / "images", "--wsol_splits", tmp_path / "folds", "--val_share", 0)) == 4


# --- ILSVRC


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "ILSVRC"
    for number, synset in enumerate(("n01440764", "n02102040")):
        for image in range(3):
            picture(root / f"train/{synset}/{synset}_{image}.JPEG")
        picture(root / f"val2/{number}/a.jpeg")
        picture(root / f"val/ILSVRC2012_val_0000000{number + 1}.JPEG", (40, 60))
        box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
        objects = f"<object><name>{synset}</name>{box}</object>" * (number + 1)
        lines(tmp_path / f"xml/ILSVRC2012_val_0000000{number + 1}.xml", f"<annotation>{objects}</annotation>")
    return root


def test_imagenet_from_folders_and_annotations(imagenet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("ILSVRC", imagenet, "--tables", imagenet.parent / "xml") == 0
    out = capsys.readouterr().out
    assert "train: 6 images (published: 1281167), 2 classes, no boxes or masks" in out
    assert "val: 2 images (published: 10000), 2 classes, no boxes or masks" in out
    assert read_split(imagenet / "splits/val").labels == {"val2/0/a.jpeg": 0, "val2/1/a.jpeg": 1}
    test = read_split(imagenet / "splits/test")
    assert list(test.labels.values()) == [0, 1]
    truth = SplitTruth(test.folder, imagenet)("val/ILSVRC2012_val_00000002.JPEG")
    assert truth is not None
    assert (truth.size, truth.boxes.tolist()) == ((40, 60), [[1, 2, 30, 20]] * 2)
    assert len(opened(imagenet)) == 6


@pytest.mark.parametrize("text", ["", "<annotation></annotation>", "<annotation><object><name>x</name></object>", "no"])
def test_an_annotation_that_is_none_is_named(imagenet: Path, text: str) -> None:
    file = imagenet.parent / "xml/ILSVRC2012_val_00000001.xml"
    file.write_text(text)
    with pytest.raises(DataError, match=r"val_00000001\.xml: cannot be read as an annotation"):
        prepare("ILSVRC", imagenet, "--tables", imagenet.parent / "xml")
    with pytest.raises(DataError, match="--tables: give the folder of the validation annotations"):
        prepare("ILSVRC", imagenet)


# --- OpenImages


@pytest.fixture
def openimages(tmp_path: Path) -> Path:
    root = tmp_path / "OpenImages"
    for phase in ("train", "val", "test"):
        for kind in ("0bt_c3", "0bt9lr"):
            picture(root / phase / kind / "aa.jpg")
            picture(root / phase / kind / "ab.jpg")
            if phase != "train":
                for mask in (f"aa_m{kind}_1.png", f"aa_m{kind}_2.png", "aa_ignore.png", f"ab_m{kind}_7.png"):
                    assert cv2.imwrite(str(root / phase / kind / mask), np.full((20, 30), 255, np.uint8))
    return root


def test_openimages_from_its_folders(openimages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("OpenImages", openimages) == 0
    out = capsys.readouterr().out
    assert "train: 4 images (published: 29819), 2 classes, no boxes or masks" in out
    assert "val: 4 images (published: 2500), 2 classes, masks" in out
    assert (openimages / "splits/val/localization.txt").read_text().splitlines()[:3] == [
        "val/0bt9lr/aa.jpg,val/0bt9lr/aa_m0bt9lr_1.png,val/0bt9lr/aa_ignore.png",
        "val/0bt9lr/aa.jpg,val/0bt9lr/aa_m0bt9lr_2.png,",
        "val/0bt9lr/ab.jpg,val/0bt9lr/ab_m0bt9lr_7.png,",
    ]
    truth = SplitTruth(openimages / "splits/val", openimages)("val/0bt9lr/aa.jpg")
    assert truth is not None
    assert (len(truth.masks), truth.ignore is None) == (2, False)
    assert dict(opened(openimages).class_names) == {0: "0bt9lr", 1: "0bt_c3"}
    (openimages / "val/other").mkdir()
    with pytest.raises(DataError, match=r"val/other: is a class that .*train has not"):
        prepare("OpenImages", openimages)
