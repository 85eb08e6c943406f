"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from util.files import write_atomic


def test_replaces_and_makes_folders(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(target, b"old")
    write_atomic(target, b"new", durable=True)
    assert target.read_bytes() == b"new"
    assert [file.name for file in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("step", ["fdopen", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "file.txt"
    write_atomic(target, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"util.files.os.{step}", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, b"new", durable=True)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    write_atomic(tmp_path / "ours", b"")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(plain).st_mode
