"""Options of `scripts/explainers_table.py` beside those of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from options.schema import Group, OptionError, check_name, option
from scripts.comparing.tables import FORMATS
from scripts.faithfulness.makers import LIBRARIES

ASKED = ("label", "predicted")


@dataclass(frozen=True)
class Tabulation(Group):
    """table: which explainers, on which images, held against what"""

    phase: str = option("test", "prefix of the folder to read: test falls back to val")
    num_test: int = option(0, "at most this many images, at equal distances in the order of names; 0: all", low=0)
    methods: tuple[str, ...] = option(("all",), "explainers, for example gradcam,eigencam; all: every one")
    layer: str = option("auto", "layer of the maps: its name, or its number from 0, -1 for the last; auto: the best")
    explained: str = option("label", "class explained: the label where known, or the predicted one", choices=ASKED)
    against: str | None = option(None, "library whose own maps on the same network are measured too", choices=LIBRARIES)
    boxes: str | None = option(None, "table of targets (file,x0,y0,x1,y1); none: <dataroot>/boxes.csv if there")
    masks: str | None = option(None, "folder of target masks; none: masks_<phase> or masks/FOLDER of <dataroot>")
    tolerance: float = option(0.0, "pixels of the file by which the strongest point may miss the target", low=0)
    threshold: float = option(0.2, "share of a map's greatest value that its box is drawn around", low=0, high=1)
    sanity_images: int = option(16, "images whose maps are compared with those of random networks; 0: none", low=0)
    at_once: int = option(16, "images explained at once", low=1)
    format: str = option("terminal", "of the table", choices=tuple(FORMATS))
    output: str | None = option(None, "file to write; none: print")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("phase", self.phase)
        if not self.methods:
            raise OptionError("--methods: is empty; name some, or all")

    @property
    def place(self) -> Path | None:
        """Where the table goes; None: to the console."""
        return Path(self.output) if self.output else None
