"""The list of the files that --on_bad_image skip has left out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from util.errors import printable
from util.files import write_atomic

BAD_IMAGES_FILE = "bad_images.txt"


def write_list(folder: Path, lines: Sequence[str], say: bool = True) -> None:
    """Write `bad_images.txt`, or remove it where there is nothing to list.

    Args:
        say: tell the console where it is: only now, since a command may end before there is one.
    """
    path = folder / BAD_IMAGES_FILE
    if not lines:
        path.unlink(missing_ok=True)
        return
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    if say:
        print(f"the bad images are named in {printable(path)}", file=sys.stderr)
