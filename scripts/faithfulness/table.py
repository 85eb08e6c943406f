"""Maps of every method on every image of a run's split, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.cam.errors import ExplainError
from scripts.comparing.tables import Report
from scripts.faithfulness.cases import Batch, Case, classes_of
from scripts.faithfulness.makers import Maker
from scripts.faithfulness.measures import faithful, probabilities_of, rows_of, score_of
from scripts.faithfulness.options import Tabulation
from scripts.faithfulness.report import Method, report, where_note
from util.errors import counted
from util.metrics import faithfulness as by
from util.metrics.randomisation import STAGES, sanity
from util.visual.progress import bar


def measure(case: Case, makers: Sequence[Maker], wanted: Tabulation, seed: int, quiet: bool = False) -> list[Method]:
    """Explain all images by all makers, and measure the maps; a method that does not apply says why."""
    methods = [Method(maker.name, maker.learns) for maker in makers]
    pairs = list(zip(makers, methods, strict=True))
    most = min(wanted.sanity_images, len(case.files))
    with bar(len(pairs) * len(case.files), "explaining", "map", quiet=quiet) as shown:
        for batch in case.batches(wanted.at_once):
            setting = _Setting(case, batch, wanted.explained, seed)
            for maker, method in pairs:
                shown.set_postfix_str(maker.name, refresh=False)
                _measure(setting, maker, method)
                shown.update(len(batch.numbers))
    with bar(len(pairs) * most, "sanity", "map", quiet=quiet or not most) as shown:
        for batch in case.batches(wanted.at_once, most):
            setting = _Setting(case, batch, wanted.explained, seed)
            for maker, method in pairs:
                shown.set_postfix_str(maker.name, refresh=False)
                _check_sanity(setting, maker, method)
                shown.update(len(batch.numbers))
    return methods


class _Setting:
    """A batch with its classes and scores, the same for all methods."""

    def __init__(self, case: Case, batch: Batch, explained: str, seed: int) -> None:
        self.case, self.batch, self.seed = case, batch, seed
        self.pixels = (batch.images + 1) / 2
        ask = probabilities_of(case.net)
        seen = ask(self.pixels)
        self.classes = classes_of(case.labels, batch.numbers, seen, explained)
        self.score = score_of(ask, self.classes)
        self.before = seen.gather(1, self.classes[:, None])[:, 0]

    def maps(self, maker: Maker, net: nn.Module, images: Tensor) -> Tensor:
        return maker.maps(net, images, self.classes, self.case.layer)


def _measure(setting: _Setting, maker: Maker, method: Method) -> None:
    """Add the rows of a batch, or why there are none."""
    if method.failure:
        return
    try:
        started = time.perf_counter()
        maps = setting.maps(maker, setting.case.net, setting.batch.images)
        if maps.is_cuda:
            torch.cuda.synchronize(maps.device)
        seconds = (time.perf_counter() - started) / len(maps)
        again = setting.maps(maker, setting.case.net, by.seen_through(setting.pixels, maps) * 2 - 1)
    except ExplainError as error:
        method.failure = str(error)
        return
    found = faithful(setting.pixels, maps, setting.score, setting.before, setting.seed)
    found["coherency"] = by.coherency(maps, again)
    found["adcc"] = by.adcc(found["coherency"], found["complexity"], found["drop"])
    for number, one, row in zip(setting.batch.numbers, maps, rows_of(found), strict=True):
        place = setting.case.where.measure(one, number) if setting.case.where else {}
        method.rows[number] = {**place, **row, "seconds": seconds}


def _check_sanity(setting: _Setting, maker: Maker, method: Method) -> None:
    if method.failure or not maker.learns:
        return
    net, images = setting.case.net, setting.batch.images
    try:
        stages = sanity(net, images, lambda other: setting.maps(maker, other, images), seed=setting.seed)
    except ExplainError as error:  # of a network that knows nothing
        method.failure = str(error)
        return
    method.stages.append(stages)
    for place, number in enumerate(setting.batch.numbers):
        method.rows[number]["sanity"] = statistics.fmean(float(stage.rank_correlation[place]) for stage in stages)


def report_of(case: Case, methods: Sequence[Method], wanted: Tabulation, seed: int) -> Report:
    """The table, with everything that must be known to read it."""
    known = {"label": "the label where it is known, else the class predicted", "predicted": "the class predicted"}
    notes = [
        f"Explained: {known[wanted.explained]}. What is taken away turns black.",
        *where_note(case.where, len(case.files)),
    ]
    if any(method.stages for method in methods):
        notes.append(
            f"sanity: mean over {STAGES} stages, from the last layer alone to all layers, of the first "
            f"{min(wanted.sanity_images, len(case.files))} images."
        )
    if any(not method.learns for method in methods):
        notes.append("(random map) and (centre) know nothing of the network: who is no better has explained nothing.")
    facts = {
        "case": case.title,
        "layer": case.layer,
        "explained": wanted.explained,
        "seed": seed,
        "tolerance": wanted.tolerance,
        "threshold": wanted.threshold,
        "files": [file.as_posix() for file in case.files],
    }
    return report(f"{case.title}, {counted(len(case.files), 'image')}", methods, notes, facts)
