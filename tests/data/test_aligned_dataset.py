"""Pairs side by side, by name and by table: what belongs together, is cropped alike, and is left out together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.aligned_dataset import AlignedDataset
from data.base import DataError
from data.domain import save_formats
from data.images import DomainFormat, ImageError, Window
from data.pairing import pairs_by_name, place_of
from data.sampler import SampleKey
from data.single_dataset import SingleDataset
from models.builders import FIXING
from options.parse import OPTIONS_FILE, RunOptions, inference_options, train_options
from options.schema import OptionError
from options.yaml_config import dump_yaml
from scripts.evaluating.annotated import pairs_of
from scripts.evaluating.images import target_set
from util.metrics.base import ImageSet

Options = Callable[..., RunOptions]
TINY = ("--load_size", "20", "--crop_size", "16", "--num_threads", "0", "--dataset_mode", "aligned")


def picture(number: int, size: tuple[int, int] = (24, 28)) -> np.ndarray:
    """Noise, so that no two crops are alike."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def side_by_side(root: Path, phase: str = "train", count: int = 4, dtype: type = np.uint8) -> None:
    """B is the negative of A."""
    for number in range(count):
        image: np.ndarray = picture(number).astype(dtype)
        write(root / phase / f"{number}.png", np.hstack([image, 255 - image]))


def folders(root: Path, names_a: str = "0123", names_b: str = "0123", phase: str = "train") -> None:
    for side, names in (("A", names_a), ("B", names_b)):
        for name in names:
            image: np.ndarray = picture(int(name))
            write(root / f"{phase}{side}" / f"{name}.png", image if side == "A" else 255 - image)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    def make(*flags: object) -> RunOptions:
        words = ["--dataroot", str(tmp_path / "data"), "--checkpoints_dir", str(tmp_path / "runs"), *TINY]
        return train_options([*words, *map(str, flags)])

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def keys(count: int, epoch: int = 1) -> list[SampleKey]:
    return [SampleKey(epoch, position, position) for position in range(count)]


# --- the same part of the scene


@pytest.mark.parametrize("layout", [side_by_side, folders])
@pytest.mark.parametrize(
    "preprocess", ["resize_and_crop", "crop", "zoom_and_crop", "scale_shortside_and_crop", "patch", "trim", "none"]
)
def test_both_images_are_cropped_and_mirrored_alike(
    root: Path, options: Options, layout: Callable[[Path], None], preprocess: str
) -> None:
    """B is A's negative before, and so it must be after."""
    layout(root)
    dataset = AlignedDataset.from_options(options("--preprocess", preprocess))
    found = set()
    for epoch in range(1, 5):
        for key in keys(4, epoch):
            sample = dataset[key]
            assert sample.B is not None
            torch.testing.assert_close(sample.A, -sample.B, atol=1e-5, rtol=0)
            found.add(sample.A.sum().item())
    assert len(found) > (10 if FIXING & set(preprocess.split("_and_")) else 3)  # drawn anew each time


def test_no_flip_mirrors_neither(root: Path, options: Options) -> None:
    side_by_side(root, count=1)
    whole = picture(0)[..., ::-1].transpose(2, 0, 1) / 127.5 - 1
    for flags, ways in (((), 2), (("--no_flip",), 1)):
        dataset = AlignedDataset.from_options(options("--preprocess", "none", *flags))
        seen = [dataset[SampleKey(1, n, 0)].A.numpy() for n in range(12)]
        assert sum(any(np.allclose(x, y, atol=1e-5) for x in seen) for y in (whole, whole[..., ::-1])) == ways


@pytest.mark.parametrize(("direction", "first"), [("AtoB", 0), ("BtoA", 1)])
def test_a_stands_on_the_left_whatever_the_direction(root: Path, options: Options, direction: str, first: int) -> None:
    side_by_side(root)
    dataset = AlignedDataset.from_options(options("--preprocess", "none", "--no_flip", "--direction", direction))
    sample, image = dataset[SampleKey(1, 0, 2)], picture(2)[..., ::-1].transpose(2, 0, 1) / 127.5 - 1
    images = [image, -image]
    assert sample.B is not None
    np.testing.assert_allclose(sample.A.numpy(), images[first], atol=1e-5)
    np.testing.assert_allclose(sample.B.numpy(), images[1 - first], atol=1e-5)
    assert (sample.path_A, sample.path_B) == ("train/2.png", "train/2.png")
    np.testing.assert_allclose(dataset.whole_source(2).A.numpy(), sample.A.numpy(), atol=1e-5)


