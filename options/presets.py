"""Sets of options under one name: `--preset demo`. Flags and a --config go before them, defaults come after."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from options.schema import Group, OptionError, shorten, show


@dataclass(frozen=True)
class Preset:
    """Its name, what it is for, in a line, and values by option name."""

    name: str
    what: str
    values: Mapping[str, Any]


_ALL = (
    Preset(
        "demo",
        "minutes even on a CPU, to see that data, labels and windows work; not for results",
        {
            "model": "cutcam",
            "ngf": 16,
            "ndf": 16,
            "load_size": (76, 76),
            "crop_size": (72, 72),
            "batch_size": 4,
            "lr": 0.0004,
            "lambda_IDT": 1.0,
            "cam_weight_adv": True,
            "max_iters": 2000,
            "print_freq": 40,
            "display_freq": 200,
            "update_html_freq": 400,
            "panel_freq": 1,
        },
    ),
    Preset(
        "paper",
        "the published CUTCAM command, for its seven classes of RGB images",
        {
            "model": "cutcam",
            "CUT_mode": "CUTCAM",
            "nce_layers": (0, 4, 8, 12, 16),
            "cam_layer": -1,
            "num_classes": 7,
            "lambda_GAN": 1.0,
            "lambda_NCE": 1.0,
            "lambda_CLS": 1.0,
            "lambda_CAM": 25.0,
            "lambda_IDT": 10.0,
            "nce_idt": True,
            "lambda_EDGE": 5.0,
            "cam_weight_adv": True,
            "netG": "resnet_9blocks",
            "netD": "basic",
            "input_nc": 3,
            "output_nc": 3,
            "batch_size": 4,
            "preprocess": "resize_and_crop",
            "load_size": (286, 286),
            "crop_size": (256, 256),
        },
    ),
    Preset(
        "infrared16",
        "one-channel 16-bit frames with small hot targets: a starting point, not a tuned one",
        {
            "model": "cutcam",
            "input_nc": 1,
            "output_nc": 1,
            "window_A": "0.01%,99.99%",  # the default's 0.1 % may cut off a target of a few pixels
            "window_B": "0.01%,99.99%",
            "preprocess": "scale_shortside_and_crop",  # frames are not square, and stay undistorted
            "load_size": (286, 286),
            "crop_size": (256, 256),
            "on_bad_image": "skip",
            "lambda_IDT": 1.0,
            "lambda_EDGE": 5.0,
            "edge_mode": "keep",
            "cam_weight_adv": True,
        },
    ),
)
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def asked_for(name: str | None, continued: bool) -> Preset:
    """The preset of that name; an empty one where none was asked for.

    Args:
        continued: the run goes on, and has all its options.

    Raises:
        OptionError: there is none of that name, or the run is continued.
    """
    if name is None:
        return Preset("", "", {})
    if name not in PRESETS:
        raise OptionError(f"--preset {shorten(name) or repr(name)}: choose one of {', '.join(PRESETS)}")
    if continued:
        raise OptionError(f"--preset {name}: a run that goes on keeps its own options; leave the flag out")
    return PRESETS[name]


def in_force(preset: Preset, known: Collection[str], explicit: Collection[str]) -> dict[str, Any]:
    """The rows of a preset that count: of options that this run has, and that were not given. They are printed.

    Args:
        known: options of the run.
        explicit: names that flags or a YAML file give.
    """
    rows = {name: value for name, value in preset.values.items() if name in known and name not in explicit}
    if preset.name:
        foreign = sorted(set(preset.values) - set(known))
        note = f" (this model has no {', '.join(foreign)})" if foreign else ""
        text = " ".join(_flags(rows)) or "sets nothing: all of it was given"
        print(f"--preset {preset.name}: {text}{note}", file=sys.stderr)  # stdout belongs to the YAML of --dry_run
    return rows


def say_overruled(kinds: Iterable[type[Group]], config: Mapping[str, Any], given: Mapping[str, Any], file: str) -> None:
    """Print what a mode among the flags would set, had not the YAML file a line for it.

    Args:
        kinds: the run's groups.
        config: of the file; it goes before a mode, which is what follows from --CUT_mode FastCUT, for example.
        given: by flags.
    """
    rows: dict[str, Any] = {}
    for kind in kinds:
        before, after = kind.preset(config), kind.preset({**config, **given})
        follows = {name: value for name, value in after.items() if name not in before or before[name] != value}
        rows |= {name: value for name, value in follows.items() if name in config and name not in given}
    # 10 and 10.0 are one value, and so are a list and its text.
    rows = {name: value for name, value in rows.items() if config[name] != value and show(config[name]) != show(value)}
    if rows:
        text = " ".join(_flags(rows))
        print(
            f"WARNING: the flags given stand for {text} too, but {file} says otherwise and goes before that; "
            "give these flags, or remove the lines",
            file=sys.stderr,
        )


def table(width: int = 96) -> str:
    """All presets for the help: name, what for, the flags they stand for."""
    indent, parts = " " * 15, ["presets (--preset NAME; flags and --config go before them)"]
    for name, preset in PRESETS.items():
        parts.append(f"  {name:<13}{preset.what}")
        # A flag and its value stay on one line.
        joined = " ".join(flag.replace(" ", "=") for flag in _flags(preset.values))
        lines = textwrap.wrap(joined, width - len(indent), break_long_words=False, break_on_hyphens=False)
        parts += [f"{indent}{line.replace('=', ' ')}" for line in lines]
    return "\n".join(parts)


def _flags(rows: Mapping[str, Any]) -> list[str]:
    """Each value as it would be typed, a square size as one number."""
    return [f"--{name} {_typed(value)}" for name, value in rows.items()]


def _typed(value: Any) -> str:
    return show(value[0] if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1] else value)
