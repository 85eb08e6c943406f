"""`benchmark.py cam`: what maps cost beside a plain forward pass of the same network, and beside pytorch-grad-cam.

Images that pass through the network and saved bytes are counts: the same on every machine. Times are medians of
ratios within a round, in which every subject runs once, each round beginning elsewhere.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.cam.ablationcam_explainer import AblationCam, ablationcam
from models.cam.eigencam_explainer import eigencam
from models.cam.explain import explain
from models.cam.layers import AUTO, find_layer
from models.cam.subject import Subject
from models.cam.targets import ClassTarget
from models.networks.classifier import build_classifier
from options.schema import OptionError
from scripts.benchmarks.counting import SavedTensors
from scripts.benchmarks.machine import machine, versions
from util.seeding import generator

HELP = "time, saved bytes and passes of maps, against a plain forward pass and against pytorch-grad-cam"

FORWARD, RECORDED, OURS = "forward", "forward, recorded", "gradcam"
LIBRARY = "gradcam (pytorch-grad-cam)"
TIME_LIMIT = 1.05  # of Grad-CAM at the last layer, in forward passes
LIBRARY_LIMIT = 3.0  # how many times as long the library takes at least
BYTES_LIMIT = 1.0  # of Grad-CAM's saved bytes, in those of a recorded forward pass
_PACKAGES = ("torchvision", "grad-cam")

Call = Callable[[], object]


@dataclass(frozen=True)
class Setup:
    """What is run: a network with random weights on images of noise; no cost depends on what they show.

    Args:
        arch: as --arch of a classifier.
        device: where.
    """

    arch: str = "resnet18"
    size: int = 224
    batch: int = 16
    num_classes: int = 1000
    device: str = "cpu"
    seed: int = 0

    @cached_property
    def net(self) -> nn.Module:
        """In evaluation mode."""
        try:
            net = build_classifier(self.arch, self.num_classes, 3, generator(self.seed, "benchmark weights"))
        except ValueError as error:
            raise OptionError(f"--arch {self.arch}: {error}") from error
        return net.to(self.device).eval()

    @cached_property
    def net_last(self) -> nn.Module:
        """The same with weights in channels_last."""
        moved = copy.deepcopy(self.net)
        return moved.to(memory_format=torch.channels_last)

    @cached_property
    def images(self) -> Tensor:
        draws = generator(self.seed, "benchmark images")
        return torch.randn(self.batch, 3, self.size, self.size, generator=draws).to(self.device)

    @cached_property
    def classes(self) -> list[int]:
        """One of each image."""
        return [number % self.num_classes for number in range(self.batch)]

    @cached_property
    def layer(self) -> str:
        """The last layer with a map."""
        return find_layer(self.net, AUTO, self.images)[0][0]

    def maps(self, method: str, layer: str | None = None) -> Tensor:
        """(N, H, W) in [0, 1]."""
        return self._maps(self.net, self.images, method, layer or self.layer)

    def maps_channels_last(self, method: str) -> Tensor:
        """The same maps from a network and images in channels_last."""
        images = self.images.contiguous(memory_format=torch.channels_last)
        return self._maps(self.net_last, images, method, self.layer)

    def _maps(self, net: nn.Module, images: Tensor, method: str, layer: str) -> Tensor:
        return explain(net, images, method, targets=self.classes, layer=layer)[method].maps[:, 0]

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Logits."""
        logits: Tensor = self.net(self.images)
        return logits

    def recorded(self) -> Tensor:
        """Logits with everything kept that gradients of all weights need."""
        logits: Tensor = self.net(self.images)
        return logits

    def by_library(self) -> Tensor:
        """(N, H, W) in [0, 1] by pytorch-grad-cam."""
        library: Any = importlib.import_module("pytorch_grad_cam")
        target: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
        layer = self.net.get_submodule(self.layer)
        with library.GradCAM(model=self.net, target_layers=[layer]) as method:
            found = method(input_tensor=self.images, targets=[target(number) for number in self.classes])
        return torch.from_numpy(found)

    def calls(self) -> dict[str, Call]:
        """What is compared, by name."""
        found: dict[str, Call] = {
            FORWARD: self.forward,
            RECORDED: self.recorded,
            OURS: lambda: self.maps("gradcam"),
            "gradcam, layer auto": lambda: self.maps("gradcam", AUTO),
            "gradcam, channels_last": lambda: self.maps_channels_last("gradcam"),
            "eigencam": lambda: self.maps("eigencam"),
        }
        if self.has_linear_head:
            found["cam"] = lambda: self.maps("cam")
            found["ablationcam"] = lambda: self.maps("ablationcam")
        if library_there():
            found[LIBRARY] = self.by_library
        return found

    @cached_property
    def has_linear_head(self) -> bool:
        """Whether closed forms apply."""
        layer = self.net.get_submodule(self.layer)
        return Subject(self.net, self.images[:1], layer, 0).linear_head() is not None


