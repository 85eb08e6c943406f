"""How a file came about: the command, when, on what, by which state of this program. No names of user or machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import torch

from util.errors import printable

ROOT = Path(__file__).resolve().parents[1]


def provenance(device: torch.device) -> dict[str, str]:
    """`command`, `date` (UTC), `python`, `device`, and `commit` where the program lies in a git repository of its own.

    In the command the home folder, which holds the user's name, is written `~`.
    """
    found = {
        "command": _without_home(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    return found | ({"commit": commit} if (commit := commit_of(ROOT)) else {})


@cache
def commit_of(folder: Path) -> str:
    """The commit of a repository's folder, ending in `-dirty` where files differ from it; empty where it is none."""
    if not (folder / ".git").exists():  # a folder above it may be a repository, of something else
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a folder of another owner
        return ""
    return printable(done.stdout.strip())


def _without_home(command: str) -> str:
    try:
        home = str(Path.home())
    except RuntimeError:
        return printable(command)
    return printable(command.replace(home, "~") if len(home) > 1 else command)
