"""`benchmark.py crf`: what the CRF term of F-CAM costs an image, by its grid and by the definition, and how near it is.

Times are medians of interleaved runs with gradients, to be read on an idle machine. The exact filter compares every
pixel with every other: at 224 px it takes seconds an image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.crf import Affinity, CrfEnergy, crf_energy, exact_crf_energy
from scripts.benchmarks.machine import machine, versions
from util.errors import UserError
from util.seeding import generator

HELP = "cost of F-CAM's CRF term an image, of the grid and of the exact filter, and the difference between them"
EXACT = "exact"


@dataclass(frozen=True)
class Case:
    """What one row of the table measures.

    Attributes:
        size: side of the images in pixels.
        filter: `exact`, or `grid` with the side of its cells in sigmas.
        milliseconds: forward and backward, an image.
        energy_ratio: of the exact energy; None where that was not measured.
        gradient_error: norm of the difference to the exact gradient, over its norm.
    """

    size: int
    filter: str
    milliseconds: float
    energy_ratio: float | None
    gradient_error: float | None


def scene(size: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Soft maps (N, H, W) and images (N, 3, H, W) in 0..255 of smooth regions with some noise."""
    draws = generator(0, "crf benchmark")
    regions = F.interpolate(torch.rand(count, 3, 6, 6, generator=draws), (size, size), mode="bilinear")
    noise = 6 * torch.randn(count, 3, size, size, generator=draws)
    soft = F.interpolate(torch.rand(count, 1, 8, 8, generator=draws), (size, size), mode="bicubic")[:, 0]
    return soft.clamp(0, 1).to(device), (230 * regions + 12 + noise).clamp(0, 255).to(device)


def measure(
    size: int, cells: Sequence[float], batch: int, repeats: int, exact: bool, device: torch.device
) -> list[Case]:
    """One row for each filter, at one size."""
    maps, images = scene(size, batch, device)
    filters: dict[str, Callable[[Tensor, Tensor], CrfEnergy]] = {
        f"grid {cell}": lambda m, i, cell=cell: crf_energy(m, i, Affinity(cell=cell))  # type: ignore[misc]
        for cell in cells
    }
    if exact:
        filters[EXACT] = exact_crf_energy
    seconds: dict[str, list[float]] = {name: [] for name in filters}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for turn in range(repeats + 1):
        for name, energy_of in filters.items():
            if name == EXACT and turn > 0:  # once tells enough of what takes so long
                continue
            elapsed, found[name] = timed(energy_of, maps, images)
            if turn > 0 or name == EXACT:
                seconds[name].append(1000 * elapsed / batch)
    return [
        Case(size, name, statistics.median(seconds[name]), *_differences(found[name], found.get(EXACT)))
        for name in filters
    ]


def timed(
    energy_of: Callable[[Tensor, Tensor], CrfEnergy], maps: Tensor, images: Tensor
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Seconds of a forward and backward pass, the energies (N,), and the gradient."""
    leaf = maps.clone().requires_grad_()
    _wait(maps.device)
    started = time.perf_counter()
    energy = energy_of(leaf, images).energy
    (gradient,) = torch.autograd.grad(energy.sum(), leaf)
    _wait(maps.device)
    return time.perf_counter() - started, (energy.detach(), gradient)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _differences(
    found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor] | None
) -> tuple[float | None, float | None]:
    if exact is None:
        return None, None
    ratio = (found[0] / exact[0]).mean()
    return float(ratio), float((found[1] - exact[1]).norm() / exact[1].norm())


# -- the command ------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's flags to its sub-command."""
    parser.add_argument("--sizes", default="56,112,224", help="sides of the images in pixels")
    parser.add_argument("--cells", default="0.5,0.7,1.0", help="sides of the grid's cells in sigmas")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each grid; the exact filter runs once")
    parser.add_argument("--most_exact", type=int, default=112, help="largest side at which the exact filter runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the results here as well")


def run(wanted: argparse.Namespace) -> int:
    """Measure, print the table and write the JSON; the exit status.

    Raises:
        UserError: a number that cannot be used.
    """
    sizes, cells = _numbers("sizes", wanted.sizes, int), _numbers("cells", wanted.cells, float)
    if wanted.batch < 1 or wanted.repeats < 1:
        raise UserError("--batch and --repeats: must be at least 1")
    device = torch.device(wanted.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {wanted.device}: this machine shows no usable GPU")
    cases = [
        case
        for size in sizes
        for case in measure(size, cells, wanted.batch, wanted.repeats, size <= wanted.most_exact, device)
    ]
    result = {
        "benchmark": "crf",
        "settings": {"batch": wanted.batch, "repeats": wanted.repeats, "device": wanted.device},
        "versions": versions(),
        "machine": machine(),
        "cases": [asdict(case) for case in cases],
    }
    print("\n".join(table(result)))
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def table(result: Mapping[str, Any]) -> Iterable[str]:
    """Lines of text."""
    made, settings = result["machine"], result["settings"]
    yield f"CRF term, forward and backward, batch {settings['batch']}, float32, on {settings['device']}"
    yield f"torch {result['versions']['torch']}, {made['cpu']}, {made['threads']} thread(s)"
    yield ""
    form = "{:>6}{:>12}{:>16}{:>14}{:>16}"
    yield form.format("size", "filter", "ms an image", "energy ratio", "gradient error")
    for case in result["cases"]:
        ratio, error = case["energy_ratio"], case["gradient_error"]
        yield form.format(
            case["size"],
            case["filter"],
            f"{case['milliseconds']:.1f}",
            "-" if ratio is None else f"{ratio:.4f}",
            "-" if error is None else f"{error:.4f}",
        )


def _numbers(flag: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        found = [kind(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--{flag} {text}: is no comma list of numbers") from None
    if min(found) <= 0:
        raise UserError(f"--{flag} {text}: must be above 0")
    return found
