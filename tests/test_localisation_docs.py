"""docs/localisation.md: its commands can be given, and the flags, files and scores it names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from options.groups import Explanation, Inference
from options.parse import train_options
from options.published_wsol import train_flags
from options.schema import fields_of
from scripts.faithfulness import localising, of_folder

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "localisation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.startswith("python")]


def given(script: str) -> list[list[str]]:
    """The arguments of the commands of a script, what is optional included."""
    found = [shlex.split(re.sub(r"[\[\]]", "", line), comments=True)[1:] for line in LINES]
    return [words[1:] for words in found if words[0] == script]


def test_training_commands_parse() -> None:
    assert len(given("train.py")) == 2
    for words in given("train.py"):
        with pytest.raises(SystemExit) as stop:
            train_options([*words, "--dry_run"])
        assert stop.value.code == 0


def test_published_commands_are_read() -> None:
    assert len(given("scripts/main_wsol.py")) == 2
    for words in given("scripts/main_wsol.py"):
        run = train_options(train_flags(words)[0])
        assert run.experiment.model in ("std_cl", "fcam")
        assert run.data.dataroot == "DATA/CUB"


def test_maps_and_their_scores_are_asked_for_as_it_says() -> None:
    known = {**fields_of(Inference), **fields_of(Explanation)}
    aliases = {alias for _, field in known.values() for alias in field.metadata["spec"].aliases}
    flags = {word for words in given("cam_infer.py") for word in words if word.startswith("--")}
    assert flags - {f"--{name}" for name in (*known, *aliases, "dataroot", "name")} == set()
    assert len(given("scripts/evaluate.py")) == 3
    for words in given("scripts/evaluate.py"):
        of_folder._parser().parse_args(words)


def test_scores_it_names_are_those_of_the_command() -> None:
    for name, heading in localising.COLUMNS.items():
        assert f"`{name}`" in TEXT, heading
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)
    assert pictures
    for name in pictures:
        file = ROOT / "docs" / name
        assert file.stat().st_size < 300_000
