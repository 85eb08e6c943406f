"""Images for localisation: split files and plain folders, truth where it is asked for, and files of ill will."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data import DATASETS
from data.base import DataError
from data.sampler import SampleKey
from data.wsol_dataset import WsolDataset
from data.wsol_splits import SplitTruth, read_places, read_split
from data.wsol_truth import WsolBatch, truth_of, truths_of
from options.parse import OPTIONS_FILE, RunOptions, train_options
from options.yaml_config import dump_yaml
from tests.wsol_folder import BIRDS, SIZE, box, lines, picture, write_cub
from util.metrics.wsol import Truth

Options = Callable[..., RunOptions]


def mask(path: Path, target: Sequence[int], level: int = 255) -> None:
    x0, y0, x1, y1 = target
    found = np.zeros(SIZE, np.uint8)
    found[y0 : y1 + 1, x0 : x1 + 1] = level
    assert cv2.imwrite(str(path), found)


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """Split files as CUB's, see `write_cub`."""
    write_cub(tmp_path)
    return tmp_path


@pytest.fixture
def options(tmp_path: Path) -> Options:
    def make(*flags: object) -> RunOptions:
        places = ("--dataroot", tmp_path, "--checkpoints_dir", tmp_path / "runs", "--name", "run", "--num_threads", 0)
        sizes = ("--load_size", 20, "--crop_size", 16, "--arch", "judge")
        return train_options(["--model", "std_cl", *map(str, (*places, *sizes, *flags))])

    return make


def open_set(run: RunOptions) -> WsolDataset:
    assert DATASETS.get("wsol") is WsolDataset
    return WsolDataset.from_options(run, 1)


def ask(sample: Any) -> Truth:
    found = sample.truth()
    assert isinstance(found, Truth)
    return found


def names(dataset: Any) -> list[str]:
    return [file.relative_to(dataset.root).as_posix() for file in dataset.source_files]


def held(dataset: WsolDataset) -> WsolDataset:
    assert isinstance(dataset.validation, WsolDataset)
    return dataset.validation


# --- split files


def test_split_files_are_read_in_their_order(cub: Path, options: Options) -> None:
    run = WsolDataset.settled(options())
    assert run.model.num_classes == 2  # type: ignore[attr-defined]
    dataset = open_set(run)
    assert names(dataset) == [f"{BIRDS[n % 2]}/train_{n}.jpg" for n in range(8)]
    assert dataset.labels == [0, 1] * 4
    assert dict(dataset.class_names) == dict(enumerate(BIRDS))
    assert names(held(dataset)) == [f"{BIRDS[n % 2]}/val_{n}.jpg" for n in range(4)]
    test = WsolDataset.for_phase(run, "test")
    assert names(test) == [f"{BIRDS[n % 2]}/test_{n}.jpg" for n in range(2)]
    assert names(WsolDataset.for_phase(run, "val")) == names(held(dataset))


@pytest.mark.parametrize("given", [True, False])
def test_the_papers_names_of_splits_and_another_place(cub: Path, options: Options, given: bool) -> None:
    (cub / "splits/train").rename(cub / "splits/train-weaksup")
    (cub / "splits/val").rename(cub / "splits/train-fullsup")
    flags: tuple[object, ...] = ()
    if given:
        (cub / "splits").rename(cub / "elsewhere")
        flags = ("--wsol_splits", cub / "elsewhere")
    dataset = open_set(options(*flags))
    assert (len(dataset), len(held(dataset))) == (8, 4)


def test_training_needs_no_boxes_and_no_validation_split(cub: Path, options: Options) -> None:
    for phase in ("train", "val", "test"):
        for name in ("localization.txt", "image_sizes.txt"):
            (cub / "splits" / phase / name).unlink()
    dataset = open_set(options())
    assert truths_of(dataset.collate([held(dataset).whole_source(0)])) == (None,)
    for file in (cub / "splits/val").iterdir():
        file.unlink()
    dataset = open_set(options("--val_share", 0.25))
    assert (len(dataset), len(held(dataset))) == (6, 2)
    assert sorted(names(dataset) + names(held(dataset))) == sorted(f"{BIRDS[n % 2]}/train_{n}.jpg" for n in range(8))
    (cub / "splits/test/image_ids.txt").unlink()
    with pytest.raises(DataError, match=r"splits: has no val/image_ids\.txt or train-fullsup/image_ids\.txt"):
        WsolDataset.for_phase(options(), "test")


