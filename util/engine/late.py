"""Losses and gradients that are not finite, found without the host waiting for the device inside a step.

On a GPU every look at a number makes the host wait until all work queued before it is done. Here the verdict of a
step stays on the device, where the optimisers heed it, and is read when the step after it has been queued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from util import ranks
from util.engine.faults import NonFiniteLossError

if TYPE_CHECKING:
    from data.base import Batch


@dataclass(frozen=True)
class Verdict:
    """A step whose outcome is on its way from the device."""

    flag: Tensor  # (), on the host; not 0: something was not finite
    arrived: torch.cuda.Event | None
    batch: Batch
    epoch: int
    step: int  # of the whole run, counted from 1
    terms: Mapping[str, Tensor]

    def fault(self) -> NonFiniteLossError | None:
        """Wait for the flag; what is to be raised, if anything."""
        if self.arrived is not None:
            self.arrived.synchronize()
        if not bool(self.flag):
            return None
        values = {name: term.item() for name, term in self.terms.items()}
        listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        return NonFiniteLossError(f"a loss or gradient is not finite: {listed}", "", values)


class LateCheck:
    """Keeps every weight as it is from the first number on that is not finite.

    The flag is never taken back: until the host has read it and ended the run, steps change nothing. It serves runs
    that stop at such a number (--on_nan stop), whose last checkpoint is read to continue.

    Args:
        device: of the networks.
    """

    def __init__(self, device: torch.device) -> None:
        self._bad = torch.zeros((), device=device)
        self._pending: list[Verdict] = []

    @staticmethod
    def serves(optimizers: Sequence[Optimizer]) -> bool:
        """Whether all optimisers can leave out a step on the device's own word: PyTorch's fused ones can."""
        return all(group.get("fused") for optimizer in optimizers for group in optimizer.param_groups)

    @torch.no_grad()
    def see(self, values: Sequence[Tensor]) -> None:
        """Remember whether one of the values is not finite; other ranks hear of it by `average`."""
        total = torch.stack([value.detach().sum().float() for value in values]).sum()
        torch.maximum(self._bad, (~torch.isfinite(total)).float(), out=self._bad)

    @torch.no_grad()
    def average(self, parameters: Sequence[Tensor]) -> None:
        """`ranks.average_gradients`, and what any rank has seen so far, in the same message; then see the gradients.

        Averages are the same on all ranks, and so is then what is seen of them.
        """
        ranks.average_gradients(parameters, self._bad)
        self._bad.clamp_(max=1)
        self.see([p.grad for p in parameters if p.grad is not None])

    def guard(self, optimizer: Optimizer) -> None:
        """Let the optimiser's next step change nothing where something was not finite."""
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def note(self, batch: Batch, epoch: int, step: int, terms: Mapping[str, Tensor]) -> None:
        """Send a step's verdict on its way."""
        on_gpu = self._bad.is_cuda
        flag = torch.zeros((), pin_memory=on_gpu)
        flag.copy_(self._bad, non_blocking=True)
        arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if arrived is not None:
            arrived.record()
        self._pending.append(Verdict(flag, arrived, batch, epoch, step, terms))

    def overdue(self, leave: int = 0) -> Verdict | None:
        """The first step at fault among those noted; all but the newest `leave` are waited for."""
        while len(self._pending) > leave:
            verdict = self._pending.pop(0)
            if verdict.fault():
                return verdict
        return None
