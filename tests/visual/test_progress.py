"""Progress: bars that keep quiet where nobody looks, durations, a run's rate and remaining time."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest

from util.visual import progress
from util.visual.base import Moment
from util.visual.progress import Plan, Progress, bar, duration, with_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, quiet: bool = False, patience: float = 0.0) -> str:
    """What three items with a bar leave on the error stream."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    for _ in with_bar(range(3), "counting", "sheep", quiet=quiet):
        time.sleep(0.12)  # tqdm redraws ten times a second
    return stream.getvalue()


def test_a_bar_has_its_name_count_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert "counting" in text
    assert "/3 [" in text
    assert "sheep/s" in text
    assert "<00:0" in text, "time that remains"


@pytest.mark.parametrize(
    ("stream", "options"),
    [(Terminal(), {"quiet": True}), (io.StringIO(), {}), (Terminal(), {"patience": 60.0})],
    ids=["quiet", "no terminal", "short work"],
)
def test_no_bar(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, options: dict[str, bool | float]) -> None:
    assert shown(monkeypatch, stream, **options) == ""  # type: ignore[arg-type]


def test_items_come_through_in_order_and_lazily() -> None:
    given: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            given.append(number)
            yield number

    taken = iter(with_bar(items(), "x", "y", total=3))
    assert given == []
    assert next(taken) == 0
    assert list(taken) == [1, 2]
    assert bar(None, "x", "y", quiet=True).disable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99, "99 s"),
        (130, "2 min"),
        (5940, "99 min"),
        (6000, "1 h 40 min"),
        (11100, "3 h 05 min"),
        (187200, "2 d 4 h"),
        (-3, "0 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def at(step: int, epoch: int = 1) -> Moment:
    return Moment(epoch, step, step, 4 * step, 0.1, 0.1)


def test_rate_and_remaining_time_of_a_run() -> None:
    now = [0.0]
    run = Progress("<run>", Plan(steps=100, epochs=5), lambda: now[0])
    assert run.html() == ""
    run.add(at(10))
    assert run.remaining is None
    assert "not known yet" in run.html()
    now[0] = 5.0
    run.add(at(20, 2))
    assert run.rate == 2.0
    assert run.remaining == 40.0
    html = run.html()
    for part in ("&lt;run&gt;", "2 of 5", "20 of 100 (20.0%)", "2 steps/s, 8 images/s", "40 s", "width:20.00%"):
        assert part in html, part


def test_the_rate_is_that_of_the_last_moments() -> None:
    now = [0.0]
    run = Progress("run", Plan(10_000, 1), lambda: now[0])
    for step in range(200):
        now[0] += 10.0 if step < 100 else 0.5  # a slow start
        run.add(at(step))
    assert run.rate == pytest.approx(2.0)
    assert Progress("run", None).html() == ""
