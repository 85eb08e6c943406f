"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from util.errors import UserError, printable

LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # what tempfile makes of the prefix and suffix below


def write_atomic(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or all of the new one.

    The temporary file lies beside the target, since a rename across disks is a copy.

    Args:
        durable: also survive a power failure, at the price of waiting for the disk.

    Raises:
        OSError: it cannot be written, for example on a full disk; the error names `path`, whose old content stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
        try:
            write_all(handle, content)
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes private files; results are for the group too
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if durable:
        _sync_folder(path.parent)


def check_writable(folder: Path, flag: str) -> None:
    """Raise a UserError that names the flag where nothing can be written into a folder, which need not exist yet."""
    place = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), Path())
    if not place.is_dir():
        raise UserError(f"{flag}: {printable(place)} is no folder; give another place for {printable(folder)}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{flag}: {printable(place)} is not yours to write to; give another place")


def inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, wherever links in either lead; neither need exist."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def write_all(handle: int, content: bytes) -> None:
    """Write all of the content to an open file; the system may take it in several pieces."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files that kills have left in a folder and in those below it; returns how many."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names if LEFTOVER.fullmatch(name)]
    for file in found:
        with contextlib.suppress(OSError):
            file.unlink()
    return len(found)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # read once: setting it, even for a moment, would touch every thread
