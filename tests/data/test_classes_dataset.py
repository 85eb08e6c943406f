"""Labelled images of one domain: where labels come from, what is held out, and what cannot be used."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data import DATASETS
from data.base import DataError
from data.checkup import at_equal_distances
from data.classes_dataset import ClassesDataset, hold_out
from data.domain import save_formats
from data.imagenette import IMAGENETTE
from data.images import ImageError, decode
from data.sampler import SampleKey
from options.parse import OPTIONS_FILE, RunOptions, train_options
from options.schema import OptionError
from options.yaml_config import dump_yaml

Options = Callable[..., RunOptions]
NAMES = ("car", "person", "bicycle")


def write(path: Path, value: int, size: tuple[int, int] = (24, 28), dtype: type = np.uint8) -> None:
    """A grey image: constant, but for a ramp along the columns that shows crops and flips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image: np.ndarray = np.full(size, value, dtype) + np.arange(size[1], dtype=dtype)
    assert cv2.imwrite(str(path), image)


def table(root: Path, rows: Sequence[tuple[str, int]], name: str = "labels.csv") -> Path:
    with (root / name).open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "label_id"), *((f, NAMES[i], i) for f, i in rows)])
    return root / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images of A and nine of B, of three classes in turn, in one table; two more of A have no label."""
    rows = []
    for side, count in (("A", 12), ("B", 9)):
        for number in range(count):
            write(tmp_path / f"train{side}/{number:02d}.png", 10 * number)
            rows.append((f"train{side}/{number:02d}.png", number % 3))
    for number in (12, 13):
        write(tmp_path / f"trainA/{number}.png", 10 * number)
    table(tmp_path, rows)
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Imagenette's layout: two of its classes and one that is none of it, four images each."""
    for place in ("n03028079", "n01440764", "zebra"):
        for number in range(4):
            write(tmp_path / f"train/{place}/{number}.png", 10 * number)
    return tmp_path


@pytest.fixture
def options(tmp_path: Path) -> Options:
    def make(*flags: object) -> RunOptions:
        places = ("--dataroot", tmp_path, "--checkpoints_dir", tmp_path / "runs", "--name", "run", "--num_threads", 0)
        sizes = ("--load_size", 20, "--crop_size", 16, "--input_nc", 1)
        return train_options(["--model", "classifier", *map(str, (*places, *sizes, *flags))])

    return make


def open_set(run: RunOptions) -> ClassesDataset:
    dataset = ClassesDataset.from_options(run, 1)
    assert DATASETS.get("classes") is ClassesDataset
    return dataset


def names(dataset: ClassesDataset | None) -> list[str]:
    assert dataset is not None
    return [file.relative_to(dataset.root).as_posix() for file in dataset.source_files]


# --- labels


