"""Decoded images kept in memory and on a disk: the same samples, and nothing stale, half-written or too much."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data import DATASETS
from data.base import Batch, Dataset
from data.cache import CacheError, DiskCache, PixelCache, RamCache, free_memory, open_cache
from data.decoders import ImageError, Raw, read_raw
from data.sampler import GlobalBatchSampler
from options.parse import train_options
from util.errors import UserError

Maker = Callable[[list[Path]], PixelCache]
RANDOM = np.random.default_rng(0)
IMAGES: dict[str, Raw] = {
    "rgb.png": RANDOM.integers(0, 256, (12, 9, 3)).astype(np.uint8),
    "grey.png": RANDOM.integers(0, 256, (7, 8)).astype(np.uint8),
    "deep.png": RANDOM.integers(0, 65536, (6, 10)).astype(np.uint16),
    "deep.tif": RANDOM.integers(0, 65536, (6, 10, 3)).astype(np.uint16),
    "float.tif": RANDOM.normal(size=(5, 6)).astype(np.float32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    for name, pixels in IMAGES.items():
        assert cv2.imwrite(str(made / name), pixels)
    return made


@pytest.fixture(params=["ram", "disk"])
def maker(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    def make(files: list[Path]) -> PixelCache:
        return RamCache(files, 10**6) if request.param == "ram" else DiskCache(tmp_path / "cache", 10**6)

    return make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is decoded from now on."""
    found: list[Path] = []

    def reading(path: str | os.PathLike[str]) -> Raw:
        found.append(Path(path))
        return read_raw(path)

    monkeypatch.setattr("data.cache.read_raw", reading)
    return found


def test_every_depth_comes_back_bit_for_bit(maker: Maker, folder: Path, decoded: list[Path]) -> None:
    files = sorted(folder.iterdir())
    cache = maker(files)
    for turn in range(2):
        for file in files:
            kept, true = cache.read(file), read_raw(file)
            assert kept.dtype == true.dtype
            assert np.array_equal(kept, true), (turn, file)
    assert decoded == files  # once each


def test_a_file_that_changes_is_decoded_anew(maker: Maker, tmp_path: Path, decoded: list[Path]) -> None:
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), IMAGES["grey.png"])
    cache = maker([file])
    cache.read(file)
    times = os.stat(file)
    cv2.imwrite(str(file), 255 - IMAGES["grey.png"])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert np.array_equal(cache.read(file), 255 - IMAGES["grey.png"])
    assert np.array_equal(cache.read(file), 255 - IMAGES["grey.png"])
    assert len(decoded) == 2


