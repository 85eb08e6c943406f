"""The options of a run as YAML: the same names as the flags, in commented sections, keys checked strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from options.schema import Group, OptionError, fields_of


def read_yaml(path: Path) -> dict[str, Any]:
    """Option name -> value of a flat YAML file.

    Raises:
        OptionError: the file is missing, is no YAML, or is no flat mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise OptionError(f"{path}: cannot be read as a YAML file of options: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or any(isinstance(value, dict) for value in content.values()):
        raise OptionError(f"{path}: must hold lines of the form `option: value`, without sections")
    return {str(key): value for key, value in content.items()}


def dump_yaml(groups: Sequence[Group]) -> str:
    """The groups as a YAML text that read_yaml reads back to equal values."""
    parts = []
    for group in groups:
        title = (type(group).__doc__ or "").strip().splitlines()[0]
        lines = [f"{name}: {_inline(getattr(group, name))}" for name in fields_of(type(group))]
        parts.append("\n".join([f"# {title}", *lines, ""]))
    return "\n".join(parts)


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys silently; a typo like that must not decide a run."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
        if doubled:
            raise yaml.YAMLError(f"the key {doubled[0]} appears twice")
        return super().construct_mapping(node, deep=deep)
