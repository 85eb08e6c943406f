"""Labels of images: tables of them as people and programs write them, and sub-folders named after classes."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.base import UNKNOWN, DataError
from util.errors import printable
from util.strict_json import JsonError, read_json

_WHOLE = re.compile("[+-]?[0-9]{1,18}")
_SHOWN = 12  # names in a message


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file, as it is written."""

    line: int
    label_id: str
    label: str


@dataclass(frozen=True)
class LabelTable:
    """Rows of a label file by file (a posix path relative to the data root, or a bare name).

    They are checked when a file asks for them: what is wrong in the rows of the other domain is nobody's concern.

    Attributes:
        numbers: class id of each name, in a table that has names alone; else empty, and rows have their ids.
        place: what `LabelRow.line` counts, for messages.
    """

    path: Path
    rows: Mapping[str, Sequence[LabelRow]]
    numbers: Mapping[str, int] = field(default_factory=dict)
    place: str = "line"

    def row(self, name: str) -> LabelRow | None:
        """The row of that name, if there is one.

        Raises:
            DataError: there are several.
        """
        rows = self.rows.get(_name(name), ())
        if len(rows) > 1:
            first, second = rows[0].line, rows[1].line
            raise DataError(
                f"{self.path}, line {second}: {printable(name)} appears twice, first in line {first}; keep one of them"
            )
        return rows[0] if rows else None

    def numbered_as(self, classes: Mapping[int, str] | None) -> LabelTable:
        """The same table; names alone stand for the classes that a run has learnt, where it has."""
        if not self.numbers or not classes:
            return self
        return replace(self, numbers={name: class_id for class_id, name in classes.items()})

    def class_id(self, row: LabelRow) -> int:
        """The class id of a row, -1 where it has none.

        Raises:
            DataError: it is no whole number, or is left out beside a name, or the name is that of no class.
        """
        text, name = row.label_id.strip(), row.label.strip()
        if _WHOLE.fullmatch(text):
            return int(text)
        where = f"{self.path}, {self.place} {row.line}"
        numbers = "write 0, 1, 2 and so on, or -1 where the class is unknown"
        if text:
            raise DataError(f"{where}: label_id {text[:40]!r} is no whole number; {numbers}")
        if name in ("", str(UNKNOWN)):
            return UNKNOWN
        shown = printable(name)[:40]
        if not self.numbers:
            raise DataError(
                f"{where}: has the label {shown!r} but no label_id; {numbers}; without a column label_id, names are "
                "numbered in their sorted order"
            )
        if name not in self.numbers:
            known = printable(", ".join(self.numbers))[:200]
            raise DataError(f"{where}: {shown!r} is no class of this run, which knows {known}")
        return self.numbers[name]


def read_labels(table: Path) -> LabelTable:
    """A label file: CSV with the columns file and label_id, label (the class's name), or both; or JSON.

    JSON is an object of path: class id or name. Names without ids are numbered in their sorted order, over the whole
    file, so that another split of it has the same numbers; names that are whole numbers are the ids.

    Raises:
        DataError: the file is missing, is no UTF-8 text, is no table with commas or no such object, or lacks a column.
    """
    if table.suffix.lower() == ".json":
        return _from_json(table)
    try:
        reader = csv.DictReader(io.StringIO(_text_of(table), newline=""), strict=True)
        _check_columns(reader.fieldnames or (), table)
        return _table_of(reader, table)
    except OSError as error:
        raise DataError(f"{table}: cannot be read as a label file (UTF-8 CSV): {error.strerror}") from error
    except csv.Error as error:
        raise DataError(
            f"{table}: cannot be read as a label file (UTF-8 CSV): {error}; a quotation mark may be left open in or "
            f"after line {reader.line_num}"
        ) from error


def _from_json(table: Path) -> LabelTable:
    try:
        content = read_json(table)
    except JsonError as error:
        raise DataError(str(error)) from error
    wanted = 'should be an object of path: class, as {"trainA/00.png": "car"} or {"trainA/00.png": 0}'
    if not isinstance(content, dict):
        raise DataError(f"{table}: {wanted}")
    rows: dict[str, list[LabelRow]] = {}
    for number, (path, value) in enumerate(content.items(), 1):
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise DataError(f"{table}, entry {number}: {wanted}")
        rows.setdefault(_name(path), []).append(LabelRow(number, "", "" if value is None else str(value)))
    found = _of_names(LabelTable(table, rows, place="entry"))
    mixed = [place for place, value in enumerate(content.values(), 1) if isinstance(value, int)]
    if found.numbers and mixed:
        raise DataError(f"{table}, entry {mixed[0]}: is a number, and other entries are names; write all of one kind")
    return found


def _of_names(table: LabelTable) -> LabelTable:
    """A table of labels alone: where all are whole numbers they are ids, else names in their sorted order."""
    every = [row for rows in table.rows.values() for row in rows]
    names = sorted({row.label.strip() for row in every} - {"", str(UNKNOWN)})
    if all(_WHOLE.fullmatch(name) for name in names):
        ids = {path: [LabelRow(row.line, row.label, "") for row in rows] for path, rows in table.rows.items()}
        return replace(table, rows=ids)
    return replace(table, numbers={name: class_id for class_id, name in enumerate(names)})