def test_one_channel_may_become_three(root: Path, options: Options) -> None:
    side_by_side(root)
    sample = AlignedDataset.from_options(options("--input_nc", 1))[SampleKey(1, 0, 0)]
    assert sample.B is not None
    assert (sample.A.shape, sample.B.shape) == ((1, 16, 16), (3, 16, 16))


# --- what belongs together


def test_files_of_one_name_are_pairs_and_others_are_left_out_aloud(
    root: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(root, "01234", "1359")
    (root / "trainB/3.png").rename(root / "trainB/3.bmp")  # another kind of file, which is no matter
    dataset = AlignedDataset.from_options(options())
    assert [(s.path_A, s.path_B) for s in map(dataset.__getitem__, keys(2))] == [
        ("trainA/1.png", "trainB/1.png"),
        ("trainA/3.png", "trainB/3.bmp"),
    ]
    assert len(dataset) == 2
    told = capsys.readouterr().err
    assert "trainA: 3 of 5 images have no partner in trainB and are left out, the first: 0.png" in told
    assert "trainB: 2 of 4 images have no partner in trainA and are left out, the first: 5.png" in told


def test_a_table_goes_before_names(root: Path, options: Options) -> None:
    folders(root, "012", "012")
    rows = ("A,B", "trainA/2.png,trainB/0.png", "trainA/0.png,trainB/1.png", "trainA/0.png,trainB/2.png")
    (root / "pairs_train.csv").write_text("\n".join(rows))
    dataset = AlignedDataset.from_options(options())
    assert [(s.path_A[-5], s.path_B[-5]) for s in map(dataset.__getitem__, keys(3))] == [
        ("0", "1"),  # one scene with two targets is two pairs
        ("0", "2"),
        ("2", "0"),
    ]
    back = AlignedDataset.from_options(options("--direction", "BtoA"))
    assert [(s.path_A[-12:], s.path_B[-12:]) for s in map(back.__getitem__, keys(3))] == [
        ("trainB/0.png", "trainA/2.png"),
        ("trainB/1.png", "trainA/0.png"),
        ("trainB/2.png", "trainA/0.png"),
    ]


def test_labels_go_with_their_pairs(root: Path, options: Options) -> None:
    folders(root, "0123", "13")
    (root / "labels.csv").write_text("file,label_id\ntrainA/0.png,5\ntrainA/1.png,6\ntrainA/3.png,7\n")
    dataset = AlignedDataset.from_options(options())
    assert [dataset[key].label_A for key in keys(2)] == dataset.labels == [6, 7]


def test_max_dataset_size_counts_pairs(root: Path, options: Options) -> None:
    folders(root, "0123", "3456789")
    folders(root, "4", "0")
    dataset = AlignedDataset.from_options(options("--max_dataset_size", 2))
    assert [file.name for file in dataset.source_files] == ["0.png", "3.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.mkdir(), r"has no folders trainA and trainB, nor train with images of A and B side by side"),
        (
            lambda root: folders(root, "01", "23"),
            r"no image of trainA has the name of one of trainB; .*pairs_train.csv",
        ),
        (lambda root: folders(root, "01", ""), r"has no folder trainB"),
    ],
)
def test_without_pairs_nothing_is_trained(
    root: Path, options: Options, make: Callable[[Path], None], message: str
) -> None:
    make(root)
    with pytest.raises(DataError, match=message):
        AlignedDataset.from_options(options())


def test_two_files_of_one_name_are_no_certain_pair(root: Path) -> None:
    files = [root / "trainA/x/1.png", root / "trainA/x/1.tif"]
    with pytest.raises(DataError, match=r"1\.tif: has the name of trainA/x/1\.png"):
        pairs_by_name(root, files, [root / "trainB/x/1.png"])
    assert pairs_by_name(root, files[:1], [root / "trainB/1.png", root / "trainB/x/1.jpg"]) == [(0, 1)]


