"""visdom's front end: which package a file comes from, all or nothing, and what is said where it cannot be had."""

from __future__ import annotations

import importlib.metadata
import io
import socket
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.dashboard import front_end, serve
from scripts.dashboard.front_end import FromNpm, FrontEndError, ensure, is_complete, place, source_of
from scripts.dashboard.serve import ServerError, check_port, tornado_fault

pytest.importorskip("visdom", reason="visdom is not installed")
SOME = ("js/jquery.min.js", "js/plotly-plotly.min.js", "css/bootstrap.min.css", "fonts/classnames")


@pytest.mark.parametrize(
    ("path", "package", "file"),
    [
        ("jquery@3.1.1/dist/jquery.min.js", "jquery@3.1.1", "dist/jquery.min.js"),
        ("classnames@2.2.5", "classnames@2.2.5", "index.js"),
        ("plotly-2.11.1.min.js", "plotly.js-dist-min@2.11.1", "plotly.min.js"),
        ("d3.v3.min.js", "d3@3.5.17", "d3.min.js"),
        ("d3-selection-multi.v1.js", "d3-selection-multi@1.0.1", "build/d3-selection-multi.js"),
        ("ajax/libs/mathjax/2.7.5/config/Safe.js?V=2.7.5", "mathjax@2.7.5", "config/Safe.js"),
        ("ajax/libs/mathjax/3.2.2/es5/tex-mml-svg.js", "mathjax@3.2.2", "es5/tex-mml-svg.js"),
        ("b@3.3.7/dist/fonts/x.svg#x", "b@3.3.7", "dist/fonts/x.svg"),
    ],
)
def test_the_package_behind_an_address(path: str, package: str, file: str) -> None:
    assert source_of(f"https://example.org/{path}") == (package, file)


def test_an_address_that_names_no_package_is_an_error() -> None:
    with pytest.raises(FrontEndError, match=r"other\.js"):
        source_of("https://example.org/other.js")


def test_all_files_are_put_into_place(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "main.js").write_text("visdom's own")
    assert not is_complete(tmp_path)
    place(tmp_path, lambda address: address.encode())
    assert is_complete(tmp_path)
    assert all(b"//" in (tmp_path / name).read_bytes() for name in SOME)
    assert list(tmp_path.rglob("MathJax.js") or tmp_path.rglob("tex-mml-svg.js"))
    assert (tmp_path / "js" / "main.js").read_text() == "visdom's own"


def test_one_file_that_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    def fetch(address: str) -> bytes:
        if "plotly" in address:
            raise FrontEndError("gone")
        return b"x"

    with pytest.raises(FrontEndError, match="gone"):
        place(tmp_path, fetch)
    assert list(tmp_path.iterdir()) == []


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], fails: str = "") -> Path:
    """An `npm` that packs the same files whatever it is asked for, and counts how often."""
    packed = folder / "made.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    script = f'#!/bin/sh\necho "$6" >> {folder}/asked\n'
    script += f"echo '{fails}' >&2; exit 1\n" if fails else f'cp {packed} "$5/x.tgz"\n'
    (folder / "npm").write_text(script)
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "asked"


def test_files_out_of_npm_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_npm(tmp_path, monkeypatch, {"a.js": b"A", "b/c.css": b"C"})
    (tmp_path / "work").mkdir()
    npm = FromNpm(tmp_path / "work")
    assert npm("https://example.org/p@1.0/a.js") == b"A"
    assert npm("https://example.org/p@1.0/b/c.css") == b"C"
    assert asked.read_text().split() == ["p@1.0"], "each package is fetched once"
    with pytest.raises(FrontEndError, match=r"the npm package q@2\.0 holds no z\.js"):
        npm("https://example.org/q@2.0/z.js")


def test_without_web_and_npm_it_is_said_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_web(address: str) -> bytes:
        raise FrontEndError(f"{address}: Name or service not known")

    fake_npm(tmp_path, monkeypatch, {}, fails="npm ERR! code E404")
    monkeypatch.setattr(front_end, "static_folder", lambda: tmp_path / "static")
    monkeypatch.setattr(front_end, "from_the_web", no_web)
    with pytest.raises(FrontEndError) as caught:
        ensure(lambda line: None)
    lines = str(caught.value).splitlines()
    assert "Name or service not known" in lines[1]
    assert "npm ERR! code E404" in lines[2]
    assert "scripts/visdom.sh --fetch" in lines[3]
    assert str(tmp_path / "static") in lines[3]
    assert "--sinks tensorboard" in lines[3]


def test_a_server_that_runs_already_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"--port {port}: something answers there already"):
            check_port(port)
    check_port(port)


@pytest.mark.parametrize(("version", "bad"), [("6.5.10", False), ("6.4.2", False), ("6.6", True), ("7.0.1", True)])
def test_the_tornado_under_which_pages_are_forbidden(version: str, bad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert ("403" in tornado_fault()) is bad
    if bad:
        with pytest.raises(FrontEndError, match="403"):
            serve.main(["--port", "1"])


def test_the_server_answers_this_machine_only_and_does_not_reload_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from visdom.server import app, run_server

    words: list[str] = []

    def run(print_func: Callable[[int], None]) -> None:
        words.extend(sys.argv[1:])
        print("It's Alive!")
        print_func(1234)

    monkeypatch.setattr(run_server, "main", run)
    monkeypatch.delitem(app.tornado_settings, "autoreload", raising=False)
    serve.serve(1234, tmp_path)
    assert words[:5] == ["-port", "1234", "-bind_local", "-env_path", str(tmp_path)]
    assert app.tornado_settings["autoreload"] is False
    assert capsys.readouterr().out.startswith("visdom: open http://localhost:1234 in a browser")
