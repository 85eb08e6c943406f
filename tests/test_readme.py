"""README says what is true: its tables, its commands, the files it names."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from options.parse import train_options
from scripts.options_table import BEGIN, renewed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(first: str) -> list[str]:
    """The README's shell commands that begin with some words, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(first)]


def test_the_tables_of_options_are_the_options() -> None:
    assert renewed(README) == README, "run: python scripts/options_table.py --write"
    assert README.count("| `--lambda_CAM` | `25.0` |") == 1


def test_an_edited_table_is_noticed() -> None:
    edited = README.replace("| `--lambda_CAM` | `25.0` |", "| `--lambda_CAM` | `24.0` |")
    assert renewed(edited) == README
    assert edited.split(BEGIN)[0] == README.split(BEGIN)[0]


def test_training_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    trainings = commands("python train.py")
    assert trainings
    for line in trainings:
        with pytest.raises(SystemExit) as stop:
            train_options([*shlex.split(line)[2:], "--dry_run"])
        assert stop.value.code == 0
        assert "lambda_CAM: 25.0" in capsys.readouterr().out


@pytest.mark.parametrize("line", commands("bash "))
def test_scripts_it_names_are_valid_shell(line: str) -> None:
    script = ROOT / shlex.split(line, comments=True)[1]
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_files_it_names_exist() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+|\w+\.py|[\w-]+\.(?:txt|toml))`", README))
    named |= {link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link}
    made_by_runs = re.compile(r"^\./|checkpoints/|NAME|options\.yaml|test_latest|cams\.csv|labels\.csv")
    missing = sorted(name for name in named if not made_by_runs.search(name) and not (ROOT / name).exists())
    assert len(named) > 15
    assert not missing


def test_the_tree_names_what_is_there() -> None:
    (tree,) = re.findall(r"## What is where\n\n```\n(.*?)```", README, re.S)
    found: list[str] = []
    folder = ""
    for line in tree.splitlines():
        top = re.match(r"(\w+/)", line)
        folder = top.group(1) if top else folder
        inside = re.match(r"(?:\w+/|\s)\s+(networks/|losses/|cam/|engine/|visual/)", line)
        if inside:
            found.append(folder + inside.group(1))
            continue
        found += [
            ("" if line[0] in "tc" and not top else folder) + name for name in re.findall(r"[\w/]+\.(?:py|sh)", line)
        ]
    missing = [name for name in found if not (ROOT / name).exists()]
    assert len(found) > 30
    assert not missing
