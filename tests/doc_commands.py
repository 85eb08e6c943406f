"""Commands of README.md and docs/: found, read by the scripts' own parsers, and run in miniature."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import train
from options.parse import train_options
from tests.commands import _test_script
from tests.conftest import TINY
from util.errors import UserError, exit_code

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "datasets/README.md"]
# Stands before a block whose commands a test runs in miniature, one after the other.
RUN = "<!-- run in tests -->\n"
# Programs that are not ours: their words are not looked into.
OTHERS = {
    *("ssh", "pip", ".", "source", "cd", "cp", "mv", "mkdir", "ls", "export", "scp", "rsync"),
    *("tar", "unzip", "visdom", "tensorboard", "jupyter", "sbatch", "srun", "podman", "docker", "df", "nvidia-smi"),
    *("git", "uv", "cat", "head", "tail", "echo", "npm", "apt-get"),
}
MODULES = {
    *("pip", "venv", "pytest", "visdom.server", "tensorboard.main", "torch.distributed.run"),
    "tests.options.test_flags",
}


@dataclass(frozen=True)
class Command:
    """One line of a ```bash block, continued lines joined.

    Attributes:
        words: without comment, leading assignments (`OMP_NUM_THREADS=1`) and redirection.
        output: the file that what it prints goes to.
        run: it stands in a block marked to be run.
    """

    page: str
    text: str
    words: list[str]
    output: str = ""
    run: bool = False

    @property
    def file(self) -> str:
        """The script of ours that it starts, relative to the repository; empty: none."""
        found = [word for word in self.words[1:] if word.endswith(".py")]
        starts = self.words[0] in ("torchrun", "srun") or Path(self.words[0]).name in ("python", "python3")
        return found[0] if starts and found and "-c" not in self.words[:2] else ""

    @property
    def arguments(self) -> list[str]:
        """What the script gets."""
        return self.words[self.words.index(self.file) + 1 :]

    def value(self, flag: str) -> str | None:
        """The value of `--flag VALUE` or `--flag=VALUE`, if given."""
        for word, following in zip(self.words, [*self.words[1:], ""], strict=True):
            if word == f"--{flag}":
                return following
            if word.startswith(f"--{flag}="):
                return word.split("=", 1)[1]
        return None


def commands_in(page: str, text: str) -> Iterator[Command]:
    """The commands of a page's ```bash blocks."""
    for mark, block in re.findall(rf"({re.escape(RUN)})?```bash\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and words[-1] == "&":
                words = words[:-1]
            output = ""
            if ">" in words:
                words, output = words[: words.index(">")], words[words.index(">") + 1]
            if words:
                yield Command(page, line.strip(), words, output, bool(mark))


def commands() -> list[Command]:
    """Those of all pages."""
    return [c for page in PAGES for c in commands_in(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"))]


class Parsed(Exception):
    """The script has read its arguments, and would begin."""


def module_of(file: str) -> ModuleType:
    """A script as a module."""
    if file == "test.py":
        return _test_script()
    if file.startswith("datasets/"):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(ROOT / "datasets")
            return importlib.import_module(Path(file).stem)
    return importlib.import_module(file.removesuffix(".py").replace("/", "."))


def call(
    module: ModuleType, file: str, words: list[str], home: Path, patch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Exit status, output and complaints of a script that runs in this process, in the folder `home`."""
    out, err = io.StringIO(), io.StringIO()
    patch.setattr(sys, "argv", [file, *words])
    patch.chdir(home)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = exit_code(module.main)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def read(command: Command, home: Path) -> str:
    """Let the script read its arguments, and go no further; returns what it printed.

    Raises:
        AssertionError: the script does not take these arguments.
    """

    def parse_only(self: argparse.ArgumentParser, words: list[str] | None = None, *rest: object) -> None:
        parse(self, words)
        raise Parsed

    if command.file == "scripts/doctor.py":
        return _read_by_doctor(command)
    parse, looked = argparse.ArgumentParser.parse_args, []

    def dry(options: Callable[..., Any]) -> Callable[..., Any]:
        """The reader of a run's options, which prints them and goes no further."""

        def stopping(*given: Any, argv: Sequence[str] | None = None, **named: Any) -> Any:
            looked.append(options)
            return options(*given, argv=[*(sys.argv[1:] if argv is None else argv), "--dry_run"], **named)

        return stopping

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        module = module_of(command.file)
        for place in (module, train):
            for name in ("inference_options", "train_options"):
                if hasattr(place, name):
                    patch.setattr(place, name, dry(getattr(place, name)))
        try:
            status, out, err = call(module, command.file, command.arguments, home, patch)
        except Parsed:
            return ""
        except UserError as error:
            raise AssertionError(f"{command.page}: {command.text}: {error}") from error
    if re.search(r"^error: \S+\.pth: does not exist", err):  # its arguments were read: a file of the user's comes next
        keep(_options_of_import(command), home)
        return ""
    assert status == 0, f"{command.page}: {command.text}: {err}"
    assert looked or "--help" in command.words, f"{command.page}: {command.text}: began without a look at its arguments"
    if command.output:
        (home / command.output).write_text(out, "utf-8")
    return out


