"""The classifier of a trained run, as a network of another run that keeps it: from its options and exported weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

from models.base import MODELS, Model
from models.networks.class_head import ClassHead
from models.networks.frozen_classifier import GeneratorClassifier
from models.networks.generator_base import Generator
from options.schema import OptionError, build, fields_of, shorten
from util.checkpoint import CheckpointError, load_weights
from util.errors import counted
from util.strict_json import Fields, read_json

if TYPE_CHECKING:
    from options.parse import RunOptions

OPTIONS_FILE = "options.yaml"
_MOST_BYTES = 2**16


@dataclass(frozen=True)
class ClassifierSource:
    """Where a classifier comes from.

    Attributes:
        folder: of its run, as the command gave it.
        epoch: of its exported weights.
        options: those of its run that shape the network, by name, `model` among them; plain values.
    """

    folder: str
    epoch: str
    options: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """For the facts beside exported weights: a run that holds them does without the classifier's own folder."""
        return {"classifier_run": self.folder, "classifier_epoch": self.epoch, "classifier": dict(self.options)}


def source_of(run: RunOptions, folder: str, epoch: str) -> ClassifierSource:
    """What --classifier_run names: kept with the run's own weights, or else read from the classifier's folder.

    Args:
        folder: a run's folder, or the name of a run beside this one.

    Raises:
        OptionError: the folder is no run of a classifier.
        JsonError: the facts of this run are damaged.
    """
    kept = run.folder / f"{run.experiment.epoch}_facts.json"
    if kept.is_file():
        facts = Fields(read_json(kept), str(kept))
        if (facts.text("classifier_run"), facts.text("classifier_epoch")) == (folder, epoch):
            return ClassifierSource(folder, epoch, facts.object("classifier").content)
    place = folder_of(run, folder)
    content = _read(place / OPTIONS_FILE)
    model = str(content.get("model", ""))
    if model not in MODELS.names():
        raise OptionError(f"--classifier_run {shorten(folder)}: is no run of this program's (model {shorten(model)})")
    names = {"model", *fields_of(type(run.networks)), *fields_of(MODELS.get(model).Options)}
    return ClassifierSource(folder, epoch, {name: content[name] for name in content if name in names})


def folder_of(run: RunOptions, folder: str) -> Path:
    """The folder of a run given by its path, or by its name beside `run`.

    Raises:
        OptionError: there is none.
    """
    places = (Path(folder), run.folder.parent / folder)
    for place in places:
        if (place / OPTIONS_FILE).is_file():
            return place
    raise OptionError(f"--classifier_run {shorten(folder)}: neither {places[0]} nor {places[1]} holds {OPTIONS_FILE}")


def images_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What images the classifier of --classifier_run was trained on, as far as that can be read: channels and sizes.

    Args:
        given: values of options by name, as flags and a configuration give them.
    """
    folder = Path(str(given.get("classifier_run", "")))
    own = Path(str(given.get("checkpoints_dir", "checkpoints"))) / str(given.get("name", "run"))
    for place in (folder, own.parent / folder):
        if (place / OPTIONS_FILE).is_file():
            try:
                content = _read(place / OPTIONS_FILE)
            except OptionError:
                break  # said where the run is read
            return {name: content[name] for name in ("input_nc", "load_size", "crop_size") if name in content}
    return {}


def classifier_net(run: RunOptions, source: ClassifierSource, weights: Path | None = None) -> tuple[nn.Module, int]:
    """The classifier's network, and what its images' sides must be multiples of.

    Args:
        run: of the model that keeps it; its images go in.
        weights: folder of its run; None leaves random weights in it.

    Raises:
        OptionError: it is no classifier, or takes no such images.
        CheckpointError: its weights are missing or do not fit.
    """
    kind = str(source.options.get("model"))
    if kind == "fcam":
        raise OptionError(
            f"--classifier_run {shorten(source.folder)}: is a run of --model fcam, which maps what another classifier "
            f"sees; give that one: {shorten(str(source.options.get('classifier_run')))}"
        )
    # What has taught a class head is not asked again, and its run may be gone.
    values = {name: value for name, value in source.options.items() if name not in ("model", "classifier_run")}
    networks = build(type(run.networks), values)
    if networks.input_nc != run.networks.input_nc:
        raise OptionError(
            f"--input_nc {run.networks.input_nc}: the classifier of --classifier_run {shorten(source.folder)} takes "
            f"images of {counted(networks.input_nc, 'channel')}; give --input_nc {networks.input_nc}"
        )
    start = replace(run.experiment, model=kind, epoch=source.epoch)
    own = replace(run, experiment=start, networks=networks, model=build(MODELS.get(kind).Options, values))
    model = MODELS.get(kind).from_options(own)
    if "C" not in model.nets:
        raise OptionError(
            f"--classifier_run {shorten(source.folder)}: a run of --model {kind} has no classifier; "
            "give one of --model std_cl, classifier or cutcam"
        )
    if weights is not None:
        _load(model, weights, source)
    return _network(model), model.size_multiple


def _load(model: Model[Any], folder: Path, source: ClassifierSource) -> None:
    for name in model.inference_nets:
        file = folder / f"{source.epoch}_net_{name}.pth"
        if not file.is_file():
            there = sorted(other.name for other in folder.glob(f"*_net_{name}.pth"))
            raise CheckpointError(
                f"--classifier_epoch {source.epoch}: {file} does not exist; there are: {', '.join(there) or 'none'}"
            )
        load_weights(file, model.nets[name], f"{folder / OPTIONS_FILE}, which the weights do not belong to")


def _network(model: Model[Any]) -> nn.Module:
    head, generator = model.nets["C"], model.nets.get("G")
    if isinstance(head, ClassHead) and isinstance(generator, Generator):
        layers, index = model.nce_layers, model.cam_index  # type: ignore[attr-defined]
        return GeneratorClassifier(generator, head, layers[index])
    return head


def _read(path: Path) -> dict[str, Any]:
    """A run's own options, as plain values.

    Raises:
        OptionError: they cannot be read.
    """
    try:
        text = path.read_bytes()
        content = yaml.safe_load(text.decode("utf-8-sig")) if len(text) <= _MOST_BYTES else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise OptionError(f"{path}: cannot be read as the options of a run: {shorten(str(error), 200)}") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path}: holds no options of a run")
    return {str(name): value for name, value in content.items()}