def test_one_domain_is_read_with_its_rows_of_the_table(
    root: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_set(options("--val_share", 0))
    assert names(dataset) == [f"trainA/{number:02d}.png" for number in range(12)]
    assert dataset.labels == [0, 1, 2] * 4
    assert dict(dataset.class_names) == dict(enumerate(NAMES))
    assert "trainA: 2 of 14 images have no label and are left out\n" in capsys.readouterr().out
    assert names(open_set(options("--val_share", 0, "--domain", "b"))) == [f"trainB/{n:02d}.png" for n in range(9)]
    assert names(open_set(options("--val_share", 0, "--direction", "BtoA")))[0] == "trainB/00.png"


def test_a_split_without_a_label_is_refused_by_name(root: Path, options: Options) -> None:
    write(root / "testA/0.png", 7)
    with pytest.raises(DataError, match=r"testA: none of its images has a label; .* labels\.csv, or .* another phase"):
        ClassesDataset.for_phase(options(), "test")


def test_another_table_wins_over_labels_csv(root: Path, options: Options) -> None:
    other = table(root, [("trainA/03.png", 2), ("trainA/05.png", 0)], "other.csv")
    dataset = open_set(options("--labels_A", other, "--val_share", 0))
    assert list(zip(names(dataset), dataset.labels, strict=True)) == [("trainA/03.png", 2), ("trainA/05.png", 0)]


def test_without_a_table_subfolders_are_the_classes(root: Path, options: Options) -> None:
    for number in range(6):
        write(root / f"trainA/{'dog' if number % 2 else 'cat'}/{number}.png", number)
    with_table = open_set(options("--val_share", 0))
    assert len(with_table) == 12
    by_folder = open_set(options("--val_share", 0, "--labels_from_folders"))
    assert by_folder.labels == [0, 0, 0, 1, 1, 1]
    assert dict(by_folder.class_names) == {0: "cat", 1: "dog"}
    (root / "labels.csv").unlink()
    assert names(open_set(options("--val_share", 0))) == names(by_folder)
    with pytest.raises(OptionError, match="use one of them"):
        open_set(options("--labels_from_folders", "--labels_A", "x.csv"))


def test_imagenette_is_read_with_readable_names_in_the_order_of_its_folders(folders: Path, options: Options) -> None:
    run = ClassesDataset.settled(options("--val_share", 0))
    assert (run.dataset.domain, run.model.num_classes) == (None, 3)  # type: ignore[attr-defined]
    dataset = open_set(run)
    assert dataset.labels == [0] * 4 + [1] * 4 + [2] * 4
    assert dict(dataset.class_names) == {0: "tench", 1: "church", 2: "zebra"}
    assert sorted(IMAGENETTE) == list(IMAGENETTE)
    assert len(IMAGENETTE) == 10


def test_a_continued_run_keeps_its_numbers_and_window(folders: Path, options: Options) -> None:
    run = ClassesDataset.settled(options("--val_share", 0, "--window_A", "5,200"))
    first = open_set(run)
    save_formats(run.folder, first.source, first.target, first.class_names)
    (run.folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()))
    for file in (folders / "train/n03028079").iterdir():
        file.unlink()
    write(folders / "train/zebra/9.png", 9)
    again = open_set(options("--continue_train"))
    assert again.labels == [0] * 4 + [2] * 5
    assert dict(again.class_names) == dict(first.class_names)
    assert again.source == first.source == again.target
    write(folders / "train/yak/1.png", 1)
    with pytest.raises(DataError, match=r"train/yak: is no class of this run"):
        open_set(options("--continue_train"))


def test_a_plain_class_may_be_named_as_one_of_imagenettes(folders: Path, options: Options) -> None:
    (folders / "train/n03028079").rename(folders / "train/church")
    first = open_set(options("--val_share", 0))
    save_formats(folders / "runs/run", first.source, first.target, first.class_names)
    assert open_set(options("--val_share", 0, "--continue_train")).labels == first.labels


# --- options that follow from the data


def test_the_number_of_classes_is_the_largest_label_and_one(root: Path, options: Options) -> None:
    run = ClassesDataset.settled(options())
    assert (run.dataset.domain, run.model.num_classes) == ("A", 3)  # type: ignore[attr-defined]
    more = ClassesDataset.settled(options("--num_classes", 7))
    assert more.model.num_classes == 7  # type: ignore[attr-defined]
    assert len(open_set(more)) == 9
    with pytest.raises(DataError, match=r"trainA/02.png: the labels name 3 classes .*; use --num_classes 3"):
        open_set(options("--num_classes", 2))


def test_the_domain_decides_what_is_read_as_the_source_later(root: Path, options: Options) -> None:
    assert options("--domain", "b").data.direction == "BtoA"
    assert options().data.direction == "AtoB"
    with pytest.raises(OptionError, match=r"--domain B --direction AtoB: leave --direction out"):
        open_set(options("--domain", "B", "--direction", "AtoB"))


# --- held-out images


def test_a_share_of_each_class_is_held_out_by_seed(root: Path, options: Options) -> None:
    def held(*flags: object) -> list[str]:
        dataset = open_set(options("--val_share", 0.25, *flags))
        assert isinstance(dataset.validation, ClassesDataset)
        assert dataset.validation.validation is None
        assert not set(names(dataset)) & set(names(dataset.validation))
        assert len(dataset) + len(dataset.validation) == 12
        assert Counter(dataset.validation.labels) == {0: 1, 1: 1, 2: 1}
        return names(dataset.validation)

    seeds = [held("--seed", seed) for seed in range(6)]
    assert held("--seed", 3) == seeds[3]
    assert len({tuple(one) for one in seeds}) > 2
    assert open_set(options("--val_share", 0)).validation is None


