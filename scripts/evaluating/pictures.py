"""Figures and report of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from options.groups import Evaluation
from options.schema import OptionError
from scripts.evaluating.bench import OF_FEATURES, Bench, chosen
from scripts.evaluating.images import Translated, pictures
from scripts.evaluating.outlines import annotated, has_outlines, legend
from scripts.evaluating.table import protocol_of
from util.metrics.base import Material
from util.visual.difference import difference, symmetric_limit, with_colour_bar
from util.visual.embedding import embed, embedding_figure
from util.visual.figures import confusion_figure, figure_bytes, save_figure
from util.visual.histogram import feature_figure, intensity_figure
from util.visual.montage import evenly_spaced, montage
from util.visual.report import ReportRow, select_images, write_report

ROWS = 6  # of the montage
# The score whose worst images a gallery shows first, in order of preference.
SORTED_BY = ("lpips", "ssim", "CAM_energy_fake", "CAM_corr", "ssim_input", "cc_input")
# All figures there may be, in the report's order; a file has its figure's title in small letters.
TITLES = ("Intensities", "Features", "t-SNE", "UMAP", "Semantic flips", "Examples", "Targets")


def check_figures(wanted: Evaluation) -> None:
    """Refuse what cannot be drawn, before anything is translated.

    Raises:
        OptionError: --umap without features to draw, or without its package.
        UnknownNameError: there is no metric of a name.
    """
    if not wanted.umap:
        return
    if not set(chosen(wanted)) & set(OF_FEATURES):
        raise OptionError(
            f"--umap: draws the features of {', '.join(OF_FEATURES)}, of which none is to be measured; add one to "
            "--metrics, or leave out --umap"
        )
    if find_spec("umap") is None:
        raise OptionError("--umap: needs the package umap-learn: pip install umap-learn, or leave out --umap")


def draw(bench: Bench, material: Material, translated: Translated, record: Mapping[str, Any], folder: Path) -> Path:
    """Write every figure as PNG and PDF below a folder, and the report; returns the report's path.

    A figure that is in the folder and cannot be drawn now is one of the evaluation that this one has added to: it stays
    in the report.
    """
    figures = {**_figures(bench, material, record), "Examples": _montage(translated, material)}
    figures |= _targets(translated, material)
    embedded = {}
    for title in TITLES:
        stem = folder / title.lower().replace(" ", "_")
        if title in figures:
            save_figure(figures[title], stem)
            embedded[title] = figure_bytes(figures[title], "png")
        elif (kept := stem.with_name(f"{stem.name}.png")).is_file():
            embedded[title] = kept.read_bytes()
    if bench.wanted.umap and "UMAP" not in figures:
        print("--umap: there is no UMAP, as nothing gave features: it needs images of the target and --features")
    rows, chosen = _gallery(bench, material, translated, record)
    report = folder / "report.html"
    protocol = protocol_of(bench.run.folder, record["phase"], record["epoch"])
    write_report(
        report,
        record,
        rows,
        embedded,
        chosen=chosen,
        class_names=dict(bench.class_names),
        protocol={rule: {name: asdict(value) for name, value in found.items()} for rule, found in protocol.items()},
        annotations=legend(material),
    )
    return report


def _figures(bench: Bench, material: Material, record: Mapping[str, Any]) -> dict[str, Any]:
    sets = {"source": material.source, "translations": material.fake}
    if material.real is not None:
        sets["real"] = material.real
    found: dict[str, Any] = {}
    target = bench.split.target.window
    windows = {"source": bench.split.source.window, "translations": target, "real": target}
    known = {name: (w.low, w.high) for name, w in windows.items() if name in sets and w is not None}
    found["Intensities"] = intensity_figure(
        {name: map(images.read, range(len(images))) for name, images in sets.items()},
        known if len(known) == len(sets) else None,
        apart=bench.split.source.depth != bench.split.target.depth,
    )
    if material.features is not None and material.real is not None:
        features = {name: material.features(images)[0].numpy() for name, images in sets.items()}
        labels = {name: images.labels for name, images in sets.items()}
        found["Features"] = feature_figure(features)
        for method in ("tsne", *(("umap",) if bench.wanted.umap else ())):
            placed = embed(features, method, material.seed)
            found[{"tsne": "t-SNE", "umap": "UMAP"}[method]] = embedding_figure(placed, labels, material.class_names)
    if "flips" in record["tables"]:
        table = record["tables"]["flips"]
        found["Semantic flips"] = confusion_figure(table["counts"], table["classes"])
    if "pixels" in record["tables"]:
        table = record["tables"]["pixels"]
        found["Pixels by class"] = confusion_figure(table["counts"], table["classes"])
    return found


def _montage(translated: Translated, material: Material) -> Any:
    partner = dict(material.pairs or ())
    numbers = evenly_spaced(len(translated.names), ROWS)
    return montage(
        [_row(translated, material, number, partner) for number in numbers], [translated.names[n] for n in numbers]
    )


def _targets(translated: Translated, material: Material) -> dict[str, Any]:
    """A montage of outlined targets, where any are known."""
    known = [n for n in range(len(translated.names)) if has_outlines(material, n)]
    numbers = [known[place] for place in evenly_spaced(len(known), ROWS)]
    rows = [annotated(material, n, pictures(translated, n, None)) for n in numbers]
    return {"Targets": montage(rows, [translated.names[n] for n in numbers])} if rows else {}


def _row(translated: Translated, material: Material, number: int, partner: Mapping[int, int]) -> dict[str, Any]:
    target = material.real.read(partner[number]) if material.real is not None and number in partner else None
    shown: dict[str, Any] = dict(pictures(translated, number, target))
    made, asked = translated.images.read(number), translated.source.read(number)
    changed = difference(made, asked) if made.shape == asked.shape else None
    if changed is not None:
        shown["translation - input"] = with_colour_bar(changed, symmetric_limit([changed]))
    return shown


def _gallery(
    bench: Bench, material: Material, translated: Translated, record: Mapping[str, Any]
) -> tuple[list[ReportRow], str]:
    columns = record["per_image"]
    name = next((score for score in SORTED_BY if score in columns), "")
    better = record["per_image_better"].get(name, "")
    most = bench.wanted.report_images
    if most < 2:
        return [], "no images (--report_images)"
    chosen = select_images(len(translated.names), most, columns.get(name), name, better)
    partner = dict(material.pairs or ())
    rows = []
    for n in chosen.numbers:
        shown = _row(translated, material, n, partner)
        outlined = annotated(material, n, shown)
        rows.append(ReportRow(translated.names[n], shown, translated.source.labels[n], annotated=outlined))
    return rows, chosen.statement
