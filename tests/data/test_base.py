"""Folder scan, label files, and batches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from data.base import (
    UNKNOWN,
    DataError,
    Sample,
    collate,
    domain_folder,
    histogram,
)
from data.checkup import scan_folder
from data.labels import check_labels, labels_from_folders, labels_from_table, read_labels, without_images


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in scan_folder(folder)]


# --- folders


def test_a_scan_finds_every_image_in_order_of_the_paths(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.PNG", "z/deep/c.TIFF", "z/b.npy", "a/x.jpeg", "notes.txt", "labels.csv", "png")
    (tmp_path / "folder.png").mkdir()
    # The empty folder is named as bad by data.checkup.
    assert found(tmp_path) == ["a/x.jpeg", "a.PNG", "b.png", "folder.png", "z/b.npy", "z/deep/c.TIFF"]


def test_copies_that_systems_leave_behind_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", ".x.part.png")
    assert found(tmp_path) == ["a.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path / "elsewhere", "far.png", "deep/farther.png")
    folder = touch(tmp_path / "trainA", "near.png", "sub/s.png")
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "sub" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "one.png").symlink_to(elsewhere / "far.png")
    images = ["linked/deep/farther.png", "linked/far.png", "near.png", "one.png", "sub/s.png"]
    assert found(folder) == images
    # Links that lead nowhere are not dropped: data.checkup names them.
    for name in ("broken.png", "disk", "notes.txt"):
        (folder / name).symlink_to(tmp_path / "absent")
    assert found(folder) == sorted([*images, "broken.png", "disk"])


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no image \(looked for \*\.bmp, .*\*\.tiff\)"):
        scan_folder(touch(tmp_path, "a.gif"))
    with pytest.raises(DataError, match=r"absent: no such folder; --dataroot must hold it"):
        scan_folder(tmp_path / "absent")


def test_test_falls_back_to_val_and_train_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "valA").mkdir()
    assert domain_folder(tmp_path, "test", "A") == tmp_path / "valA"
    (tmp_path / "testA").mkdir()
    assert domain_folder(tmp_path, "test", "A") == tmp_path / "testA"
    with pytest.raises(DataError, match=r"has no folder testB or valB$"):
        domain_folder(tmp_path, "test", "B")
    with pytest.raises(DataError, match=r"has no folder trainA$"):
        domain_folder(tmp_path, "train", "A")
    assert domain_folder(tmp_path, "test", "A", alone=True) == tmp_path / "testA"
    assert domain_folder(tmp_path, "test", "B", alone=True) == tmp_path
    with pytest.raises(DataError, match=r"--dataroot .*absent: no such folder$"):
        domain_folder(tmp_path / "absent", "test", "A")


# --- label files


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def labelled(folder: Path, text: str | bytes, *names: str) -> tuple[list[int], dict[int, str]]:
    return labels_from_table([folder / name for name in names], folder, read_labels(table(folder, text)))


def test_labels_by_path_and_by_bare_name_the_path_winning(tmp_path: Path) -> None:
    text = "file,label,label_id\ntrainA/a.png,bus,2\na.png,car,1\nb.png,car,1\n./trainA/sub\\c.png,van,0\n"
    names = ("trainA/a.png", "trainA/b.png", "trainA/sub/c.png", "trainA/d.png")
    assert labelled(tmp_path, text, *names) == ([2, 1, 0, UNKNOWN], {2: "bus", 1: "car", 0: "van"})


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbffile,label,label_id\na.png,bus,3\nb.png,,\n",  # with the mark Excel writes
        b"label_id,file\r\n3,a.png\r\n-1,b.png\r\n",
        b'file,label_id,split\n"a.png",3,train\n\nb.png,,\n',
        b"file,label_id\na.png, 3\nb.png\n",
    ],
)
def test_tables_of_several_programs_read_the_same(tmp_path: Path, text: bytes) -> None:
    labels, names = labelled(tmp_path, text, "a.png", "b.png")
    assert labels == [3, UNKNOWN]
    assert set(names) == {3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,class\na.png,bus\n",
            r"labels.csv: lacks the column label_id; its first line has 'file', 'class'",
        ),
        (
            "file;label_id\na.png;1\n",
            r"lacks the column file and label_id; its first line has 'file;label_id'",
        ),
        ("", r"lacks the column file and label_id; its first line has nothing"),
        ("file,label_id\na.png,1\nb.png,two\n", r"labels.csv, line 3: label_id 'two' is no whole number"),
        ("file,label_id\na.png,1.5\n", r"line 2: label_id '1.5' is no whole number"),
        ("file,label_id\na.png,1\nb.png,2\na.png,1\n", r"line 4: a.png appears twice"),
        ("file,label_id\nx/a.png,1\nx\\a.png,1\n", r"line 3: x/a.png appears twice"),
        (b"file,label_id\n\xff\xfe.png,1\n", r"cannot be read as a label file \(UTF-8 CSV\)"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        labelled(tmp_path, text, "a.png", "b.png", "x/a.png")
    assert "\n" not in str(caught.value)


def test_rows_of_other_files_may_hold_anything(tmp_path: Path) -> None:
    text = "file,label,label_id\ntrainA/a.png,bus,1\ntrainB/a.png,,?\ntrainB/b.png,x,9\ntrainB/b.png,y,9\n"
    assert labelled(tmp_path, text, "trainA/a.png") == ([1], {1: "bus"})
    with pytest.raises(DataError, match=r"labels.csv, line 3: label_id '\?' is no whole number"):
        labelled(tmp_path, text, "trainB/a.png")
    with pytest.raises(DataError, match=r"labels.csv, line 5: trainB/b.png appears twice"):
        labelled(tmp_path, text, "trainB/b.png")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.csv: cannot be read as a label file"):
        read_labels(tmp_path / "absent.csv")


# --- class folders


def test_class_folders_are_numbered_by_name_and_files_outside_are_unknown() -> None:
    root = Path("trainA")
    files = [root / name for name in ("bus/1.png", "Ape/x/2.png", "3.png", "car/4.png")]
    labels, names = labels_from_folders(files, root)
    assert labels == [1, 0, UNKNOWN, 2]
    assert names == {0: "Ape", 1: "bus", 2: "car"}


def test_a_split_that_lacks_a_class_keeps_the_numbers_of_the_run() -> None:
    names = {0: "ape", 1: "bus", 2: "car"}
    labels, known = labels_from_folders([Path("testA/car/1.png"), Path("testA/ape/2.png")], Path("testA"), names)
    assert labels == [2, 0]
    assert known == names
    with pytest.raises(DataError, match=r"testA/dog: is no class of this run, which knows ape, bus, car"):
        labels_from_folders([Path("testA/dog/1.png")], Path("testA"), names)


def test_no_class_folder_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="--labels_from_folders needs a sub-folder per class"):
        labels_from_folders([Path("trainA/1.png")], Path("trainA"))


# --- ids


def test_ids_must_be_classes_of_the_head() -> None:
    files = [Path(f"{number}.png") for number in range(3)]
    check_labels([0, 6, -1], files, 7)
    with pytest.raises(DataError, match=r"1.png: label_id 7 is not in 0..6 \(-1: unknown\); raise --num_classes"):
        check_labels([0, 7, -1], files, 7)
    with pytest.raises(DataError, match=r"1.png: label_id 7 is not .*; this run was trained with so many classes; co"):
        check_labels([0, 7, -1], files, 7, trained=True)
    with pytest.raises(DataError, match=r"2.png: label_id -2 is not in 0..6"):
        check_labels([0, 6, -2], files, 7)


def test_too_many_names_are_told_by_name() -> None:
    """Their numbers were made from the names: `label_id 3` is nowhere in the table."""
    files, names = [Path(f"{number}.png") for number in range(3)], {0: "Brain", 1: "Lung", 2: "brain", 3: " lung"}
    with pytest.raises(DataError) as caught:
        check_labels([0, 3, 2], files, 3, names=names)
    assert str(caught.value).startswith("1.png: the labels name 4 classes ( lung, Brain, Lung, brain), --num_classes")
    assert "'Brain' and 'brain'" in str(caught.value)
    assert "differ only in case or blanks" in str(caught.value)
    with pytest.raises(DataError, match=r"3 classes \(ape, bus, cat\), --num_classes is 2; use --num_classes 3"):
        check_labels([0, 2, 1], files, 2, names={0: "ape", 1: "bus", 2: "cat"})
    for numbers in ({0: "0", 1: "1", 2: "2"}, {0: "ape", 9: "bus"}, {0: "ape", 1: "bus", 2: "cat"}):
        with pytest.raises(DataError, match=r"label_id 9 is not in 0\.\.1"):
            check_labels([0, 9, 1], files, 2, names=numbers)
    with pytest.raises(DataError, match=r"label_id 2 is not in .* trained with so many classes"):
        check_labels([0, 2, 1], files, 2, trained=True, names={0: "ape", 1: "bus", 2: "cat"})


def test_classes_without_an_image_are_said() -> None:
    text = "only 3 of the 30 classes of --num_classes have an image: classes 3, 4, 5, ... never have an example"
    assert without_images([0, 1, 2, 1], 30) == (text, "use --num_classes 3")
    gaps = without_images([0, 1, 5], 6)
    assert gaps is not None
    assert gaps[0].endswith("classes 2, 3, 4 never have an example")
    assert gaps[1] == "number the classes without gaps, from 0"
    assert without_images([0, 1, 2], 4) is without_images([0, 1, 2, -1], 30) is without_images([], 30) is None
    one = without_images([0, 0], 9)
    assert one is not None
    assert one[1] == "use --num_classes 2"


def test_the_histogram_names_classes_and_counts_the_unknown_last() -> None:
    assert histogram([1, -1, 0, 1], {0: "ape", 1: "bus"}) == "ape: 1, bus: 2, unknown: 1"
    assert histogram([3]) == "3: 1"


# --- batches


def sample(number: int, size: tuple[int, int] = (4, 4), target: bool = True) -> Sample:
    image = torch.full((1, *size), float(number))
    return Sample(image, image + 1 if target else None, f"a{number}", f"b{number}", number - 1, number, 10 + number)


def test_collate_stacks_in_order() -> None:
    batch = collate([sample(0), sample(2)])
    assert batch.A.shape == (2, 1, 4, 4)
    assert batch.target.flatten(1)[:, 0].tolist() == [1, 3]
    assert (batch.label_A.tolist(), batch.file_A.tolist(), batch.index.tolist()) == (
        [-1, 1],
        [0, 2],
        [10, 12],
    )
    assert (batch.path_A, batch.path_B) == (("a0", "a2"), ("b0", "b2"))
    assert batch.label_A.dtype == torch.int64
    moved = batch.to(torch.device("meta"))
    assert moved.A.is_meta
    assert moved.path_A == batch.path_A


def test_sizes_that_differ_are_explained() -> None:
    with pytest.raises(DataError, match=r"images of A in one batch differ in size .*--batch_size 1"):
        collate([sample(0), sample(1, (4, 8))])


def test_source_and_target_of_two_sizes_are_explained() -> None:
    image = torch.zeros(1, 4, 4)
    pair = [Sample(image, torch.zeros(3, 4, 8), "trainA/x.png", "trainB/y.png", -1, 0, 0)] * 2
    message = r"trainA/x.png is 4 x 4 and trainB/y.png is 4 x 8 .*use a --preprocess with crop or resize"
    with pytest.raises(DataError, match=message):
        collate(pair)
    assert collate([Sample(image, torch.zeros(3, 4, 4), "x", "y", -1, 0, 0)]).A.shape[1] == 1  # channels may differ


def test_a_batch_of_sources_alone_has_no_target() -> None:
    batch = collate([sample(0, target=False)])
    assert batch.B is None
    with pytest.raises(DataError, match="training needs --dataset_mode unaligned"):
        _ = batch.target


def test_a_link_to_the_parent_folder_does_not_hang(tmp_path: Path) -> None:
    folder = touch(tmp_path / "a" / "b", "x.png")
    os.symlink("..", folder / "up")
    assert found(tmp_path) == ["a/b/x.png"]
