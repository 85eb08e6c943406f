"""Options as YAML: what is written reads back equal, and typing errors are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from options import groups
from options.schema import Group, OptionError, build, fields_of
from options.yaml_config import dump_yaml, read_yaml


def saved(folder: Path, text: str) -> Path:
    path = folder / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_random_values_of_every_group_read_back_equal(
    tmp_path: Path, all_groups: list[type[Group]], random_group: Callable[[type[Group]], Group]
) -> None:
    for _ in range(40):
        for kind in all_groups:
            group = random_group(kind)
            assert build(kind, read_yaml(saved(tmp_path, dump_yaml([group])))) == group


def test_defaults_read_back_equal(tmp_path: Path, all_groups: list[type[Group]]) -> None:
    for kind in all_groups:
        assert build(kind, read_yaml(saved(tmp_path, dump_yaml([kind()])))) == kind()


def test_each_option_is_on_a_line_of_its_own_under_its_groups_title() -> None:
    lines = dump_yaml([groups.Data(), groups.Optim()]).splitlines()
    assert lines[0] == "# data: folders, sizes, intensity windows"
    assert "load_size: [286, 286]" in lines
    assert "max_dataset_size: .inf" in lines
    assert lines[len(fields_of(groups.Data)) + 1 :][:2] == [
        "",
        "# optimisation: an optimiser for each network, adversarial loss, precision",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nlr: 2\n", "the key lr appears twice"),
        ("optim:\n  lr: 1\n", "without sections"),
        ("- lr\n", "must hold lines of the form"),
        ("", "must hold lines of the form"),
        ("lr: [1\n", "is no valid YAML"),
        ("a: !!python/object:os.system {}\n", "is no valid YAML"),
    ],
)
def test_a_file_that_is_no_list_of_options_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = saved(tmp_path, text)
    with pytest.raises(OptionError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"absent.yaml: cannot be read"):
        read_yaml(tmp_path / "absent.yaml")


def test_a_file_that_an_editor_has_marked_as_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(b"\xef\xbb\xbflr: 0.5\r\nname: caf\xc3\xa9\r\n")
    assert read_yaml(path) == {"lr": 0.5, "name": "café"}


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(OptionError, match="is no valid YAML"):
        read_yaml(path)
