"""README says what is true: the values its commands give, the files it names, the tests its claims name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from options.parse import train_options
from options.schema import show

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(first: str) -> list[str]:
    """The README's shell commands that begin with some words, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(first)]


def test_it_stays_a_front_page() -> None:
    assert len(README.splitlines()) <= 350, "what is longer belongs into docs/"


def test_training_commands_give_the_values_that_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    trainings = commands("python train.py")
    assert trainings
    for line in trainings:
        with pytest.raises(SystemExit) as stop:
            train_options([*shlex.split(line, comments=True)[2:], "--dry_run"])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        values = {**yaml.safe_load(printed)}
        for flag, value in re.findall(r"--(\w+)[ =]([^\s#-][^\s]*)", line.split("#")[0]):
            read = values.get(flag, value)  # --config is no option
            assert show(read) in (value, f"{value},{value}") or float(value) == read, f"{flag} in {line}"


def test_files_it_names_exist() -> None:
    """In backticks; links are tried in test_docs.py."""
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]+|\w+\.py|[\w-]+\.(?:txt|toml))`", README))
    made_by_runs = re.compile(
        r"^\./|my_\w+|checkpoints/|NAME|options\.yaml|test_latest|bad_images|cams\.csv|labels\.csv"
    )
    missing = sorted(name for name in named if not made_by_runs.search(name) and not (ROOT / name).exists())
    assert len(named) >= 8
    assert not missing


def tree() -> set[str]:
    """The paths in the README's tree; folders end in a slash."""
    (text,) = re.findall(r"## What is where\n\n```\n(.*?)```", README, re.S)
    found, folder = set[str](), ""
    for line in text.splitlines():
        top = re.match(r"\w+/(?= )", line)
        if top or not line.startswith(" "):
            folder = top[0] if top else ""
        names = re.findall(r"(?:\w+/)*[\w-]+\.(?:py|sh|txt|toml)\b|\w+/(?= )", line[len(top[0]) if top else 0 :])
        found |= {folder + name for name in names}
    return found


def test_the_tree_names_what_is_there() -> None:
    assert len(tree()) > 45
    assert [name for name in sorted(tree()) if not (ROOT / name).exists()] == []


def test_the_tree_leaves_nothing_out() -> None:
    folders = ("options", "models", "data", "util", "scripts", "datasets")
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.*"))]
    there = [file.relative_to(ROOT) for file in files if file.suffix in (".py", ".sh") and file.stem != "__init__"]
    named = tree()
    covered = [path for path in there if named & {path.as_posix(), *(f"{above.as_posix()}/" for above in path.parents)}]
    assert sorted(set(there) - set(covered)) == []


@pytest.mark.parametrize("heading", ["What the published code gets wrong", "What you can rely on"])
def test_every_claim_names_tests_that_exist(heading: str) -> None:
    section = README.split(f"\n## {heading}")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 7
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row.rstrip(" |").split(" | ")[-1])
        assert tests, f"no test is named: {row}"
        for file, function in tests:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert f"\ndef {function}(" in text, f"{file} has no {function}"
