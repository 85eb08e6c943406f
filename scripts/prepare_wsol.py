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
from options.flags import Parser
from scripts.preparing.sources import SOURCES
from scripts.preparing.splits import SplitText, check_images, copied, report, write
from util.errors import exit_code, printable

PHASES = ("train", "val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    root = Path(given.dataroot)
    if not root.is_dir():
        raise DataError(f"--dataroot {printable(root)}: no such folder")
    out = Path(given.out) if given.out else root / "splits"
    found = {phase: text for phase in PHASES if (text := split_of(given, root, phase)) is not None}
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


def split_of(given: argparse.Namespace, root: Path, phase: str) -> SplitText | None:
    """A split from the published files where there are some, else from the data set's own; None: there is none.

    Raises:
        DataError: files are missing or damaged.
    """
    if given.metadata:
        place = Path(given.metadata)
        published = copied(place / given.dataset, phase) or copied(place, phase)
        if published is not None:
            return published
    return SOURCES[given.dataset](root, Path(given.tables) if given.tables else None, phase)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
