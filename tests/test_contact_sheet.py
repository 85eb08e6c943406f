"""One picture of several methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import ImageError
from options.schema import OptionError
from scripts.contact_sheet import main
from util.visual.grid import MARGIN

SHADES = {"real_A": 40, "fake_B": 120}
WIDTH, HEIGHT = 100, 16  # as wide as the headings, so that pictures keep their pixels


def picture(file: Path, shade: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (shade, shade, shade)).save(file)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two folders as test.py writes them, the second with one picture less."""
    for run, count, lighter in (("one", 5, 0), ("two", 4, 60)):
        for kind, shade in SHADES.items():
            for number in range(count):
                picture(tmp_path / run / "images" / kind / f"{number}.png", shade + lighter + number)
    return tmp_path


def blocks(file: Path) -> list[list[int]]:
    """The shades of the pictures, found as uniform areas of their size."""
    pixels = np.array(Image.open(file).convert("L")).astype(int)
    rows: list[list[int]] = []
    top = pixels.shape[0] - MARGIN - HEIGHT
    while top > 20:
        row, left = [], MARGIN
        while left + WIDTH <= pixels.shape[1]:
            area = pixels[top : top + HEIGHT, left : left + WIDTH]
            if area.min() == area.max() != 255:
                row.append(int(area[0, 0]))
                left += WIDTH
            else:
                left += 1
        rows.insert(0, row)
        top -= HEIGHT + MARGIN
    return [row for row in rows if row]


def test_rows_are_images_and_columns_methods(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = results / "sheet.png"
    assert main([f"A={results / 'one'}", f"B={results / 'two'}", "--images", "2", "--output", str(sheet)]) == 0
    assert blocks(sheet) == [[40, 120, 180], [43, 123, 183]], "input, A, B of the first and the last common image"
    assert capsys.readouterr().out.split() == [str(sheet), str(sheet.with_suffix(".pdf"))]


def test_plain_folders_and_references(results: Path) -> None:
    sheet, fakes = results / "sheet.png", results / "one" / "images" / "fake_B"
    beside = ["--reference", str(results / "two" / "images" / "fake_B")]
    main([f"A={fakes}", *beside, "--images", "1", "--output", str(sheet)])
    assert blocks(sheet) == [[180, 120]]


@pytest.mark.parametrize(
    ("given", "name"), [("a_0.5", "a_0.5"), ("a.png", "a"), ("a.pdf", "a"), ("a.PNG", "a"), ("a", "a")]
)
def test_only_a_kind_of_file_is_taken_from_the_name(given: str, name: str, results: Path) -> None:
    main([f"A={results / 'one'}", "--images", "1", "--output", str(results / given)])
    assert {file.name for file in results.glob("a*")} == {f"{name}.png", f"{name}.pdf"}


def test_mistakes_are_named(results: Path) -> None:
    out = ["--output", str(results / "sheet.png")]
    one = f"A={results / 'one'}"
    with pytest.raises(OptionError, match="write NAME=FOLDER"):
        main(["results", *out])
    with pytest.raises(OptionError, match="same name"):
        main([one, one, *out])
    with pytest.raises(OptionError, match=r"input=.*taken"):
        main([f"input={results / 'one'}", *out])
    with pytest.raises(OptionError, match="no such folder"):
        main([one, f"B={results / 'three'}", *out])
    picture(results / "other" / "x.png", 1)
    with pytest.raises(OptionError, match=r"no image in common.*A 5, B 1"):
        main([one, f"B={results / 'other'}", *out])
    (results / "two" / "images" / "fake_B" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png"):
        main([one, f"B={results / 'two'}", *out])
    assert not (results / "sheet.png").exists()