def library_there() -> bool:
    """Whether pytorch-grad-cam is installed."""
    return importlib.util.find_spec("pytorch_grad_cam") is not None


# --- counts


@dataclass(frozen=True)
class Count:
    """What one call took.

    Attributes:
        images: that passed through the network.
        saved: the most bytes held for backward passes at any moment, weights not counted.
    """

    images: int
    saved: int


def count(setup: Setup, call: Call) -> Count:
    """Count what a call does; the images themselves are no saved bytes, nor are the weights."""
    nets = [setup.net, setup.net_last]
    own = [tensor for net in nets for tensor in (*net.parameters(), *net.buffers())]
    with SavedTensors([*own, setup.images]) as saved, _passes(nets) as images:
        call()
    return Count(sum(images), saved.peak)


@contextmanager
def _passes(nets: Iterable[nn.Module]) -> Iterator[list[int]]:
    """A list that receives the number of images of every pass."""
    seen: list[int] = []
    handles = [net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))) for net in nets]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


# --- times


def ratios(calls: Mapping[str, Call], yardstick: str, rounds: int, warm_up: int, device: str) -> dict[str, Any]:
    """By name, the median seconds of a call, and the median of its ratios to the yardstick's in the same round."""
    names, seconds = list(calls), {name: [0.0] * rounds for name in calls}
    for turn in range(warm_up + rounds):
        shift = turn % len(names)
        for name in (*names[shift:], *names[:shift]):
            started = time.perf_counter()
            calls[name]()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            if turn >= warm_up:
                seconds[name][turn - warm_up] = time.perf_counter() - started
    return {
        name: {
            "seconds": statistics.median(found),
            "ratio": statistics.median(a / b for a, b in zip(found, seconds[yardstick], strict=True)),
        }
        for name, found in seconds.items()
    }


def eigen_calls(setup: Setup) -> dict[str, Call]:
    """Eigen-CAM's arithmetic on the layer's activations, against the singular value decomposition of all of them."""
    layer = setup.net.get_submodule(setup.layer)
    activations = Subject(setup.net, setup.images, layer, 0).activations

    def by_svd() -> Tensor:
        rows = activations.flatten(2).transpose(1, 2)
        centred = rows - rows.mean(1, keepdim=True)
        right: Tensor = torch.linalg.svd(centred, full_matrices=True).Vh[:, 0]
        return (centred * right[:, None]).sum(-1)

    return {"small Gram matrix": lambda: eigencam(activations), "full SVD": by_svd}


def ablation_calls(setup: Setup) -> dict[str, Call]:
    """Ablation-CAM of one image in closed form, against one pass a channel through the rest of the network."""
    layer, target = setup.net.get_submodule(setup.layer), ClassTarget(setup.classes[:1])

    def subject() -> Subject:
        return Subject(setup.net, setup.images[:1], layer, target)

    def by_channel() -> Tensor:
        asked = subject()
        activations = asked.activations
        kept = 1 - torch.eye(activations.shape[1], device=activations.device)
        scores = asked.score_of(asked.from_layer(activations * kept[:, :, None, None]))
        return ablationcam(activations[:, None], asked.scores, scores.T[None])

    return {"closed form": lambda: AblationCam().maps(subject()), "channel by channel": by_channel}


