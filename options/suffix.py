"""`--suffix`: options in the name of a run."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from options.schema import OptionError, Size, fields_of, shorten, show

if TYPE_CHECKING:
    from options.parse import RunOptions


def with_suffix(options: RunOptions) -> RunOptions:
    """The options with `--suffix` filled in and made a part of the name, so that the run has one name."""
    suffix = options.experiment.suffix
    if not suffix:
        return options
    words = {
        name: _word(kind, getattr(group, name))
        for group in options.groups()
        for name, (kind, _) in fields_of(type(group)).items()
    }
    try:
        for _, name, form, _ in string.Formatter().parse(suffix):
            if not (name or "x").isidentifier() or len(form or "") > 5:
                raise ValueError(f"{{{name}}} asks for an attribute, or for more than a name is long")
        filled = suffix.format_map(words)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        reason = f"{error} is no option" if isinstance(error, KeyError) else str(error)
        raise OptionError(f"--suffix {shorten(suffix)}: {reason}; write options as {{netG}} or {{lr}}") from error
    name = f"{options.experiment.name}_{filled.replace('/', '_')}"
    return replace(options, experiment=replace(options.experiment, name=name, suffix=""))


def _word(kind: Any, value: Any) -> Any:
    """A value inside a name; a square size is one number, as in CUT."""
    if kind == Size and value[0] == value[1]:
        return value[0]
    return show(value) if isinstance(value, tuple) else value
