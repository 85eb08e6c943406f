"""The network as a graph of its own: torch.export, and ONNX made from it; batch and sizes stay free."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.base import Model
from scripts.exporting.networks import OUTPUTS, ExplainingTranslator, Translator, example
from util.errors import UserError, printable
from util.safe_weights import missing

Runner = Callable[[tuple[Tensor, ...]], list[Tensor]]
FACTS = "model.json"  # beside the graph, and inside a torch.export file
MARK = "cutcam"  # prefix of the facts among an ONNX file's metadata


class ExportError(UserError, RuntimeError):
    """A network that cannot be exported, or whose exported form gives other results; the message says how far off."""


def traced(net: Translator, model: Model[Any], channels: int) -> torch.export.ExportedProgram:
    """The network's graph, with any number of images and any sides that are multiples of the model's size_multiple.

    Raises:
        ExportError: it cannot be traced so.
    """
    with_cam, multiple = isinstance(net, ExplainingTranslator), model.size_multiple
    count, rows, columns = (torch.export.Dim(name, min=2) for name in ("count", "rows", "columns"))
    count = torch.export.Dim("count", min=1)
    free: dict[str, Any] = {"image": {0: count, 2: multiple * rows, 3: multiple * columns}}
    if with_cam:
        free["class_id"] = {0: count}
    try:
        with torch.no_grad(), _quiet():
            given = example(model, channels, with_cam, (_ample(multiple), _ample(multiple) + 2))
            return torch.export.export(net, given, dynamic_shapes=free)
    except Exception as error:  # the tracer raises many kinds
        reason = printable(next(iter(str(error).strip().splitlines()), type(error).__name__))[:300]
        raise ExportError(f"this network cannot be exported with free sizes: {reason}") from error


def write_torch(program: torch.export.ExportedProgram, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write `model.pt2`, with the facts inside as the extra file `model.json`; returns its path."""
    path = folder / "model.pt2"
    with _appearing(path) as part:
        torch.export.save(program, part, extra_files={FACTS: json.dumps(facts, indent=1)})
    return path


def write_onnx(program: torch.export.ExportedProgram, folder: Path, facts: Mapping[str, Any], with_cam: bool) -> Path:
    """Write `model.onnx`, with each fact in its metadata as `cutcam.NAME`, in JSON; returns its path.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
        ExportError: an operation that ONNX does not have.
    """
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise missing(package, "--format onnx") from error
    inputs, outputs = ["image", "class_id"][: 1 + with_cam], list(OUTPUTS if with_cam else OUTPUTS[:1])
    try:
        with _quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except Exception as error:
        raise ExportError(f"ONNX cannot hold this network: {printable(error)[:300]}") from error
    assert made is not None
    if hasattr(made, "rename_axes"):  # newer versions of PyTorch; for those who look at the graph
        sizes = [re.sub(r".*\b(s\d+)\b.*", r"\1", str(side)) for side in made.model.graph.inputs[0].shape or ()]
        made.rename_axes({sizes[0]: "count", sizes[2]: "rows", sizes[3]: "columns"})
    made.model.metadata_props.update({f"{MARK}.{name}": json.dumps(value) for name, value in facts.items()})
    path = folder / "model.onnx"
    with _appearing(path) as part:
        made.save(part)
    return path


def run_torch(path: Path) -> Runner:
    """What a torch.export file computes."""
    net = torch.export.load(path).module()

    def run(given: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.no_grad():
            out = net(*given)
        return [out] if isinstance(out, Tensor) else list(out)

    return run


def run_onnx(path: Path) -> Runner:
    """What an ONNX file computes, by onnxruntime on the CPU.

    Raises:
        MissingPackageError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "--check") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(given: tuple[Tensor, ...]) -> list[Tensor]:
        arrays = [np.ascontiguousarray(one.numpy()) for one in given]
        return [torch.from_numpy(out) for out in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def _ample(multiple: int) -> int:
    """Sides of the example in multiples: 64 pixels or so."""
    return max(2, 64 // multiple)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A path to write to; what was written appears under its name when it is whole."""
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own progress lines and warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "torch._dynamo")]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
