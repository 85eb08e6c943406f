"""Decoded images kept for the next epoch: in memory that the processes of a loader share, or in files on a disk.

What is kept is what `data.decoders` read, at the file's own depth; windows, crops and flips come after it, so samples
are the same bits with a cache and without. An image belongs to a file of one path, size, time of change and decoder: of
any other it is decoded anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import multiprocessing
import os
import shutil
import stat
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL

from data.decoders import Raw, read_raw
from util.errors import UserError
from util.files import check_writable, write_atomic
from util.forks import start_method

# Raise the first number when `read_raw` comes to return other values for a file.
DECODER = f"1 opencv {cv2.__version__} pillow {PIL.__version__}"
GIGABYTE = 10**9
_HEAD = 512  # bytes before the pixels of a file of the cache
_SHARE = 0.5  # of what is free, without --cache_gb
_DTYPES = ("uint8", "uint16", "float32")
_ROW = 8  # numbers that are kept of an image in memory: ready, start, height, width, channels, dtype, size, time


class CacheError(UserError, ValueError):
    """A cache that cannot be had; the message names the flag and the remedy."""


class PixelCache(ABC):
    """Reads files as `read_raw` does, each but once where there is room."""

    def __init__(self, tells: bool) -> None:
        self._tells = tells

    def read(self, path: str | os.PathLike[str]) -> Raw:
        """What `read_raw` returns, perhaps read-only.

        Raises:
            ImageError: as `read_raw`; a file that cannot be read is never kept.
        """
        before = _identity(path)
        if before is None:
            return read_raw(path)
        kept = self._find(path, before)
        if kept is not None:
            return kept
        raw = read_raw(path)
        if _identity(path) == before:  # else it changed while it was read
            self._keep(path, before, raw)
        return raw

    @abstractmethod
    def _find(self, path: str | os.PathLike[str], identity: tuple[int, int]) -> Raw | None: ...

    @abstractmethod
    def _keep(self, path: str | os.PathLike[str], identity: tuple[int, int], raw: Raw) -> None: ...

    def _say(self, text: str) -> None:
        if self._tells:
            print(f"WARNING: {text}", file=sys.stderr)


class RamCache(PixelCache):
    """In one piece of memory that processes forked from this one share, and that ends with the last of them.

    Pages that hold no image yet take no memory.

    Args:
        files: all that may be kept; others are read and not kept.
        most: bytes.
        tells: says on the console when it is full.

    Raises:
        CacheError: the system does not give the memory, or starts processes in another way.
    """

    def __init__(self, files: Sequence[Path], most: int, tells: bool = True) -> None:
        super().__init__(tells)
        if (method := start_method()) != "fork":
            raise CacheError(
                f"--cache ram: needs processes that begin as forks of each other, as on Linux; on {sys.platform} they "
                f"begin by {method}; use --cache disk"
            )
        self._slots = {os.path.abspath(file): number for number, file in enumerate(dict.fromkeys(files))}
        self._most = most
        try:
            self._pixels = mmap.mmap(-1, max(most, mmap.PAGESIZE))
            table = mmap.mmap(-1, 8 * (2 + _ROW * max(1, len(self._slots))))
        except (OSError, ValueError, OverflowError) as error:
            raise CacheError(
                f"--cache ram: the system does not give {most / GIGABYTE:.1f} GB ({error}); lower --cache_gb"
            ) from error
        numbers = np.frombuffer(table, np.int64)
        self._state, self._table = numbers[:2], numbers[2:].reshape(-1, _ROW)  # bytes in use, whether it is full
        self._lock = multiprocessing.get_context(method).Lock()

    @property
    def used(self) -> int:
        """Bytes of the images it holds."""
        return int(self._state[0])

    def _find(self, path: str | os.PathLike[str], identity: tuple[int, int]) -> Raw | None:
        slot = self._slots.get(os.path.abspath(path))
        if slot is None:
            return None
        with self._lock:  # also makes another processor's pixels visible with its row
            ready, start, height, width, channels, dtype, *kept = self._table[slot].tolist()
        if not ready or tuple(kept) != identity:
            return None
        shape = (height, width, channels) if channels else (height, width)
        count = height * width * max(1, channels)
        raw: Raw = np.frombuffer(memoryview(self._pixels).toreadonly(), _DTYPES[dtype], count, start).reshape(shape)
        return raw

    def _keep(self, path: str | os.PathLike[str], identity: tuple[int, int], raw: Raw) -> None:
        slot = self._slots.get(os.path.abspath(path))
        if slot is None:
            return
        with self._lock:
            start, full = self._state.tolist()
            if self._table[slot, 0] and tuple(self._table[slot, 6:].tolist()) == identity:
                return  # another process was faster
            fits = start + raw.nbytes <= self._most
            if fits:
                np.frombuffer(self._pixels, np.uint8, raw.nbytes, start)[:] = raw.reshape(-1).view(np.uint8)
                channels = raw.shape[2] if raw.ndim == 3 else 0
                self._table[slot] = (1, start, *raw.shape[:2], channels, _DTYPES.index(str(raw.dtype)), *identity)
                self._state[0] = start + -(-raw.nbytes // 64) * 64
            else:
                self._state[1] = 1
            held = int(self._table[:, 0].sum())
        if not fits and not full:
            self._say(
                f"--cache ram: its {self._most / GIGABYTE:.1f} GB are full with {held} of {len(self._slots)} images; "
                "the others are decoded each time. Raise --cache_gb, or use --cache disk"
            )


class DiskCache(PixelCache):
    """One file an image in a folder that runs, ranks and processes may share; it outlives them.

    Files are mapped into memory: what several processes read is held once, and given up where memory is short. Each is
    whole or absent, and replaced when its image changes.

    Args:
        folder: made when needed.
        most: bytes that this process and its forks may add.
        tells: says on the console when it is full.

    Raises:
        UserError: nothing can be written there.
    """

    def __init__(self, folder: Path, most: int, tells: bool = True) -> None:
        super().__init__(tells)
        check_writable(folder, "--cache_dir")
        self.folder, self._most = folder, most
        processes = multiprocessing.get_context(start_method())
        self._used, self._closed = processes.Value("q", 0), processes.Value("b", 0)
        self._believed: set[str] = set()  # checksums are compared once by each process

    def file_of(self, path: str | os.PathLike[str]) -> Path:
        """Where the pixels of an image are kept."""
        name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        return self.folder / name[:2] / f"{name[2:40]}.pixels"

    def _find(self, path: str | os.PathLike[str], identity: tuple[int, int]) -> Raw | None:
        file = self.file_of(path)
        try:
            with file.open("rb") as stream:
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            return self._pixels(content, _key(path, identity), f"{file.name} {identity}")
        except (OSError, ValueError, KeyError, TypeError):  # absent, or not one of ours
            return None

    def _pixels(self, content: mmap.mmap, key: list[object], name: str) -> Raw | None:
        head = json.loads(content[:_HEAD].rstrip(b"\0"))
        if head["key"] != key or head["dtype"] not in _DTYPES:
            return None
        raw: Raw = np.frombuffer(content, head["dtype"], offset=_HEAD).reshape(head["shape"])
        if name not in self._believed:
            if zlib.crc32(raw.reshape(-1).view(np.uint8).data) != head["crc32"]:
                return None
            self._believed.add(name)
        return raw

    def _keep(self, path: str | os.PathLike[str], identity: tuple[int, int], raw: Raw) -> None:
        if self._closed.value:
            return
        with self._used.get_lock():
            fits = self._used.value + raw.nbytes + _HEAD <= self._most
            if fits:
                self._used.value += raw.nbytes + _HEAD
        if not fits:
            self._close(
                f"its {self._most / GIGABYTE:.1f} GB are full; images beyond them are decoded each time. Raise "
                f"--cache_gb, or empty {self.folder}"
            )
            return
        pixels = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
        head = {
            "shape": raw.shape,
            "dtype": str(raw.dtype),
            "crc32": zlib.crc32(pixels.data),
            "key": _key(path, identity),
        }
        try:
            write_atomic(self.file_of(path), json.dumps(head).encode().ljust(_HEAD, b"\0") + pixels.tobytes())
        except OSError as error:
            self._close(f"{error}; images that are not kept yet are decoded each time")

    def _close(self, reason: str) -> None:
        with self._closed.get_lock():
            first, self._closed.value = not self._closed.value, 1
        if first:
            self._say(f"--cache disk: {reason}")


def open_cache(
    kind: str, folder: str, gigabytes: float, files: Sequence[Path], *, rank: int = 0, world_size: int = 1
) -> PixelCache | None:
    """The cache of --cache for a run's files; None for off.

    Args:
        folder: of --cache_dir; empty: `default_folder`.
        gigabytes: of --cache_gb; 0: half of what is free.
        world_size: processes of the run, which share what there is.

    Raises:
        UserError: it cannot be had.
    """
    if kind == "off":
        return None
    if kind == "ram":
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size > 1 else 1
        most = gigabytes * GIGABYTE or _SHARE * free_memory()
        return RamCache(files, int(most / beside), rank == 0)
    place = Path(folder) if folder else default_folder()
    check_writable(place, "--cache_dir")
    used = sum(file.stat().st_size for file in place.glob("??/*.pixels")) if place.is_dir() else 0
    at = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    most = gigabytes * GIGABYTE - used if gigabytes else _SHARE * shutil.disk_usage(at).free
    return DiskCache(place, max(0, int(most / world_size)), rank == 0)


def default_folder() -> Path:
    """`cutcam/pixels` in the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutcam" / "pixels"


def free_memory() -> int:
    """Bytes that this process may still take, as far as the system and its container tell."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    facts, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if facts.is_file():
        lines = dict(line.split(":", 1) for line in facts.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else found[0])
    try:
        limit, current = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        found.append(max(0, int(limit) - int(current)))
    except (OSError, ValueError):
        pass  # no container, or one without a limit
    return min(found)


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Size and time of the last change of a regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _key(path: str | os.PathLike[str], identity: tuple[int, int]) -> list[object]:
    checksum = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return [checksum, *identity, DECODER]
