"""How far work has come: bars on a terminal, and a run's progress in words."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

from tqdm import tqdm

from util.visual.base import Moment

T = TypeVar("T")
PATIENCE = 2.0  # seconds of work before a bar appears
RECENT = 50  # moments that a rate is taken over


def bar(total: int | None, doing: str, unit: str, *, quiet: bool = False, stays: bool = False) -> tqdm[Any]:
    """A bar with rate and remaining time for work that takes longer than `PATIENCE`, on a terminal only.

    Args:
        total: how many units; None where that is known later only (set `.total`).
        doing: what is going on, in front of the bar.
        unit: what is counted, in the singular.
        quiet: no bar.
        stays: it is left on the screen when the work is done.
    """
    return tqdm(
        total=total,
        desc=doing,
        unit=unit,
        delay=PATIENCE,
        disable=quiet or None,  # None: only on a terminal
        leave=stays,
        dynamic_ncols=True,
    )


def with_bar(
    items: Iterable[T], doing: str, unit: str, *, total: int | None = None, quiet: bool = False
) -> Iterable[T]:
    """The items one after the other, with a bar as `bar` makes it.

    Args:
        total: how many; None: their length, where they have one.
    """
    known = total if total is not None else len(items) if isinstance(items, Sized) else None
    with bar(known, doing, unit, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.update()


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(whole / 3600), 24)
    return f"{days} d {hours} h"


def _each(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


@dataclass(frozen=True)
class Plan:
    """What a whole run will be.

    Attributes:
        steps: optimiser steps, those before it was continued included.
        epochs: number of the last epoch.
    """

    steps: int
    epochs: int


class Progress:
    """Where a run stands, how fast it goes and how long it will take, as HTML.

    The rate is that of the last moments, what is between steps (evaluations, checkpoints) included.

    Args:
        plan: None: there is nothing to show.
        clock: seconds, rising.
    """

    def __init__(self, run: str, plan: Plan | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._plan, self._clock = run, plan, clock
        self._seen: deque[tuple[float, Moment]] = deque(maxlen=RECENT)

    def add(self, moment: Moment) -> None:
        """Note that the run has come to a moment."""
        self._seen.append((self._clock(), moment))

    @property
    def rate(self) -> float:
        """Steps per second; 0 where it is not known yet."""
        if len(self._seen) < 2:
            return 0.0
        (begun, first), (now, last) = self._seen[0], self._seen[-1]
        return (last.step - first.step) / (now - begun) if now > begun else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds to the end at this rate; None where it is not known yet."""
        if self._plan is None or not self.rate:
            return None
        return max(0, self._plan.steps - self._seen[-1][1].step) / self.rate

    def html(self) -> str:
        """The window's content; empty where there is no plan or no moment yet."""
        if self._plan is None or not self._seen:
            return ""
        at, plan = self._seen[-1][1], self._plan
        share = min(1.0, at.step / max(1, plan.steps))
        rate, remaining = self.rate, self.remaining
        images = at.total_iters / max(1, at.step) * rate
        rows = {
            "epoch": f"{at.epoch} of {plan.epochs}",
            "step": f"{at.step:,} of {plan.steps:,} ({share:.1%})",
            "rate": f"{_each(rate)} steps/s, {_each(images)} images/s" if rate else "measured from the next values on",
            "remaining": duration(remaining) if remaining is not None else "not known yet",
            "as of": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        lines = "".join(f"<tr><td style='padding-right:1em'>{key}</td><td>{rows[key]}</td></tr>" for key in rows)
        filled = f"<div style='width:{share:.2%};height:10px;background:#3b78b5'></div>"
        empty = f"<div style='background:#d8dee4;margin:6px 0'>{filled}</div>"
        return f"<div style='padding:4px 12px'><b>{escape(self._run)}</b>{empty}<table>{lines}</table></div>"
