"""What every sink of a run's progress has in common: the moment of a measurement, the fan-out to several."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

import numpy as np
from tqdm import tqdm


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


def say(message: str, stream: TextIO | None = None) -> None:
    """Print one line above any progress bar; a terminal that is gone, or a full disk under it, is no reason to fail.

    Args:
        stream: the error stream if not given.
    """
    with contextlib.suppress(OSError):
        tqdm.write(message, file=stream or sys.stderr)


class Sinks:
    """Hand everything to several sinks; one that raises is reported once, by name.

    Losing a display must not cost a training run, so no exception of a sink leaves this class. A sink that raises an
    OSError, as on a full disk, is tried again the next time; any other error switches it off.

    Args:
        sinks: where to send; the order is kept.
        report: receives the one message about a sink that failed.
    """

    def __init__(self, sinks: Iterable[Sink], report: Callable[[str], None] = say) -> None:
        self._sinks = list(sinks)
        self._report = report
        self._reported: set[int] = set()  # the sinks that have raised an OSError

    @property
    def active(self) -> Sequence[Sink]:
        """The sinks that are not switched off."""
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
            name = type(sink).__name__
            try:
                act(sink)
            except OSError as error:
                if id(sink) not in self._reported:
                    self._reported.add(id(sink))
                    self._report(f"WARNING: {name} failed and will be tried again, training goes on ({_reason(error)})")
            except Exception as error:
                self._sinks.remove(sink)
                with contextlib.suppress(Exception):
                    sink.close()
                what = f"{type(error).__name__}: {error}"
                self._report(f"WARNING: {name} failed and is switched off, training goes on ({what})")

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: OSError) -> str:
    """What went wrong and with which file, without the number."""
    named = error.filename and error.strerror
    return f"{error.filename}: {error.strerror}" if named else f"{type(error).__name__}: {error}"


# The discriminator's total ("D") is drawn with its terms; the generator's ("G"), a sum of all weighted terms, would
# flatten them and stands alone. So do gradient norms ("grad_GAN"), which would flatten the other monitors.
GROUP_PATTERNS: Mapping[str, str] = {
    "adversarial": r"^GAN|^D(_|$)|^G_",
    "contrastive": r"^NCE",
    "cam": r"^(CAM|CLS)(_[AB])?$",
    "reconstruction": r"^(IDT|EDGE|CYC|L1|PAIR)(_[AB])?$",
    "semantics": r"^SRC?$",
    "decoder": r"^(SL|CRF|SIZE|ENT)$",
    "total": r"^[GCS]$",
    "attention": r"^CAM_(?!weight)|^head_acc",
    "class shares": r"^head_share",
    "gradients": r"^grad_",
    "learning rate": r"^lr$",
    "KID": r"^eval_kid",  # measures whose sizes differ by powers of ten
    "FID": r"^eval_fid",
    "evaluation of maps": r"^eval_(CAM|box_area|deletion|insertion)",
    "evaluation of classes": r"^eval_(acc|flip)",
    "evaluation of variety": r"^eval_(precision|recall|density|coverage|f_score)",
    "evaluation": r"^eval_",
}
LOSS_GROUPS = ("adversarial", "contrastive", "cam", "reconstruction", "semantics", "decoder", "total")
EVALUATION, MONITORS = "evaluation", "monitors"


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