# --- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    setup = Setup()
    parser.add_argument("--arch", default=setup.arch, help="network, as --arch of a classifier")
    parser.add_argument("--size", type=_positive, default=setup.size, help="side of the images in pixels")
    parser.add_argument("--batch", type=_positive, default=setup.batch, help="images at once")
    parser.add_argument("--device", default=setup.device, help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds; 0: count only")
    parser.add_argument("--warm_up", type=int, default=2, help="rounds before them")
    parser.add_argument("--json", type=Path, help="write the results here as well")


def run(wanted: argparse.Namespace) -> int:
    """The command."""
    setup = Setup(wanted.arch, wanted.size, wanted.batch, device=wanted.device)
    result = measured(setup, wanted.rounds, wanted.warm_up)
    print("\n".join(table(result)))
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        wanted.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measured(setup: Setup, rounds: int, warm_up: int) -> dict[str, Any]:
    """Everything measured, as it is written to JSON."""
    calls = setup.calls()
    counts = {name: count(setup, call) for name, call in calls.items()}
    times = ratios(calls, FORWARD, rounds, warm_up, setup.device) if rounds > 0 else {}
    base = counts[RECORDED].saved
    arithmetic = {"eigencam": eigen_calls(setup)} | (
        {"ablationcam": ablation_calls(setup)} if setup.has_linear_head else {}
    )
    return {
        "benchmark": "cam",
        "settings": {**vars_of(setup), "layer": setup.layer, "rounds": rounds},
        "limits": {"time_ratio": TIME_LIMIT, "library_ratio": LIBRARY_LIMIT, "saved_ratio": BYTES_LIMIT},
        "versions": versions() | {name: _version(name) for name in _PACKAGES},
        "machine": machine(),
        "subjects": {
            name: {
                "images": found.images,
                "saved_bytes": found.saved,
                "saved_ratio": found.saved / base,
                **times.get(name, {"seconds": None, "ratio": None}),
            }
            for name, found in counts.items()
        },
        "library_over_ours": times[LIBRARY]["ratio"] / times[OURS]["ratio"] if LIBRARY in times else None,
        "arithmetic": {
            name: ratios(pair, next(iter(pair)), rounds, warm_up, setup.device)
            for name, pair in arithmetic.items()
            if rounds > 0
        },
    }


def vars_of(setup: Setup) -> dict[str, Any]:
    """The settings alone, without what was made from them."""
    return {name: getattr(setup, name) for name in Setup.__dataclass_fields__}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(result: dict[str, Any]) -> Iterable[str]:
    """Lines of text."""
    settings, made, known = result["settings"], result["machine"], result["versions"]
    yield (
        f"maps of {settings['batch']} images of {settings['size']} px, {settings['arch']} at {settings['layer']}, "
        f"{settings['device']}, float32"
    )
    packages = ", ".join(f"{name} {version}" for name, version in known.items() if version)
    yield f"{packages}; {made['cpu']}, {made['threads']} thread(s)"
    yield ""
    form = "{:<28}{:>8}{:>12}{:>8}{:>10}{:>8}"
    yield form.format("", "images", "saved MB", "ratio", "seconds", "ratio")
    for name, entry in result["subjects"].items():
        timed = ("-", "-") if entry["ratio"] is None else (f"{entry['seconds']:.3f}", f"{entry['ratio']:.2f}")
        yield form.format(
            name, entry["images"], f"{entry['saved_bytes'] / 1e6:.2f}", f"{entry['saved_ratio']:.4f}", *timed
        )
    yield ""
    limits = result["limits"]
    yield (
        f"limits of {OURS}: time {limits['time_ratio']} of a forward pass without gradients, saved bytes "
        f"{limits['saved_ratio']} of a recorded one; the library at least {limits['library_ratio']} times as long"
    )
    if result["library_over_ours"] is not None:
        yield f"the library takes {result['library_over_ours']:.2f} times as long"
    elif known["grad-cam"] is None:
        yield "pytorch-grad-cam is not installed: nothing is compared with it"
    for name, pair in result["arithmetic"].items():
        yield f"{name}: " + ", ".join(
            f"{way} {found['seconds']:.4f} s ({found['ratio']:.1f})" for way, found in pair.items()
        )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
