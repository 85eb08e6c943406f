"""A participant in a real browser: keys and mouse, order and sides, closing and going on, the file at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.studying.scoring import Scoring
from scripts.studying.votes import Key, collect, read_votes
from tests.headless import CHROMIUM, Browser
from tests.studying.conftest import QUESTION, Content, Page


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    (tmp_path / "downloads").mkdir()
    found = Browser(tmp_path)
    yield found
    found.close()


def xorshift(text: str) -> Callable[[int], int]:
    """The page's generator once more: FNV-1a of the text starts a 32-bit xorshift (13, 17, 5)."""
    state = 0x811C9DC5
    for letter in text:
        state = (state ^ ord(letter)) * 0x01000193 % 2**32

    def draw(below: int) -> int:
        nonlocal state
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        return state * below >> 32

    return draw


def expected(data: Content, participant: str) -> list[tuple[str, str]]:
    """(trial, left picture) in the order in which this participant sees them."""
    draw = xorshift(data["study"] + participant)
    for _ in range(16):
        draw(2)
    order = [trial["id"] for trial in data["trials"] if not trial["attention"]]
    for last in range(len(order) - 1, 0, -1):
        other = draw(last + 1)
        order[last], order[other] = order[other], order[last]
    (check,) = (trial["id"] for trial in data["trials"] if trial["attention"])
    third = len(order) // 3
    order.insert(third + draw(third + 1), check)
    pairs = {trial["id"]: [picture["id"] for picture in trial["pictures"]] for trial in data["trials"]}
    return [(trial, pairs[trial][draw(2)]) for trial in order]


def take_part(browser: Browser, key: Key, numbers: range) -> None:
    """Answer trials: the first method, the good picture, the side asked for; by key and by mouse in turns."""
    wanted = {
        picture for trial in key.trials.values() for picture, who in trial.pictures.items() if who in ("cutcam", "good")
    }
    for number in numbers:
        browser.wait_for(f"document.getElementById('trial').dataset.number === '{number}'")
        time.sleep(0.21)  # faster answers are ignored
        ask, left = browser.run(
            "[document.getElementById('ask').textContent, document.getElementById('left').dataset.picture]"
        )
        side = "left" if left in wanted else "right"
        if ask.startswith("Attention check"):
            side = "left" if "LEFT" in ask else "right"
        else:
            assert ask == QUESTION
        if number % 2:
            browser.press("ArrowLeft" if side == "left" else "ArrowRight")
        else:
            browser.click(f"document.getElementById('{side}')")


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: apt-get install chromium")


@needs_chromium
def test_a_participant_in_a_real_browser(tmp_path: Path, study: Path, key: Key, browser: Browser) -> None:
    browser.open(study / "study.html")
    assert browser.run("getComputedStyle(document.getElementById('trial')).display") == "none"
    assert browser.run("document.querySelector('#welcome h1').textContent") == QUESTION
    browser.click("document.getElementById('start')")
    take_part(browser, key, range(3))

    # What is held, too fast, or no plain arrow key is no answer.
    browser.wait_for("document.getElementById('trial').dataset.number === '3'")
    browser.run("performance.now = () => 0")  # stands still: a busy machine may be slower than what is too fast
    browser.press("ArrowLeft")
    browser.run("delete performance.now")
    time.sleep(0.25)
    browser.press("ArrowLeft", modifiers=2)
    browser.press("ArrowLeft", autoRepeat=True)
    assert browser.run("document.getElementById('count').textContent") == "4 of 8"

    # Closed and opened again, it goes on. Chromium hands what is stored to another process, and nobody reloads at once.
    time.sleep(1)
    browser.run("window.old = true")
    browser.page("Page.reload")
    browser.wait_for("!window.old && document.readyState === 'complete'")
    assert "3 of 8 already" in browser.run("document.getElementById('memory').textContent")
    browser.click("document.getElementById('start')")
    take_part(browser, key, range(3, 8))
    browser.wait_for("!document.getElementById('end').hidden")

    text = browser.run("document.getElementById('votes').value")
    name = browser.run("document.getElementById('file').textContent")
    saved = tmp_path / "downloads" / name
    for _ in range(200):
        if saved.exists() and saved.read_text() == text:
            break
        time.sleep(0.02)
    assert saved.read_text() == text
    assert f"{key.study[:6]}_" in name

    ballot, content = read_votes(saved, key), json.loads(text)
    assert ballot.misses(key) == 0
    assert Scoring(key, collect([saved], key), 0).counts.tolist() == [[1, 0]] * 5
    assert all(200 <= vote.ms < 60_000 for vote in ballot.votes)
    seen = [(vote["trial"], vote["left"]) for vote in content["votes"]]
    assert seen == expected(Page(study / "study.html").data, ballot.participant)
    assert content["started"] < content["finished"]
    assert set(content) == {"format", "study", "participant", "started", "finished", "votes"}

    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {(study / "study.html").as_uri()}
    assert not [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")]

    # The finished page shows the same again; the next participant is another.
    browser.open(study / "study.html")
    assert browser.run("document.getElementById('votes').value") == text
    browser.run("window.confirm = () => true")
    browser.click("document.getElementById('again')")
    browser.click("document.getElementById('start')")
    browser.wait_for("document.getElementById('count').textContent === '1 of 8'")
    kept = browser.run("Object.values(localStorage)[0]")
    assert json.loads(kept)["participant"] != ballot.participant


@needs_chromium
def test_a_browser_that_keeps_nothing_says_so_and_works(study: Path, key: Key, browser: Browser) -> None:
    forget = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } })"
    browser.page("Page.addScriptToEvaluateOnNewDocument", source=forget)
    browser.open(study / "study.html")
    assert "does not let the page remember" in browser.run("document.getElementById('memory').textContent")
    browser.click("document.getElementById('start')")
    take_part(browser, key, range(2))
    browser.wait_for("document.getElementById('count').textContent === '3 of 8'")
