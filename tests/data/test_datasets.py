"""The unaligned and the single data set, from generated folders and the options of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data import DATASETS
from data.base import DataError, Dataset, Sample
from data.domain import DOMAINS_FILE, load_classes, load_formats, save_formats
from data.images import DomainFormat, Window
from data.sampler import GlobalBatchSampler, SampleKey
from data.single_dataset import SingleDataset
from data.unaligned_dataset import UnalignedDataset
from options.parse import OPTIONS_FILE, RunOptions, inference_options, train_options
from options.schema import OptionError
from options.yaml_config import dump_yaml

Options = Callable[..., RunOptions]
TINY = ("--load_size", "20", "--crop_size", "16", "--num_threads", "0")


def write(root: Path, name: str, value: int, size: tuple[int, int] = (24, 28), dtype: type = np.uint8) -> None:
    """A colour image: constant, but for a ramp along the columns that shows crops and flips."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image: np.ndarray = np.full((*size, 3), value, dtype) + np.arange(size[1], dtype=dtype)[None, :, None]
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images of A (values 0, 20, ...) and three of B (100, 120, 140)."""
    for number in range(5):
        write(tmp_path, f"trainA/{number}.png", 20 * number)
    for number in range(3):
        write(tmp_path, f"trainB/{number}.png", 100 + 20 * number)
    return tmp_path


@pytest.fixture
def options(root: Path) -> Options:
    def make(*flags: str) -> RunOptions:
        folders = ["--dataroot", str(root), "--checkpoints_dir", str(root / "runs")]
        return train_options([*folders, *TINY, *flags])

    return make


def open_set(run: RunOptions) -> Dataset:
    return DATASETS.get(run.data.dataset_mode).from_options(run)


def equal(a: Sample, b: Sample) -> bool:
    pairs = [(getattr(a, item.name), getattr(b, item.name)) for item in fields(Sample)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def keys(count: int, epoch: int = 1) -> list[SampleKey]:
    return [SampleKey(epoch, position, position) for position in range(count)]


# --- unaligned


def test_an_epoch_is_as_long_as_the_larger_domain_and_the_smaller_starts_again(options: Options) -> None:
    dataset = open_set(options("--serial_batches"))
    assert len(dataset) == 5
    samples = [dataset[key] for key in keys(5)]
    assert [s.path_A for s in samples] == [f"trainA/{n}.png" for n in range(5)]
    assert [s.path_B for s in samples] == [f"trainB/{n % 3}.png" for n in range(5)]
    assert [s.file_A for s in samples] == list(range(5))


def test_samples_are_cropped_and_scaled_to_the_networks_range(options: Options) -> None:
    sample = open_set(options("--serial_batches"))[SampleKey(1, 0, 4)]
    assert sample.A.shape == (3, 16, 16)
    assert sample.B is not None
    assert sample.B.shape == (3, 16, 16)
    assert float(sample.A.min()) >= -1
    # The image's values are 80 to 107 of 255: the mean must lie between them on the scale of [-1, 1].
    assert 80 / 127.5 - 1 < float(sample.A.mean()) < 107 / 127.5 - 1


def test_targets_are_drawn_by_epoch_and_position_and_reach_every_file(options: Options) -> None:
    dataset = open_set(options())
    drawn = [[dataset[key].path_B for key in keys(5, epoch)] for epoch in range(1, 9)]
    assert drawn == [[dataset[key].path_B for key in keys(5, epoch)] for epoch in range(1, 9)]
    assert len({tuple(epoch) for epoch in drawn}) > 4
    assert {path for epoch in drawn for path in epoch} == {f"trainB/{n}.png" for n in range(3)}
    other = open_set(options("--seed", "1"))
    assert drawn[0] != [other[key].path_B for key in keys(5)] or drawn[1] != [other[key].path_B for key in keys(5, 2)]


def test_a_repeated_file_is_cropped_anew(options: Options) -> None:
    dataset = open_set(options())
    crops = {dataset[SampleKey(1, position, 2)].A.sum().item() for position in range(0, 40, 5)}
    assert len(crops) > 2


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_do_not_depend_on_the_number_of_workers(options: Options, workers: int) -> None:
    dataset = open_set(options())
    sampler = GlobalBatchSampler(len(dataset), 2, seed=0)
    sampler.set_epoch(3)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=dataset.collate)
    for batch, batch_keys in zip(loader, sampler, strict=True):
        expected = dataset.collate([dataset[key] for key in batch_keys])
        assert torch.equal(batch.A, expected.A)
        assert torch.equal(batch.target, expected.target)
        assert batch.path_A + batch.path_B == expected.path_A + expected.path_B


def test_two_ranks_see_together_what_one_process_sees(options: Options) -> None:
    dataset = open_set(options())
    one = GlobalBatchSampler(len(dataset), 4, seed=0)
    two = [GlobalBatchSampler(len(dataset), 2, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, first, second in zip(one, *two, strict=True):
        together = [dataset[key] for key in [*first, *second]]
        assert all(equal(a, dataset[key]) for a, key in zip(together, whole, strict=True))


def test_max_dataset_size_takes_the_first_files_of_each_domain(options: Options) -> None:
    dataset = open_set(options("--max_dataset_size", "2", "--serial_batches"))
    assert len(dataset) == 2
    assert [file.name for file in dataset.source_files] == ["0.png", "1.png"]
    assert {dataset[key].path_B for key in keys(2)} == {"trainB/0.png", "trainB/1.png"}


def test_in_the_decay_epochs_images_are_scaled_to_crop_size(options: Options) -> None:
    run = options("--n_epochs", "2", "--no_flip", "--serial_batches")
    dataset = open_set(run)
    early = [dataset[SampleKey(epoch, position, 0)] for epoch in (1, 2) for position in range(0, 20, 5)]
    late = [dataset[SampleKey(epoch, position, 0)] for epoch in (3, 4) for position in range(0, 20, 5)]
    assert len({sample.A.sum().item() for sample in early}) > 1
    assert len({sample.A.sum().item() for sample in late}) == 1  # nothing is left to crop
    torch.testing.assert_close(late[0].A, dataset.whole_source(0).A)


def test_the_direction_exchanges_domains_channels_and_windows(root: Path, options: Options) -> None:
    flags = ["--direction", "BtoA", "--input_nc", "1", "--window_B", "0,200", "--nce_idt", "False"]
    dataset = open_set(options(*flags, "--serial_batches"))
    sample = dataset[SampleKey(1, 0, 1)]
    assert (sample.path_A, sample.path_B) == ("trainB/1.png", "trainA/1.png")
    assert sample.A.shape[0] == 1
    assert sample.B is not None
    assert sample.B.shape[0] == 3
    assert dataset.source == DomainFormat(Window(0, 200), "uint8")
    assert dataset.target == DomainFormat(Window(0, 255), "uint8")


def test_whole_sources_have_no_random_part(options: Options) -> None:
    dataset = open_set(options())
    sample = dataset.whole_source(3)
    assert equal(sample, dataset.whole_source(3))
    assert sample.A.shape == (3, 16, 16)
    assert sample.B is None
    assert (sample.path_A, sample.file_A) == ("trainA/3.png", 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--window_A 9,1", "--window_A"),
        ("--preprocess resize_and_cut", "--preprocess does not know 'cut'"),
        ("--crop_size 24", "--crop_size 24 is larger than --load_size 20"),
        ("--labels_from_folders --labels_A x.csv", "use one of them"),
    ],
)
def test_options_that_cannot_work_are_refused_when_the_data_is_opened(
    options: Options, flags: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        open_set(options(*flags.split()))


# --- labels


def test_labels_come_from_the_table_in_the_data_folder_if_there_is_one(root: Path, options: Options) -> None:
    assert open_set(options("--model", "cutcam")).labels == [-1] * 5
    (root / "labels.csv").write_text("file,label,label_id\ntrainA/1.png,bus,6\n3.png,car,0\ntrainB/0.png,x,99\n")
    dataset = open_set(options("--model", "cutcam", "--serial_batches"))
    assert dataset.labels == [-1, 6, -1, 0, -1]  # B's rows, an id of 99 among them, do not count
    assert [dataset[key].label_A for key in keys(5)] == dataset.labels
    assert dataset.whole_source(1).label_A == 6
    assert dataset.class_names[6] == "bus"


def test_an_id_beyond_the_head_is_refused_for_models_that_have_one(root: Path, options: Options) -> None:
    (root / "labels.csv").write_text("file,label_id\ntrainA/1.png,7\n")
    with pytest.raises(DataError, match=r"trainA/1.png: label_id 7 is not in 0..6"):
        open_set(options("--model", "cutcam"))
    assert open_set(options("--model", "cutcam", "--num_classes", "8")).labels[1] == 7
    assert open_set(options("--model", "cut")).labels[1] == 7


def test_a_table_that_was_asked_for_must_exist_and_label_something(root: Path, options: Options) -> None:
    with pytest.raises(DataError, match=r"--labels_A .*absent.csv: no such file"):
        open_set(options("--labels_A", str(root / "absent.csv")))
    other = root / "other.csv"
    other.write_text("file,label_id\nsomewhere/else.png,1\n")
    with pytest.raises(DataError, match=r"labels none of the 5 images .* for example trainA/0.png"):
        open_set(options("--labels_A", str(other)))


def test_class_folders_keep_their_numbers_in_a_split_that_lacks_one(root: Path, options: Options) -> None:
    for name in ("ape", "bus", "car"):
        write(root, f"trainA/{name}/x.png", 10)
    for name in ("ape", "car"):
        write(root, f"testA/{name}/y.png", 10)
    run = options("--model", "cutcam", "--labels_from_folders")
    dataset = open_set(run)
    assert dataset.labels == [-1] * 5 + [0, 1, 2]
    save_formats(run.folder, dataset.source, dataset.target, dataset.class_names)
    assert load_classes(run.folder) == {0: "ape", 1: "bus", 2: "car"}
    split = SingleDataset.for_phase(run, "test", 50)
    assert split.labels == [0, 2]
    assert split.class_names == {0: "ape", 1: "bus", 2: "car"}


# --- labels of a run and of the split it translates


def keep(run: RunOptions) -> None:
    """What train.py leaves of a run before the first step."""
    dataset = open_set(run)
    save_formats(run.folder, dataset.source, dataset.target, dataset.class_names)
    (run.folder / OPTIONS_FILE).write_text(dump_yaml(run.groups()))


def read_back(root: Path, *flags: str) -> RunOptions:
    return inference_options((), ["--checkpoints_dir", str(root / "runs"), *flags])


def test_a_table_of_the_training_need_not_cover_the_split(
    root: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    own = root / "own.csv"
    own.write_text("file,label,label_id\ntrainA/1.png,bus,1\n")
    keep(options("--labels_A", str(own)))
    write(root, "testA/x.png", 7)
    split = SingleDataset.for_phase(read_back(root), "test", 50)
    assert (split.labels, split.class_names) == ([-1], {1: "bus"})
    assert "labels none of the 1 images" in capsys.readouterr().out
    with pytest.raises(DataError, match="labels none of the 1 images"):
        SingleDataset.for_phase(read_back(root, "--labels_A", str(own)), "test", 50)
    own.unlink()
    assert SingleDataset.for_phase(read_back(root), "test", 50).labels == [-1]
    with pytest.raises(DataError, match=r"--labels_A .*own.csv: no such file"):
        SingleDataset.for_phase(read_back(root, "--labels_A", str(own)), "test", 50)


def test_class_folders_of_the_training_need_not_be_in_the_split(root: Path, options: Options) -> None:
    write(root, "trainA/bus/x.png", 7)
    write(root, "testA/x.png", 7)
    keep(options("--labels_from_folders"))
    assert SingleDataset.for_phase(read_back(root), "test", 50).labels == [-1]
    with pytest.raises(DataError, match="needs a sub-folder per class"):
        SingleDataset.for_phase(read_back(root, "--labels_from_folders"), "test", 50)
    own = root / "own.csv"
    own.write_text("file,label_id\ntestA/x.png,0\n")
    assert SingleDataset.for_phase(read_back(root, "--labels_A", str(own)), "test", 50).labels == [0]


def test_a_split_that_is_only_translated_reads_no_labels(root: Path, options: Options) -> None:
    keep(options())
    write(root, "testA/x.png", 7)
    (root / "labels.csv").write_text("nothing\n")
    assert SingleDataset.for_phase(read_back(root), "test", 50, labelled=False).labels == [-1]
    with pytest.raises(DataError, match="lacks the column"):
        SingleDataset.for_phase(read_back(root), "test", 50)


# --- formats of a run


def test_formats_are_saved_and_used_when_the_run_goes_on(root: Path, options: Options) -> None:
    run = options("--window_A", "0%,100%")
    first = open_set(run)
    assert first.source.window == Window(0, 107)
    save_formats(run.folder, first.source, first.target)
    assert load_formats(run.folder) == (first.source, first.target)
    write(root, "trainA/9.png", 200)
    assert open_set(options("--window_A", "0%,100%")).source.window == Window(0, 227)
    assert open_set(options("--window_A", "0%,100%", "--continue_train")).source == first.source


def test_damaged_formats_are_named(options: Options) -> None:
    run = options()
    assert load_formats(run.folder) is None
    assert load_classes(run.folder) is None
    run.folder.mkdir(parents=True)
    for text in ("{", "[]", '{"source": {"window": [5, 1], "depth": "uint8"}}'):
        (run.folder / DOMAINS_FILE).write_text(text)
        with pytest.raises(DataError, match=r"domains.json: is damaged"):
            load_formats(run.folder)


def test_runs_of_older_versions_have_formats_without_class_names(options: Options) -> None:
    run = options()
    save_formats(run.folder, DomainFormat(None, "uint16"), DomainFormat(Window(0, 1), "float32"))
    path = run.folder / DOMAINS_FILE
    path.write_text(path.read_text().replace('"classes": {}', '"other": 0'))
    assert load_formats(run.folder) == (DomainFormat(None, "uint16"), DomainFormat(Window(0, 1), "float32"))
    assert load_classes(run.folder) is None


# --- single


def test_single_reads_whole_images_of_the_source_alone(root: Path, options: Options) -> None:
    run = options()
    first = open_set(run)
    save_formats(run.folder, first.source, first.target)
    write(root, "valA/deep/x.png", 7, (21, 33))
    write(root, "valA/y.png", 8, (16, 16))
    dataset = SingleDataset.for_phase(run, "test", 50)
    assert len(dataset) == 2
    whole = dataset.whole(0)
    assert whole.size == (21, 33)
    assert whole.file == Path("deep/x.png")
    assert whole.image.shape == (3, 21, 33)
    torch.testing.assert_close(whole.image[0, 0, :3] * 255, torch.tensor([7.0, 8.0, 9.0]))
    assert whole.sample.A.shape == (3, 16, 16)  # resized to crop_size, as CUT tests
    assert whole.sample.path_A == "valA/deep/x.png"
    assert equal(dataset[SampleKey(1, 1, 1)], dataset.whole(1).sample)
    assert len(SingleDataset.for_phase(run, "test", 1)) == 1


def test_without_resizing_words_only_the_multiple_changes_the_size(root: Path, options: Options) -> None:
    run = options("--preprocess", "crop")
    first = open_set(run)
    save_formats(run.folder, first.source, first.target)
    write(root, "testA/x.png", 7, (21, 33))
    assert SingleDataset.for_phase(run, "test", 50).whole(0).sample.A.shape == (3, 20, 32)


def test_a_folder_of_images_is_read_where_the_split_has_no_folder_of_its_own(root: Path, options: Options) -> None:
    keep(options())
    write(root, "loose/x.png", 7)
    write(root, "loose/deep/y.png", 9)
    (root / "loose/labels.csv").write_text("file,label_id\nx.png,1\n")
    flags = ("--dataroot", str(root / "loose"))
    with pytest.raises(DataError, match="has no folder testA or valA"):
        SingleDataset.for_phase(read_back(root, *flags), "test", 50)
    split = SingleDataset.for_phase(read_back(root, *flags, "--dataset_mode", "single"), "test", 50)
    assert [split.whole(number).file for number in range(2)] == [Path("deep/y.png"), Path("x.png")]
    assert split.labels == [-1, 1]
    write(root, "loose/valA/z.png", 9)
    split = SingleDataset.for_phase(read_back(root, *flags, "--dataset_mode", "single"), "test", 50)
    assert [file.name for file in split.source_files] == ["z.png"]


def test_one_domain_alone_trains_nothing(options: Options) -> None:
    with pytest.raises(OptionError, match=r"^--dataset_mode single: .* train.py needs source and target"):
        open_set(options("--dataset_mode", "single"))


@pytest.mark.parametrize(
    ("flags", "dtype", "source", "target"),
    [
        ("", np.uint8, Window(0, 255), Window(0, 255)),
        ("--window_A 0,200", np.uint8, Window(0, 200), Window(0, 255)),
        ("--window_A 0,200 --direction BtoA", np.uint8, Window(0, 255), Window(0, 200)),
        ("--window_A 0%,100%", np.uint16, Window(7, 34), Window(7, 34)),
        ("--window_A 5,90 --window_B 0,9", np.uint16, Window(5, 90), Window(0, 9)),
        ("--window_B image", np.uint8, Window(0, 255), None),
    ],
)
def test_weights_without_a_run_take_their_windows_from_files_and_flags(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    dtype: type,
    source: Window,
    target: Window | None,
) -> None:
    (tmp_path / "runs/zoo").mkdir(parents=True)
    (tmp_path / "runs/zoo/latest_net_G.pth").touch()
    for side in "AB":
        write(tmp_path, f"test{side}/x.png", 7, dtype=dtype)
    words = ["--checkpoints_dir", str(tmp_path / "runs"), "--name", "zoo", "--dataroot", str(tmp_path)]
    run = inference_options((), [*words, *flags.split()])
    split = SingleDataset.for_phase(run, "test", 50)
    assert (split.source, split.target) == (
        DomainFormat(source, np.dtype(dtype).name),
        DomainFormat(target, np.dtype(dtype).name),
    )
    assert f"weights without windows; source read as {split.source}" in capsys.readouterr().out
    with pytest.raises(OptionError, match=r"1%,99%: .* give LO,HI"):
        SingleDataset.for_phase(inference_options((), [*words, "--window_B", "1%,99%"]), "test", 50)


def test_a_run_that_never_started_has_no_formats(options: Options) -> None:
    with pytest.raises(DataError, match=r"holds no domains.json; train.py writes it when a run starts"):
        SingleDataset.for_phase(options(), "train", 50)


def test_the_data_sets_are_registered() -> None:
    assert DATASETS.names() == ["aligned", "classes", "single", "singleimage", "unaligned", "wsol"]
    assert DATASETS.get("unaligned") is UnalignedDataset
    assert DATASETS.get("single") is SingleDataset


# --- sizes, known before the first step


def test_files_of_another_size_are_named_before_the_start(root: Path, options: Options) -> None:
    write(root, "trainA/wide.png", 9, (24, 40))
    for words in ("none", "zoom_and_trim"):
        run = options("--preprocess", words, "--load_size", "24", "--crop_size", "24")
        if words == "none":
            with pytest.raises(
                DataError, match=r"1 of \d+ images would not be 24 x 28 .*: trainA/wide.png \(24 x 40\)"
            ):
                open_set(run)
        else:
            open_set(run)  # drawn at random: not known
    for words in ("crop", "resize"):
        open_set(options("--preprocess", words, "--load_size", "24", "--crop_size", "24"))
    with pytest.raises(DataError, match="need one size"):
        open_set(options("--preprocess", "none", "--serial_batches", "--batch_size", "2"))
    open_set(options("--preprocess", "none", "--serial_batches", "--batch_size", "1"))  # the pairs may fit


def test_images_that_scale_width_stretches_are_told_of(
    root: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in "AB":
        write(root, f"train{side}/low.png", 9, (20, 60))
    sizes = ("--load_size", "32", "--crop_size", "24")
    open_set(options("--preprocess", "scale_width_and_crop", *sizes))
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert "2 of " in said
    assert "those of 20 x 60 to 24 x 32 (height x width)" in said
    assert "--preprocess scale_shortside_and_crop keeps their shape" in said
    open_set(options("--preprocess", "scale_shortside_and_crop", *sizes))
    assert capsys.readouterr().err == ""
