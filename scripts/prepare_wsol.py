"""Split files for localisation from what has been downloaded: `python scripts/prepare_wsol.py CUB --dataroot DIR`.

CUB: DIR is CUB_200_2011/images; its tables, in the folder above or in --tables, give train and test with boxes.
ILSVRC: DIR has train/<synset>/, val/ and ImageNetV2 as val2/<class>/; --tables is the folder of val's XML annotations.
OpenImages: DIR has train/, val/ and test/, each with class folders of images and masks.
--metadata DIR takes published split files where it has some (wsolevaluation/metadata, or F-CAM's
folds/wsol-done-right-splits): they alone have the boxes of CUB's and ILSVRC's val, which --select best_loc looks at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from data.base import DataError
from data.wsol_splits import IDS, PAGES
from options.flags import Parser
from scripts.preparing.sources import SOURCES
from scripts.preparing.splits import SplitText, check_images, copied, report, write
from util.errors import exit_code, printable

PHASES = ("train", "val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    root = Path(given.dataroot)
    if not root.is_dir():
        raise DataError(f"--dataroot {printable(root)}: no such folder; {given.dataset} is at {PAGES[given.dataset]}")
    for flag in ("tables", "metadata"):
        place = getattr(given, flag)
        if place is not None and not (place and Path(place).is_dir()):
            raise DataError(f"--{flag} {printable(place) or repr(place)}: no such folder; correct it or leave it out")
    out = Path(given.out) if given.out else root / "splits"
    published = published_splits(given)
    tables = Path(given.tables) if given.tables else None
    tried = {phase: published.get(phase) or SOURCES[given.dataset](root, tables, phase) for phase in PHASES}
    found = {phase: text for phase, text in tried.items() if text is not None}
    if "train" not in found:
        raise DataError(f"--dataroot {printable(root)}: has no training images")
    for phase, text in found.items():
        check_images(root, text, phase)
    for phase, text in found.items():
        write(out, phase, text, given.force)
        print(report(given.dataset, phase, text))
    for phase in PHASES:
        if phase not in found:
            print(
                f"{phase}: not there; without it {'a share of train is held out' if phase == 'val' else 'val is used'}"
            )
    place = "" if given.out is None else f" --wsol_splits {printable(out)}"
    print(f"python train.py --model std_cl --dataset_mode wsol --dataroot {printable(root)}{place} --name RUN")
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command says."""
    parser = Parser(
        prog="prepare_wsol.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=list(SOURCES), help="which data set")
    parser.add_argument("--dataroot", required=True, metavar="DIR", help="folder that paths of images are below")
    parser.add_argument("--tables", metavar="DIR", help="CUB's tables, or the annotations of ILSVRC's val")
    parser.add_argument("--metadata", metavar="DIR", help="published split files, of all data sets or of this one")
    parser.add_argument("--out", metavar="DIR", help="where to; none: <dataroot>/splits, where train.py looks")
    parser.add_argument("--force", action="store_true", help="write over split files that say something else")
    return parser.parse_args(argv)


def published_splits(given: argparse.Namespace) -> dict[str, SplitText]:
    """Splits from the folder of --metadata, by phase; none without the flag.

    Raises:
        DataError: it has none, or files of one are damaged.
    """
    if not given.metadata:
        return {}
    place = Path(given.metadata)
    tried = {phase: copied(place / given.dataset, phase) or copied(place, phase) for phase in PHASES}
    found = {phase: text for phase, text in tried.items() if text is not None}
    if not found:
        example = f"{given.dataset}/val/{IDS}"
        raise DataError(f"--metadata {printable(place)}: has no split, such as {example}; correct it or leave it out")
    return found


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