def _text_of(table: Path) -> str:
    """The text of a label file; the encodings of other programs are named rather than guessed at."""
    content, reason = table.read_bytes(), ""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        reason = "it is UTF-16 or UTF-32"
    elif b"\0" in content:
        reason = "it holds NUL bytes, as UTF-16 does and no table should"
    else:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            reason = f"byte 0x{content[error.start]:02x} in line {line} is no UTF-8 but perhaps Windows-1252 or Latin-1"
    raise DataError(f"{table}: cannot be read as a label file (UTF-8 CSV): {reason}; save it as CSV in UTF-8")


def _check_columns(found: Sequence[str], table: Path) -> None:
    """Raise unless a label file's first line names the columns, once each and with commas between them."""
    columns = ("file", "label" if "label" in found and "label_id" not in found else "label_id")
    if missing := [name for name in columns if name not in found]:
        shown = ", ".join(map(repr, found))[:200] or "nothing"
        marks = {";": "semicolons, as Excel does where the comma is the decimal sign", "\t": "tabs", "|": "bars"}
        used = next((word for mark, word in marks.items() if len(found) == 1 and mark in found[0]), "")
        raise DataError(
            f"{table}: lacks the column {' and '.join(missing)}; its first line has {shown} and should be "
            "file,label,label_id" + (f"; it separates by {used}: save it with commas" if used else "")
        )
    if doubled := [name for name in columns if found.count(name) > 1]:
        raise DataError(f"{table}: names the column {doubled[0]} twice; rename one of them")


def _table_of(reader: csv.DictReader[str], table: Path) -> LabelTable:
    rows: dict[str, list[LabelRow]] = {}
    for row in reader:
        if any(row.pop(None, ())):  # what goes beyond the first line's columns
            raise DataError(
                f"{table}, line {reader.line_num}: has more fields than the first line; a name with a comma needs "
                "quotation marks"
            )
        if any(row.values()):
            line = LabelRow(reader.line_num, row.get("label_id") or "", row.get("label") or "")
            rows.setdefault(_name(row["file"] or ""), []).append(line)
    found = LabelTable(table, rows)
    return found if "label_id" in (reader.fieldnames or ()) else _of_names(found)


def _name(path: str) -> str:
    """A path as rows and files are compared by: forward slashes, no `./`, accents as one character (macOS has two)."""
    return unicodedata.normalize("NFC", Path(path.replace("\\", "/")).as_posix())


def rows_without_files(known: LabelTable, files: Sequence[Path], root: Path) -> str:
    """`labels.csv: 2 of 9 rows name no file below data, the first in line 3: trainA/x.png`; empty where all do.

    Args:
        files: those of the source, wherever links lead to them.
        root: the folder that rows are relative to; a row's path is looked for, and never opened.
    """
    there = {_name(path) for file in files for path in (file.relative_to(root).as_posix(), file.name)}
    if set(known.rows) - there:
        found = (Path(place, name) for place, _, names in os.walk(root) for name in names)
        there |= {_name(path) for file in found for path in (file.relative_to(root).as_posix(), file.name)}
    lost = {name: rows for name, rows in known.rows.items() if name not in there}
    if not lost:
        return ""
    count, total = (sum(map(len, some.values())) for some in (lost, known.rows))
    name, rows = min(lost.items(), key=lambda item: item[1][0].line)
    return (
        f"{printable(known.path)}: {count} of {total} rows name no file below {printable(root)}, the first in line "
        f"{rows[0].line}: {printable(name)[:200]}"
    )


def labels_from_folders(
    files: Sequence[Path], folder: Path, classes: Mapping[int, str] | None = None
) -> tuple[list[int], dict[int, str]]:
    """Class ids from the first sub-folder of each file; files outside one get -1.

    Args:
        classes: names by id that a run was trained with, so that a split in which a class is missing has the
            same numbers; none: sub-folders are numbered by sorted name.

    Raises:
        DataError: there is no sub-folder, or one that is no class of the run.
    """
    parts = [file.relative_to(folder).parts for file in files]
    names = [part[0] if len(part) > 1 else "" for part in parts]
    found = sorted(set(names) - {""})
    if not found:
        raise DataError(f"{folder}: --labels_from_folders needs a sub-folder per class, and there is none")
    known = dict(classes or enumerate(found))
    ids = {"": UNKNOWN} | {name: class_id for class_id, name in known.items()}
    if strange := [name for name in found if name not in ids]:
        place, names_known = printable(folder / strange[0]), printable(", ".join(known.values()))
        raise DataError(f"{place}: is no class of this run, which knows {names_known}")
    return [ids[name] for name in names], known


