"""Results stay out of the folders that inputs are read from: the next command would take them for inputs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from data.decoders import EXTENSIONS
from options.groups import Given, Inference
from options.parse import RunOptions, extra
from options.schema import OptionError
from scripts.explaining.video import VIDEOS
from util.errors import printable
from util.files import inside

_SPLIT = re.compile(r"(train|val|test)[AB]")  # folders of CycleGAN's layout, of whatever data root
_SPLITS = tuple(f"{phase}{side}" for phase in ("train", "val", "test") for side in ("A", "B", ""))


def check_output(run: RunOptions) -> None:
    """Raise an OptionError where the results would lie among inputs: of --input, or of a split of the data root.

    Also where --output is no folder's name but a picture's or a video's.

    A single file or a pattern may have its results beside it, unless that is a split's folder: it is what would be
    overwritten that counts, see `scripts.explaining.given.check_apart`.
    """
    given = next((group for group in run.extra if isinstance(group, Given)), None)
    if given is not None and given.output is not None:
        flag, place = "output", Path(given.output)
        if place.suffix.lower() in EXTENSIONS | set(VIDEOS) and not place.is_dir():
            raise OptionError(
                f"--output {printable(place)}: is a file's name; give a folder, where each result has its input's name"
            )
    else:
        flag, place = "results_dir", Path(extra(run, Inference).results_dir)
    folder = _folder_among(place, run, given.input if given is not None else None)
    if folder is not None:
        where = (
            "is" if os.path.realpath(place) == os.path.realpath(folder) else f"lies in {printable(folder)}, which is"
        )
        raise OptionError(
            f"--{flag} {printable(place)}: {where} a folder of inputs, and the next command would read the results "
            "there as such; give another folder"
        )


def _folder_among(place: Path, run: RunOptions, given: str | None) -> Path | None:
    """The folder of inputs that a place lies in, if it does."""
    folders = [Path(given)] if given and Path(given).is_dir() else []
    if given:
        real = Path(os.path.realpath(given))
        folders += [folder for folder in (real, *real.parents) if _SPLIT.fullmatch(folder.name)]
    if run.data.dataroot:
        folders += [Path(run.data.dataroot, name) for name in (*_SPLITS, *_of_phase(run))]
    return next((folder for folder in folders if folder.is_dir() and inside(place, folder)), None)


def _of_phase(run: RunOptions) -> tuple[str, ...]:
    phase = extra(run, Inference).phase
    return phase, f"{phase}A", f"{phase}B"
