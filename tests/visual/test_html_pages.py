"""Pages: escaped, without any outside address, whole, and in the right order."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from util.visual.base import Moment
from util.visual.html import HtmlSink, Row, write_results_page
from util.visual.jsonl import JsonlSink

HOSTILE = """<script>alert("x")</script>'&{{ 7 * 7 }}"""
PICTURE = np.full((8, 12, 3), (255, 0, 0), np.uint8)


def at(step: int, epoch: int = 1) -> Moment:
    return Moment(epoch, step, step, step, 0.1, 0.1)


class Page(HTMLParser):
    """Tags, pictures, addresses and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def pictures(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name == "src"]


def assert_stands_alone(page: Page) -> None:
    assert "script" not in page.tags
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"(https?:)?//\w|@import|url\(", page.source)


def test_results_page_escapes_and_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a b#1.png"), PICTURE)
    path = tmp_path / "index.html"
    rows = [Row(HOSTILE, [(HOSTILE, "images/a b#1.png"), ("gone", "images/none.png")])]
    write_results_page(path, HOSTILE, rows, f"first\n\n{HOSTILE}", None, {HOSTILE: HOSTILE})
    page = Page(path)
    assert_stands_alone(page)
    assert page.text.count(HOSTILE) == 7  # title, heading, paragraph, fact (2), caption, label
    assert page.pictures == ["images/a%20b%231.png", "images/none.png"]
    assert ("loading", "lazy") in page.attributes
    assert page.tags.count("p") == 2
    assert ("width", "288") in page.attributes, "8 x 12 pixels are shown 192 high"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["index.html"]


def test_results_page_with_nothing_in_it(tmp_path: Path) -> None:
    write_results_page(tmp_path / "new" / "index.html", "empty", [])
    page = Page(tmp_path / "new" / "index.html")
    assert "empty" in page.text
    assert page.pictures == []


def test_training_page(tmp_path: Path) -> None:
    log, sink = JsonlSink(tmp_path), HtmlSink(tmp_path, HOSTILE)
    for step in (100, 200, 300):
        log.scalars(at(step), {"NCE": 1 / step, HOSTILE: 1.0})
        sink.scalars(at(step), {})
        sink.images(at(step, epoch=step // 100), {"real_A": PICTURE, "fake B/../x": PICTURE[..., :1]})
    log.close()
    page = Page(sink.page)
    assert_stands_alone(page)
    assert ("http-equiv", "refresh") in page.attributes
    assert page.pictures[:3] == [
        "images/epoch003_step000300_real_A.png",
        "images/epoch003_step000300_fake_B_.._x.png",
        "images/epoch002_step000200_real_A.png",
    ]
    assert len(page.pictures) == 6
    assert "polyline" in page.tags
    assert HOSTILE in page.text
    kept = cv2.imread(str(tmp_path / "web" / page.pictures[0]))
    assert kept is not None
    assert (kept[..., ::-1] == PICTURE).all(), "red stays red"
    sink.close()
    assert ("http-equiv", "refresh") not in Page(sink.page).attributes


def test_training_page_after_a_resume_and_a_new_run(tmp_path: Path) -> None:
    sink = HtmlSink(tmp_path, "run")
    for step in (100, 200):
        sink.images(at(step), {"a": PICTURE})
    resumed = HtmlSink(tmp_path, "run", resume_step=100)
    resumed.images(at(150), {"a": PICTURE})
    steps = [re.sub(r"\D*001_step0*(\d+)_.*", r"\1", source) for source in Page(resumed.page).pictures]
    assert steps == ["150", "100"]
    HtmlSink(tmp_path, "run").images(at(5), {"a": PICTURE})
    assert len(Page(sink.page).pictures) == 1
    (old,) = tmp_path.glob("web_*")
    assert len(list(old.glob("images/*.png"))) == 2


def test_a_long_run_shows_its_newest_moments(tmp_path: Path) -> None:
    sink = HtmlSink(tmp_path, "run", newest=2)
    for step in range(1, 6):
        sink.images(at(step), {"a": PICTURE})
    page = Page(sink.page)
    assert len(page.pictures) == 2
    assert "3 earlier moments" in page.text
    assert len(list((tmp_path / "web" / "images").iterdir())) == 5


def test_only_pictures_that_are_shown_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each update of a long run would take longer than the one before."""
    sink, opened = HtmlSink(tmp_path, "run", newest=2), list[str]()

    def watched(file: Path) -> Image.Image:
        opened.append(file.name)
        return Image.open(file)

    monkeypatch.setattr("util.visual.html.Image", SimpleNamespace(open=watched))
    for step in range(1, 6):
        sink.images(at(step), {"a": PICTURE})
    assert opened[-2:] == ["epoch001_step000005_a.png", "epoch001_step000004_a.png"]
    assert len(opened) == 1 + 4 * 2