def test_a_damaged_localisation_file_stops_only_who_asks(cub: Path, options: Options) -> None:
    for phase in ("train", "val"):
        lines(cub / f"splits/{phase}/localization.txt", "no box at all")
    dataset = open_set(options())
    batch = next(held(dataset).whole_batches(4))
    assert len(batch.A) == 4
    with pytest.raises(DataError, match=r"val/localization\.txt, line 1: is neither"):
        truths_of(batch)
    with pytest.raises(DataError, match=r"train/localization\.txt, line 1: is neither"):
        open_set(options("--train_truth"))


def test_fewer_images_are_taken_at_equal_distances(cub: Path, options: Options) -> None:
    dataset = open_set(options("--max_dataset_size", 3, "--val_size", 2))
    assert names(dataset) == [f"{BIRDS[n % 2]}/train_{n}.jpg" for n in (0, 2, 5)]
    assert len(held(dataset)) == 2


def test_an_epoch_that_goes_on_counts_the_files_it_began_with(cub: Path, options: Options) -> None:
    first = open_set(options())
    ids = cub / "splits/train/image_ids.txt"
    kept = ids.read_text().splitlines()
    lines(ids, *kept[::-1])
    again = WsolDataset.from_options(options(), 1, kept=first.file_names)
    assert names(again) == names(first)
    assert again.labels == first.labels
    lines(ids, *kept[1:])
    with pytest.raises(DataError, match=r"has lost 001\.Albatross/train_0\.jpg since this epoch began"):
        WsolDataset.from_options(options(), 1, kept=first.file_names)


# --- truth


def test_boxes_come_in_pixels_of_the_networks_input(cub: Path, options: Options) -> None:
    dataset = open_set(options("--crop_size", "24", "40", "--load_size", "24", "40"))
    validation = held(dataset)
    batch = next(validation.whole_batches(4))
    assert isinstance(batch, WsolBatch)
    regions = truth_of(batch)
    for number, (truth, region) in enumerate(zip(truths_of(batch), regions, strict=True)):
        assert truth is not None
        assert truth.boxes.tolist() == [box(number)]
        assert region is not None
        bright = (batch.A[number].mean(0) > 0.8).numpy()
        assert (bright == region).mean() > 0.97  # JPEG
    half = held(open_set(options("--crop_size", "12", "20", "--load_size", "12", "20"))).whole_source(1)
    assert ask(half).boxes.tolist() == [[v // 2 for v in box(1)]]


def test_training_crops_carry_their_truth_with_them_when_asked(cub: Path, options: Options) -> None:
    flags = ("--load_size", "24", "40", "--crop_size", "16")
    plain = open_set(options(*flags))
    watched = open_set(options(*flags, "--train_truth"))
    keys = [SampleKey(1, position, position % 8) for position in range(24)]
    for key in keys:
        a, b = plain[key], watched[key]
        assert torch.equal(a.A, b.A)
        assert (a.path_A, a.label_A) == (b.path_A, b.label_A)
    assert truth_of(plain.collate([plain[key] for key in keys])) == [None] * 24
    batch = watched.collate([watched[key] for key in keys])
    areas = []
    for image, region in zip(batch.A, truth_of(batch), strict=True):
        assert region is not None
        bright = (image.mean(0) > 0.8).numpy()
        assert (bright == region).mean() > 0.95
        areas.append(int(region.sum()))
    assert len(set(areas)) > 3  # crops cut targets


def test_masks_of_instances_and_what_to_ignore(tmp_path: Path) -> None:
    picture(tmp_path / "val/x/a.jpg")
    mask(tmp_path / "val/x/a_m1.png", [2, 2, 5, 5])
    mask(tmp_path / "val/x/a_m2.png", [10, 10, 12, 12], 1)
    mask(tmp_path / "val/x/a_ignore.png", [4, 4, 20, 20])
    folder = tmp_path / "splits/val"
    lines(
        folder / "localization.txt",
        "val/x/a.jpg,val/x/a_m1.png,val/x/a_ignore.png",
        "val/x/a.jpg,val/x/a_m2.png,",
    )
    truth = SplitTruth(folder, tmp_path)("val/x/a.jpg")
    assert truth is not None
    there = truth.at(SIZE)
    assert there.masks[0].sum() == 16 + 9
    assert there.ignore is not None
    assert there.ignore.sum() == 17 * 17
    assert SplitTruth(folder, tmp_path)("val/x/b.jpg") is None
    (tmp_path / "val/x/a_m2.png").unlink()
    with pytest.raises(ValueError, match=r"a_m2\.png.*does not exist"):
        SplitTruth(folder, tmp_path)("val/x/a.jpg")


def test_choosing_by_localisation_needs_truth_of_held_out_images(cub: Path, options: Options) -> None:
    assert held(open_set(options("--select", "best_loc"))).truths
    (cub / "splits/val/localization.txt").unlink()
    with pytest.raises(
        DataError, match=r"^--select best_loc: no held-out image has .* take --select last or best_cls$"
    ):
        open_set(options("--select", "best_loc"))


# --- plain folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """trainA, valA and testA with labels.csv; boxes of some, masks of others."""
    rows = []
    for phase, count in (("train", 6), ("val", 3), ("test", 2)):
        for number in range(count):
            picture(tmp_path / f"{phase}A/{number}.png", 20 * number, box(number))
            rows.append((f"{phase}A/{number}.png", f"class{number % 2}", number % 2))
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "label_id"), *rows])
    return tmp_path


