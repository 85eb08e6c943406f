"""What makes networks faster or smaller without changing what they compute, set up once before they work."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.base import Model
from models.networks import fast_conv
from models.networks.blocks import ResnetBlock
from models.networks.resnet_generator import ResnetGenerator
from options.groups import Runtime
from options.schema import OptionError

# Of glibc's mallopt: blocks of any size come from the heap, which is never given back in between.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Speed:
    """What is asked for (the flags of the same names).

    Attributes:
        fast: whatever helps on the device and is safe there.
        channels_last: channels beside each other in memory.
        compile: residual blocks by torch.compile.
        checkpoint_blocks: residual blocks keep their input alone, and a generator of such blocks little else.
        sixteen_bits: forward passes are in 16 bits (--amp).
    """

    fast: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpoint_blocks: bool = False
    sixteen_bits: bool = False

    @classmethod
    def from_options(cls, runtime: Runtime, amp: str) -> Speed:
        return cls(runtime.fast, runtime.channels_last, runtime.compile, runtime.checkpoint_blocks, amp != "off")


def speed_up(model: Model[Any], wanted: Speed) -> list[str]:
    """Set a model up as asked; returns what was chosen, for the user.

    Args:
        model: on its device, in training. Its state dicts keep their names and values.

    Raises:
        OptionError: --checkpoint_blocks where no network has residual blocks, or where they have batch norm.
    """
    said = []
    if wanted.checkpoint_blocks:
        _forget(model)
    said += speed_up_passes(model, wanted, "one fused step of the optimisers")
    if wanted.compile:
        said += _compile(model)
    return said


def speed_up_passes(model: Model[Any], wanted: Speed, *also: str) -> list[str]:
    """What of it is for the passes of networks, so also for those that translate; returns what was chosen.

    Args:
        also: what --fast means elsewhere.
    """
    saves_products = wanted.fast and model.device.type == "cpu" and not wanted.sixteen_bits and _save_products(model)
    channels_last = wanted.fast and not saves_products  # NNPACK goes plane by plane
    if wanted.channels_last or channels_last:
        for net in model.nets.values():
            net.to(memory_format=torch.channels_last)
    if not wanted.fast:
        return []
    chosen = ["channels_last" if channels_last else "convolutions with fewer products", *also]
    if model.device.type == "cpu" and keep_memory():
        chosen.append("freed memory is kept")
    return [f"--fast on {model.device.type}: {', '.join(chosen)}; the precision is --amp's"]


def keep_memory() -> bool:
    """Let this process keep the memory it frees; False where the C library is not glibc.

    A feature map is large enough for the allocator to ask the kernel for it, and to give it back, every time: the
    kernel then writes zeros into each page that is touched first.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(set_option and set_option(M_MMAP_MAX, 0) and set_option(M_TRIM_THRESHOLD, 2**31 - 1))


def _save_products(model: Model[Any]) -> bool:
    """Whether there is something to save; NNPACK then has as many threads as the rest of PyTorch."""
    parts = [part for net in model.nets.values() for part in net.modules() if isinstance(part, fast_conv.SavesProducts)]
    parts = [part for part in parts if part.can_save_products]
    if not parts or not fast_conv.available():
        return False
    for part in parts:
        part.fewer_products = True
    torch.set_num_threads(torch.get_num_threads())
    return True


def _blocks(model: Model[Any]) -> list[ResnetBlock]:
    return [part for net in model.nets.values() for part in net.modules() if isinstance(part, ResnetBlock)]


def _forget(model: Model[Any]) -> None:
    blocks = _blocks(model)
    if not blocks:
        raise OptionError("--checkpoint_blocks: no network of this run has residual blocks; use a --netG resnet_...")
    if any(isinstance(part, nn.BatchNorm2d) for block in blocks for part in block.modules()):
        raise OptionError(
            "--checkpoint_blocks: computing a block again would count its images twice in the running statistics of "
            "--normG batch; use --normG instance"
        )
    for net in model.nets.values():
        for part in net.modules():
            if isinstance(part, (ResnetBlock, ResnetGenerator)):
                part.forgetful = True


def _compile(model: Model[Any]) -> list[str]:
    missing = missing_compiler(model.device)
    if missing:
        return [f"WARNING: --compile: {missing}; the run goes on without"]
    blocks = _blocks(model)
    if not blocks:
        return ["WARNING: --compile: no network of this run has residual blocks; nothing is compiled"]
    for block in blocks:
        block.conv_block.compile(dynamic=False)  # equal blocks share one piece of code
    return [f"--compile: {len(blocks)} residual blocks; the first steps take longer"]


def missing_compiler(device: torch.device) -> str:
    """What torch.compile lacks on a device; empty: nothing."""
    if device.type == "cpu":
        found = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
        return "" if found else "it needs a C++ compiler, and there is none on the path (for example g++)"
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "it needs the package triton on a GPU"
    return f"it does not know the device {device.type}"
