"""What every sink of a run's progress has in common: the moment of a measurement, the fan-out to several."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Moment:
    """When in a run a value was measured.

    Args:
        epoch: the epoch, counted from 1.
        epoch_iters: samples seen in this epoch.
        step: optimiser steps done in the whole run.
        total_iters: samples seen in the whole run.
        seconds: computing time per sample.
        data_seconds: time spent waiting for data.
    """

    epoch: int
    epoch_iters: int
    step: int
    total_iters: int
    seconds: float
    data_seconds: float


class Sink(Protocol):
    """Somewhere that a run's numbers and pictures go."""

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Take the losses and monitors of one moment."""

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """Take named pictures, uint8 (H, W, 3), (H, W, 1) or (H, W), RGB order."""

    def close(self) -> None:
        """Write what is still held back; called once, at the end."""


def warn(message: str) -> None:
    """Report a fault of a sink as one Python warning."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)


class Sinks:
    """Hand everything to several sinks; one that raises is reported once, by name, and switched off.

    Losing a display must not cost a training run, so no exception of a sink leaves this class.

    Args:
        sinks: where to send; the order is kept.
        report: receives the one message about a sink that failed (default: a `RuntimeWarning`).
    """

    def __init__(self, sinks: Iterable[Sink], report: Callable[[str], None] = warn) -> None:
        self._sinks = list(sinks)
        self._report = report

    @property
    def active(self) -> Sequence[Sink]:
        """The sinks that have not failed."""
        return tuple(self._sinks)

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Send the losses and monitors of one moment to every sink."""
        self._each(lambda sink: sink.scalars(moment, values))

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """Send named pictures, uint8 HWC, to every sink."""
        self._each(lambda sink: sink.images(moment, pictures))

    def close(self) -> None:
        """Close every sink; a second call does nothing."""
        self._each(lambda sink: sink.close())
        self._sinks = []

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:
                self._sinks.remove(sink)
                with contextlib.suppress(Exception):
                    sink.close()
                name = type(sink).__name__
                self._report(f"{name} failed and is switched off, training goes on ({type(error).__name__}: {error}).")

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# A phase's total ("D", "G") is drawn with the adversarial losses; a gradient norm as "grad_GAN" is a monitor.
GROUP_PATTERNS: Mapping[str, str] = {
    "adversarial": r"^GAN|^[DG](_|$)",
    "contrastive": r"^NCE",
    "cam": r"^(CAM|CLS)(_[AB])?$",
    "reconstruction": r"^(IDT|EDGE)(_[AB])?$",
    "attention": r"^CAM_(?!weight)|^head_acc",
}
LOSS_GROUPS = ("adversarial", "contrastive", "cam", "reconstruction")
MONITORS = "monitors"


def group_of(name: str, patterns: Mapping[str, str] = GROUP_PATTERNS) -> str:
    """The group of curves that a loss or monitor is drawn with: a key of `patterns`, or `monitors`.

    Args:
        name: the loss, for example `G_GAN` or `NCE_Y`.
        patterns: group -> regular expression searched in the name; what fits none is a monitor.
    """
    return next((group for group, pattern in patterns.items() if re.search(pattern, name)), MONITORS)


def grouped(names: Iterable[str], patterns: Mapping[str, str] = GROUP_PATTERNS) -> dict[str, list[str]]:
    """Names by group, groups in the order of `patterns` and then the monitors, empty groups left out."""
    groups: dict[str, list[str]] = {group: [] for group in (*patterns, MONITORS)}
    for name in names:
        groups[group_of(name, patterns)].append(name)
    return {group: members for group, members in groups.items() if members}