def test_hold_out_rounds_and_never_takes_a_whole_class() -> None:
    labels = [0] * 10 + [1] * 3 + [2]
    files = [f"{number}.png" for number in range(14)]
    for share, expected in ((0.15, {0: 2}), (0.5, {0: 5, 1: 2}), (0.9, {0: 9, 1: 2}), (0, {})):
        numbers = hold_out(files, labels, share, 1)
        assert Counter(labels[n] for n in numbers) == expected
        assert numbers == sorted(set(numbers))


def test_new_images_of_other_names_leave_what_is_held_out() -> None:
    files = [f"{number}.png" for number in range(40)]
    before = {files[n] for n in hold_out(files, [0] * 40, 0.25, 5)}
    more = [*(f"new {number}.png" for number in range(4)), *files]
    after = {more[n] for n in hold_out(more, [0] * 44, 0.25, 5)}
    kept = {name for name in after if "new" not in name}
    assert len(before & kept) >= min(len(before), len(kept)) - 1


def test_a_folder_val_is_used_instead_and_test_never(root: Path, options: Options) -> None:
    for number in range(4):
        write(root / f"valA/{number}.png", number)
        write(root / f"testA/{number}.png", number)
    rows = [(f"trainA/{n:02d}.png", n % 3) for n in range(12)] + [(f"testA/{n}.png", 0) for n in range(4)]
    table(root, rows)
    dataset = open_set(options("--val_share", 0.25))
    assert all(name.startswith("trainA/") for name in names(dataset.validation))  # type: ignore[arg-type]
    table(root, [*rows, ("valA/1.png", 0), ("valA/2.png", 1)])
    dataset = open_set(options("--val_share", 0.25))
    assert len(dataset) == 12
    assert names(dataset.validation) == ["valA/1.png", "valA/2.png"]  # type: ignore[arg-type]


def test_a_class_folder_of_val_has_the_number_it_has_in_train(folders: Path, options: Options) -> None:
    for number in range(2):
        write(folders / f"val/zebra/{number}.png", number)
    dataset = open_set(options())
    assert dataset.validation is not None
    assert dataset.validation.labels == [2, 2]
    write(folders / "val/yak/1.png", 1)
    with pytest.raises(DataError, match=r"val/yak: is no class of this run, which knows"):
        open_set(options())


# --- images


def test_training_images_are_drawn_by_epoch_and_position_and_held_out_ones_are_whole(
    root: Path, options: Options
) -> None:
    dataset = open_set(options("--val_share", 0.25))
    draws = [dataset[SampleKey(1, position, 4)] for position in range(20)]
    assert {tuple(draw.A.shape) for draw in draws} == {(1, 16, 16)}
    assert len({draw.A.sum().item() for draw in draws}) > 4
    assert torch.equal(draws[3].A, dataset[SampleKey(1, 3, 4)].A)
    assert (draws[0].path_A, draws[0].path_B, draws[0].B) == (names(dataset)[4], "", None)
    assert (draws[7].label_A, draws[7].file_A, draws[7].index) == (dataset.labels[4], 4, 7)
    assert dataset.validation is not None
    whole = dataset.validation.whole_source(1)
    image = decode(dataset.validation.source_files[1], 1, dataset.source)
    assert whole.A.shape == (1, 16, 16)
    assert float(whole.A.mean()) == pytest.approx(float(image.mean()) * 2 - 1, abs=0.01)
    mirrored = [open_set(options("--no_flip"))[SampleKey(1, position, 4)].A for position in range(8)]
    assert all(float(a[..., -1].mean()) > float(a[..., 0].mean()) for a in mirrored)


def test_whole_images_come_in_batches_of_one_size(root: Path, options: Options) -> None:
    for number in (4, 5):
        write(root / f"trainA/{number:02d}.png", 3, (20, 20))
    dataset = open_set(options("--preprocess", "none", "--val_share", 0))
    batches = list(dataset.whole_batches(3))
    assert [tuple(batch.A.shape) for batch in batches] == [
        *((3, 1, 24, 28), (1, 1, 24, 28), (2, 1, 20, 20)),
        *((3, 1, 24, 28), (3, 1, 24, 28)),
    ]
    assert [path for batch in batches for path in batch.path_A] == names(dataset)
    shares = [[path for batch in dataset.whole_batches(3, rank, 2) for path in batch.path_A] for rank in (0, 1)]
    assert shares == [names(dataset)[0::2], names(dataset)[1::2]]