def _read_by_doctor(command: Command) -> str:
    """It hands on what it does not know to train.py, and looks at the machine where nothing is left."""
    own = argparse.ArgumentParser(allow_abbrev=False)
    own.add_argument("--steps", type=int)
    own.add_argument("--json", action="store_true")
    _, words = own.parse_known_args(command.arguments)
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as end:
        train_options([*words, "--dry_run"])
    assert not end.value.code, f"{command.page}: {command.text}"
    return ""


def _options_of_import(command: Command) -> str:
    """What the run that scripts/import_weights.py would make says of itself."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        train_options([*command.arguments[1:], "--dataroot", "none", "--dry_run"])
    return out.getvalue()


def keep(options: str, home: Path) -> None:
    """Put what a training printed by --dry_run where commands that use the run find it."""
    place, name = (re.findall(rf"^{key}: (\S+)$", options, re.M)[0] for key in ("checkpoints_dir", "name"))
    (home / place / name).mkdir(parents=True, exist_ok=True)
    (home / place / name / "options.yaml").write_text(options, "utf-8")


def check_other(command: Command) -> None:
    """A command that starts no script of ours in Python: a shell script, a module, or somebody else's program."""
    first, rest = Path(command.words[0]).name or ".", command.words[1:]
    where = f"{command.page}: {command.text}"
    if first in ("bash", "sh"):
        subprocess.run(["bash", "-n", str(ROOT / rest[0])], check=True)
    elif first in ("python", "python3") and rest[:1] == ["-m"]:
        assert rest[1] in MODULES, where
    elif first in ("python", "python3") and rest[:1] == ["-c"]:
        compile(rest[1], where, "exec")
    else:
        assert first in OTHERS, f"{where}: neither a script of ours nor a program known here"
    for flag in ("-r", "-c"):
        if first == "pip" and flag in rest:
            assert (ROOT / rest[rest.index(flag) + 1]).is_file(), where


SMALL: dict[str, tuple[str, ...]] = {
    "train.py": (*TINY, "--n_epochs", "1", "--n_epochs_decay", "0", "--batch_size", "2"),
    "test.py": ("--num_test", "2", "--gpu_ids", "-1"),
    "cam_infer.py": ("--num_test", "2", "--gpu_ids", "-1"),
    "scripts/evaluate.py": ("--num_test", "3", "--gpu_ids", "-1", "--quiet", "--report_images", "2"),
    "datasets/make_infrared.py": ("--size", "40", "--train", "6", "--test", "3", "--classes", "car,bus,tank"),
}


def run_small(command: Command, home: Path) -> str:
    """Run a command with sizes that take a second or two; returns what it printed.

    Raises:
        AssertionError: it ends with another status than 0.
    """
    words = [*command.arguments, *SMALL.get(command.file, ())]
    if command.file == "train.py":
        words += ["--max_iters", "2"]
        if "--continue_train" in words:
            words += ["--max_iters", "3", "--n_epochs", "3"]
    with pytest.MonkeyPatch.context() as patch:
        status, out, err = call(module_of(command.file), command.file, words, home, patch)
    assert status == 0, f"{command.page}: {command.text}: {err}"
    return out
