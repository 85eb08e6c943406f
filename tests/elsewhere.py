"""A device that computes nothing, in place of a GPU: what the host waits for, and what was left on the host."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ELSEWHERE = torch.device("meta")
ROOT = Path(__file__).parents[1]
MIXED = "of tensors here and there"

# What a reader is told, so that it can go on.
READINGS: dict[Any, Any] = {
    Tensor.item: lambda x: 1.0,
    Tensor.__float__: lambda x: 1.0,
    Tensor.__int__: lambda x: 1,
    Tensor.__index__: lambda x: 1,
    Tensor.__bool__: lambda x: True,
    Tensor.tolist: lambda x: torch.ones(x.shape, dtype=x.dtype).tolist(),
    Tensor.cpu: lambda x: torch.ones(x.shape, dtype=x.dtype),
    Tensor.numpy: lambda x: torch.ones(x.shape, dtype=x.dtype).numpy(),
}
MAKERS = (torch.tensor, torch.as_tensor)
DRAWS = (torch.rand, torch.randn, torch.randint, torch.randperm)
SIZED_BY_VALUES = ("aten::nonzero", "aten::masked_select", "aten::bincount", "aten::_unique2", "aten::unique_dim")


class _Calls(TorchFunctionMode):
    """Notes reads of values; of calls that the device does not know it makes ones that it does."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = bool(args) and isinstance(args[0], Tensor) and args[0].device == ELSEWHERE
        if there and func in READINGS:
            self._found.append(f"{func.__name__} waits: {_where()}")
            return READINGS[func](args[0])
        wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if wanted == ELSEWHERE and func in MAKERS:
            self._found.append(f"{func.__name__} makes it on the host and waits: {_where()}")
        if wanted == ELSEWHERE and func in DRAWS:
            kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes copies that are waited for, and operators that get tensors of the host and of the device."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = list(_tensors((args, kwargs)))
        masked = func.name().startswith("aten::index") and any(x.dtype == torch.bool for x in before[1:])
        if (masked or func.name() in SIZED_BY_VALUES) and before[0].device == ELSEWHERE:
            self._found.append(f"{func} waits for a size: {_where()}")
        made = func(*args, **kwargs)
        places = {x.device.type for x in before if x.ndim or x.device == ELSEWHERE}  # a host's number may go anywhere
        copies = places == {"cpu"} and any(x.device == ELSEWHERE for x in _tensors(made))
        if copies and not kwargs.get("non_blocking") and any(x.numel() for x in before):
            self._found.append(f"{func} waits: {_where()}")
        if len(places) > 1 and not ("copy_" in str(func) and len(args) > 2 and args[2]):
            self._found.append(f"{func} {MIXED}: {_where()}")
        return made


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _where() -> str:
    """The innermost line of the project's own code."""
    for frame in reversed(traceback.extract_stack()):
        file = Path(frame.filename)
        if file != Path(__file__) and file.is_relative_to(ROOT) and "site-packages" not in file.parts:
            return f"{file.relative_to(ROOT)}:{frame.lineno}: {frame.line}"
    return "nowhere in the project"


@contextmanager
def noting() -> Iterator[list[str]]:
    """What the host would wait for on a GPU, and operators with tensors of both (MIXED), one line each.

    Autocast does not know the device: code that asks about it is told of the CPU's. Masks let everything through.
    """
    found: list[str] = []
    enabled, dtype, generator = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.Generator

    def known(device: Any) -> Any:
        return "cpu" if str(device) == str(ELSEWHERE) else device

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, *args: Any, **more: Any) -> None:
            super().__init__(known(device_type), *args, **more)

    stand_ins: dict[str, Any] = {
        "is_autocast_enabled": lambda *device: enabled(*map(known, device)),
        "get_autocast_dtype": lambda device: dtype(known(device)),
        "autocast": Autocast,
        "Generator": lambda device="cpu": generator(known(device)),
    }
    all_pass = mock.patch.object(torch.fx.experimental._config, "meta_nonzero_assume_all_nonzero", True)
    with all_pass, mock.patch.multiple(torch, **stand_ins), _Operators(found), _Calls(found):
        yield found
