"""A folder of safetensors that `load_run` reads back, with the model card and config that a model hub expects."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.domain import DOMAINS_FILE, load_classes, load_formats, save_formats
from models.base import Model
from options.parse import OPTIONS_FILE, RunOptions
from options.schema import Group, OptionError, fields_of
from options.yaml_config import dump_yaml
from scripts.evaluating.record import digest_of_weights
from scripts.exporting.card import card_of
from scripts.exporting.networks import facts_of
from util.errors import printable
from util.evaluations import FOLDER, Evaluation, read_evaluation
from util.files import write_atomic
from util.safe_weights import SAFE_FILE, write_nets
from util.strict_json import read_json

CONFIG, CARD = "config.json", "README.md"


def write_folder(model: Model[Any], run: RunOptions, place: Path, license_: str, card: bool) -> list[Path]:
    """Write weights, options, windows and `config.json`, and the card if wanted; returns the files.

    No path of this machine goes along: data folders, and a classifier that only training asks, are left out of the
    options.

    Raises:
        UserError: the run has kept no windows, or an evaluation is damaged.
    """
    formats = load_formats(run.folder)
    if formats is None:
        raise OptionError(f"{run.folder}: has weights without windows; make it a run by scripts/import_weights.py")
    facts = facts_of(run, model, with_cam=False)
    write_nets(place / SAFE_FILE, {name: model.nets[name] for name in model.inference_nets}, {"format": "pt"})
    write_atomic(place / OPTIONS_FILE, dump_yaml([_public(group) for group in run.groups()]).encode())
    save_formats(place, *formats, load_classes(run.folder))
    config = {"architectures": [type(model).__name__], "model_type": run.experiment.model, **facts}
    write_atomic(place / CONFIG, json.dumps(config, indent=1).encode())
    written = [place / name for name in (SAFE_FILE, OPTIONS_FILE, DOMAINS_FILE, CONFIG)]
    if card:
        write_atomic(place / CARD, card_of(run, facts, evaluations_of(run), license_).encode())
        written.append(place / CARD)
    return written


def evaluations_of(run: RunOptions) -> Sequence[Evaluation]:
    """What scripts/evaluate.py has measured of these weights, of every phase; what is of other weights is said."""
    folder = run.folder / FOLDER
    files = sorted(folder.glob(f"*_{run.experiment.epoch}.json")) if folder.is_dir() else []
    found, weights = [], digest_of_weights(run) if files else ""
    for file in files:
        evaluation, basis = read_evaluation(file), read_json(file).get("basis")
        measured = basis.get("weights") if isinstance(basis, dict) else None
        if measured == weights:
            found.append(evaluation)
            continue
        why = "does not say of which weights" if measured is None else "was measured by other weights"
        print(f"WARNING: {printable(file)}: {why}; the card leaves it out, evaluate again", file=sys.stderr)
    return found


# Options that hold paths of the machine of the training. No translation asks for any of them.
_PATHS = (
    *("dataroot", "checkpoints_dir", "cache_dir", "labels_A", "wsol_splits", "target_boxes", "target_masks"),
    *("pretrained_name", "classifier_run", "display_server", "display_env"),
)


def _public(group: Group) -> Group:
    """The group with the defaults of those options."""
    known = fields_of(type(group))
    return replace(group, **{name: known[name][1].default for name in _PATHS if name in known})
