"""Pairs, boxes and masks: what is read, and what is said of a table that cannot be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.annotations import read_boxes, read_masks, read_pairs, read_table
from data.base import DataError

SOURCE, TARGET = ["testA/a.png", "testA/b.png"], ["testB/b.png", "testB/x.png", "testB/a.png"]


def written(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_by_number_in_either_direction(tmp_path: Path) -> None:
    table = written(tmp_path, "A,B\ntestA/b.png,testB/b.png\ntestA/a.png,testB/a.png\ntestA/gone.png,testB/x.png\n")
    assert read_pairs(table, SOURCE, TARGET, "AtoB") == [(0, 2), (1, 0)]
    assert read_pairs(table, TARGET, SOURCE, "BtoA") == [(0, 1), (2, 0)]


def test_boxes_of_each_image(tmp_path: Path) -> None:
    table = written(
        tmp_path, "file,x0,y0,x1,y1,class\ntestA/b.png,1,2,3.5,4,car\ntestA/b.png,0,0,9,9,car\nother,0,0,1,1,x\n"
    )
    assert read_boxes(table, SOURCE) == [[], [(1, 2, 3.5, 4), (0, 0, 9, 9)]]


def test_masks_by_bare_name_and_level(tmp_path: Path) -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[0], mask[1] = 255, 128  # target, shadow
    cv2.imwrite(str(tmp_path / "b.png"), mask)
    found = read_masks(tmp_path, SOURCE)
    assert found[0] is None
    assert found[1] is not None
    assert found[1].tolist() == (mask == 255).tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A;B\ntestA/a.png;testB/a.png\n", r"lacks the column A and B; its first line should hold A,B"),
        ("A,B\ntestA/a.png\n", r"line 2: has nothing under B"),
        ("A,B\na.png,a.png\n", r"pairs none of the images.*for example testA/a\.png"),
        ("", r"lacks the column"),
    ],
)
def test_a_table_of_pairs_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_pairs(written(tmp_path, text), SOURCE, TARGET, "AtoB")
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("testA/a.png,1,2,x,4", "line 2: 1,2,x,4 are not four numbers"),
        ("testA/a.png,5,2,3,4", r"line 2: .* 5,2,3,4 is no rectangle"),
        ("testA/a.png,-1,2,3,4", "is no rectangle inside an image"),
        ("testA/a.png,0,0,nan,4", "is no rectangle"),
        ("testA/a.png,0,0,inf,4", "is no rectangle"),
    ],
)
def test_a_rectangle_that_is_none(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_boxes(written(tmp_path, f"file,x0,y0,x1,y1\n{row}\n"), SOURCE)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read as a table"):
        read_table(tmp_path / "none.csv", ("A",))
    (tmp_path / "latin.csv").write_bytes(b"A,B\n\xe4,\xf6\n")
    with pytest.raises(DataError, match=r"latin\.csv: cannot be read as a table \(UTF-8 CSV\)"):
        read_table(tmp_path / "latin.csv", ("A", "B"))
    with pytest.raises(DataError, match="no such folder of masks"):
        read_masks(tmp_path / "masks", SOURCE)
    with pytest.raises(DataError, match=r"holds no mask named like an image, for example a\.png"):
        read_masks(tmp_path, SOURCE)