def test_fewer_images_are_taken_from_all_over_the_folder(folders: Path, options: Options) -> None:
    dataset = open_set(options("--max_dataset_size", 6, "--val_share", 0))
    assert dataset.labels == [0, 0, 1, 1, 2, 2]
    assert at_equal_distances(5, float("inf")) == [0, 1, 2, 3, 4]
    assert at_equal_distances(5, 1) == [0]


def test_sixteen_bits_are_read_in_the_window_of_the_domain(tmp_path: Path, options: Options) -> None:
    for number in range(8):
        write(tmp_path / f"trainB/{number}.png", 1000 * number, dtype=np.uint16)
    table(tmp_path, [(f"trainB/{number}.png", number % 2) for number in range(8)])
    dataset = open_set(options("--domain", "B", "--window_B", "0,8000", "--window_A", "0,10", "--val_share", 0))
    assert dataset.source.window is not None
    assert (dataset.source.window.high, dataset.source.depth) == (8000, "uint16")
    assert float(dataset.whole_source(4).A.mean()) == pytest.approx(4013.5 / 4000 - 1, abs=1e-3)


# --- what cannot be used


def test_labels_that_make_no_classifier_are_one_line(root: Path, options: Options) -> None:
    for rows, found in (
        ([], r"0 of 14 images have a label, number of classes 0"),
        ([("trainA/01.png", 2), ("trainA/02.png", 2)], r"2 of 14 images have a label, number of classes 1"),
    ):
        table(root, rows)
        for run in (options(), options("--num_classes", 3)):
            with pytest.raises(DataError, match=rf"trainA: {found}; a classifier needs two") as error:
                open_set(run)
            assert "\n" not in str(error.value)
    (root / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"0 of 14 images have a label.*or by sub-folders$"):
        open_set(options())


def test_a_missing_folder_is_named(tmp_path: Path, options: Options) -> None:
    with pytest.raises(DataError, match=r"has no folder trainA; for Imagenette add --download, or unpack https"):
        open_set(options())
    (tmp_path / "trainA").mkdir()
    with pytest.raises(DataError, match=r"has no folder trainB$"):
        open_set(options("--domain", "B"))


def test_a_bad_image_stops_or_is_passed_over(root: Path, options: Options) -> None:
    (root / "trainA/04.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"04\.png: it is empty"):
        open_set(options())
    dataset = open_set(options("--on_bad_image", "skip", "--val_share", 0))
    assert "trainA/04.png" not in names(dataset)
    assert len(dataset) == 11
    assert dataset.bad_images == ["trainA/04.png: it is empty (0 bytes)"]
    (root / "trainA/04.png").unlink()
    spoilt = root / "trainA/05.png"  # its header is good
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 255
    spoilt.write_bytes(content)
    with pytest.raises(ImageError, match=r"05\.png"):
        open_set(options("--val_share", 0))[SampleKey(1, 0, 4)]
    sample = open_set(options("--on_bad_image", "skip", "--val_share", 0))[SampleKey(1, 0, 4)]
    assert (sample.path_A, sample.label_A, sample.file_A) == ("trainA/06.png", 0, 4)
    assert len(sample.skipped) == 1


def test_an_epoch_that_goes_on_counts_the_files_it_began_with(root: Path, options: Options) -> None:
    first = open_set(options("--val_share", 0.25))
    before = names(first), names(first.validation)  # type: ignore[arg-type]
    rows = [(f"trainA/{n:02d}.png", n % 3) for n in range(12)]
    for number in range(20, 50):
        write(root / f"trainA/{number}.png", number)
        rows.append((f"trainA/{number}.png", number % 3))
    table(root, rows)
    anew = open_set(options("--val_share", 0.25))
    assert set(names(anew.validation)) & set(before[0])  # type: ignore[arg-type]
    again = ClassesDataset.from_options(options("--val_share", 0.25), 1, kept=first.file_names)
    assert names(again) == before[0]
    assert again.labels == first.labels
    assert again.validation is not None
    assert len(again.validation) > 0
    assert not set(names(again)) & set(names(again.validation))  # type: ignore[arg-type]
    table(root, [(f"trainA/{n:02d}.png", n % 3) for n in range(12) if f"trainA/{n:02d}.png" != names(first)[2]])
    with pytest.raises(DataError, match=r"has lost its label since this epoch began"):
        ClassesDataset.from_options(options("--val_share", 0.25), 1, kept=first.file_names)
