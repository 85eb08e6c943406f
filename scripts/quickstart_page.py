"""One page of a run: its inputs, translations, overlays and loss curves."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from options.yaml_config import read_yaml
from util.errors import UserError, exit_code
from util.visual.cam_table import read_table
from util.visual.curves import svg_groups
from util.visual.html import Row, write_results_page
from util.visual.jsonl import read_log

KINDS = {"overlay_input": "CAM on the input", "fake": "translation", "overlay_output": "CAM on the translation"}
SHOWN = ("model", "dataroot", "CUT_mode", "ngf", "crop_size", "lambda_CLS", "lambda_CAM", "cam_norm", "seed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder: <checkpoints_dir>/<name>")
    parser.add_argument("--explained", type=Path, required=True, help="folder that cam_infer.py wrote")
    parser.add_argument("--inputs", type=Path, help="folder of the inputs; none: the dataroot's testA")
    parser.add_argument("--targets", type=Path, help="folder of the true targets, where the test split is paired")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    wanted = parser.parse_args()
    options = read_yaml(wanted.run / "options.yaml")
    inputs = wanted.inputs or Path(options["dataroot"]) / "testA"
    table = read_table(wanted.explained / "cams.csv")
    if not table:
        raise UserError(f"--explained {wanted.explained}: its cams.csv names no image")

    rows = [row_of(line, inputs, wanted.explained, wanted.targets, wanted.out.parent) for line in table]
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


def row_of(line: dict[str, str], inputs: Path, explained: Path, targets: Path | None, base: Path) -> Row:
    """One image: input, its map, translation, its map and, where known, the truth."""
    stem = str(Path(line["file"]).with_suffix(""))
    cells = [("input", inputs / line["file"])]
    cells += [(label, explained / f"{stem}_{kind}.png") for kind, label in KINDS.items()]
    if targets is not None and (targets / f"{stem}.png").is_file():
        cells.append(("the sensor's own picture", targets / f"{stem}.png"))
    for _, file in cells:
        if cv2.imread(str(file)) is None:
            raise UserError(f"{file}: is missing or no picture; run cam_infer.py again")
    caption = (
        f"{line['file']}: {line['class_name']}; confidence {line['confidence_input']} on the input, "
        f"{line['confidence_output']} on the translation; correlation of the maps {line['cam_correlation']}"
    )
    return Row(caption, [(label, Path(os.path.relpath(file, base)).as_posix()) for label, file in cells])


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
