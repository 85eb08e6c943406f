"""Generate the embedded example: infrared scenes with vehicles, simulated (domain A) and measured (domain B).

    python datasets/make_infrared.py --out datasets/infrared

See datasets/README.md for what is written and how the pictures are made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
from infrared_scenes.recipe import CLASS_NAMES, Recipe, RecipeError, Shot
from infrared_scenes.writer import save_contact_sheet, write_dataset
from tqdm import tqdm


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Say what is wrong in one line, without the usage."""
        self.exit(2, f"make_infrared: {message}\n")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers like 4,1,1,1,1,1,1") from None


def _classes(text: str) -> tuple[int, tuple[str, ...]]:
    """A number of classes, or the number and the names."""
    try:
        return int(text), ()
    except ValueError:
        names = tuple(name.strip() for name in text.split(","))
        return max(2, len(names)), names


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _OneLineParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    default = Recipe()
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--size", type=int, default=default.size, help="side in pixels (%(default)s)")
    parser.add_argument("--train", type=int, default=default.train, help="pictures per domain (%(default)s)")
    parser.add_argument("--test", type=int, default=default.test, help="paired test scenes (%(default)s)")
    parser.add_argument("--bits", type=int, default=default.bits, help="8: grey, 16: counts (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="(%(default)s)")
    parser.add_argument(
        "--classes",
        type=_classes,
        default=str(default.classes),
        metavar="N or NAMES",
        help=f"how many of {', '.join(CLASS_NAMES)}, or names from it: car,bus,tank (%(default)s)",
    )
    parser.add_argument(
        "--prior_B", type=_numbers, default=(), metavar="P1,P2,...", help="class weights of trainB (uniform)"
    )
    parser.add_argument("--paired_train", action="store_true", help="training scenes in both domains alike")
    parser.add_argument("--overwrite", action="store_true", help="replace one made otherwise")
    parser.add_argument("--contact_sheet", type=Path, metavar="FILE", help="also write samples as a PNG")
    return parser


def _progress(shots: list[Shot]) -> Iterable[Shot]:
    """A bar on a terminal, for what takes longer than two seconds."""
    yield from tqdm(shots, desc="scenes", unit="scene", delay=2.0, disable=None)


def _recipe(given: argparse.Namespace) -> Recipe:
    return Recipe(
        size=given.size,
        train=given.train,
        test=given.test,
        bits=given.bits,
        seed=given.seed,
        classes=given.classes[0],
        vehicles=given.classes[1],
        prior_B=given.prior_B,
        paired_train=given.paired_train,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with command line arguments; returns the exit status."""
    given = _parser().parse_args(arguments)
    cv2.setNumThreads(1)  # the pictures are too small to share
    sheet: Path | None = given.contact_sheet
    try:
        recipe = _recipe(given)
        if sheet is not None and given.out.absolute() in sheet.absolute().parents:
            raise RecipeError(f"--contact_sheet {sheet}: lies inside --out, name a file elsewhere")
        write_dataset(given.out, recipe, given.overwrite, _progress)
        if sheet is not None:
            save_contact_sheet(sheet, recipe)
    except (RecipeError, OSError) as error:
        print(f"make_infrared: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_infrared: interrupted, nothing was written", file=sys.stderr)
        return 130
    pictures = f"{2 * recipe.train} training and {2 * recipe.test} test pictures"
    print(f"{given.out}: {pictures}, {recipe.classes} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
