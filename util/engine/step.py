"""One training step, for every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from util import ranks, seeding
from util.engine.faults import check_finite, check_gradients
from util.engine.late import LateCheck

if TYPE_CHECKING:
    from data.base import Batch
    from models.base import Model, Phase, State

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number format of forward passes: float32, or 16 bits by autocast.

    Args:
        amp: off, bf16 or fp16; fp16 scales the loss, with one scaler for all optimisers.
        device: where the networks are.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self._dtype, self._device = DTYPES.get(amp), device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, dtype=self._dtype, enabled=self._dtype is not None)


@dataclass(frozen=True)
class StepResult:
    """What a step leaves for the log: weighted terms and each phase's total, detached, and the forward state."""

    scalars: dict[str, Tensor]
    state: State


def train_step(
    model: Model[Any],
    batch: Batch,
    info: seeding.StepInfo,
    optimizers: Mapping[str, Optimizer],
    precision: Precision,
    watch_gradients: bool = False,
    accumulate: int = 1,
    late: LateCheck | None = None,
) -> StepResult:
    """Forward once, then train each phase's networks on the sum of its terms.

    With `accumulate` the batch goes through in so many parts, at the memory of one, and each network is stepped once,
    on the mean of the parts' gradients. All phases then see the networks as they stood before the step, while in one
    part a phase sees what the phases before it have learned.

    Args:
        batch: on the networks' device.
        optimizers: one for each network that has parameters, by the network's name.
        watch_gradients: also log `grad_<term>`, the L2 norm of each term's gradient on the networks of its
            phase (one more backward pass a term; this rank's own gradients, of the last part).
        late: takes note of what is not finite in place of raising; the optimisers must be such that it serves them.

    Raises:
        NonFiniteLossError: a phase's total or gradient is not finite; before any weight of that phase changes.
    """
    # Dropout draws from the global generator: seeded here, it does not depend on where the run was interrupted.
    torch.manual_seed(seeding.key(info.seed, "torch", info.step, info.rank))
    parts = batch.parts(accumulate) if accumulate > 1 else [batch]
    work = _Work(model, optimizers, precision, len(parts), late)
    try:
        for number, part in enumerate(parts):
            with precision.autocast():
                state = model.forward_train(part, info)
            for phase in model.phases:
                with only_trains(model.nets, phase.nets):
                    work.learn(phase, state, number, watch_gradients and part is parts[-1])
                    if len(parts) == 1:  # the phases after it see what it has learned
                        work.update(phase)
        if len(parts) > 1:
            for phase in model.phases:
                work.update(phase)
    finally:
        if work.stepped:  # also where a later phase fails: the next step begins with a scaler that knows of none
            precision.scaler.update()
    return StepResult(work.scalars, state)


class _Work:
    """The gradients and numbers of one step.

    Args:
        parts: of the batch, whose mean the step is made on.
    """

    def __init__(
        self,
        model: Model[Any],
        optimizers: Mapping[str, Optimizer],
        precision: Precision,
        parts: int,
        late: LateCheck | None,
    ) -> None:
        self._late = late
        self._nets, self._optimizers, self._precision, self._parts = model.nets, optimizers, precision, parts
        self._terms: dict[str, dict[str, Tensor]] = {}  # of each phase's newest part
        self._reached: set[str] = set()  # phases that have a gradient
        self.scalars: dict[str, Tensor] = {}
        self.stepped = False

    def learn(self, phase: Phase[Any], state: State, part: int, watch_gradients: bool) -> None:
        """Add a part's gradient to those of the phase's networks, which alone are not frozen."""
        if part == 0:
            for optimizer in self._of(phase):
                optimizer.zero_grad(set_to_none=True)
        with self._precision.autocast():
            terms = {name: term.float() for name, term in phase.losses(state).items()}
        self._terms[phase.name] = terms
        if not terms:
            return
        total = torch.stack(list(terms.values())).sum()
        self._note({name: term.detach() for name, term in terms.items()} | {phase.name: total.detach()})
        if self._late is not None:
            self._late.see([total])
        else:
            check_finite(phase.name, total, terms)
        if watch_gradients:
            self.scalars |= gradient_norms(terms, self._trained(phase), self._precision.scaler.get_scale())
        if total.requires_grad:
            self._reached.add(phase.name)
            self._precision.scaler.scale(total / self._parts).backward()  # type: ignore[no-untyped-call]

    def update(self, phase: Phase[Any]) -> None:
        """Step the phase's networks on what they have learned, if anything."""
        if phase.name not in self._reached:
            return
        trained = self._trained(phase)
        if self._late is not None:
            self._late.average(trained)
        else:
            ranks.average_gradients(trained)
            if not self._precision.scaler.is_enabled():  # the scaler's own remedy is to skip and lower the loss scale
                check_gradients(phase.name, trained, self._terms[phase.name])
        for optimizer in self._of(phase):
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                if self._late is not None:
                    self._late.guard(optimizer)
                self._precision.scaler.step(optimizer)
                self.stepped = True

    def _note(self, values: Mapping[str, Tensor]) -> None:
        """Means over the parts; a term that some part lacks is 0 there."""
        for name, value in values.items():
            share = value if self._parts == 1 else value / self._parts
            self.scalars[name] = self.scalars[name] + share if name in self.scalars else share

    def _of(self, phase: Phase[Any]) -> list[Optimizer]:
        return [self._optimizers[name] for name in phase.nets if name in self._optimizers]  # netF sample has no weights

    def _trained(self, phase: Phase[Any]) -> list[Tensor]:
        return [p for name in phase.nets for p in self._nets[name].parameters()]


@contextmanager
def only_trains(nets: Mapping[str, nn.Module], names: tuple[str, ...]) -> Iterator[None]:
    """Freeze every network but the named ones: graphs made meanwhile send no gradient to the others' weights."""
    frozen = [p for name, net in nets.items() if name not in names for p in net.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def gradient_norms(
    terms: Mapping[str, Tensor], parameters: Sequence[Tensor], loss_scale: float = 1.0
) -> dict[str, Tensor]:
    """`grad_<term>` -> L2 norm of the term's gradient on all parameters together; 16-bit ones need a loss scale."""
    norms = {}
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        gradients = torch.autograd.grad(term * loss_scale, parameters, retain_graph=True, allow_unused=True)
        squares = [g.float().square().sum() for g in gradients if g is not None]
        norms[f"grad_{name}"] = torch.stack(squares).sum().sqrt() / loss_scale if squares else term.new_zeros(())
    return norms
