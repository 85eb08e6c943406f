"""Imagenette, ten classes of ImageNet (fastai): its folders, their readable names, and fetching it with a checksum."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from data.base import DataError
from util.errors import printable

# Its folders are WordNet's codes.
IMAGENETTE: Mapping[str, str] = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
# What its archives unpack to; the images' shorter side is 160, 320 or as it was.
FOLDERS = ("imagenette2-160", "imagenette2-320", "imagenette2")
URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"
MD5 = "e793b78cc4c9e9a4ccc0c1155377a412"


def imagenette_root(root: Path, download: bool) -> Path | None:
    """Where Imagenette lies: a folder of its name in a data root that has no training images itself; None: nowhere.

    Args:
        download: fetch it where there is nothing to train on. An archive that is there already is unpacked.

    Raises:
        DataError: it could not be fetched.
    """
    if has_training(root):
        return None
    for name in FOLDERS:
        if (root / name / "train").is_dir():
            return root / name
    if not download:
        return None
    _fetch(root)
    return root / FOLDERS[0]


def how_to_get(root: Path) -> str:
    """What to do for Imagenette, for a message that says that there is nothing to train on."""
    return f"; for Imagenette add --download, or unpack {URL} in {printable(root)}"


def has_training(root: Path) -> bool:
    """Whether a data root has a folder of training images."""
    return any((root / name).is_dir() for name in ("train", "trainA", "trainB"))


def _fetch(root: Path) -> None:
    """Fetch, check and unpack; the folder appears when it is whole."""
    archive, folder = root / URL.rsplit("/", 1)[-1], root / FOLDERS[0]
    by_hand = f"fetch {URL} by hand (98 MB, MD5 {MD5}), put it into {printable(root)} and give the command again"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(f"--download: fetches Imagenette with one process; start once without torchrun, or {by_hand}")
    from torchvision.datasets.utils import download_url, extract_archive

    was_there = archive.is_file()
    print(f"Imagenette: {URL} comes to {printable(root)}")
    try:
        download_url(URL, str(root), md5=MD5)
    except (OSError, RuntimeError) as error:  # of the network or the disk, and of a checksum that does not fit
        if not was_there:
            archive.unlink(missing_ok=True)
        reason = printable(" ".join(str(error).split()))[:200]
        raise DataError(f"--download: Imagenette could not be fetched ({reason}); {by_hand}") from error
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=root) as place:
        extract_archive(str(archive), place)
        unpacked = Path(place, folder.name)
        if not (unpacked / "train").is_dir():
            raise DataError(f"{printable(archive)}: holds no {folder.name}/train")
        unpacked.rename(folder)
    if not was_there:
        archive.unlink()
