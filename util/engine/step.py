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

if TYPE_CHECKING:
    from data.base import Batch
    from models.base import Model, State

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
) -> StepResult:
    """Forward once, then train each phase's networks on the sum of its terms.

    Args:
        batch: on the networks' device.
        optimizers: one for each network that has parameters, by the network's name.
        watch_gradients: also log `grad_<term>`, the L2 norm of each term's gradient on the networks of its
            phase (one more backward pass a term; this rank's own gradients).

    Raises:
        NonFiniteLossError: a phase's total or gradient is not finite; before any weight of that phase changes.
    """
    # Dropout draws from the global generator: seeded here, it does not depend on where the run was interrupted.
    torch.manual_seed(seeding.key(info.seed, "torch", info.step, info.rank))
    with precision.autocast():
        state = model.forward_train(batch, info)
    scalars: dict[str, Tensor] = {}
    stepped = False
    for phase in model.phases:
        with only_trains(model.nets, phase.nets):
            with precision.autocast():
                terms = {name: term.float() for name, term in phase.losses(state).items()}
            if not terms:
                continue
            total = torch.stack(list(terms.values())).sum()
            scalars |= {name: term.detach() for name, term in terms.items()} | {phase.name: total.detach()}
            check_finite(phase.name, total, terms)
            trained = [p for name in phase.nets for p in model.nets[name].parameters()]
            if watch_gradients:
                scalars |= gradient_norms(terms, trained, precision.scaler.get_scale())
            made = [optimizers[name] for name in phase.nets if name in optimizers]  # netF sample has no weights
            stepped |= _update(phase.name, total, terms, made, trained, precision)
    if stepped:
        precision.scaler.update()
    return StepResult(scalars, state)


def _update(
    phase: str,
    total: Tensor,
    terms: Mapping[str, Tensor],
    optimizers: list[Optimizer],
    trained: Sequence[Tensor],
    precision: Precision,
) -> bool:
    """One optimiser step; False where there was nothing to step."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    if not total.requires_grad:
        return False
    precision.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
    ranks.average_gradients(trained)
    if not precision.scaler.is_enabled():  # the scaler's own remedy is to skip and lower the loss scale
        check_gradients(phase, trained, terms)
    reached = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    for optimizer in reached:
        precision.scaler.step(optimizer)
    return bool(reached)


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
