"""The options of a run as YAML: the same names as the flags, in commented sections, keys checked strictly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from options.published_yaml import has_sections, options_from
from options.schema import Group, OptionError, fields_of
from util.errors import printable

_MOST_BYTES = 2**16  # five times the options of a run; YAML takes time that grows with the square of its nesting


def read_config(path: Path, given: Collection[str] = ()) -> dict[str, Any]:
    """Option name -> value of a file that a user gives: of ours, flat, or of the published ResNetCAM project's.

    Args:
        given: names of the flags beside it, for what is recommended.

    Raises:
        OptionError: the file is missing, is no YAML, is neither of these, or is far too long.
    """
    content = _content(path)
    return options_from(content, str(path), given) if has_sections(content) else _options_in(content, path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Option name -> value of a flat YAML file.

    Raises:
        OptionError: the file is missing, is no YAML, is no flat mapping, or is far too long.
    """
    return _options_in(_content(path), path)


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise OptionError(f"{path}: is no file of options: these have at most {_MOST_BYTES} bytes")
        return yaml.load(text.decode("utf-8-sig"), Loader=_UniqueKeys)
    except OSError as error:
        raise OptionError(f"{path}: cannot be read as a YAML file of options: {error.strerror}") from error
    except RecursionError as error:
        raise OptionError(f"{path}: is no file of options: it is nested too deeply") from error
    except OptionError:
        raise
    # No UTF-8, a number of thousands of digits, a 31st of June, a tag that does not suit its value.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OptionError(f"{path}: is no valid YAML: {printable(' '.join(str(error).split()))[:500]}") from error


def _options_in(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or any(not _is_flat(item) for pair in content.items() for item in pair):
        raise OptionError(f"{path}: must hold lines of the form `option: value`, without sections")
    return {str(key): value for key, value in content.items()}


def _is_flat(value: Any) -> bool:
    """Whether it is one value or a list of such; aliases in lists of lists can be a text of any length."""
    parts = value if isinstance(value, list) else [value]
    return not any(isinstance(part, dict | list | tuple | set) for part in parts)


def check_whole(path: Path, options: Mapping[str, Any], groups: Sequence[type[Group]]) -> None:
    """Raise where the end of a file that dump_yaml wrote is missing: defaults would silently take its place.

    A file written by hand may leave out what it likes.

    Args:
        options: what read_yaml has read from it.
        groups: those of the run, in the order of the file.

    Raises:
        OptionError: none of a group's options is there.
    """
    first = path.read_text(encoding="utf-8-sig").partition("\n")[0].strip()
    written = first == _title(groups[0])
    for group in groups:
        names = fields_of(group)
        if written and names and not any(name in options for name in names):
            raise OptionError(f"{path}: is damaged or truncated: it lacks {next(iter(names))}; restore it from a copy")


def dump_yaml(groups: Sequence[Group]) -> str:
    """The groups as a YAML text that read_yaml reads back to equal values."""
    parts = []
    for group in groups:
        lines = [f"{name}: {_inline(getattr(group, name))}" for name in fields_of(type(group))]
        parts.append("\n".join([_title(type(group)), *lines, ""]))
    return "\n".join(parts)


def _title(group: type[Group]) -> str:
    return f"# {(group.__doc__ or '').strip().splitlines()[0]}"


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
