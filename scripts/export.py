"""Hand a trained run on: as ONNX, torch.export, safetensors, or a folder for a model hub.

python scripts/export.py --checkpoint checkpoints/RUN --format onnx --output DIR --with_cam --check
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import torch

from models import load_trained
from options.parse import RunOptions, extra, inference_options
from scripts.exporting.checking import check, differences
from scripts.exporting.folder import write_folder
from scripts.exporting.networks import facts_of, network_of
from scripts.exporting.options import Exporting
from scripts.exporting.programs import FACTS, ExportError, run_onnx, run_torch, traced, write_onnx, write_torch
from util.errors import exit_code
from util.files import check_writable, write_atomic


def main() -> int:
    run = inference_options((Exporting,), prog="export.py", turns=True)
    wanted = extra(run, Exporting)
    check_writable(wanted.place, "--output")
    for file in export_run(run, wanted):
        print(file)
    if wanted.format == "hub":
        print(f"to publish: hf upload NAME/{run.experiment.name} {wanted.place}")
    return 0


def export_run(run: RunOptions, wanted: Exporting) -> list[Path]:
    """Write a run in the format asked for, and compare it with PyTorch where that is asked for; returns the files.

    Raises:
        UserError: the run cannot be exported so, a package is missing, or the comparison fails.
    """
    model = load_trained(run, torch.device("cpu"))
    net = network_of(model, wanted.with_cam)
    if wanted.format in ("safetensors", "hub"):
        wanted.place.mkdir(parents=True, exist_ok=True)
        return write_folder(model, run, wanted.place, wanted.license, card=wanted.format == "hub")
    facts, channels = facts_of(run, model, wanted.with_cam), run.channels[0]
    program = traced(net, model, channels)
    wanted.place.mkdir(parents=True, exist_ok=True)
    onnx = wanted.format == "onnx"
    file = (
        write_onnx(program, wanted.place, facts, wanted.with_cam) if onnx else write_torch(program, wanted.place, facts)
    )
    write_atomic(wanted.place / FACTS, json.dumps(facts, indent=1).encode())
    if wanted.check:
        found = differences(net, model, channels, run_onnx(file) if onnx else run_torch(file))
        for one in found:
            print(one.line)
        try:
            print(f"greatest difference from PyTorch: {check(found):.2g}")
        except ExportError:
            file.unlink()
            raise
    return [file, wanted.place / FACTS]


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