def write_boxes(root: Path, *rows: tuple[object, ...], name: str = "boxes.csv") -> Path:
    with (root / name).open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "x0", "y0", "x1", "y1"), *rows])
    return root / name


def test_plain_folders_are_read_as_classes_reads_them(folders: Path, options: Options) -> None:
    dataset = open_set(options())
    assert names(dataset) == [f"trainA/{n}.png" for n in range(6)]
    assert dataset.labels == [0, 1, 0, 1, 0, 1]
    assert names(held(dataset)) == [f"valA/{n}.png" for n in range(3)]
    assert dataset.truths is held(dataset).truths is None


def test_boxes_and_masks_beside_plain_folders_are_found(folders: Path, options: Options) -> None:
    write_boxes(folders, ("valA/0.png", 4, 2, 12, 10), ("valA/0.png", 20, 3, 22.5, 5), ("testA/1.png", 0, 0, 40, 24))
    (folders / "masks_val").mkdir()
    mask(folders / "masks_val/1.png", [3, 3, 6, 6])
    mask(folders / "masks_val/2.png", [3, 3, 6, 6], 128)  # a shadow is no target
    run = options("--crop_size", "24", "40", "--load_size", "24", "40")
    validation = held(open_set(run))
    first, second, third = (ask(validation.whole_source(n)) for n in range(3))
    assert first.boxes.tolist() == [[4, 2, 11, 9], [20, 3, 22, 4]]
    assert second.masks[0].sum() == 16
    assert not third.masks[0].any()
    test = WsolDataset.for_phase(run, "test")
    assert [test.whole_source(n).truth() is None for n in range(2)] == [True, False]  # type: ignore[attr-defined]
    other = write_boxes(folders, ("valA/2.png", 1, 1, 3, 3), name="other.csv")
    validation = held(open_set(options("--target_boxes", other)))
    assert validation.whole_source(0).truth() is None  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"--target_masks .*none: no such folder"):
        open_set(options("--target_masks", folders / "none"))


def test_masks_in_sub_folders_go_with_their_own_images(tmp_path: Path, options: Options) -> None:
    for kind in ("cat", "dog"):
        for number in range(3):
            picture(tmp_path / f"train/{kind}/{number}.png", number)
        picture(tmp_path / f"val/{kind}/0.png", 7)
        (tmp_path / f"masks_val/{kind}").mkdir(parents=True)
    mask(tmp_path / "masks_val/cat/0.png", [0, 0, 1, 1])
    mask(tmp_path / "masks_val/dog/0.png", [0, 0, 3, 3])
    validation = held(open_set(options("--crop_size", "24", "40", "--load_size", "24", "40")))
    found = [ask(validation.whole_source(n)).masks[0].sum() for n in range(2)]
    assert found == [4, 16]


# --- what cannot be used

