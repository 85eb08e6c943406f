"""The console: CUT's line of losses, and the same lines in `loss_log.txt`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from util.visual.base import LOSS_GROUPS, Moment, group_of


def console_line(moment: Moment, values: Mapping[str, float]) -> str:
    """One line in CUT's form, `(epoch: 1, iters: 100, time: 0.123, data: 0.002) G_GAN: 0.412 D_real: 0.250`.

    `iters` counts samples in the epoch and the times are seconds, as in CUT, so scripts that read its logs
    go on working. A learning rate, which CUT's lines do not have, would be 0.000 there: it keeps its digits.
    """
    head = (
        f"(epoch: {moment.epoch}, iters: {moment.epoch_iters}, "
        f"time: {moment.seconds:.3f}, data: {moment.data_seconds:.3f})"
    )
    shown = {name: f"{value:.6g}" if name == "lr" else f"{value:.3f}" for name, value in values.items()}
    return " ".join([head, *(f"{name}: {text}" for name, text in shown.items())])


class ConsoleSink:
    """Print the losses above any progress bar; append them, with all monitors, to `<run>/loss_log.txt`.

    Args:
        run_dir: the run's folder; made if absent.
        quiet: write the file only.
    """

    def __init__(self, run_dir: str | Path, quiet: bool = False) -> None:
        self._path = Path(run_dir) / "loss_log.txt"
        self._quiet = quiet
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Written with the first line: a run that is refused before its first step leaves the file as it was.
        self._head = f"================ Training Loss ({datetime.now().ctime()}) ================\n"

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Print the losses, where there are any, in one line, and keep one line of everything."""
        losses = {name: value for name, value in values.items() if group_of(name) in LOSS_GROUPS}
        if losses and not self._quiet:
            # tqdm.write clears the bars, prints and redraws them; with no bar it is a plain print.
            tqdm.write(console_line(moment, losses), file=sys.stdout)
            sys.stdout.flush()
        self._append(console_line(moment, values))

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """A console shows no pictures."""

    def close(self) -> None:
        """Nothing is held back."""

    def _append(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._head}{line}\n")
        self._head = ""