# --- files that cannot be used


def test_a_pair_of_two_sizes_needs_a_resize(root: Path, options: Options) -> None:
    folders(root, "0", "")
    write(root / "trainB/0.png", picture(0, (48, 56)))
    sample = AlignedDataset.from_options(options())[SampleKey(1, 0, 0)]
    assert sample.B is not None
    assert sample.A.shape == sample.B.shape
    with pytest.raises(
        DataError, match=r"trainA/0.png is 28 x 24 pixels and trainB/0.png is 56 x 48: .*resize_and_crop"
    ):
        AlignedDataset.from_options(options("--preprocess", "crop"))[SampleKey(1, 0, 0)]


def test_halves_need_an_even_width(root: Path, options: Options) -> None:
    write(root / "train/0.png", picture(0, (24, 55)))
    with pytest.raises(
        ImageError, match=r"0.png' is 55 pixels wide; images of A and B side by side need an even width"
    ):
        AlignedDataset.from_options(options())[SampleKey(1, 0, 0)]


def test_a_pair_that_cannot_be_read_whole_is_passed_over_whole(root: Path, options: Options) -> None:
    folders(root)
    damaged = root / "trainB/1.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:600] + bytes(40) + content[640:])  # header and end are good
    with pytest.raises(ImageError, match=r"1\.png"):
        AlignedDataset.from_options(options())[SampleKey(1, 0, 1)]
    dataset = AlignedDataset.from_options(options("--on_bad_image", "skip"))
    sample = dataset[SampleKey(1, 0, 1)]
    assert (sample.path_A, sample.path_B) == ("trainA/2.png", "trainB/2.png")
    assert len(sample.skipped) == 1
    assert sample.skipped[0].startswith("trainB/1.png: ")
    assert sample.B is not None
    torch.testing.assert_close(sample.A, -sample.B, atol=1e-5, rtol=0)


def test_a_bad_header_leaves_its_pair_out(root: Path, options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    folders(root)
    (root / "trainA/0.png").write_bytes(b"")
    dataset = AlignedDataset.from_options(options("--on_bad_image", "skip"))
    assert [file.name for file in dataset.source_files] == ["1.png", "2.png", "3.png"]
    assert dataset.bad_images == ["trainA/0.png: it is empty (0 bytes)"]
    assert "trainB: 1 of 4 images have no partner" in capsys.readouterr().err


@pytest.mark.parametrize("window", ["auto", "image", "1%,99%"])
def test_a_window_from_pixels_would_mix_the_halves(root: Path, options: Options, window: str) -> None:
    side_by_side(root, dtype=np.uint16)
    with pytest.raises(OptionError, match=f"{window}: a window from the pixels would mix .* give both as LO,HI"):
        AlignedDataset.from_options(options("--window_A", window, "--window_B", "0,255"))
    dataset = AlignedDataset.from_options(options("--window_A", "0,300", "--window_B", "5,255"))
    assert (dataset.source, dataset.target) == (
        DomainFormat(Window(0, 300), "uint16"),
        DomainFormat(Window(5, 255), "uint16"),
    )


def test_a_run_inside_an_epoch_keeps_its_pairs(root: Path, options: Options) -> None:
    folders(root, "0123", "13")
    before = AlignedDataset.from_options(options())
    kept = before.file_names
    assert kept == {"source": ["trainA/1.png", "trainA/3.png"], "target": ["trainB/1.png", "trainB/3.png"]}
    folders(root, "", "0")  # a pair more
    assert len(AlignedDataset.from_options(options())) == 3
    assert AlignedDataset.from_options(options(), kept=kept).file_names == kept
    # One scene with two targets, as a table may give it: the lists say all, whatever names and tables say now.
    kept = {"source": ["trainA/1.png", "trainA/1.png"], "target": ["trainB/3.png", "trainB/0.png"]}
    again = AlignedDataset.from_options(options(), kept=kept)
    assert [(s.path_A, s.path_B) for s in map(again.__getitem__, keys(2))] == list(zip(*kept.values(), strict=True))


# --- translating and measuring


def trained(root: Path, options: Options, *flags: object) -> RunOptions:
    """The options of test.py for a run on these data."""
    run = options("--name", "run", *flags)
    run.folder.mkdir(parents=True)
    (run.folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()))
    fmt = DomainFormat(Window(0, 255), "uint8")
    save_formats(run.folder, fmt, fmt)
    return inference_options((), ["--checkpoints_dir", str(run.folder.parent), "--name", "run"])


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_split_side_by_side_is_read_by_halves(root: Path, options: Options, direction: str) -> None:
    side_by_side(root)
    side_by_side(root, "val", 2)
    run = trained(root, options, "--direction", direction)
    split = SingleDataset.for_phase(run, "test", 50)
    image = picture(1)[..., ::-1].transpose(2, 0, 1) / 255
    source, target = (image, 1 - image) if direction == "AtoB" else (1 - image, image)
    np.testing.assert_allclose(split.whole(1).image.numpy(), source, atol=1e-6)
    assert split.whole(1).size == (24, 28)
    assert split.partners(direction, paired=True)[1] == (root / "val/1.png", "right" if direction == "AtoB" else "left")
    real = target_set(run, "test", split.target, 50)
    assert real is not None
    assert real.name == f"val{direction[-1]}"
    np.testing.assert_allclose(real.read(1).numpy(), target, atol=1e-6)