def labels_from_table(
    files: Sequence[Path], root: Path, known: LabelTable, classes: Mapping[int, str] | None = None
) -> tuple[list[int], dict[int, str]]:
    """Class ids of `files` by their path relative to `root` (or by bare name), -1 where the table has none.

    Args:
        classes: names by id that a run was trained with, which names without ids stand for.

    Returns:
        The ids, and the names of the classes: of those among the files; of all in a table of names alone.

    Raises:
        DataError: a file's row appears twice, its id is no whole number, or a name and an id do not go together.
    """
    known = known.numbered_as(classes)
    labels: list[int] = []
    names: dict[int, str] = {class_id: name for name, class_id in known.numbers.items()}
    seen: dict[int | str, LabelRow] = {}  # the first row of each id and of each name
    for file in files:
        row = known.row(file.relative_to(root).as_posix()) or known.row(file.name)
        label = known.class_id(row) if row else UNKNOWN
        if row and label != UNKNOWN:
            _check_alike(known, row, seen)
            names.setdefault(label, row.label.strip() or str(label))
        labels.append(label)
    return labels, names


def _check_alike(known: LabelTable, row: LabelRow, seen: dict[int | str, LabelRow]) -> None:
    """Raise where an id has two names, or a name two ids: most likely one of them is a typing error.

    Args:
        seen: the first row of each id and name so far, to which this one is added.
    """
    label, name = known.class_id(row), row.label.strip()
    if not name:
        return
    for first in (seen.setdefault(label, row), seen.setdefault(name, row)):
        other = known.class_id(first), first.label.strip()
        if other != (label, name):
            shown = [f"{printable(text)[:40]!r} with label_id {number}" for number, text in ((label, name), other)]
            raise DataError(
                f"{known.path}, {known.place} {row.line}: has {shown[0]}, and {known.place} {first.line} has "
                f"{shown[1]}; a class has one name and one number"
            )


def renamed(classes: Mapping[int, str], names: Mapping[int, str]) -> str:
    """`class 0 is 'bus' here and 'car' in the run`: the first name that is another one; empty where all agree.

    Args:
        classes: names by id that a run was trained with; an id stands for a class without a name.
        names: those of a table.
    """
    for number, name in sorted(names.items()):
        trained = classes.get(number, str(number))
        if name not in (trained, str(number)) and trained != str(number):
            here, there = (printable(text)[:40] for text in (name, trained))
            return f"class {number} is {here!r} here and {there!r} in the run"
    return ""


def check_labels(
    labels: Sequence[int],
    files: Sequence[Path],
    num_classes: int,
    trained: bool = False,
    names: Mapping[int, str] | None = None,
) -> None:
    """Raise where an id is not below `num_classes`.

    Args:
        trained: the head is there, and has no more classes than it was trained with.
        names: of the classes by id; where they were numbered by their names, an id means nothing to who wrote these.
    """
    remedy = "raise --num_classes above the largest id, or correct the labels"
    if trained:
        remedy = "this run was trained with so many classes; correct the label, or write -1"
    for label, file in zip(labels, files, strict=True):
        if label >= num_classes or label < UNKNOWN:
            if label in (names or {}) and not trained and (said := _more_names(names or {}, num_classes)):
                raise DataError(f"{printable(file)}: {said}")
            raise DataError(
                f"{printable(file)}: label_id {label} is not in 0..{num_classes - 1} (-1: unknown); {remedy}"
            )


def _more_names(names: Mapping[int, str], num_classes: int) -> str:
    """That there are more names than classes; empty where they are no names, or do not stand for 0, 1, 2 and so on."""
    if sorted(names) != list(range(len(names))) or all(name == str(number) for number, name in names.items()):
        return ""
    known = sorted(names.values())
    shown = ", ".join(printable(name)[:40] for name in known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    text = f"the labels name {len(known)} classes ({shown}), --num_classes is {num_classes}"
    alike: dict[str, list[str]] = {}
    for name in known:
        alike.setdefault("".join(name.casefold().split()), []).append(printable(name)[:40])
    if doubled := [" and ".join(map(repr, some)) for some in alike.values() if len(some) > 1]:
        return (
            f"{text}; {', '.join(doubled[:_SHOWN])} differ only in case or blanks: write each class in one way, or use "
            f"--num_classes {len(known)}"
        )
    return f"{text}; use --num_classes {len(known)}, or correct the labels"


def without_images(labels: Sequence[int], num_classes: int) -> tuple[str, str] | None:
    """`only 3 of the 30 classes of --num_classes have an image: ...`, and the remedy; None where it is well.

    One class more than there are may be kept free on purpose. Where some images have no label, they may be of the
    other classes.
    """
    there = set(labels)
    if not labels or min(there) < 0 or num_classes - len(there) <= 1:
        return None
    missing = [str(number) for number in range(num_classes) if number not in there]
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    text = f"only {len(there)} of the {num_classes} classes of --num_classes have an image: classes {shown} never have"
    needed = max(max(there) + 1, 2)
    remedy = f"use --num_classes {needed}" if needed < num_classes else "number the classes without gaps, from 0"
    return f"{text} an example", remedy
