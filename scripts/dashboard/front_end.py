"""visdom's front end (its scripts, styles and fonts), which its package lacks: found, fetched, put into place.

visdom fetches it from several web sites when it first starts, and ends with a traceback where it cannot. Here its own
list of files is gone through in a folder beside, with a time limit for each, and only a complete set is put into place.
Where the sites are out of reach but npm works (a mirror inside a company, say), each file is taken from the npm package
that its address names.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from util.errors import UserError

Fetch = Callable[[str], bytes]  # the content behind an address; OSError or FrontEndError where it cannot be had
STAMP = "version.built"  # visdom looks for its own version in there
SECONDS = 15.0  # for one file from the web
PACK_SECONDS = 120.0  # for one npm package

# A pattern searched in the address without its scheme, the npm package behind it, and the file inside that package.
# The versions of the last two are those that visdom 0.2.4 and 0.3.0 were made for; their addresses name none.
SOURCES: tuple[tuple[str, str, str], ...] = (
    (r"^[^/]+/([\w-]+@[\d.]+)/([^#?]+)", r"\1", r"\2"),
    (r"^[^/]+/([\w-]+@[\d.]+)$", r"\1", "index.js"),
    (r"/plotly-([\d.]+)\.min\.js", r"plotly.js-dist-min@\1", "plotly.min.js"),
    (r"/mathjax/([\d.]+)/([^?#]+)", r"mathjax@\1", r"\2"),
    (r"/d3\.v3\.min\.js", "d3@3.5.17", "d3.min.js"),
    (r"/d3-selection-multi\.v1\.js", "d3-selection-multi@1.0.1", "build/d3-selection-multi.js"),
)


class FrontEndError(UserError):
    """The front end cannot be had, or cannot be put into place."""


def static_folder() -> Path:
    """Where visdom looks for its front end.

    Raises:
        FrontEndError: visdom is not installed.
    """
    try:
        visdom: Any = importlib.import_module("visdom")
    except ImportError as error:
        raise FrontEndError("visdom is not installed; bash scripts/setup.sh installs it") from error
    return Path(visdom.__file__).parent / "static"


def is_complete(static: Path) -> bool:
    """Whether a whole set for the installed version of visdom is there."""
    stamp = static / STAMP
    return stamp.is_file() and stamp.read_text().strip() == importlib.import_module("visdom").__version__


def place(static: Path, fetch: Fetch) -> None:
    """Fetch every file that visdom lists and put them into `static`, the stamp last.

    Raises:
        OSError, FrontEndError: a file cannot be had; nothing was changed then. Or `static` cannot be written.
    """
    build: Any = importlib.import_module("visdom.server.build")
    with tempfile.TemporaryDirectory() as folder, _answered(build, fetch), redirect_stdout(io.StringIO()):
        build.download_scripts(install_dir=folder)
        made = Path(folder) / "static"
        stamp = (made / STAMP).read_bytes()
        (made / STAMP).unlink()
        shutil.copytree(made, static, dirs_exist_ok=True)
    (static / STAMP).write_bytes(stamp)


@contextmanager
def _answered(build: Any, fetch: Fetch) -> Iterator[None]:
    """visdom's download with every address answered by `fetch`. It asks by urllib, and for MathJax by requests."""

    def by_urllib(asked: urllib.request.Request) -> io.BytesIO:
        return io.BytesIO(fetch(asked.full_url))

    def by_requests(address: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(content=fetch(address))

    opener = SimpleNamespace(open=by_urllib)
    # In place of the name alone: urllib itself stays as it is, for `fetch` to use.
    urllib_here = SimpleNamespace(
        **{name: getattr(build.request, name) for name in ("Request", "BaseHandler", "ProxyHandler")},
        build_opener=lambda *_: opener,
        install_opener=lambda _: None,
    )
    requests: Any = importlib.import_module("requests")
    with mock.patch.object(build, "request", urllib_here), mock.patch.object(requests, "get", by_requests):
        yield


def from_the_web(address: str) -> bytes:
    """The content of an address.

    Raises:
        FrontEndError: no answer in time, or an error as an answer.
    """
    asked = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0"})  # some sites refuse Python's own
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except OSError as error:  # URLError and time-outs are among them
        # visdom swallows an URLError; this one reaches whoever asked.
        raise FrontEndError(f"{address}: {getattr(error, 'reason', error)}") from error
    return content


def source_of(address: str) -> tuple[str, str]:
    """The npm package (`name@version`) and the file inside it that an address of visdom's list stands for.

    Raises:
        FrontEndError: it names none that is known.
    """
    path = address.partition("//")[2]
    for pattern, package, file in SOURCES:
        if found := re.search(pattern, path):
            return found.expand(package), found.expand(file)
    raise FrontEndError(f"{address}: is no file of an npm package that is known here")


class FromNpm:
    """Fetches files out of npm packages; each package is downloaded once, and nothing of it is run.

    Args:
        folder: for the packages; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packed: dict[str, Path] = {}

    def __call__(self, address: str) -> bytes:
        """The file that an address stands for.

        Raises:
            FrontEndError: npm is missing or fails, or the package lacks the file.
        """
        package, name = source_of(address)
        if package not in self._packed:
            self._packed[package] = self._download(package)
        with tarfile.open(self._packed[package]) as archive:
            try:
                member = archive.extractfile(f"package/{name}")
            except KeyError:
                member = None
            if member is None:
                raise FrontEndError(f"the npm package {package} holds no {name}")
            return member.read()

    def _download(self, package: str) -> Path:
        place = self._folder / str(len(self._packed))
        place.mkdir()
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(place), package]
        environment = {**os.environ, "npm_config_fetch_retries": "1", "npm_config_update_notifier": "false"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PACK_SECONDS, env=environment, check=False
            )
        except FileNotFoundError as error:
            raise FrontEndError("npm is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise FrontEndError(f"npm did not fetch {package} within {PACK_SECONDS:.0f} s") from error
        files = list(place.glob("*.tgz"))
        if done.returncode or len(files) != 1:
            reason = " ".join(done.stderr.split())[:200] or f"status {done.returncode}"
            raise FrontEndError(f"npm cannot fetch {package}: {reason}")
        return files[0]


def ensure(say: Callable[[str], None] = print) -> None:
    """Have the front end in place, from the web or else from npm.

    Raises:
        FrontEndError: neither works; the message says what can be done instead.
    """
    static = static_folder()
    if is_complete(static):
        return
    say("visdom's front end (3 to 10 MB) is not there yet; fetching it")
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        for where, fetch in (("the web", from_the_web), ("npm", FromNpm(Path(folder)))):
            try:
                place(static, fetch)
            except FrontEndError as error:
                reasons.append(f"{where}: {error}")
            except OSError as error:
                raise FrontEndError(
                    f"{error.filename or static}: {error.strerror or error}; {_instead(static)}"
                ) from error
            else:
                say(f"fetched from {where} into {static}")
                return
    raise FrontEndError("\n  ".join(["visdom's front end cannot be fetched:", *reasons, _instead(static)]))


def _instead(static: Path) -> str:
    return (
        "what helps: run `bash scripts/visdom.sh --fetch` where there is internet, with the same version of visdom, "
        f"and copy the folder that it names to {static}; or do without: the page web/index.html in the run's folder "
        "shows the same curves and pictures, and so does TensorBoard (--sinks tensorboard)"
    )