def test_partners_of_a_split_in_folders_go_by_name(root: Path, options: Options) -> None:
    folders(root)
    folders(root, "012", "124", phase="test")
    split = SingleDataset.for_phase(trained(root, options), "test", 50)
    assert {n: file.name for n, (file, _) in split.partners("AtoB", paired=True).items()} == {1: "1.png", 2: "2.png"}
    assert {n: file.name for n, (file, _) in split.partners("AtoB", paired=False).items()} == {
        0: "1.png",
        1: "2.png",
        2: "4.png",
    }
    (root / "testB").rename(root / "elsewhere")
    assert split.partners("AtoB", paired=True) == {}


def test_pairs_by_name_are_true_pairs_of_an_evaluation(root: Path, options: Options) -> None:
    folders(root)
    folders(root, "012", "124", phase="test")
    run = trained(root, options)
    split = SingleDataset.for_phase(run, "test", 50)
    source = ImageSet("testA", split.source_files, lambda n: split.whole(n).image, split.labels)
    real = target_set(run, "test", split.target, 50)

    class Wanted:
        pairs = None

    assert pairs_of(run, Wanted(), "test", source, real) == [(1, 0), (2, 1)]  # type: ignore[arg-type]


def test_where_a_domain_lies(tmp_path: Path) -> None:
    for name in ("val", "testA", "train"):
        (tmp_path / name).mkdir()
    assert place_of(tmp_path, "train", "B", "aligned").name == "trainB"
    assert place_of(tmp_path, "train", "A", "aligned").half == "left"
    assert place_of(tmp_path, "test", "A", "aligned") == place_of(tmp_path, "test", "A", "unaligned")
    with pytest.raises(DataError, match="has no folder testB"):
        place_of(tmp_path, "test", "B", "aligned")  # not the half of val's images: testA is another split
    (tmp_path / "testA").rmdir()
    assert place_of(tmp_path, "test", "B", "aligned").folder == tmp_path / "val"
    assert place_of(tmp_path, "test", "A", "single").folder == tmp_path
    with pytest.raises(DataError, match="no such folder"):
        place_of(tmp_path / "absent", "test", "A", "aligned")


def test_a_phase_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    for name in ("testA", "trainA", "trainB", "A"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        place_of(tmp_path, "val", "A", "unaligned")
    said = "has no folder valA; put images there; testA is there: --phase test; trainA is there: --phase train"
    assert str(caught.value).endswith(said), "a folder of folders is no --input"
    (tmp_path / "x.TIF").touch()
    with pytest.raises(DataError, match=f"also take a plain folder: --input {re.escape(str(tmp_path))}"):
        place_of(tmp_path, "val", "A", "unaligned")
