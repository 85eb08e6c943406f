"""One picture of several methods: a row for each image, a column for each method, for papers and for looking.

python scripts/contact_sheet.py CUT=results/cut_run/test_latest CUTCAM=results/cutcam_run/test_latest --output sheet.png

A folder is one of results, as test.py writes it, or any folder of pictures with the inputs' names. Images are taken at
equal distances in the order of their names, which is a choice that nobody made by looking.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from data.images import unit_to_uint8
from options.schema import OptionError
from scripts.studying.folders import PictureFolders
from util.errors import exit_code, printable
from util.visual.figures import save_figure
from util.visual.montage import Row, evenly_spaced, montage

OF_RESULTS = {"input": "images/real_A", "translation": "images/fake_B"}  # where test.py puts them


def main(argv: Sequence[str] | None = None) -> int:
    wanted = _parser().parse_args(argv)
    given = dict(_named(text) for text in wanted.methods)
    if len(given) < len(wanted.methods):
        raise OptionError(f"{' '.join(map(printable, wanted.methods))}: two methods have the same name")
    context = {"input": wanted.input or _input_beside(list(given.values()))}
    if wanted.reference is not None:
        context["reference"] = wanted.reference
    shown_beside = {name: folder for name, folder in context.items() if folder is not None}
    methods = {name: _translations(folder) for name, folder in given.items()}
    if taken := set(methods) & set(shown_beside):
        raise OptionError(f"{printable(taken.pop())}=...: that name is taken by a column; choose another one")
    folders = PictureFolders(methods, shown_beside, wanted.window)
    rows, stems = sheet(folders, [*shown_beside, *methods], wanted.images)
    for file in save_figure(montage(rows, stems if wanted.names else None), _without_suffix(wanted.output)):
        print(file)
    return 0


def sheet(folders: PictureFolders, columns: Sequence[str], images: int) -> tuple[list[Row], list[str]]:
    """Rows of pictures by column, and the images' names.

    Raises:
        OptionError: the folders have no image in common.
        ImageError: one of them cannot be read.
    """
    if not folders.common:
        raise OptionError(
            f"the folders have no image in common, by path without suffix ({folders.counts()}); choose folders of the "
            "same inputs"
        )
    stems = [folders.common[number] for number in evenly_spaced(len(folders.common), images)]
    rows = [{name: unit_to_uint8(folders.pixels(name, stem)) for name in columns} for stem in stems]
    return list(rows), stems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="contact_sheet.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="+", metavar="NAME=FOLDER", help="a column: its heading and its pictures")
    parser.add_argument("--input", type=Path, help="folder of the inputs; none: those beside the first results")
    parser.add_argument("--reference", type=Path, help="folder of real pictures of the same names, shown too")
    parser.add_argument("--images", type=_positive, default=8, help="at most this many rows")
    parser.add_argument("--names", action="store_true", help="write the images' names beside the rows")
    parser.add_argument("--window", default="auto", help="how more than 8 bits are shown, as --window_B of train.py")
    parser.add_argument("--output", type=Path, required=True, help="written as PNG and PDF")
    return parser


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise OptionError(f"{printable(text)}: write NAME=FOLDER, for example CUT=results/cut_run/test_latest")
    return name, Path(folder)


def _translations(folder: Path) -> Path:
    inside = folder / OF_RESULTS["translation"]
    return inside if inside.is_dir() else folder


def _input_beside(folders: Sequence[Path]) -> Path | None:
    return next((folder / OF_RESULTS["input"] for folder in folders if (folder / OF_RESULTS["input"]).is_dir()), None)


def _without_suffix(path: Path) -> Path:
    """`a_0.5` as it is: what follows its dot is no kind of file."""
    return path.with_suffix("") if path.suffix.lower() in (".png", ".pdf") else path


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
