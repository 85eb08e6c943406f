"""Imagenette: where it is found, fetched from a stand-in with its checksum, and its names in the order of its codes."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
from torchvision.datasets import Imagenette

from data import imagenette
from data.base import DataError
from data.classes_dataset import ClassesDataset
from data.imagenette import FOLDERS, IMAGENETTE, imagenette_root
from options.parse import RunOptions, train_options

Options = Callable[..., RunOptions]


def make(root: Path, classes: int = 10, train: int = 3, val: int = 2) -> Path:
    """Imagenette's folders with images whose grey value is the number of their class."""
    for phase, count in (("train", train), ("val", val)):
        for label, code in enumerate(sorted(IMAGENETTE)[:classes]):
            (root / phase / code).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = np.full((20, 24, 3), 20 * label, np.uint8)
                assert cv2.imwrite(str(root / phase / code / f"{code}_{number}.JPEG"), image)
    return root


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server on this machine for the folder `mirror`."""
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("no_proxy", "*")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "mirror")))
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def stand_in(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of the published form; what is fetched comes from there."""
    place = tmp_path / "mirror"
    make(place / FOLDERS[0], classes=3)
    archive = place / "imagenette2-160.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place / FOLDERS[0], FOLDERS[0])
    monkeypatch.setattr(imagenette, "URL", f"{mirror}/{archive.name}")
    monkeypatch.setattr(imagenette, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


@pytest.fixture
def options(tmp_path: Path) -> Options:
    def get(*flags: object) -> RunOptions:
        places = ("--dataroot", tmp_path / "data", "--checkpoints_dir", tmp_path / "runs", "--num_threads", 0)
        return train_options(
            ["--model", "classifier", *map(str, (*places, "--load_size", 20, "--crop_size", 16, *flags))]
        )

    return get


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_published_archive_and_names_are_torchvisions() -> None:
    assert Imagenette._ARCHIVES["160px"] == (imagenette.URL, imagenette.MD5)
    assert dict(IMAGENETTE) == {code: known[0] for code, known in Imagenette._WNID_TO_CLASS.items()}


def test_names_go_by_sorted_codes(tmp_path: Path, options: Options) -> None:
    """The published project named classes in the order of a dictionary, and three of ten wrongly."""
    make(tmp_path / "data")
    dataset = ClassesDataset.from_options(options(), 1)
    assert dataset.class_names[6] == "garbage truck"
    assert dataset.class_names[8] == "golf ball"
    assert dataset.class_names[9] == "parachute"
    for part in (dataset, dataset.validation):
        assert isinstance(part, ClassesDataset)
        for number, file in enumerate(part.source_files):
            assert part.class_names[part.labels[number]] == IMAGENETTE[file.parent.name]
            level = (part.whole_source(number).A.mean() + 1) / 2 * 255
            assert round(float(level) / 20) == part.labels[number]


def test_it_is_found_below_the_data_root(tmp_path: Path, options: Options) -> None:
    root = tmp_path / "data"
    assert imagenette_root(root, False) is None
    for name in reversed(FOLDERS):
        make(root / name, classes=2)
        run = ClassesDataset.settled(options())
        assert (run.data.dataroot, run.dataset.domain, run.model.num_classes) == (str(root / name), None, 2)  # type: ignore[attr-defined]
        assert ClassesDataset.settled(run) == run
    (root / "trainA").mkdir()  # images of the root's own come first
    assert imagenette_root(root, True) is None


def test_it_is_fetched_only_when_asked_for(tmp_path: Path, options: Options, stand_in: Path) -> None:
    root = tmp_path / "data"
    with pytest.raises(DataError, match=rf"no such folder; for Imagenette add --download, or unpack {imagenette.URL}"):
        ClassesDataset.settled(options())
    assert not root.exists()
    dataset = ClassesDataset.from_options(options("--download"), 1)
    assert names(root) == [FOLDERS[0]]  # the archive is gone, and nothing half done is left
    assert names(root / FOLDERS[0]) == ["train", "val"]
    assert len(dataset) == 9
    assert dataset.validation is not None
    assert len(dataset.validation) == 6
    stand_in.unlink()
    ClassesDataset.settled(options("--download"))  # what is there is not fetched again


def test_an_archive_put_there_by_hand_is_unpacked_and_kept(tmp_path: Path, options: Options, stand_in: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    stand_in.rename(root / stand_in.name)
    ClassesDataset.settled(options("--download"))
    assert names(root) == [FOLDERS[0], stand_in.name]


def test_what_does_not_arrive_whole_is_refused_with_the_steps_by_hand(
    tmp_path: Path, options: Options, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = stand_in.read_bytes()
    stand_in.write_bytes(content[:-1] + b"x")
    by_hand = (
        r"could not be fetched \(.+\); fetch http:.*imagenette2-160.tgz by hand \(98 MB, MD5 [0-9a-f]{32}\), put it"
    )
    for _ in range(2):
        with pytest.raises(DataError, match=by_hand) as error:
            ClassesDataset.settled(options("--download"))
        assert "\n" not in str(error.value)
        assert names(tmp_path / "data") == []
    stand_in.write_bytes(content)
    (tmp_path / "data" / stand_in.name).write_bytes(content[:99])
    ClassesDataset.settled(options("--download"))  # a spoilt archive is no obstacle
    stand_in.unlink()
    monkeypatch.setattr(imagenette, "FOLDERS", ("imagenette3",))
    with pytest.raises(DataError, match=by_hand):
        ClassesDataset.settled(options("--download", "--dataroot", tmp_path / "offline"))


def test_several_processes_do_not_fetch(options: Options, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="--download: fetches Imagenette with one process; start once without torchrun"):
        ClassesDataset.settled(options("--download"))


# --- held-out images and splits


def test_val_size_bounds_the_folder_val_and_takes_of_every_class(tmp_path: Path, options: Options) -> None:
    make(tmp_path / "data", classes=4, val=5)
    for size, expected in ((0, 20), (8, 8), (100, 20)):
        dataset = ClassesDataset.from_options(options("--val_size", size), 1)
        assert dataset.validation is not None
        assert len(dataset) == 12
        assert len(dataset.validation) == expected
        assert set(dataset.validation.labels) == {0, 1, 2, 3}


def test_without_a_folder_val_so_many_training_images_are_held_out(tmp_path: Path, options: Options) -> None:
    make(tmp_path / "data", classes=4, train=10, val=0)
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "nothing")
    for size, expected in ((8, 8), (1000, 36)):
        dataset = ClassesDataset.from_options(options("--val_size", size), 1)
        assert dataset.validation is not None
        assert (len(dataset), len(dataset.validation)) == (40 - expected, expected)
        phase = ClassesDataset.for_phase(options("--val_size", size), "val")
        assert phase.source_files == dataset.validation.source_files


def test_a_phase_is_read_whole_with_its_labels(tmp_path: Path, options: Options) -> None:
    make(tmp_path / "data", classes=3)
    for phase, count in (("train", 9), ("val", 6), ("test", 6)):  # test falls back to val
        found = ClassesDataset.for_phase(options(), phase)
        assert [file.parent.parent.name for file in found.source_files] == ["val" if phase == "test" else phase] * count
        assert found.labels == [label for label in range(3) for _ in range(count // 3)]
    with pytest.raises(DataError, match="has no folder night"):
        ClassesDataset.for_phase(options(), "night")
