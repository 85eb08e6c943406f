"""Numbers that go wrong: a loss or gradient that is not finite, recorded, and then stopped at or skipped."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from util import ranks
from util.errors import UserError, printable

if TYPE_CHECKING:
    from data.base import Batch

RECORD = "nonfinite.jsonl"
SHOWN = 8  # image names in a message
MOST_IN_A_ROW = 20  # skipped steps after which the weights themselves must be at fault
REMEDY = "lower --lr or the weight of the term named, try --amp off, look at the images"


class NonFiniteLossError(UserError, RuntimeError):
    """A loss, its gradient or a weight is NaN or infinite.

    Attributes:
        phase: the phase whose networks were left as they were.
        terms: its weighted terms by name.
    """

    def __init__(self, message: str, phase: str = "", terms: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.phase, self.terms = phase, dict(terms or {})


def check_finite(phase: str, value: Tensor, terms: Mapping[str, Tensor]) -> None:
    """Raise a NonFiniteLossError, on all ranks alike, where a phase's total is not finite on any of them."""
    if ranks.on_any(not bool(torch.isfinite(value))):
        raise _fault(phase, "loss", terms)


def check_gradients(phase: str, parameters: Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
    """Raise a NonFiniteLossError where a gradient, averaged over the ranks, is not finite.

    A square root at zero, for one, has a finite value and an infinite gradient: the loss would show it a step too
    late, with every weight lost.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    # A sum is not finite where a summand is not, and is made in a fifth of a norm's time; that of finite gradients
    # could only overflow where their squares, which Adam keeps, have long done so.
    if gradients and not bool(torch.isfinite(torch.stack([g.sum(dtype=_wide(g)) for g in gradients]).sum())):
        raise _fault(phase, "gradient", terms)


def _wide(gradient: Tensor) -> torch.dtype:
    return torch.promote_types(gradient.dtype, torch.float32)


def _fault(phase: str, what: str, terms: Mapping[str, Tensor]) -> NonFiniteLossError:
    values = {name: term.item() for name, term in terms.items()}
    listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
    return NonFiniteLossError(f"the {what} of {phase} is not finite: {listed}", phase, values)


def check_weights(nets: Mapping[str, nn.Module]) -> None:
    """Raise a NonFiniteLossError where a weight or running statistic is not finite: such a state is never saved."""
    for name, net in nets.items():
        for key, value in net.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFiniteLossError(
                    f"the weight {key} of {name} is not finite, so this state is not saved; the last checkpoint is "
                    f"kept. To continue: {REMEDY}"
                )


class NonFinitePolicy:
    """What follows a loss that is not finite: `--on_nan stop` ends the run, `skip` goes on with the next batch.

    Either way the batch is recorded in `nonfinite.jsonl`. Skipping leaves the phase at fault, and those after it,
    untrained in that step.

    Args:
        skip: go on.
        folder: of the run.
    """

    def __init__(self, skip: bool, folder: Path) -> None:
        self._skip, self._folder = skip, folder
        self.skipped = 0  # steps of the whole run
        self._in_a_row = 0

    @contextmanager
    def protecting(self, nets: Mapping[str, nn.Module]) -> Iterator[None]:
        """Running statistics, which a forward pass changes before any loss is known, survive a fault.

        They are copied only where a fault is to be survived.
        """
        buffers = [buffer for net in nets.values() for buffer in net.buffers()] if self._skip else []
        kept = [buffer.clone() for buffer in buffers]
        try:
            yield
        except NonFiniteLossError:
            for buffer, before in zip(buffers, kept, strict=True):
                buffer.copy_(before)
            raise

    def passed(self) -> None:
        """A step went well."""
        self._in_a_row = 0

    def caught(self, fault: NonFiniteLossError, batch: Batch, epoch: int, step: int) -> str:
        """Record a step's fault; returns the warning where the run goes on.

        Args:
            step: of the whole run, counted from 1.

        Raises:
            NonFiniteLossError: it does not: --on_nan stop, or too many in a row.
        """
        where = self._folder / RECORD
        with contextlib.suppress(OSError):  # a full disk: the message names the images too
            self._record(where, fault, batch, epoch, step)
        self.skipped += 1
        self._in_a_row += 1
        names = (batch.path_A + batch.path_B)[:SHOWN]
        told = f"step {step}: {fault}; images: {', '.join(map(printable, names))} (all in {where})"
        kept = f"The last checkpoint is kept. To continue: {REMEDY}"
        if not self._skip:
            raise NonFiniteLossError(f"{told}. {kept}, or add --on_nan skip", fault.phase, fault.terms)
        if self._in_a_row >= MOST_IN_A_ROW:
            text = f"{told}. {self._in_a_row} steps in a row were skipped: the weights themselves are at fault. {kept}"
            raise NonFiniteLossError(text, fault.phase, fault.terms)
        return f"WARNING: {told}. The step is skipped (--on_nan skip); skipped in this run: {self.skipped}"

    def _record(self, path: Path, fault: NonFiniteLossError, batch: Batch, epoch: int, step: int) -> None:
        """Append one line; on several ranks each appends its own images."""
        line = {
            "epoch": epoch,
            "step": step,
            "rank": ranks.rank(),
            "phase": fault.phase,
            "terms": {name: value if math.isfinite(value) else str(value) for name, value in fault.terms.items()},
            "A": list(batch.path_A),
            "B": list(batch.path_B),
        }
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, json.dumps(line).encode() + b"\n")  # in one piece, so that ranks do not mix
        finally:
            os.close(handle)

    def state(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        self.skipped, self._in_a_row = int(state["skipped"]), int(state["in_a_row"])
