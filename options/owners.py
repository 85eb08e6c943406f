"""Which options a run has: what its model and its extra losses bring, and which of these bring one it has not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from models import MODELS
from models.terms import TERMS
from options import groups as g
from options.schema import Group, OptionError, convert, fields_of, show, spec_of

# Flags that are no options of a run.
TOOLS = {"help", "dry_run", "config", "preset"}


def terms_of(model: str, first: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, ...]:
    """The extra losses of a run, whose options are then flags of it: flag over YAML over the model's default.

    Raises:
        OptionError: one is named twice.
        UnknownNameError: there is none of that name.
    """
    known = fields_of(MODELS.get(model).Options)
    if "extra_losses" not in known:
        return ()
    kind, item = known["extra_losses"]
    given = first.get("extra_losses", config.get("extra_losses", item.default))
    names: tuple[str, ...] = convert("extra_losses", kind, spec_of(item), given)
    for name in names:
        TERMS.get(name)
        if names.count(name) > 1:
            raise OptionError(f"--extra_losses {show(names)}: names {name} twice")
    return names


def model_of(names: set[str], first: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """`cut`, or the one model that owns all of these options that cut, with the extra losses asked for, has not."""
    default = g.Experiment().model
    asked = [TERMS.get(term).Options for term in terms_of(default, first, config)]
    names = {name for name in names if not any(_has(kind, name) for kind in asked)}
    common = {name for kind in (*g.COMMON, MODELS.get(default).Options) for name in fields_of(kind)}
    unknown = sorted(names - common - TOOLS)
    owned = {name: owners for name in unknown if (owners := _owners(name))}
    models = _plainest(set.intersection(*map(set, owned.values())) if owned else set())
    if len(models) != 1:
        return default
    (model,) = models
    reason = min(owned, key=lambda name: len(owned[name]))
    # Not to stdout, which belongs to the YAML of --dry_run.
    print(f"--model {model}: chosen because of --{reason}", file=sys.stderr)
    return model


def _owners(name: str) -> list[str]:
    """The models that have an option of that name, of their own or of a loss that they take on by default."""
    found = []
    for model in MODELS.names():
        kinds = (MODELS.get(model).Options, *(TERMS.get(term).Options for term in terms_of(model, {}, {})))
        if any(_has(kind, name) for kind in kinds):
            found.append(model)
    return found


def brought_by(name: str) -> list[str]:
    """The flags that give a run an option of that name: `--model srunit`, `--extra_losses sr`."""
    terms = [term for term in TERMS.names() if _has(TERMS.get(term).Options, name)]
    named = (("--model", _owners(name)), ("--extra_losses", terms))
    return [f"{flag} {' or '.join(names)}" for flag, names in named if names]


def _has(kind: type[Group], name: str) -> bool:
    """Whether a group has an option of that name or older spelling; lambda_cam counts as lambda_CAM, and is told so."""
    spellings = (word for own, (_, item) in fields_of(kind).items() for word in (own, *spec_of(item).aliases))
    return name.casefold() in map(str.casefold, spellings)


def _plainest(models: set[str]) -> set[str]:
    """The one of these models that all others extend, if there is one; else all of them."""
    kinds = {name: MODELS.get(name).Options for name in models}
    plain = {name for name, kind in kinds.items() if all(issubclass(other, kind) for other in kinds.values())}
    return plain if len(plain) == 1 else models