BAD_IDS: dict[str, tuple[tuple[str, ...], str]] = {
    "twice": (("a/b.jpg", "a/b.jpg"), r"image_ids\.txt, line 2: a/b\.jpg is there twice, first in line 1"),
    "upwards": (("../b.jpg",), r"line 1: '\.\./b\.jpg' is no path below the data root"),
    "inside": (("a/../../b.jpg",), r"is no path below the data root"),
    "absolute": (("/etc/passwd",), r"is no path below the data root"),
    "drive": (("C:\\x.jpg",), r"is no path below the data root"),
    "control": (("a\x1b[31m.jpg",), r"'a\\x1b\[31m\.jpg' is no path"),
    "empty": (("",), r"image_ids\.txt: names no image"),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_lists_of_ill_will_are_one_line(tmp_path: Path, case: str) -> None:
    texts, message = BAD_IDS[case]
    lines(tmp_path / "image_ids.txt", *texts)
    lines(tmp_path / "class_labels.txt", *(f"{text},0" for text in texts))
    with pytest.raises(DataError, match=message) as caught:
        read_split(tmp_path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("a.jpg,x", r"class_labels\.txt, line 1: 'x' is no whole number"),
        ("a.jpg,1.5", "is no whole number"),
        ("a.jpg,-1", r"class -1 is to lie in 0\.\."),
        ("a.jpg,99999999999999999999", "is no whole number"),
        ("a.jpg,9999999", "is to lie in"),
        ("a.jpg,²", "is no whole number"),
        ("a.jpg", r"line 1: has 1 of 2 cells: a\.jpg"),
        ("b.jpg,1", r"1 of 1 images have no class, the first is a\.jpg"),
        ("a.jpg,0\na.jpg,1", r"line 2: a\.jpg has class 1 here and 0 before"),
    ],
)
def test_classes_of_ill_will_are_one_line(tmp_path: Path, label: str, message: str) -> None:
    lines(tmp_path / "image_ids.txt", "a.jpg")
    lines(tmp_path / "class_labels.txt", label)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("a.jpg,5,5,2,9", "a.jpg,-1,0,2,9", "a.jpg,0,0,1e9,9", "a.jpg,0,0,nan,9", "a.jpg,1,2,3", "a.jpg,,", "a.jpg"),
        *("a.jpg,../m.png,", "../a.jpg,m.png,", "a.jpg,m.png,/etc/passwd"),
    ],
)
def test_places_of_ill_will_are_one_line(tmp_path: Path, text: str) -> None:
    lines(tmp_path / "localization.txt", "a.jpg,0,0,1,1", text)
    with pytest.raises(DataError, match=r"localization\.txt, line 2: ") as caught:
        read_places(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_comma_in_a_path_is_a_part_of_it(tmp_path: Path) -> None:
    lines(tmp_path / "image_ids.txt", "a,b.jpg")
    lines(tmp_path / "class_labels.txt", "a,b.jpg,3")
    lines(tmp_path / "localization.txt", "a,b.jpg,1,2,3,4")
    assert read_split(tmp_path).labels == {"a,b.jpg": 3}
    assert read_places(tmp_path).boxes == {"a,b.jpg": [(1, 2, 3, 4)]}


@pytest.mark.parametrize("content", [b"a.jpg\0\n", b"\xff\xfea\0", "ä.jpg".encode("latin-1")])
def test_files_that_are_no_text_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image_ids.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"image_ids\.txt: (holds NUL|is no text)"):
        read_split(tmp_path)
    (tmp_path / "image_ids.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\r\n")  # a mark and line ends of Windows
    lines(tmp_path / "class_labels.txt", "a.jpg,0")
    assert read_split(tmp_path).names == ["a.jpg"]


def test_another_data_root_is_said_before_every_file_is_missed(cub: Path, options: Options, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"has none of the first images of .*image_ids\.txt, for example 001\.Albatross"
    ):
        open_set(options("--dataroot", tmp_path / "runs", "--wsol_splits", cub / "splits"))
    with pytest.raises(DataError, match=r"--wsol_splits .*runs: has no train/image_ids\.txt"):
        open_set(options("--wsol_splits", tmp_path / "runs"))


def test_a_bad_image_stops_or_is_passed_over(cub: Path, options: Options) -> None:
    (cub / "001.Albatross/train_2.jpg").write_bytes(b"")
    (cub / "002.Auklet/train_3.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of 8 files of .* cannot be used") as caught:
        open_set(options())
    assert "train_2.jpg: it is empty" in str(caught.value)
    assert "train_3.jpg: it does not exist" in str(caught.value)
    dataset = open_set(options("--on_bad_image", "skip"))
    assert (len(dataset), len(dataset.bad_images)) == (6, 2)


def test_one_class_makes_no_classifier(cub: Path, options: Options) -> None:
    texts = (cub / "splits/train/class_labels.txt").read_text().replace(",1", ",0")
    (cub / "splits/train/class_labels.txt").write_text(texts)
    with pytest.raises(DataError, match="has one class, and a classifier needs two"):
        open_set(options("--num_classes", 2))


def test_a_class_beyond_the_networks_is_named(cub: Path, options: Options) -> None:
    lines(cub / "splits/val/class_labels.txt", *(f"{BIRDS[n % 2]}/val_{n}.jpg,{n}" for n in range(4)))
    with pytest.raises(DataError, match=r"val_2\.jpg: label_id 2 is not in 0\.\.1"):
        open_set(WsolDataset.settled(options()))


def test_a_continued_run_keeps_its_window(cub: Path, options: Options) -> None:
    from data.domain import save_formats

    run = WsolDataset.settled(options("--window_A", "5,200"))
    first = open_set(run)
    save_formats(run.folder, first.source, first.target, first.class_names)
    (run.folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()))
    assert open_set(options("--continue_train")).source == first.source
