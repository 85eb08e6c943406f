"""One page of a run: its inputs, translations, overlays and loss curves."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from data.base import domain_folder
from data.domain import load_formats
from data.images import DomainFormat, decode, unit_to_uint8
from options.yaml_config import read_yaml
from util.errors import UserError, exit_code
from util.files import write_atomic
from util.visual.cam_table import read_table
from util.visual.curves import svg_groups
from util.visual.files import png_bytes
from util.visual.html import Row, write_results_page
from util.visual.jsonl import read_log
from util.visual.results import PREVIEWS, Results

SHOWN = ("model", "dataroot", "CUT_mode", "ngf", "crop_size", "lambda_CLS", "lambda_CAM", "cam_norm", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder: <checkpoints_dir>/<name>")
    parser.add_argument("--explained", type=Path, required=True, help="folder that cam_infer.py wrote")
    parser.add_argument("--inputs", type=Path, help="folder of the inputs; none: the source's test folder")
    parser.add_argument("--targets", type=Path, help="folder of the true targets, where the test split is paired")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    wanted = parser.parse_args(argv)
    options = read_yaml(wanted.run / "options.yaml")
    table = read_table(wanted.explained / "cams.csv")
    if not table:
        raise UserError(f"--explained {wanted.explained}: its cams.csv names no image")
    inputs = wanted.inputs or domain_folder(Path(options["dataroot"]), "test", options["direction"][0])
    formats = load_formats(wanted.run)
    if formats is None:
        raise UserError(f"--run {wanted.run}: has no domains.json; train.py writes it")

    pictures = Pictures(
        Side(options["input_nc"], formats[0]),
        Side(options["output_nc"], formats[1]),
        inputs,
        wanted.targets,
        Results(wanted.explained, "{stem}_{kind}"),
        Results(wanted.out.parent, PREVIEWS + "/{kind}/{stem}"),
    )
    rows = [pictures.row_of(line) for line in table]
    log = read_log(wanted.run / "log.jsonl")
    facts = {name: str(options[name]) for name in SHOWN if name in options}
    facts |= {"steps": str(log[-1]["step"]) if log else "0", "images": str(len(rows))}
    write_results_page(
        wanted.out,
        "CUTCAM quickstart",
        rows,
        "Simulated infrared scenes translated to a sensor's view. The maps show where the generator's class head "
        "sees the vehicle; both are drawn for the same class.",
        svg_groups(log),
        facts,
    )
    print(f"open this page in a browser: {wanted.out.resolve()}")
    return 0


@dataclass(frozen=True)
class Side:
    """How the images of one domain are read."""

    channels: int
    format: DomainFormat


@dataclass(frozen=True)
class Pictures:
    """The pictures of a row: what cam_infer.py wrote, and copies beside the page of what browsers may not show.

    Inputs and targets are copied at 8 bits, through the run's windows: of 16 bits, or of a format that only
    scientific programs read, a browser would show nothing or nearly black.
    """

    source: Side
    target: Side
    inputs: Path
    targets: Path | None
    explained: Results
    beside: Results

    def row_of(self, line: dict[str, str]) -> Row:
        """One image: input, its map, translation, its map and, where known, the truth."""
        file = Path(line["file"])
        stem = self.explained.stem_of(file)
        cells = [("input", self.copy(self.source, self.inputs / file, "input", stem))]
        cells += [
            ("CAM on the input", self.explained.path("overlay_input", stem)),
            ("translation", self.explained.shown("fake", stem, self.target.format)),
            ("CAM on the translation", self.explained.path("overlay_output", stem)),
        ]
        for _, picture in cells:
            if not picture.is_file():
                raise UserError(f"{picture}: is missing; run cam_infer.py again")
        for suffix in (".tif", ".png"):  # of float data test.py writes both, and the PNG is a preview
            truth = self.targets / f"{stem}{suffix}" if self.targets else None
            if truth and truth.is_file():
                cells.append(("the sensor's own picture", self.copy(self.target, truth, "target", stem)))
                break
        caption = (
            f"{file.as_posix()}: {line['class_name']}; confidence {line['confidence_input']} on the input, "
            f"{line['confidence_output']} on the translation; correlation of the maps {line['cam_correlation']}"
        )
        base = self.beside.folder
        return Row(caption, [(label, Path(os.path.relpath(path, base)).as_posix()) for label, path in cells])

    def copy(self, side: Side, image: Path, kind: str, stem: str) -> Path:
        """Write an image of a domain as 8 bits beside the page."""
        copied = self.beside.path(kind, stem)
        write_atomic(copied, png_bytes(unit_to_uint8(decode(image, side.channels, side.format))))
        return copied


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
