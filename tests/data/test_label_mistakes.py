"""Label files as other programs, other countries and typing errors make them: read as they are meant, or named."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from data.base import UNKNOWN, DataError, labels_from_table, read_labels, rows_without_files
from tests.commands import SHORT, run
from tests.conftest import TINY, make_data

HEAD = "file,label,label_id\n"
ROWS = "trainA/00.png,bus,0\ntrainA/01.png,car,1\n"
CANNOT = "labels.csv: cannot be read as a label file (UTF-8 CSV): "
SAVE = "save it as CSV in UTF-8"


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def labelled(folder: Path, text: str | bytes, *names: str) -> list[int]:
    return labels_from_table([folder / name for name in names], folder, read_labels(table(folder, text)))[0]


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ROWS,
        (HEAD + ROWS).replace("\n", "\r\n"),
        (HEAD + ROWS).replace("\n", "\r"),
        (HEAD + ROWS).replace("/", "\\"),
        (HEAD + ROWS).replace("trainA", "./trainA"),
        "\ufeff" + HEAD + ROWS,
        HEAD + "\n" + ROWS + ",,\n\n",
        HEAD + ROWS.replace(",0\n", ", +0 \n"),
        "label_id,file,note\n0,trainA/00.png,\n1,trainA/01.png\n",
        "file,label,label_id\ntrainA/00.png,bus,0,,\ntrainA/01.png,car,1,,\n",
    ],
    ids=["as is", "Windows", "old Mac", "backslashes", "dot", "mark", "blanks", "spaces", "short row", "empty columns"],
)
def test_what_programs_make_of_a_table_reads_the_same(tmp_path: Path, text: str) -> None:
    assert labelled(tmp_path, text, "trainA/00.png", "trainA/01.png", "trainA/02.png") == [0, 1, UNKNOWN]


def test_accents_are_the_same_in_either_encoding(tmp_path: Path) -> None:
    """macOS keeps an accent and its letter apart in names of files."""
    name = "trainA/Gerät.png"
    ways: tuple[tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]], ...] = (("NFC", "NFD"), ("NFD", "NFC"))
    for one, other in ways:
        row = f"{HEAD}{unicodedata.normalize(one, name)},x,3\n"
        assert labelled(tmp_path, row, unicodedata.normalize(other, name)) == [3]


BAD: list[tuple[str | bytes, tuple[str, ...]]] = [
    # columns
    ("name,class\na,1\n", ("labels.csv: lacks the column file and label_id", "should be file,label,label_id")),
    ("file,label\na,x\n", ("lacks the column label_id; its first line has 'file', 'label'",)),
    (ROWS, ("lacks the column file and label_id; its first line has 'trainA/00.png', 'bus', '0'",)),
    ("file,label_id,label_id\na,1,2\n", ("names the column label_id twice; rename one",)),
    ("", ("its first line has nothing and should be file,label,label_id",)),
    ((HEAD + ROWS).replace(",", ";"), ("it separates by semicolons, as Excel does", "save it with commas")),
    ("sep=;\n" + (HEAD + ROWS).replace(",", ";"), ("it separates by semicolons", "save it with commas")),
    ((HEAD + ROWS).replace(",", "\t"), ("it separates by tabs: save it with commas",)),
    # encodings
    ((HEAD + ROWS).encode("utf-16"), (CANNOT + "it is UTF-16 or UTF-32", SAVE)),
    ((HEAD + ROWS).encode("utf-16-be"), (CANNOT + "it holds NUL bytes, as UTF-16 does", SAVE)),
    ((HEAD + ROWS).encode("utf-32"), (CANNOT + "it is UTF-16 or UTF-32", SAVE)),
    ((HEAD + "x/Gerät.png,x,0\n").encode("latin-1"), (CANNOT + "byte 0xe4 in line 2 is no UTF-8", "Latin-1", SAVE)),
    (HEAD + "trainA/00.png,b\0s,0\n", (CANNOT + "it holds NUL bytes", SAVE)),
    # fields
    (HEAD + f"trainA/00.png,{'x' * 10**6},0\n", (CANNOT + "field larger than field limit", "quotation mark")),
    (HEAD + '"trainA/00.png,x,0\n' + ROWS, (CANNOT + "unexpected end of data; a quotation mark may be left open",)),
    (HEAD + "trainA/0,0.png,bus,1\n", ("line 2: has more fields than the first line; a name with a comma needs quo",)),
    # ids
    (HEAD + "trainA/00.png,x,1.5\n", ("labels.csv, line 2: label_id '1.5' is no whole number; write 0, 1, 2",)),
    (HEAD + "trainA/00.png,x,1.0\n", ("label_id '1.0' is no whole number; write 0, 1, 2 and so on, or -1",)),
    (HEAD + "trainA/00.png,x,1_0\n", ("label_id '1_0' is no whole number",)),
    (HEAD + "trainA/00.png,x,\u0661\n", ("label_id '\u0661' is no whole number",)),
    (HEAD + "trainA/00.png,x,bus\n", ("label_id 'bus' is no whole number",)),
    (HEAD + f"trainA/00.png,x,{'9' * 5000}\n", (f"label_id '{'9' * 40}' is no whole number",)),
    (HEAD + ROWS + "trainA/00.png,bus,0\n", ("line 4: trainA/00.png appears twice, first in line 2; keep one",)),
    (HEAD + ROWS + "trainA\\00.png,bus,3\n", ("line 4: trainA/00.png appears twice, first in line 2; keep one",)),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_table_is_named_with_its_fault_and_the_remedy(
    tmp_path: Path, text: str | bytes, words: tuple[str, ...]
) -> None:
    with pytest.raises(DataError) as caught:
        labelled(tmp_path, text, "trainA/00.png")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/labels.csv")
    assert message.isprintable()
    assert len(message) < 500 + len(str(tmp_path))
    for word in words:
        assert word in message


def test_a_table_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.csv: cannot be read as a label file \(UTF-8 CSV\): No such file"):
        read_labels(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"cannot be read as a label file \(UTF-8 CSV\): Is a directory"):
        read_labels(tmp_path)
    if os.geteuid():  # root may read everything
        file = table(tmp_path, HEAD)
        file.chmod(0)
        with pytest.raises(DataError, match=r"labels.csv: cannot be read .*: Permission denied"):
            read_labels(file)


# --- rows that name no file


def test_rows_that_name_no_file_are_counted_with_the_first_of_them(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    files = sorted((root / "trainA").iterdir())
    known = read_labels(root / "labels.csv")
    assert rows_without_files(known, files, root) == ""  # rows of the other domain name files too
    for odd in ("trainA/no.png", "../data/trainA/00.png", "/etc/passwd", "x" * 5000, "00.jpg"):
        text = f"{HEAD}{ROWS}trainB/00.png,x,?\n{odd},x,0\nno/more.png,x,0\n"
        told = rows_without_files(read_labels(table(tmp_path, text)), files, root)
        assert told.startswith(f"{tmp_path}/labels.csv: 2 of 5 rows name no file below {root}, the first in line 5: ")
        assert told.endswith(odd[:200])
    bare = read_labels(table(tmp_path, HEAD + "00.png,x,0\n"))
    assert rows_without_files(bare, files, root) == ""


def training(home: Path, labels: str | None, *flags: str) -> tuple[int, str]:
    root = make_data(home / "data")
    if labels is not None:
        (root / "labels.csv").write_text(labels)
    words = ["--dataroot", "data", "--name", "new", "--model", "cutcam", "--num_classes", "4", *TINY, *SHORT.split()]
    outcome = run("train", [*words, *flags], home)
    return outcome.status, outcome.err


def test_a_typo_in_the_paths_does_not_silently_train_without_labels(tmp_path: Path) -> None:
    status, err = training(tmp_path, f"{HEAD}{ROWS}".replace("trainA/", "train_A/"))
    assert status == 0
    lines = [line for line in err.splitlines() if line.startswith("WARNING")]
    assert lines == [
        "WARNING: data/labels.csv: 2 of 2 rows name no file below data, the first in line 2: train_A/00.png"
    ]


def test_a_table_that_was_asked_for_must_label_something(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(f"{HEAD}{ROWS}".replace("trainA/", "train_A/"))
    status, err = training(tmp_path, None, "--labels_A", "mine.csv")
    assert (status, err.count("\n")) == (2, 1)
    assert "--labels_A mine.csv: labels none of the 5 images of data/trainA; its column file must hold paths" in err
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("kind", ["folder", "broken link"])
def test_a_default_table_that_is_no_file_is_not_passed_over(tmp_path: Path, kind: str) -> None:
    root = make_data(tmp_path / "data")
    (root / "labels.csv").unlink()
    if kind == "folder":
        (root / "labels.csv").mkdir()
    else:
        (root / "labels.csv").symlink_to("nowhere")
    flags = ["--dataroot", "data", "--name", "new", "--model", "cutcam", *TINY, *SHORT.split()]
    outcome = run("train", flags, tmp_path)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "data/labels.csv: cannot be read as a label file" in outcome.err
