"""A visdom server that answers on this machine only: `bash scripts/visdom.sh [--port 8097]`.

Unlike visdom's own command it starts without internet once its front end is in place, says what to do where it is not,
and is not open to the network.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import logging
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from scripts.dashboard.front_end import FrontEndError, ensure, static_folder
from util.errors import UserError, exit_code

LOOPBACK = "127.0.0.1"


class ServerError(UserError):
    """The server cannot be started."""


def tornado_fault() -> str:
    """Why visdom's pages cannot be seen with the installed tornado; empty where they can."""
    try:
        version = importlib.metadata.version("tornado")
    except importlib.metadata.PackageNotFoundError:
        return "tornado is not installed, which visdom's server is made of; pip install 'tornado<6.6'"
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers >= (6, 6):
        return f"under tornado {version} every page of visdom answers 403; pip install 'tornado<6.6'"
    return ""


def check_port(port: int) -> None:
    """Raise ServerError where something listens on the port already."""
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, port)) == 0:
            raise ServerError(
                f"--port {port}: something answers there already, perhaps a visdom server that is running; "
                f"look at http://localhost:{port}, or give another port here and to train.py (--display_port)"
            )


def serve(port: int, env_path: Path) -> None:
    """Run the server until it is stopped.

    Args:
        env_path: folder of the environments that are saved from the page.
    """
    run_server: Any = importlib.import_module("visdom.server.run_server")
    # visdom asks for tornado's debug mode, which starts the server anew, empty, when a source file changes.
    importlib.import_module("visdom.server.app").tornado_settings["autoreload"] = False
    # Only options that visdom 0.2.4 and 0.3.0 share.
    words = ["visdom", "-port", str(port), "-bind_local", "-env_path", str(env_path), "-logging_level", "WARNING"]
    # Its pages ask for a style sheet of the user's that few have, and each time two loggers complain.
    for name in ("tornado.access", "tornado.general"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    console = sys.stdout

    def greet(port: int) -> None:
        name = socket.gethostname()
        print(f"visdom: open http://localhost:{port} in a browser; Ctrl-C ends the server", file=console)
        print(f"from another machine: ssh -L {port}:localhost:{port} {name}, then the same address there", file=console)
        console.flush()

    with mock.patch.object(sys, "argv", words), redirect_stdout(io.StringIO()):  # its own greeting names no address
        run_server.main(print_func=greet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the server; returns the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bash scripts/visdom.sh", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--port", type=int, default=8097, help="port of the page and of train.py's --display_port (8097)"
    )
    home = Path.home() / ".visdom"
    parser.add_argument("--env_path", type=Path, default=home, help="folder of saved environments (~/.visdom)")
    parser.add_argument("--fetch", action="store_true", help="only fetch the front end, and name its folder")
    given = parser.parse_args(arguments)
    if given.fetch:
        ensure()
        print(f"visdom's front end: {static_folder()}")
        return 0
    if fault := tornado_fault():
        raise FrontEndError(fault)
    check_port(given.port)
    ensure()
    serve(given.port, given.env_path)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