def test_what_cannot_be_read_is_not_kept(maker: Maker, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    cache = maker([file])
    for _ in range(2):
        with pytest.raises(ImageError, match="it is no PNG"):
            cache.read(file)
    with pytest.raises(ImageError, match="does not exist"):
        cache.read(tmp_path / "b.png")


def test_processes_fill_one_memory(folder: Path, decoded: list[Path]) -> None:
    files = sorted(folder.iterdir())
    cache = RamCache(files, 10**6)
    if (pid := os.fork()) == 0:  # a loading process
        for file in files:
            cache.read(file)
        os._exit(0)
    os.waitpid(pid, 0)
    before = cache.used
    assert before >= sum(pixels.nbytes for pixels in IMAGES.values())
    for file in files:
        assert np.array_equal(cache.read(file), read_raw(file))
    assert decoded == []
    assert cache.used == before


def test_full_memory_says_so_once_and_goes_on(
    folder: Path, decoded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [folder / "grey.png", folder / "rgb.png", folder / "deep.tif"]
    cache = RamCache(files, 100)
    for _ in range(2):
        for file in files:
            assert np.array_equal(cache.read(file), read_raw(file))
    assert decoded.count(files[0]) == 1
    assert decoded.count(files[1]) == decoded.count(files[2]) == 2
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert "full with 1 of 3 images" in said
    assert "--cache_gb" in said


def test_a_full_disk_cache_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = DiskCache(tmp_path / "cache", 600)
    for file in [folder / "grey.png", folder / "rgb.png", folder / "deep.tif"] * 2:
        assert np.array_equal(cache.read(file), read_raw(file))
    assert len(list((tmp_path / "cache").glob("*/*"))) == 1
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert str(tmp_path / "cache") in said


def test_a_later_run_reads_the_disk(folder: Path, tmp_path: Path, decoded: list[Path]) -> None:
    file = folder / "float.tif"
    DiskCache(tmp_path, 10**6).read(file)
    assert np.array_equal(DiskCache(tmp_path, 0).read(file), IMAGES["float.tif"])
    assert len(decoded) == 1


def _cut(content: bytes) -> bytes:
    return content[:-1]


def _empty(content: bytes) -> bytes:
    return b""


def _flipped(content: bytes) -> bytes:
    return content[:-1] + struct.pack("B", content[-1] ^ 1)


def _zeros(content: bytes) -> bytes:  # what a power failure may leave
    return bytes(len(content))


@pytest.mark.parametrize("damage", [_cut, _empty, _flipped, _zeros])
def test_a_damaged_file_of_the_cache_is_replaced(
    damage: Callable[[bytes], bytes], folder: Path, tmp_path: Path, decoded: list[Path]
) -> None:
    file = folder / "deep.png"
    first = DiskCache(tmp_path, 10**6)
    first.read(file)
    place = first.file_of(file)
    place.write_bytes(damage(place.read_bytes()))
    again = DiskCache(tmp_path, 10**6)
    for _ in range(2):
        assert np.array_equal(again.read(file), IMAGES["deep.png"])
    assert len(decoded) == 2


def test_another_decoder_reads_anew(
    folder: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    DiskCache(tmp_path, 10**6).read(folder / "grey.png")
    monkeypatch.setattr("data.cache.DECODER", "another")
    DiskCache(tmp_path, 10**6).read(folder / "grey.png")
    assert len(decoded) == 2


def test_room_is_shared_between_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    ram = open_cache("ram", "", 1e-6, [], world_size=8)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "x.pixels").write_bytes(bytes(600))
    disk = open_cache("disk", str(tmp_path), 1e-6, [], world_size=8)
    assert isinstance(ram, RamCache)
    assert isinstance(disk, DiskCache)
    assert (ram._most, disk._most) == (250, 50)
    assert open_cache("off", "", 0, []) is None
    assert 2**20 < free_memory() < 2**60


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--cache_dir"):
        open_cache("disk", str(tmp_path / "file"), 1, [])
    with pytest.raises(CacheError, match="lower --cache_gb"):
        open_cache("ram", "", 1e12, [])
    monkeypatch.setattr("data.cache.start_method", lambda: "spawn")
    with pytest.raises(CacheError, match="begin by spawn; use --cache disk"):
        open_cache("ram", "", 1, [])


FORKSERVER = """
import multiprocessing, sys
from pathlib import Path

multiprocessing.set_start_method("forkserver")  # Python's own choice on Linux from 3.14 on

from data.cache import RamCache
from util.engine.loading import Loader

files = sorted(Path(sys.argv[1]).iterdir())
cache = RamCache(files, 10**6)


class Images:
    def __len__(self): return len(files)
    def __getitem__(self, number): return float(cache.read(files[number]).sum())


list(Loader(Images(), batch_size=None, num_workers=2))
print(cache.used)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes begin as forks on Linux")
def test_loading_processes_share_the_memory_whatever_python_s_choice_is(folder: Path) -> None:
    words = [sys.executable, "-c", FORKSERVER, str(folder)]
    done = subprocess.run(words, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= sum(pixels.nbytes for pixels in IMAGES.values())


# --- whole data sets


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, A of 8 bits and B of 16; the last file of A has a good header and no good pixels."""
    root = tmp_path_factory.mktemp("deep")
    for side, top, kind in (("A", 256, np.uint8), ("B", 60000, np.uint16)):
        (root / f"train{side}").mkdir()
        for n in range(4):
            pixels = RANDOM.integers(0, top, (30 + 2 * n, 34, 3)).astype(kind)
            cv2.imwrite(str(root / f"train{side}" / f"{n}.png"), pixels)
    bad = root / "trainA" / "3.png"
    good = bad.read_bytes()
    start = good.index(b"IDAT") + 4
    length = struct.unpack(">I", good[start - 8 : start - 4])[0]
    body = bytes(length)
    bad.write_bytes(good[:start] + body + struct.pack(">I", zlib.crc32(b"IDAT" + body)) + good[start + length + 4 :])
    return root


def opened(root: Path, *flags: str) -> tuple[Dataset, GlobalBatchSampler]:
    sizes = ["--load_size", "30", "--crop_size", "24", "--batch_size", "2", "--on_bad_image", "skip", "--quiet"]
    run = train_options(["--dataroot", str(root), "--input_nc", "1", "--name", "none", *sizes, *flags])
    dataset = DATASETS.get(run.data.dataset_mode).from_options(run)
    return dataset, GlobalBatchSampler(len(dataset), run.data.batch_size, run.experiment.seed)


def batches(root: Path, *flags: str, workers: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Those of two epochs."""
    dataset, sampler = opened(root, *flags)
    if world > 1:
        sampler = GlobalBatchSampler(len(dataset), 2 // world, 0, rank, world)
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        persistent_workers=workers > 0,
    )
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.to(torch.device("cpu"))


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.A, other.A)
    assert torch.equal(one.target, other.target)
    assert (one.path_A, one.path_B, one.skipped) == (other.path_A, other.path_B, other.skipped)
    assert torch.equal(one.index, other.index)


@pytest.mark.parametrize(("kind", "workers"), [("ram", 0), ("ram", 2), ("disk", 0)])
def test_samples_are_the_same_bits(kind: str, workers: int, deep: Path, tmp_path: Path) -> None:
    flags = ("--cache", kind, "--cache_dir", str(tmp_path))
    plain, kept = list(batches(deep)), list(batches(deep, *flags, workers=workers))
    assert len(plain) == len(kept) == 4
    assert any(batch.skipped for batch in plain)
    for one, other in zip(plain, kept, strict=True):
        assert_equal(one, other)


def test_two_ranks_with_one_disk_cache_see_what_one_process_sees(deep: Path, tmp_path: Path) -> None:
    flags = ("--cache", "disk", "--cache_dir", str(tmp_path))
    shares = [list(batches(deep, *flags, rank=rank, world=2)) for rank in range(2)]
    for whole, first, second in zip(batches(deep), *shares, strict=True):
        assert torch.equal(whole.A, torch.cat([first.A, second.A]))
        assert torch.equal(whole.target, torch.cat([first.target, second.target]))


def test_an_epoch_continues_in_its_middle(deep: Path) -> None:
    whole = list(batches(deep))[1]
    dataset, sampler = opened(deep, "--cache", "ram")
    sampler.set_epoch(1, first_step=1)
    keys = next(iter(sampler))
    assert_equal(whole, dataset.collate([dataset[key] for key in keys]))


def test_the_options_reach_the_cache(deep: Path, tmp_path: Path) -> None:
    dataset, _ = opened(deep, "--cache", "disk", "--cache_dir", str(tmp_path), "--cache_gb", "0.001")
    cache = dataset._source.cache  # type: ignore[attr-defined]
    assert isinstance(cache, DiskCache)
    assert cache is dataset._target.cache  # type: ignore[attr-defined]
    assert (cache.folder, cache._most) == (tmp_path, 10**6)
    assert replace(dataset._source).cache is cache  # type: ignore[attr-defined]
