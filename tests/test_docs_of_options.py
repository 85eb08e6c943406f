"""The commands in docs/dashboards.md and docs/configuration.md can be typed, and the files they link to are there."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from options.parse import train_options
from scripts import doctor
from scripts.dashboard import serve

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("dashboards.md", "configuration.md")


def commands(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [shlex.split(line.split(" > ")[0], comments=True) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_typed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed(Exception):
        pass

    def parsed(parse: object) -> object:
        def instead(self: argparse.ArgumentParser, *words: object) -> None:
            parse(self, *words)  # type: ignore[operator]
            raise Parsed

        return instead

    (tmp_path / "checkpoints" / "my_run").mkdir(parents=True)
    for file in ("run.yaml", "checkpoints/my_run/options.yaml"):
        (tmp_path / file).write_text("model: cutcam\ndataroot: d\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "diagnose", lambda report, words, steps: train_options([*words, "--dataroot", "d"]))
    monkeypatch.setattr(doctor, "check_environment", lambda report, file: None)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed(argparse.ArgumentParser.parse_args))
    seen = set()
    for program, *words in commands(page):
        seen.add(words[0] if program in ("python", "bash") else program)
        if words[0] == "train.py":
            train_options([word for word in words[1:] if word not in ("--help", "--dry_run")] + ["--dataroot", "d"])
        elif words[0] == "scripts/doctor.py":
            assert doctor.main(words[1:]) == 0
        elif words[0] == "scripts/visdom.sh":
            with pytest.raises(Parsed):
                serve.main(words[1:])
        else:
            assert program in ("ssh", "pip", "tensorboard"), program
    assert "train.py" in seen


@pytest.mark.parametrize("page", PAGES)
def test_what_it_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    for file in re.findall(r"(?:scripts|options)/[\w/]+\.(?:py|sh)", text):
        assert (ROOT / file).exists(), file


def test_the_tables_of_presets_and_windows_are_whole() -> None:
    from options.presets import PRESETS
    from util.visual.base import GROUP_PATTERNS

    configuration, dashboards = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in reversed(PAGES))
    assert all(f"| `{name}` |" in configuration for name in PRESETS)
    assert all(group in dashboards for group in (*GROUP_PATTERNS, "monitors", "progress", "pictures", "maps"))
