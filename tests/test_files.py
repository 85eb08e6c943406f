"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from util.files import remove_leftovers, write_atomic


def test_replaces_and_makes_folders(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(target, b"old")
    write_atomic(target, b"new", durable=True)
    assert target.read_bytes() == b"new"
    assert [file.name for file in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "file.txt"
    write_atomic(target, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"util.files.os.{step}", fail)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(target, b"new", durable=True)
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    write_atomic(tmp_path / "ours", b"")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(plain).st_mode


def test_writes_that_the_system_takes_in_pieces_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit

    names = ("latest_state.pt", "a b.png", "no_suffix", "x" * 200 + ".csv", ".hidden")
    with monkeypatch.context() as patch:
        patch.setattr("util.files.os.replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for folder in (tmp_path, tmp_path / "web" / "images"):
            for name in names:
                with pytest.raises(SystemExit):
                    write_atomic(folder / name, b"")
    kept = (".part", "file.part", ".latest_state.pt.part", ".git.12345678.lock", ".a.1234567.part", "a.12345678.part")
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path.parent)
    assert remove_leftovers(tmp_path) == 2 * len(names)
    assert {path.name for path in tmp_path.rglob("*")} == {"web", "images", "link", *kept}
    assert remove_leftovers(tmp_path / "absent") == 0
