"""A study: one page of trials for participants, and a key that stays with whoever evaluates the votes."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from data.images import unit_to_uint8
from options.schema import OptionError
from scripts.studying.folders import PictureFolders
from util.errors import printable
from util.files import write_atomic
from util.visual.files import png_bytes

FORMAT = 1  # of key and votes
PAGE, KEY = "study.html", "key.json"
GOOD, BROKEN = "good", "broken"
_TEMPLATES = Path(__file__).with_name("templates")
_LABELS = {"input": "the input of both", "reference": "a real picture"}


@dataclass(frozen=True)
class Plan:
    """What a study is made of.

    Args:
        methods: name -> folder of its pictures; two.
        context: `input` and `reference` -> folder of what is shown beside every pair.
        question: what participants are asked.
        trials: pairs that count.
        catches: pairs of which one picture is obviously broken.
        seed: of the choice of images and of which method a catch trial shows; not of sides and order, which every
            participant has of their own.
        window: how counts above 8 bits are shown, as --window_B: one window for both methods.
    """

    methods: Mapping[str, Path]
    context: Mapping[str, Path]
    question: str
    trials: int
    catches: int
    seed: int
    window: str = "auto"


def build(plan: Plan, output: Path) -> int:
    """Write `study.html` and `key.json`; returns the size of the page in bytes.

    Raises:
        OptionError: no such folder, too few common images, a study already there.
        ImageError: an image cannot be read, or two of a pair differ in size or depth.
    """
    if (output / KEY).exists():
        raise OptionError(
            f"--output {printable(output)}: holds a study whose votes need its key; choose another folder"
        )
    study = Study(plan)
    page = render_page(study.page())
    write_atomic(output / KEY, (json.dumps(study.key(), indent=1) + "\n").encode(), durable=True)
    write_atomic(output / PAGE, page)
    return len(page)


def render_page(data: Mapping[str, Any]) -> bytes:
    """The page of a study; every value is escaped, also inside the script's data."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [name for name in _LABELS if name in data["trials"][0]]
    fields = {
        "question": data["question"],
        "total": len(data["trials"]),
        "labels": {name: _LABELS[name] for name in shown},
        "data": data,
    }
    return environment.get_template(PAGE).render(**fields).encode()


@dataclass(frozen=True)
class _Trial:
    """A pair: kind `vote`, `catch` or `attention`, the image's name, and two pictures by what they are."""

    id: str
    kind: str
    name: str
    pictures: Mapping[str, tuple[str, Tensor]]  # random id -> (method, good or broken; (3, H, W) in [0, 1])


class Study:
    """The trials of a plan, with names that say nothing: what is whose stands in the key alone."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.id = plan, secrets.token_hex(8)
        self._random = np.random.default_rng([plan.seed, 0])
        self._folders = PictureFolders(plan.methods, plan.context, plan.window, plan.seed)
        common = self._folders.common
        if len(common) < plan.trials:
            raise OptionError(
                f"--n {plan.trials}: the folders have {len(common)} images in common, by path without suffix "
                f"({self._folders.counts()}); lower it, or choose folders of the same inputs"
            )
        drawn = [common[number] for number in self._random.permutation(len(common))]
        extra = (drawn[plan.trials :] + drawn)[: plan.catches + 1]  # images that no vote is about, while there are any
        trials = [self._pair("vote", stem) for stem in drawn[: plan.trials]]
        trials += [self._catch(stem) for stem in extra[1:]] + [self._pair("attention", extra[0])]
        self._trials = sorted(trials, key=lambda trial: trial.id)  # in the page's source, in an order that says nothing

    def key(self) -> dict[str, Any]:
        """What stays with the researcher: which picture is whose."""
        trials = {
            trial.id: {
                "kind": trial.kind,
                "file": trial.name,
                "pictures": {picture: who for picture, (who, _) in trial.pictures.items()},
            }
            for trial in self._trials
        }
        plan = self.plan
        made_from = {name: str(folder) for name, folder in {**plan.methods, **plan.context}.items()}
        settings = {"n": plan.trials, "catch": plan.catches, "seed": plan.seed, "window": plan.window}
        return {
            "format": FORMAT,
            "study": self.id,
            "question": plan.question,
            "methods": list(plan.methods),
            "folders": made_from,
            "settings": settings,
            "trials": trials,
        }

    def page(self) -> dict[str, Any]:
        """What participants get: pictures under random names, the two of a pair in random order."""
        return {
            "format": FORMAT,
            "study": self.id,
            "question": self.plan.question,
            "trials": [self._shown(trial) for trial in self._trials],
        }

    def _pair(self, kind: str, stem: str) -> _Trial:
        first, second = self.plan.methods
        sizes = {name: self._folders.size(name, stem) for name in (first, second)}
        if sizes[first] != sizes[second]:
            one, two = (f"{printable(self._folders.files[name][stem])} has {sizes[name]}" for name in (first, second))
            raise OptionError(f"--pair: {one}, {two} pixels; a pair must have one size: translate both anew")
        return _trial(kind, stem, [(name, self._folders.pixels(name, stem)) for name in (first, second)])

    def _catch(self, stem: str) -> _Trial:
        """A method's picture beside the same picture broken."""
        method = list(self.plan.methods)[int(self._random.integers(2))]
        whole = self._folders.pixels(method, stem)
        return _trial("catch", stem, [(GOOD, whole), (BROKEN, broken(whole, self._random))])

    def _shown(self, trial: _Trial) -> dict[str, Any]:
        pictures = [
            {"id": picture, "source": _data_uri(pixels)} for picture, (_, pixels) in sorted(trial.pictures.items())
        ]
        context = {name: _data_uri(self._folders.pixels(name, trial.name)) for name in self.plan.context}
        return {"id": trial.id, "attention": trial.kind == "attention", "pictures": pictures, **context}


def broken(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """A picture nobody can prefer: a mosaic of about 6 x 6 tiles under heavy noise.

    Args:
        pixels: (C, H, W) in [0, 1].
    """
    _, height, width = pixels.shape
    tiles = torch.nn.functional.adaptive_avg_pool2d(pixels, (min(6, height), min(6, width)))
    mosaic = torch.nn.functional.interpolate(tiles[None], (height, width), mode="nearest")[0]
    noise = torch.from_numpy(random.normal(0, 0.3, (1, height, width)).astype(np.float32))
    return (mosaic + noise).clamp(0, 1)


def _trial(kind: str, stem: str, pictures: Sequence[tuple[str, Tensor]]) -> _Trial:
    return _Trial(secrets.token_hex(6), kind, stem, {secrets.token_hex(6): picture for picture in pictures})


def _data_uri(pixels: Tensor) -> str:
    """The picture alone, at 8 bits: what a file says about its origin is not carried over."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(unit_to_uint8(pixels))).decode()}"
