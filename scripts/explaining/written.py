"""Maps as files: raw, heat map, overlay and figures of each image, `manifest.json`, and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from options.groups import Explanation
from scripts.explaining.drawing import Drawing, Picture, Words
from scripts.explaining.inputs import Input
from scripts.explaining.maps import Map, score_of
from util.errors import printable
from util.files import write_atomic
from util.visual.results import Results

MANIFEST = "manifest.json"
# `output_guided_gradcam++_overlay_10`, with `++` as `_pp`, and some room for the numbers of classes.
_LONGEST_KIND = 40


@dataclass(frozen=True)
class Explained:
    """One picture and its maps.

    Attributes:
        side: what tells the files of several pictures of one input apart: "input", "output", or nothing.
        picture: uint8 (H, W, 3), at its own size.
        maps: by method, one for each class explained.
        by_layer: by method, one for each layer compared.
        predicted, probability: the class the network sees in the picture; None where it knows no classes.
        ranking: its likeliest classes, the first one first.
    """

    side: str
    picture: Picture
    words: Words
    maps: Mapping[str, Sequence[Map]]
    by_layer: Mapping[str, Sequence[Map]]
    predicted: int | None
    probability: float | None
    ranking: tuple[int, ...] = ()


class Writer:
    """Writes what is explained of each input, and in the end the manifest and the page.

    Args:
        folder: of the results.
        class_names: by id.
        about: facts of the run for the manifest.

    Raises:
        UserError: nothing can be written there.
    """

    def __init__(
        self, folder: Path, look: Explanation, class_names: Mapping[int, str], about: Mapping[str, Any]
    ) -> None:
        self.results = Results(folder, "{stem}_{kind}", _LONGEST_KIND)
        self.look, self._names, self._about = look, class_names, about
        self._images: list[dict[str, Any]] = []

    def add(self, source: Input, seen: Sequence[Explained], asked: Sequence[str], caption: str) -> None:
        """Write the files of one input.

        Args:
            asked: the methods whose files are wanted; the others are in figures only.
            caption: of its row on the page.
        """
        pictures: dict[str, Picture] = {}
        figures: list[str] = []
        entries: list[dict[str, Any]] = []
        for one in seen:
            drawn = Drawing(one.picture, one.words, self.look)
            shown = self._figures(drawn, one, asked)
            figures += shown
            pictures |= shown
            views = [self._write_map(source, drawn, one, method, rank) for method, rank in _ranks(one.maps, asked)]
            pictures |= {kind: picture for found in views for kind, picture in found[1].items()}
            entries.append(self._entry(source, one, [entry for entry, _ in views], shown))
        hidden = set(pictures) - set(figures)
        self.results.add(source.file, pictures, printable(caption), hidden)
        self._images.append(
            {
                "file": source.path.as_posix(),
                "index": source.index,
                "size": list(source.size),
                "label": source.label if source.label >= 0 else None,
                "label_name": self._name(source.label if source.label >= 0 else None),
                "views": entries,
            }
        )

    def close(self, title: str, text: str, summary: Mapping[str, Any]) -> Path:
        """Write the manifest and the page; returns the page's path."""
        manifest = {
            **self._about,
            "normalisation": self.look.normalize,
            "score": score_of(self.look),
            "method_settings": list(self.look.method_settings),
            "colormap": self.look.colormap,
            "overlay_strength": self.look.overlay_strength,
            "classes": {str(number): name for number, name in sorted(self._names.items())},
            "summary": dict(summary),
            "images": self._images,
        }
        content = json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=True)
        write_atomic(self.results.folder / MANIFEST, content.encode())
        settings = f"Settings: {', '.join(map(printable, self.look.method_settings))}"
        parts = [settings if self.look.method_settings else "", text]
        return self.results.write_page(title, "\n\n".join(part for part in parts if part))

    # --- one picture

    def _figures(self, drawn: Drawing, one: Explained, asked: Sequence[str]) -> dict[str, Picture]:
        """The figures of a picture, by kind."""
        found: dict[str, Picture] = {}
        if self.look.maps_only:
            return found
        if len(asked) > 1:
            found["methods"] = drawn.methods({method: one.maps[method] for method in asked})
        for method in asked:
            ranks = len(one.maps[method])
            found |= {_kind("", method, "panel", rank): drawn.panel(one.maps, method, rank) for rank in range(ranks)}
            if ranks > 1:
                found[_kind("", method, "topk")] = drawn.classes(one.maps[method])
            if method in one.by_layer:
                found[_kind("", method, "layers")] = drawn.layers(one.by_layer[method])
        return {f"{one.side}_{kind}" if one.side else kind: picture for kind, picture in found.items()}

    def _write_map(
        self, source: Input, drawn: Drawing, one: Explained, method: str, rank: int
    ) -> tuple[dict[str, Any], dict[str, Picture]]:
        """Write the raw map; its entry in the manifest, and its pictures by kind."""
        found = one.maps[method][rank]
        kinds = {what: _kind(one.side, method, what, rank) for what in ("raw", "heat", "overlay", "panel")}
        self.results.add_array(source.file, kinds["raw"], found.raw)
        drawn_too = not self.look.maps_only
        entry = {
            "method": method,
            "layer": found.layer or None,
            "target": found.target,
            "target_name": self._name(found.target),
            "probability": found.probability,
            "score": found.score if math.isfinite(found.score) else None,
            "flat": found.flat,
            "normalisation": self.look.normalize,
            "raw": self._path(source, kinds["raw"], ".npy"),
            **{what: self._path(source, kinds[what]) for what in ("heat", "overlay", "panel") if drawn_too},
        }
        views = {"heat": drawn.heat, "overlay": drawn.overlay} if drawn_too else {}
        return entry, {kinds[what]: draw(found) for what, draw in views.items()}

    def _entry(
        self, source: Input, one: Explained, maps: Sequence[Mapping[str, Any]], figures: Mapping[str, Picture]
    ) -> dict[str, Any]:
        return {
            "side": one.side or None,
            "predicted": one.predicted,
            "predicted_name": self._name(one.predicted),
            "probability": one.probability,
            "ranking": list(one.ranking),
            "maps": list(maps),
            "figures": {kind: self._path(source, kind) for kind in figures},
            "layers": [found.layer for found in next(iter(one.by_layer.values()), ())],
        }

    def _path(self, source: Input, kind: str, suffix: str = ".png") -> str:
        path = self.results.path(kind, self.results.stem_of(source.file), suffix)
        return path.relative_to(self.results.folder).as_posix()

    def _name(self, number: int | None) -> str | None:
        return None if number is None else self._names.get(number, str(number))


def _ranks(maps: Mapping[str, Sequence[Map]], asked: Sequence[str]) -> list[tuple[str, int]]:
    return [(method, rank) for method in asked for rank in range(len(maps[method]))]


def _kind(side: str, method: str, what: str, rank: int = 0) -> str:
    """`input_gradcam_pp_overlay_2`: parts of a file's name."""
    words = [side, method.replace("++", "_pp"), what, str(rank + 1) if rank else ""]
    return "_".join(word for word in words if word)
