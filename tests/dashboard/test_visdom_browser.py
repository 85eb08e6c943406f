"""A training's curves in a real browser, from a real visdom server, which is then started anew."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.dashboard import front_end
from tests.conftest import DataMaker, Trained
from tests.headless import CHROMIUM, Browser
from util.visual.base import Moment
from util.visual.progress import Plan
from util.visual.visdom_sink import VisdomSink, connect

ROOT = Path(__file__).resolve().parents[2]
HERE = "http://127.0.0.1"
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # visdom 0.2.4's own


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.05)


class Server:
    """`scripts/visdom.sh` on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.start()

    def start(self) -> None:
        log = self._folder / "server.log"
        command = ["bash", "scripts/visdom.sh", "--port", str(self.port), "--env_path", str(self._folder / "envs")]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        until(lambda: self._process.poll() is not None or "Ctrl-C" in log.read_text())
        assert self._process.poll() is None, log.read_text()
        until(self.answers)
        assert f"http://localhost:{self.port}" in log.read_text()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{HERE}:{self.port}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def windows(self, env: str) -> dict[str, Any]:
        client: Any = connect(HERE, self.port, env, 5.0)
        found: dict[str, Any] = json.loads(client.get_window_data() or "{}")
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if importlib.util.find_spec("visdom") is None:
        pytest.skip("visdom is not installed")
    if not front_end.is_complete(front_end.static_folder()):
        pytest.skip("visdom's front end is not there: bash scripts/visdom.sh --fetch")
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    (tmp_path / "downloads").mkdir()
    found = Browser(tmp_path)
    yield found
    found.close()


def test_twenty_steps_draw_their_curves_in_a_browser(
    server: Server, browser: Browser, train_run: Trained, data: DataMaker
) -> None:
    flags = ("--display_id", 1, "--display_port", server.port, "--max_iters", 20, "--display_freq", 5)
    folder = train_run("here", data(count=(20, 20)), *flags)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(1, 21))

    browser.page("Page.navigate", url=f"{HERE}:{server.port}/env/run")
    browser.wait_for("document.querySelectorAll('.js-plotly-plot').length >= 4")
    drawn = browser.run(
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data.map(d => [d.name, [...d.x], [...d.y]]))"
    )
    curves = {name: (x, y) for name, x, y in drawn}
    assert {"D_real", "D_fake", "G_GAN", "NCE", "NCE_Y", "G", "lr"} <= set(curves)
    for name in ("NCE", "D_real"):
        assert curves[name][0] == list(range(1, 21))
        np.testing.assert_allclose(curves[name][1], [row[name] for row in logged])
    # Not only known to the page: lines of some length on the screen, and their names.
    browser.wait_for("document.querySelectorAll('path.js-line').length >= 7")
    assert browser.run("[...document.querySelectorAll('path.js-line')].every(p => p.getTotalLength() > 20)")
    assert browser.run("[...document.querySelectorAll('.legendtext')].some(t => t.textContent === 'NCE_Y')")
    browser.wait_for("document.body.innerText.includes('20 of 20 (100.0%)')")
    browser.wait_for("[...document.images].some(i => i.src.startsWith('data:image/png') && i.naturalWidth > 100)")


def test_a_restarted_server_gets_every_window_again(server: Server) -> None:
    said: list[str] = []
    sink = VisdomSink(
        "again",
        HERE,
        server.port,
        env="again",
        retry_seconds=0.2,
        interval_seconds=0.01,
        plan=Plan(100, 5),
        report=said.append,
    )
    sink.scalars(Moment(1, 1, 1, 1, 0.1, 0.1), {"NCE": 1.0})
    sink.images(Moment(1, 1, 1, 1, 0.1, 0.1), {"real_A": np.zeros((8, 8, 3), np.uint8)})
    wanted = {"1_progress", "1_contrastive", "1_pictures"}
    until(lambda: set(server.windows("again")) == wanted)
    server.stop()
    server.start()  # nothing was sent meanwhile, so that nobody has noticed
    assert server.windows("again") == {}
    sink.scalars(Moment(1, 2, 2, 2, 0.1, 0.1), {"NCE": 2.0})
    until(lambda: set(server.windows("again")) == wanted)
    sink.close()
    (curve,) = server.windows("again")["1_contrastive"]["content"]["data"]
    assert (curve["x"], curve["y"]) == ([1, 2], [1, 2])
    assert server.windows("again")["1_contrastive"]["title"] == "contrastive", (
        "one title for all runs: they are compared"
    )
