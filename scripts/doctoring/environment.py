"""Whether packages, GPU and disk are as training needs them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

import torch

from scripts.dashboard import front_end
from scripts.dashboard.serve import tornado_fault
from scripts.doctoring.report import Report

AREA = "environment"
_SETUP = "bash scripts/setup.sh installs what is missing"
# Imported under another name than they are installed by, and apt to fail there: broken pairs, missing system libraries.
_IMPORTED = ("torchvision", "cv2", "numpy", "PIL", "yaml", "tqdm")


def check_environment(report: Report, requirements: Path) -> None:
    """The packages of a requirements file, and what visdom needs."""
    report.ok(AREA, f"Python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}")
    wrong = wrong_packages(requirements.read_text())
    for line in wrong:
        report.fault(AREA, line, _SETUP)
    if not wrong:
        report.ok(AREA, f"packages are as {requirements.name} asks")
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # an import can fail in any way
            report.fault(AREA, f"import {name}: {' '.join(str(error).split())[:200]}", _SETUP)
    _check_visdom(report)


def wrong_packages(requirements: str) -> list[str]:
    """A line for each package that is missing or whose version does not fit."""
    from packaging.requirements import Requirement

    wrong = []
    for line in requirements.splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is not installed (asked for: {wanted.specifier or 'any version'})")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} is {version} (asked for: {wanted.specifier})")
    return wrong


def _check_visdom(report: Report) -> None:
    if importlib.util.find_spec("visdom") is None:
        report.warn(AREA, "visdom is not installed: no dashboard", "bash scripts/setup.sh, or --sinks tensorboard")
    elif fault := tornado_fault():
        report.warn(AREA, f"visdom: {fault.partition(';')[0]}", fault.partition(";")[2].strip())
    elif not front_end.is_complete(front_end.static_folder()):
        report.warn(AREA, "visdom's pages lack their front end, and would be blank", "bash scripts/visdom.sh --fetch")
    else:
        report.ok(AREA, "visdom can be used: bash scripts/visdom.sh in another terminal")


def check_device(report: Report, device: torch.device) -> None:
    """What the training would run on."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = f"{torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if free < total / 2:
            report.warn("machine", text, "another process uses it: nvidia-smi shows which")
        else:
            report.ok("machine", text)
    elif device.type == "cpu" and torch.version.cuda is None:
        report.ok("machine", f"CPU, {torch.get_num_threads()} threads; this PyTorch is a build without CUDA")
    else:
        report.ok("machine", f"{device.type}, {torch.get_num_threads()} threads; PyTorch sees no CUDA GPU in use")


def check_disk(report: Report, folder: Path, needed: int) -> None:
    """Whether a run's folder has room for its weights and states.

    Args:
        folder: --checkpoints_dir, which need not be there yet.
        needed: bytes that the run will write.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free for {folder}; the run's weights will take about {needed / 1e9:.2f} GB"
    if not os.access(there, os.W_OK):
        report.fault("machine", f"{there} cannot be written to", "give another --checkpoints_dir")
    elif free < needed:
        report.fault("machine", text, "raise --save_epoch_freq, make room, or give another --checkpoints_dir")
    elif free < 2 * needed:
        report.warn("machine", text, "logs and pages come on top; make room, or raise --save_epoch_freq")
    else:
        report.ok("machine", text)
