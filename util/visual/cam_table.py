"""`cams.csv`: what the class head saw in each input and its translation.

Confidences are the head's probability of the explained class; cam_correlation is Pearson's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.cam.functional import correlation, dead
from util import sharing
from util.errors import UserError
from util.files import write_atomic

if TYPE_CHECKING:
    from models.base import Explanation

COLUMNS = (
    "file",
    "class",
    "class_name",
    "label",
    "predicted_input",
    "predicted_output",
    "confidence_input",
    "confidence_output",
    "cam_correlation",
    "dead_input",
    "dead_output",
)


class CamTable:
    """Collects rows and writes them in one go.

    Args:
        names: of the classes, by id; ids without a name show their number.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._rows: list[tuple[str, ...]] = []

    def add(self, file: Path, label: int, seen: Explanation) -> str:
        """Add the explanation of one image; returns a caption for its row on a page.

        Args:
            file: the input, relative to its folder.
            label: its true class, -1 unknown.
            seen: of a batch of one.
        """
        chosen = int(seen.classes[0])
        before, after = float(seen.probabilities[0, chosen]), float(seen.probabilities_fake[0, chosen])
        same = float(correlation(seen.cam, seen.cam_fake)[0])
        self._rows.append(
            (
                file.as_posix(),
                str(chosen),
                self._name(chosen),
                str(label) if label >= 0 else "",
                str(int(seen.probabilities[0].argmax())),
                str(int(seen.probabilities_fake[0].argmax())),
                f"{before:.4f}",
                f"{after:.4f}",
                f"{same:.4f}",
                str(int(dead(seen.cam)[0])),
                str(int(dead(seen.cam_fake)[0])),
            )
        )
        return (
            f"{file.as_posix()}: explained as {self._name(chosen)}, confidence {before:.2f} on the input and "
            f"{after:.2f} on the translation, correlation of the maps {same:.2f}"
        )

    def gather(self, numbers: Sequence[int]) -> None:
        """Put the rows of all processes that share the work into order.

        Args:
            numbers: of the inputs added here, one by one.
        """
        self._rows = sharing.in_order(numbers, self._rows)

    def write(self, path: Path) -> None:
        """Write the table; the file appears whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self._rows)
        write_atomic(path, text.getvalue().encode(errors="surrogateescape"))

    def _name(self, class_id: int) -> str:
        return self._names.get(class_id, str(class_id))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a `cams.csv`, by column.

    Raises:
        UserError: the file is missing or has other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); cam_infer.py writes it") from error
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path}: is no table of cam_infer.py (it lacks {', '.join(COLUMNS[:3])}, ...)")
    return rows
