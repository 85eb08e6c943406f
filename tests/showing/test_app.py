"""The page of scripts/app.py: what its handlers do, and the page itself in a browser that asks no other machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.decoders import read_raw
from models import load_run
from options.parse import inference_options
from scripts.showing.options import Showing
from scripts.showing.page import answer, page_of, redraw
from scripts.showing.studio import HEADS_CHOICE, OWN, Studio
from tests.conftest import picture
from tests.headless import CHROMIUM, Browser
from tests.runs import COUNTS, CUTCAM, make_run
from util.errors import UserError

GREY = ("--input_nc", "1", "--output_nc", "1")
NAMES = {0: "disc", 1: "frame", 2: "bars", 3: "cross"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("ck") / "deep", *CUTCAM, *GREY, formats=COUNTS, classes=NAMES)


def studio_of(folder: Path, place: Path) -> Studio:
    return Studio(inference_options((Showing,), ["--checkpoint", str(folder)]), torch.device("cpu"), place)


@pytest.fixture(scope="module")
def studio(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return studio_of(folder, tmp_path_factory.mktemp("translations"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photos") / "photo.tif"
    cv2.imwrite(str(file), picture(0, 0, (32, 40), 1)[:, :, 0].astype(np.uint16) * 8 + 1000)
    return file


def test_a_picture_is_translated_at_full_depth_and_explained(studio: Studio, folder: Path, photo: Path) -> None:
    assert studio.classes == list(NAMES.values())
    assert studio.about == "Takes 16 bits (1000 to 3000), gives 16 bits (2000 to 6000)."
    seen = studio.look(str(photo))
    fake, cam = load_run(folder).translate(photo, explain=True)
    assert seen.file.name == "photo_fake.png"
    assert read_raw(seen.file).dtype == np.uint16
    assert (read_raw(seen.file) == fake).all()
    assert seen.heats is not None
    assert np.allclose(seen.heats[0], cam.heat, atol=1e-4)
    assert np.allclose(seen.heats[1], cam.heat_fake, atol=1e-4)
    assert (seen.picture == cam.picture).all()
    assert f"Explained: **{cam.class_name}**" in seen.words
    assert f"on the input: {100 * cam.probability:.1f} %" in seen.words


def test_class_and_method_are_those_chosen(studio: Studio, photo: Path) -> None:
    own = {name: studio.look(str(photo), name).heats for name in ("disc", "cross")}
    assert own["disc"] is not None
    assert own["cross"] is not None
    assert not np.allclose(own["disc"][0], own["cross"][0], atol=0.01)
    for method in studio.methods:
        seen = studio.look(str(photo), "cross", method)
        assert seen.heats is not None
        assert seen.heats[0].shape == seen.heats[1].shape == (32, 40)
        assert "**cross**" in seen.words
    other = studio.look(str(photo), "cross", "layercam").heats
    assert other is not None
    assert not np.allclose(other[0], own["cross"][0], atol=0.01)


def test_strength_changes_the_overlays_alone(studio: Studio, photo: Path) -> None:
    seen, image, fake, first, second, words, file = answer(studio, RuntimeError, str(photo), HEADS_CHOICE, OWN, 0.5)
    assert Path(file).is_file()
    assert words == seen.words
    none, full = redraw(seen, 0.0), redraw(seen, 1.0)
    assert (none[0] == image).all()
    assert (none[1] == fake).all()
    assert not (first == full[0]).all()
    assert abs(first.astype(int) - (none[0].astype(int) + full[0]) / 2).max() <= 1  # half of each
    assert second.shape == fake.shape
    assert redraw(None, 0.5) == [None, None]


def test_mistakes_are_shown_as_they_are_said(studio: Studio, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "bytes.png"), picture(0, 0, (32, 40), 1))
    (tmp_path / "text.png").write_text("text")
    for path, message in (
        (None, "Choose a picture first."),
        (str(tmp_path / "bytes.png"), "is uint8 but its domain was set up as uint16"),
        (str(tmp_path / "text.png"), "cannot be read as an image"),
    ):
        with pytest.raises(RuntimeError, match=message):
            answer(studio, RuntimeError, path, HEADS_CHOICE, OWN, 0.5)


def test_a_run_without_a_head_translates(tmp_path: Path, photo: Path) -> None:
    plain = studio_of(make_run(tmp_path / "cut", "--netF_nc", "16", *GREY, formats=COUNTS), tmp_path)
    assert (plain.classes, plain.methods) == ([], [])
    seen = plain.look(str(photo))
    assert seen.heats is None
    assert seen.words == ""
    assert (seen.drawn(0.5)[1] == seen.fake).all()


def test_without_gradio_the_package_is_named(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"scripts/app.py: needs the package gradio, .*requirements-extras.txt"):
        page_of(studio)


@pytest.fixture
def address(studio: Studio) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is an extra")
    page, look = page_of(studio)
    _, url, shared = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, enable_monitoring=False, ssr_mode=False, **look
    )
    assert shared is None
    yield url
    page.close()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_in_a_browser_the_page_answers_and_asks_no_other_machine(
    address: str, studio: Studio, photo: Path, tmp_path: Path
) -> None:
    assert address.startswith("http://127.0.0.1:")
    browser = Browser(tmp_path)
    try:
        browser.page("Page.navigate", url=address)
        browser.wait_for("document.querySelector('input[type=file]')")
        root = browser.page("DOM.getDocument")["root"]["nodeId"]
        node = browser.page("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        browser.page("DOM.setFileInputFiles", nodeId=node, files=[str(photo)])
        # The name alone is shown already while the file is on its way: its link comes once it has arrived.
        browser.wait_for("document.querySelector('a[href*=\"photo.tif\"]')")
        browser.click("[...document.querySelectorAll('button')].find(b => b.textContent.trim() == 'Translate')")
        browser.wait_for("[...document.querySelectorAll('.whole img')].filter(i => i.naturalWidth == 40).length == 4")
        browser.wait_for("document.body.innerText.includes('Explained: ')")
        browser.wait_for("document.querySelector('a[download*=photo_fake]')")
    finally:
        browser.close()
    assert list(studio.place.rglob("photo.tif"))  # nothing is left elsewhere
    asked = {e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"}
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((address, "data:", "blob:", "about:"))] == []
