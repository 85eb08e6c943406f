"""Counts that do not depend on the machine: operations, bytes kept for backward, passes of the generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry


@dataclass(frozen=True)
class Cost:
    """What one call took.

    Attributes:
        forward_flops, backward_flops: of convolutions; a multiplication with its addition counts 2.
        other_flops: of matrix products, forward and backward.
        saved_at_backward: bytes held for backward when the last backward pass began.
        saved_peak: the most that were held at any moment.
        full_passes, encoder_passes: images that ran through the whole generator, and through its encoder alone.
    """

    forward_flops: int
    backward_flops: int
    other_flops: int
    saved_at_backward: int
    saved_peak: int
    full_passes: int
    encoder_passes: int

    @property
    def flops(self) -> int:
        return self.forward_flops + self.backward_flops + self.other_flops


def cost_of(call: Callable[[], object], nets: Iterable[nn.Module], generator: nn.Module) -> Cost:
    """Count what a call does.

    Args:
        call: forward and backward passes, the same whenever it is called; called twice.
        nets: their parameters and buffers are no saved bytes: they exist anyway.
        generator: whose passes are counted.
    """
    own = [tensor for net in nets for tensor in (*net.parameters(), *net.buffers())]
    saved, passes = SavedTensors(own), GeneratorPasses(generator)
    # One after the other: the counter's own hooks on modules keep graphs alive that nothing else holds.
    with saved, passes:
        call()
    with FlopCounterMode(display=False, custom_mapping=_also_counted()) as counter:
        call()
    by_operator: dict[Any, int] = counter.get_flop_counts().get("Global", {})
    backward = sum(n for operator, n in by_operator.items() if "convolution_backward" in str(operator))
    convolutions = sum(n for operator, n in by_operator.items() if "conv" in str(operator))
    return Cost(
        forward_flops=convolutions - backward,
        backward_flops=backward,
        other_flops=sum(by_operator.values()) - convolutions,
        saved_at_backward=saved.at_backward[-1] if saved.at_backward else 0,
        saved_peak=saved.peak,
        full_passes=passes.full,
        encoder_passes=passes.encoded - passes.full,
    )


def _also_counted() -> dict[Any, Any]:
    """What PyTorch's counter does not know: NNPACK's convolutions, as if they saved no products."""

    def of_plain(x: Any, weight: Any, *rest: Any, out_shape: Any, **named: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    known = getattr(torch.ops.aten, "_nnpack_spatial_convolution", None)
    return {} if known is None else {known: of_plain}


def operations(call: Callable[[], object]) -> int:
    """Operations of convolutions and matrix products in a call, also where it takes gradients inside.

    `FlopCounterMode` follows modules through backward passes as well, which fails under `torch.autograd.grad`.
    """
    with _Operations() as counter:
        call()
    total: int = counter.total
    return total


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class SavedTensors:
    """Inside this context, the bytes of the storages that autograd holds for backward passes.

    A storage is counted once, whole, however many nodes of the graph hold it or views of it, from when the
    first one takes it to when the last one lets it go.

    Args:
        exclude: tensors whose storages do not count.

    Attributes:
        bytes: held now.
        peak: the largest value of `bytes` so far.
        at_backward: `bytes` at the beginning of each backward pass.
        shapes: shapes of the tensors held now, with how many nodes hold one of that shape.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
        self._holders: Counter[int] = Counter()
        self._packing = False
        self.bytes = self.peak = 0
        self.at_backward: list[int] = []
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def take(self, tensor: Tensor) -> None:
        """One more node holds this tensor."""
        key = tensor.untyped_storage().data_ptr()
        if key in self._excluded:
            return
        if not self._holders[key]:
            self.bytes += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.bytes)
        self._holders[key] += 1
        self.shapes[tuple(tensor.shape)] += 1

    def release(self, tensor: Tensor) -> None:
        """A node that held this tensor is gone."""
        key = tensor.untyped_storage().data_ptr()
        if key in self._excluded:
            return
        self._holders[key] -= 1
        self.shapes[tuple(tensor.shape)] -= 1
        if not self._holders[key]:
            self.bytes -= tensor.untyped_storage().nbytes()

    def _pack(self, tensor: Tensor) -> _Held:
        self._packing = True
        return _Held(self, tensor)

    def _unpack(self, held: _Held) -> Tensor:
        if self._packing:
            self.at_backward.append(self.bytes)
        self._packing = False
        return held.tensor


class _Held:
    """What a node holds instead of the tensor; it tells when the node lets go."""

    def __init__(self, owner: SavedTensors, tensor: Tensor) -> None:
        # Without its history: a node that held its own output with it would never be let go.
        self._owner, self.tensor = owner, tensor.detach()
        owner.take(tensor)

    def __del__(self) -> None:
        self._owner.release(self.tensor)


@dataclass
class GeneratorPasses:
    """Inside this context, how many images run through a generator's first convolution and through its tanh."""

    generator: nn.Module
    encoded: int = 0
    full: int = 0
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> GeneratorPasses:
        first = next(m for m in self.generator.modules() if isinstance(m, nn.Conv2d))
        last = next(m for m in self.generator.modules() if isinstance(m, nn.Tanh))
        self._handles = [first.register_forward_hook(self._begun), last.register_forward_hook(self._ended)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _begun(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.encoded += len(output)

    def _ended(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.full += len(output)
