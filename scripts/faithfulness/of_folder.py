"""`scripts/evaluate.py --maps DIR`: measure maps that were saved."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data.base import DataError
from data.images import decode, read_raw
from data.wsol_dataset import SPLITS_FOLDER
from data.wsol_splits import IDS, SplitTruth, split_folder
from models.cam.explain import display
from models.judge import TrainedJudge, load_judge
from options.schema import OptionError
from scripts.comparing.tables import FORMATS, publish, render
from scripts.evaluating.annotated import below, find_boxes
from scripts.faithfulness import localising
from scripts.faithfulness.measures import Row, Where, faithful, rows_of, score_of
from scripts.faithfulness.report import Method, report, where_note
from scripts.faithfulness.saved import Saved, find_maps
from util.engine.build import choose_device
from util.errors import counted, printable
from util.metrics.localisation import THRESHOLD
from util.metrics.wsol import FIXED, SIDE, STEP
from util.visual.progress import with_bar

_MOST_SIDE = 4096


def run(argv: Sequence[str]) -> int:
    """The command."""
    wanted = _parser().parse_args(argv)
    maps = find_maps(wanted.maps, wanted.dataroot)
    judge = None
    if wanted.classifier is not None:
        device = choose_device(wanted.gpu_ids)
        judge = load_judge(wanted.checkpoints_dir / wanted.classifier, device, wanted.epoch)
    files = list(dict.fromkeys(one.image for one in maps))
    where, truths = _where(wanted, files), _truths_of_splits(wanted, files)
    if where is None and judge is None and truths is None:
        raise OptionError(
            "--maps: nothing to hold the maps against; give boxes or masks (--boxes, --masks, or a --dataroot that has "
            "them), or a trained classifier (--classifier RUN)"
        )
    if truths is None and where is not None:
        truths = localising.truths_by_file(where, files)
    protocol = localising.Protocol(wanted.fixed, wanted.side, wanted.step, not wanted.unstretched)
    found = localising.localise(maps, truths, protocol) if truths else []
    methods = measure(maps, files, where, judge, seed=wanted.seed)
    notes = where_note(where, len(files))
    if judge is not None:
        notes.append(
            f"Probabilities are those of {judge.name}, of the class explained. What is taken away turns black."
        )
    if found:
        notes += localising.notes(found, protocol)
    notes.append(
        "Coherency, ADCC and the sanity check need the network that was explained: scripts/explainers_table.py."
    )
    facts = {"maps": str(wanted.maps), "classifier": wanted.classifier, "seed": wanted.seed}
    facts["files"] = [file.as_posix() for file in files]
    title = f"{printable(wanted.maps)}: {counted(len(maps), 'map')} of {counted(len(files), 'image')}"
    facts["localisation"] = localising.as_data(found)
    made = report(title, methods, notes, facts)
    measured = [table for table in made.tables if len(table.head) > 1]
    publish(render(replace(made, tables=[*localising.tables(found), *measured]), wanted.format), wanted.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--maps", type=Path, required=True, help="folder with manifest.json, or NAME.npy beside images")
    parser.add_argument("--dataroot", type=Path, help="the data that the images come from, with boxes.csv or masks")
    parser.add_argument("--phase", default="test", help="whose masks: <dataroot>/masks_<phase>")
    parser.add_argument("--boxes", help="table of targets (file,x0,y0,x1,y1); none: <dataroot>/boxes.csv if there")
    parser.add_argument("--masks", help="folder of target masks; none: masks_<phase> or masks/FOLDER of <dataroot>")
    parser.add_argument(
        "--wsol_splits", type=Path, help=f"split files of wsol-done-right; none: <dataroot>/{SPLITS_FOLDER} if there"
    )
    parser.add_argument("--classifier", help="run of --model classifier that is asked for the faithfulness measures")
    parser.add_argument("--checkpoints_dir", type=Path, default=Path("checkpoints"), help="folder that holds the run")
    parser.add_argument("--epoch", default="latest", help="which of its weights")
    parser.add_argument("--gpu_ids", default="auto", help="GPU to use; -1: CPU")
    parser.add_argument("--tolerance", type=float, default=0.0, help="pixels by which the strongest point may miss")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="share of the maximum that the box surrounds"
    )
    parser.add_argument(
        "--fixed",
        type=_share,
        default=FIXED,
        help="of localisation: the threshold beside the oracle's, a share of a map's maximum (%(default)s)",
    )
    parser.add_argument(
        "--side", type=_pixels, default=SIDE, help="of localisation: compare at this size; 0: the maps'"
    )
    parser.add_argument("--step", type=_share, default=STEP, help="of localisation: between thresholds (%(default)s)")
    parser.add_argument(
        "--unstretched", action="store_true", help="of localisation: maps lie in [0, 1] and count as they are"
    )
    parser.add_argument("--seed", type=int, default=0, help="of ROAD's noise and the order of equal pixels")
    parser.add_argument("--format", choices=tuple(FORMATS), default="terminal")
    parser.add_argument("--output", type=Path, help="file to write; none: print")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: is to lie between 0 and 1")
    return value


def _pixels(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _MOST_SIDE:
        raise argparse.ArgumentTypeError(f"{text}: is to lie in 0..{_MOST_SIDE}")
    return value


def _truths_of_splits(wanted: argparse.Namespace, files: Sequence[Path]) -> localising.Truths | None:
    """The truth of images that split files name; None where there are none."""
    root = Path(os.path.abspath(wanted.dataroot or wanted.maps))
    splits: Path = wanted.wsol_splits or root / SPLITS_FOLDER
    folder = split_folder(splits, wanted.phase)
    if folder is None:
        if wanted.wsol_splits is not None:
            raise DataError(f"--wsol_splits {printable(splits)}: holds no split {wanted.phase} with {IDS}")
        return None
    truth = SplitTruth(folder, root)
    names = below(root, [Path(os.path.abspath(file)) for file in files])
    return {file: truth(name) for file, name in zip(files, names, strict=True)}


def _where(wanted: argparse.Namespace, files: Sequence[Path]) -> Where | None:
    root = Path(os.path.abspath(wanted.dataroot or wanted.maps))
    there = [Path(os.path.abspath(file)) for file in files]
    boxes = find_boxes(root, wanted.phase, there, wanted.boxes, wanted.masks)
    if boxes is None:
        return None
    sizes = [(raw.shape[0], raw.shape[1]) for raw in map(read_raw, files)]
    return Where(boxes, sizes, wanted.tolerance, wanted.threshold)


def measure(
    maps: Sequence[Saved], files: Sequence[Path], where: Where | None, judge: TrainedJudge | None, seed: int = 0
) -> list[Method]:
    """A row for each map of each method; of an image with several maps by one method (top-k), of the first.

    Raises:
        DataError, ImageError: a map or an image cannot be used, or explains a class that the judge does not know.
    """
    numbers = {file: number for number, file in enumerate(files)}
    methods: dict[str, Method] = {}
    for one in with_bar(maps, "measuring maps", "map"):
        method = methods.setdefault(one.method, Method(one.method))
        number = numbers[one.image]
        if number in method.rows:
            continue
        row: Row = {}
        heat = one.read()
        if where is not None:
            row |= where.measure(display(heat[None, None], where.sizes[number])[0][0, 0], number)
        if judge is not None and one.of_input:
            row |= _faithful(judge, one, heat, seed)
        method.rows[number] = row
    return list(methods.values())


def _faithful(judge: TrainedJudge, one: Saved, heat: Tensor, seed: int) -> Row:
    assert judge.format is not None  # of a judge that was trained on files
    image = decode(one.image, judge.run.networks.input_nc, judge.format)[None]

    def ask(images: Tensor) -> Tensor:
        return judge.logits(images).softmax(1)

    seen = ask(image)
    known = one.explained if one.explained is not None else one.label
    wanted = int(seen.argmax(1)) if known is None else known
    if wanted >= seen.shape[1]:
        raise DataError(
            f"{printable(one.raw)}: explains class {wanted}, and the classifier knows 0 to {seen.shape[1] - 1}"
        )
    classes = torch.tensor([wanted])
    maps = display(heat[None, None], (image.shape[2], image.shape[3]))[0][:, 0]
    score = score_of(ask, classes)
    return rows_of(faithful(image, maps, score, seen.gather(1, classes[:, None])[:, 0], seed))[0]
