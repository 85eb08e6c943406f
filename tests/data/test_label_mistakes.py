"""Label files as other programs, other countries and typing errors make them: read as they are meant, or named."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from data.base import UNKNOWN, DataError
from data.labels import labels_from_table, read_labels, renamed, rows_without_files
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
    ("file,class\na,x\n", ("lacks the column label_id; its first line has 'file', 'class'",)),
    ("file,label,label\na,x,y\n", ("names the column label twice; rename one",)),
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
    (HEAD + "trainA/00.png,bus,\n", ("line 2: has the label 'bus' but no label_id; write 0, 1, 2", "without a column")),
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


# --- names without numbers, JSON, and names that contradict each other

FILES = ("trainA/00.png", "trainA/01.png", "trainA/02.png", "trainA/03.png")


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file,label\ntrainA/00.png,car\ntrainA/01.png, bus\ntrainA/02.png,\ntrainB/9.png,ape\n"),
        ("a.csv", "label,file\ncar,00.png\nbus,01.png\n-1,02.png\nape,x.png\n"),
        ("a.json", '{"trainA/00.png": "car", "trainA\\\\01.png": "bus", "02.png": null, "x.png": "ape"}'),
    ],
)
def test_names_alone_are_numbered_in_their_order_or_as_the_run_has_them(tmp_path: Path, name: str, text: str) -> None:
    known, files = read_labels(written(tmp_path, name, text)), [tmp_path / file for file in FILES]
    assert labels_from_table(files, tmp_path, known) == ([2, 1, -1, -1], {0: "ape", 1: "bus", 2: "car"})
    trained = {0: "car", 3: "bus"}
    assert labels_from_table(files, tmp_path, known, trained) == ([0, 3, -1, -1], trained)
    with pytest.raises(DataError, match=r"(line|entry) 2?.*'bus' is no class of this run, which knows car, van"):
        labels_from_table(files, tmp_path, known, {0: "car", 1: "van"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file,label\ntrainA/00.png,10\ntrainA/01.png,9\n"),
        ("a.csv", "file,label_id\ntrainA/00.png,10\ntrainA/01.png,9\n"),
        ("a.json", '{"trainA/00.png": 10, "trainA/01.png": 9, "trainA/02.png": null, "trainA/03.png": -1}'),
        ("a.JSON", '{"trainA/00.png": "10", "trainA/01.png": "9"}'),
    ],
)
def test_numbers_are_ids_whatever_their_column_is_called(tmp_path: Path, name: str, text: str) -> None:
    known, files = read_labels(written(tmp_path, name, text)), [tmp_path / file for file in FILES]
    assert labels_from_table(files, tmp_path, known, {9: "bus"}) == ([10, 9, -1, -1], {9: "9", 10: "10"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["trainA/00.png"]', "should be an object of path: class"),
        ('{"trainA/00.png": 0.5}', "entry 1: should be an object of path: class"),
        ('{"x.png": 0, "trainA/00.png": true}', "entry 2: should be an object of path: class"),
        ('{"trainA/00.png": {"label": 1}}', "entry 1: should be an object of path: class"),
        ('{"x.png": "car", "trainA/00.png": 1}', "entry 2: is a number, and other entries are names"),
        ('{"trainA/00.png": 0, "trainA/00.png": 1}', "appears twice"),
        ('{"trainA/00.png": 0', "is damaged"),
    ],
)
def test_a_bad_json_of_labels_is_named_with_its_fault(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_labels(written(tmp_path, "a.json", text))
    assert str(caught.value).startswith(f"{tmp_path}/a.json")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "trainA/02.png,car,2",
            r"line 4: has 'car' with label_id 2, and line 3 has 'car' with label_id 1; a cl",
        ),
        (
            "trainA/02.png,van,1",
            r"line 4: has 'van' with label_id 1, and line 3 has 'car' with label_id 1; a cl",
        ),
    ],
)
def test_one_name_has_one_number(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        labelled(tmp_path, f"{HEAD}{ROWS}{row}\n", *FILES)
    assert labelled(tmp_path, f"{HEAD}{ROWS}{row}\n", *FILES[:2]) == [0, 1]  # of another domain, nobody's concern
    assert labelled(tmp_path, f"{HEAD}{ROWS}trainA/02.png,,1\ntrainA/03.png,van,-1\n", *FILES) == [0, 1, 1, -1]


def test_names_that_are_others_than_the_run_has_are_told() -> None:
    assert renamed({0: "car", 1: "bus"}, {0: "car", 2: "van"}) == ""
    assert renamed({0: "0", 1: "bus"}, {0: "car", 1: "1"}) == ""  # ids stand for classes without a name
    assert renamed({0: "car", 1: "bus"}, {1: "car", 0: "van"}) == "class 0 is 'van' here and 'car' in the run"
