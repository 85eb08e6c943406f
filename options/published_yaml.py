"""The configuration file of the published ResNetCAM project: its sections and keys as options of ours, by a table.

Its keys stand in the sections model, training and dataset. Where one has no meaning here, or does nothing there, that
is said; what is no key of it is an error. Nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from options.flags import suggest
from options.schema import OptionError, shorten

SECTIONS = ("model", "training", "dataset")
ARCHS = {"resnet_cam": "resnet18"}  # other names are ours
SCHEDULERS = {"reduce_lr": "plateau", "cosine": "cosine", "none": "none"}
OPTIMIZERS = ("adam", "adamw", "sgd")
BATCH_SIZE = 64  # of the published file
FIRST_WEIGHTS = {"pretrained", "arch_weights", "continue_train"}  # flags that say what they are
BORDER = 32  # pixels that images are loaded larger than they are cropped, as the published project's


@dataclass
class Reading:
    """A file that is being read.

    Attributes:
        sections: its content.
        given: names of the flags beside it.
        options: options of ours so far.
        notes: what the user must know.
    """

    source: str
    sections: Mapping[str, Mapping[str, Any]]
    given: Collection[str] = ()
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        section, _, name = key.partition(".")
        return self.sections.get(section, {}).get(name, default)

    def error(self, key: str, value: Any, remedy: str) -> OptionError:
        return OptionError(f"{self.source}: {key} {shorten(str(value))}: {remedy}")


Reader = Callable[[Reading, str, Any], None]


def has_sections(content: object) -> bool:
    """Whether a YAML file's content is such a configuration and no list of options."""
    return isinstance(content, dict) and any(isinstance(content.get(name), dict) for name in SECTIONS)


def options_from(content: Mapping[Any, Any], source: str, given: Collection[str] = ()) -> dict[str, Any]:
    """Options by name; what the user must know goes to stderr.

    Args:
        content: sections by name.
        source: the file, for messages.
        given: names of the flags beside it; what they say already is not recommended.

    Raises:
        OptionError: a section or key that there is not, or a value that cannot be used.
    """
    for name, section in content.items():
        if name not in SECTIONS:
            raise OptionError(f"{source}: {shorten(str(name))}: no section; there are {', '.join(SECTIONS)}")
        if not isinstance(section, dict):
            raise OptionError(f"{source}: {name}: is a section and must hold lines of the form `key: value`")
        _check_keys(source, name, section)
    # What the published project does and no key of its file says: the plain cross-entropy.
    reading = Reading(source, content, given, {"model": "classifier", "label_smoothing": 0.0})
    for key, read in KEYS.items():
        if (value := reading.get(key, reading)) is not reading:
            read(reading, key, value)
    for note in reading.notes:
        print(f"{source}: {note}", file=sys.stderr)
    return reading.options


def _check_keys(source: str, section: str, found: Mapping[Any, Any]) -> None:
    known = [key.partition(".")[2] for key in KEYS if key.startswith(f"{section}.")]
    for key in found:
        if key not in known:
            near = suggest(str(key), known).replace("--", "")
            raise OptionError(
                f"{source}: {section}.{shorten(str(key))}: no such key{near}; {section} knows {', '.join(known)}"
            )


# --- what is read how


def _same_as(option: str) -> Reader:
    """The value is that of an option of ours; its type and range are checked with the others."""

    def read(reading: Reading, key: str, value: Any) -> None:
        if value is None or isinstance(value, list | dict):
            raise reading.error(key, value, "expected one value")
        reading.options[option] = value

    return read


def _one_of(option: str, words: Mapping[str, str]) -> Reader:
    def read(reading: Reading, key: str, value: Any) -> None:
        word = str(value).lower()
        if word not in words:
            raise reading.error(key, value, f"choose one of {', '.join(words)}")
        reading.options[option] = words[word]

    return read


def _network(reading: Reading, key: str, value: Any) -> None:
    name, data = str(value), reading.get("dataset.name")
    reading.options["arch"] = ARCHS.get(name, name)
    reading.options["name"] = "_".join(str(part) for part in (name, data) if part).replace(":", "_")
    if name in ARCHS:
        more = "" if FIRST_WEIGHTS & set(reading.given) else "; add --pretrained to begin with ImageNet's weights"
        reading.notes.append(f"{key} {name}: --arch {ARCHS[name]}{more}")


def _data_set(reading: Reading, key: str, value: Any) -> None:
    if str(value).lower() != "imagenette":
        remedy = "is not known; for class folders of your own leave the line out, and data_dir says where they are"
        raise reading.error(key, value, remedy)
    reading.options["dataset_mode"] = "classes"


def _input_shape(reading: Reading, key: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) != 3 or not all(type(part) is int for part in value):
        raise reading.error(key, value, "expected [channels, height, width]")
    reading.options["input_nc"] = value[0]
    _sizes(reading, value[1:])


def _image_size(reading: Reading, key: str, value: Any) -> None:
    if type(value) is not int:
        raise reading.error(key, value, "expected a whole number of pixels")
    shape = reading.get("model.input_shape")
    if shape and shape[1:] != [value, value]:
        reading.notes.append(f"{key} {value}: is taken, and not the size in model.input_shape {shape}")
    _sizes(reading, [value, value])


def _sizes(reading: Reading, size: Sequence[int]) -> None:
    reading.options["crop_size"] = list(size)
    reading.options["load_size"] = [side + BORDER for side in size]


def _log_every(reading: Reading, key: str, value: Any) -> None:
    """It counts batches, and --print_freq images."""
    batch = reading.get("training.batch_size", BATCH_SIZE)
    if type(value) is not int or type(batch) is not int:
        raise reading.error(key, value, "expected a whole number of batches")
    reading.options["print_freq"] = value * batch


def _residual(reading: Reading, key: str, value: Any) -> None:
    reading.notes.append(f"{key}: has no meaning here, and changes nothing: the architecture says it")


KEYS: dict[str, Reader] = {
    "model.name": _network,
    "model.input_shape": _input_shape,
    "model.num_classes": _same_as("num_classes"),
    "model.residual": _residual,
    "training.learning_rate": _same_as("lr"),
    "training.batch_size": _same_as("batch_size"),
    "training.num_epochs": _same_as("n_epochs"),
    "training.weight_decay": _same_as("weight_decay"),
    "training.checkpoint_dir": _same_as("checkpoints_dir"),
    "training.log_every": _log_every,
    "training.save_every": _same_as("save_epoch_freq"),
    "training.early_stopping_patience": _same_as("early_stopping_patience"),
    "training.optimizer": _one_of("optimizer", {word: word for word in OPTIMIZERS}),
    "training.scheduler": _one_of("lr_policy", SCHEDULERS),
    "dataset.name": _data_set,
    "dataset.data_dir": _same_as("dataroot"),
    "dataset.img_size": _image_size,
    "dataset.val_size": _same_as("val_size"),
}
