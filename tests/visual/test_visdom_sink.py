"""visdom: training is never held up, an outage costs one warning, and all is drawn once a server is there."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from util.visual.base import Moment
from util.visual.progress import Plan
from util.visual.visdom_sink import MAX_POINTS, Curve, VisdomSink, connect, curve_arrays

needs_visdom = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import visdom"], capture_output=True, check=False).returncode != 0,
    reason="visdom is not installed",
)
# visdom 0.2.4 itself calls a deprecated method of its logger.
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
PICTURE = np.zeros((16, 24, 3), np.uint8)


def at(step: int) -> Moment:
    return Moment(2, step, step, step, 0.1, 0.1)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    """Wait for a condition; False when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class FakeBoard:
    """A client whose server can be switched off; keeps what is drawn."""

    def __init__(self) -> None:
        self.up = True
        self.lines: list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]] = []
        self.pictures: list[tuple[str, np.ndarray, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.lost: set[str] = set()  # windows that a restart has cost
        self.connections = 0

    def make(self, server: str, port: int, env: str, seconds: float) -> FakeBoard:
        self.connections += 1
        if not self.up:
            raise ConnectionError("Error connecting") from ConnectionRefusedError("refused")
        return self

    def line(self, Y: np.ndarray, X: np.ndarray, win: str, opts: dict[str, Any]) -> None:
        if not self.up:
            raise ConnectionError("gone")
        self.lines.append((win, X, Y, opts))

    def image(self, img: np.ndarray, win: str, opts: dict[str, Any]) -> None:
        self.pictures.append((win, img, opts))

    def text(self, text: str, win: str, opts: dict[str, Any]) -> None:
        self.texts.append(text)

    def win_exists(self, win: str) -> bool:
        return win not in self.lost

    def last(self, window: str) -> tuple[list[float], list[str]]:
        """The steps and the legend of the newest drawing of a window."""
        _, x, _, opts = next(line for line in reversed(self.lines) if line[0] == window)
        return x[:, 0].tolist(), opts["legend"]


def quick(board: FakeBoard, said: list[str], **options: Any) -> VisdomSink:
    return VisdomSink(
        "run",
        make_client=board.make,
        report=said.append,
        retry_seconds=0.05,
        interval_seconds=0.01,
        **options,
    )


# ---- what is drawn ----


@needs_visdom
def test_windows_legends_and_pictures() -> None:
    board, said = FakeBoard(), list[str]()
    sink = quick(board, said, display_id=3, ncols=2)
    sink.scalars(at(10), {"G_GAN": 1.0, "D_real": 2.0, "NCE": 3.0, "CAM": 4.0, "lr": 5.0})
    sink.scalars(at(20), {"G_GAN": 1.5, "D_real": math.nan})
    sink.images(at(20), {"real_A": PICTURE, "fake_B": PICTURE[..., :1]})
    sink.close()
    assert board.last("3_adversarial") == ([10, 20], ["G_GAN", "D_real"])
    _, x, y, opts = next(line for line in reversed(board.lines) if line[0] == "3_adversarial")
    np.testing.assert_array_equal(x, [[10, 10], [20, math.nan]])
    np.testing.assert_array_equal(y, [[1, 2], [1.5, math.nan]])
    assert opts["title"] == "run: adversarial"
    assert {line[0] for line in board.lines} == {"3_adversarial", "3_contrastive", "3_cam", "3_learning rate"}
    (window, grid, picture_opts) = board.pictures[-1]
    assert window == "3_pictures"
    assert grid.shape[0] == 3
    assert grid.shape[2] > 2 * 24
    assert "epoch 2, step 20" in picture_opts["title"]
    assert said == ["visdom: drawing at http://localhost:8097/env/main"]


@needs_visdom
def test_one_window_for_each_picture_without_columns() -> None:
    board = FakeBoard()
    sink = quick(board, [], ncols=0)
    sink.images(at(1), {"real_A": PICTURE, "fake_B": PICTURE[..., 0]})
    sink.close()
    assert {window: picture.shape for window, picture, _ in board.pictures} == {
        "1_real_A": (3, 16, 24),
        "1_fake_B": (3, 16, 24),
    }


@needs_visdom
def test_a_resumed_run_goes_on_with_its_curves() -> None:
    board = FakeBoard()
    history = [{**vars(at(step)), "NCE": 1.0, "CAM": None} for step in (10, 20)]
    sink = quick(board, [], history=history)
    sink.scalars(at(30), {"NCE": 1.0})
    sink.close()
    assert board.last("1_contrastive")[0] == [10, 20, 30]
    assert "1_cam" not in {line[0] for line in board.lines}


def test_off() -> None:
    threads, board = threading.active_count(), FakeBoard()
    sink = quick(board, [], display_id=0)
    sink.scalars(at(1), {"NCE": 1.0})
    sink.images(at(1), {"a": PICTURE})
    sink.close()
    assert threading.active_count() == threads
    assert board.connections == 0


def test_visdom_not_installed_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    board, said = FakeBoard(), list[str]()
    sink = quick(board, said)
    sink.scalars(at(1), {"NCE": 1.0})
    sink.close()
    assert len(said) == 1
    assert "not installed" in said[0]
    assert board.connections == 0


def test_the_address_of_the_page() -> None:
    sink = VisdomSink("run", server="http://host", port=9, env="exp/run 1", display_id=0)
    assert sink.url == "http://host:9/env/exp_run%201"


def test_a_long_curve_stays_small_even_and_ends_exactly() -> None:
    for length in (1, 7, MAX_POINTS, MAX_POINTS + 1, 5 * MAX_POINTS + 3, 40 * MAX_POINTS + 17):
        curve = Curve()
        for step in range(length):
            curve.add(step, -step)
        steps = [step for step, _ in curve.points]
        assert len(steps) <= MAX_POINTS
        assert len(steps) >= min(length, MAX_POINTS // 2)
        assert steps[0] == 0
        assert curve.points[-1] == (length - 1, -(length - 1))
        assert len(set(np.diff(steps)[:-1])) <= 1, "even, but for the last point"


def test_curve_arrays_pad_at_the_end() -> None:
    x, y = curve_arrays([[(1, 2.0)], [(1, 3.0), (5, 4.0)]])
    np.testing.assert_array_equal(x, [[1, 1], [math.nan, 5]])
    np.testing.assert_array_equal(y, [[2, 3], [math.nan, 4]])


@needs_visdom
def test_titles_progress_and_maps() -> None:
    board = FakeBoard()
    sink = quick(board, [], env="group_run", plan=Plan(40, 4), ncols=2)
    sink.scalars(at(10), {"NCE": 1.0, "grad_NCE": 30.0})
    sink.images(at(10), {"real_A": PICTURE, "cam_A": PICTURE})
    sink.close()
    titles = {line[0]: line[3]["title"] for line in board.lines}
    assert titles == {"1_contrastive": "run: contrastive", "1_gradients": "run: gradients"}
    scales = {line[0]: line[3]["ytype"] for line in board.lines}
    assert scales == {"1_contrastive": "linear", "1_gradients": "log"}
    assert "10 of 40 (25.0%)" in board.texts[-1]
    assert [window for window, _, _ in board.pictures] == ["1_pictures", "1_maps"]
    own = FakeBoard()
    sink = VisdomSink("run", env="run", make_client=own.make, report=lambda message: None)
    sink.scalars(at(10), {"NCE": 1.0})
    sink.close()
    assert own.lines[-1][3]["title"] == "contrastive", "one title for all runs, so that the page compares them"
    assert own.texts == [], "no plan, no window of progress"


@needs_visdom
def test_pictures_of_a_server_that_was_restarted_unnoticed_are_drawn_again() -> None:
    board = FakeBoard()
    sink = quick(board, [])
    sink.scalars(at(1), {"NCE": 1.0})
    sink.images(at(1), {"real_A": PICTURE})
    assert until(lambda: board.pictures)
    board.lost.add("1_pictures")
    sink.scalars(at(2), {"NCE": 1.0})
    sink.close()
    assert [window for window, _, _ in board.pictures] == ["1_pictures"] * 2


# ---- outages ----


@needs_visdom
def test_an_outage_costs_one_warning_and_one_line_and_no_point() -> None:
    board, said = FakeBoard(), list[str]()
    sink = quick(board, said)
    sink.scalars(at(1), {"NCE": 1.0})
    assert until(lambda: board.lines)
    board.up = False
    for step in range(2, 12):
        sink.scalars(at(step), {"NCE": float(step)})
        sink.images(at(step), {"a": np.full((4, 4), step, np.uint8)})
    assert until(lambda: board.connections >= 4), "it goes on probing, with nothing new to draw"
    assert len(said) == 2
    assert "bash scripts/visdom.sh" in said[1]
    assert sink.url in said[1]
    board.up = True
    assert until(lambda: len(said) == 3)
    sink.close()
    assert said[2] == f"visdom: back, drawing at {sink.url}"
    assert board.last("1_contrastive")[0] == list(range(1, 12)), "whole, and in order"
    assert len(board.pictures) == 1, "only the newest pictures"
    assert 11 in board.pictures[0][1]
    board.up = False


@needs_visdom
def test_probing_leaves_the_server_alone_in_between() -> None:
    board = FakeBoard()
    board.up = False
    sink = VisdomSink("run", make_client=board.make, report=lambda message: None, retry_seconds=30)
    for step in range(50):
        sink.scalars(at(step), {"NCE": 1.0})
        time.sleep(0.004)
    assert board.connections == 1
    start = time.monotonic()
    sink.close()
    assert time.monotonic() - start < 1


@needs_visdom
def test_a_slow_server_gets_the_newest_and_holds_nobody_up() -> None:
    class Slow(FakeBoard):
        def line(self, Y: np.ndarray, X: np.ndarray, win: str, opts: dict[str, Any]) -> None:
            time.sleep(0.2)
            super().line(Y, X, win, opts)

    board, said = Slow(), list[str]()
    sink = quick(board, said)
    worst = 0.0
    for step in range(60):
        start = time.monotonic()
        sink.scalars(at(step), {"NCE": 1.0})
        worst = max(worst, time.monotonic() - start)
        time.sleep(0.01)
    sink.close()
    assert worst < 0.15, "shorter than one of the server's answers"
    assert len(board.lines) < 10, "many steps in one drawing"
    assert board.last("1_contrastive")[0] == list(range(60))
    assert said == [f"visdom: drawing at {sink.url}"]


@needs_visdom
def test_nothing_runs_before_the_first_news() -> None:
    """Loading processes are forked in between; a fork during the import of visdom could leave them waiting."""
    threads, board = threading.active_count(), FakeBoard()
    sink = quick(board, [], history=[{**vars(at(10)), "NCE": 1.0}])
    assert threading.active_count() == threads
    sink.scalars(at(20), {"NCE": 2.0})
    sink.close()
    assert board.last("1_contrastive")[0] == [10, 20]
    unused = quick(board, [], history=[{**vars(at(10)), "NCE": 1.0}])
    unused.close()


@needs_visdom
def test_whatever_the_client_raises_stays_in_the_worker() -> None:
    class Broken(FakeBoard):
        def line(self, Y: np.ndarray, X: np.ndarray, win: str, opts: dict[str, Any]) -> None:
            raise TypeError("a bug in visdom")

    board, said = Broken(), list[str]()
    sink = quick(board, said)
    sink.scalars(at(1), {"NCE": 1.0})
    assert until(lambda: said)
    sink.scalars(at(2), {"NCE": 1.0})
    sink.close()
    assert "a bug in visdom" in said[0]


# ---- over a real socket ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@needs_visdom
def test_a_server_that_never_answers_costs_milliseconds() -> None:
    said: list[str] = []
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(50)  # connections succeed, and nothing is ever read
        port = deaf.getsockname()[1]
        sink = VisdomSink("run", "http://127.0.0.1", port, timeout_seconds=1.5, close_seconds=0.2, report=said.append)
        worst = 0.0
        for step in range(20):
            start = time.monotonic()
            sink.scalars(at(step), {"NCE": 1.0})
            sink.images(at(step), {"a": PICTURE})
            worst = max(worst, time.monotonic() - start)
        assert worst < 0.5
        assert until(lambda: said), "the request has its time limit"
        assert "imed out" in said[0]
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 1


class Handler(BaseHTTPRequestHandler):
    """Answers every POST as visdom does, and keeps (path, body)."""

    posts: list[tuple[str, dict[str, Any]]]
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.posts.append((self.path, body))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@contextmanager
def fake_server(port: int, status: int = 200) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    posts: list[tuple[str, dict[str, Any]]] = []
    handler = type("ThisHandler", (Handler,), {"posts": posts, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield posts
        finally:
            server.shutdown()
            thread.join()


@needs_visdom
def test_a_server_that_comes_up_later_gets_everything(capfd: pytest.CaptureFixture[str]) -> None:
    port, said = free_port(), list[str]()
    sink = VisdomSink(
        "run", "http://127.0.0.1", port, env="e", retry_seconds=0.1, interval_seconds=0.01, report=said.append
    )
    for step in range(5):
        sink.scalars(at(step), {"NCE": step / 2, "D_real": 1.0})
        sink.images(at(step), {"a": PICTURE})
    assert until(lambda: said)
    with fake_server(port) as posts:
        assert until(lambda: len(said) == 2)
        sink.scalars(at(5), {"NCE": 2.5})
        sink.close()
    events = [body for path, body in posts if path == "/events"]
    drawn = [body for body in events if body["win"] == "1_contrastive"]
    assert [event["data"][0]["x"] for event in drawn] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert drawn[-1]["data"][0]["y"] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert drawn[-1]["data"][0]["name"] == "NCE"
    assert {body["eid"] for body in events} == {"e"}
    assert [body["win"] for body in events].count("1_pictures") == 1
    assert len(said) == 2, said
    printed = capfd.readouterr()
    assert printed.out == printed.err == "", "visdom's own tracebacks and log lines are silent"


@needs_visdom
def test_an_error_answer_counts_as_away() -> None:
    port, said = free_port(), list[str]()
    with fake_server(port, status=403):
        sink = VisdomSink("run", "http://127.0.0.1", port, report=said.append)
        sink.scalars(at(1), {"NCE": 1.0})
        assert until(lambda: said)
        sink.close()
    assert "403" in said[0]


@needs_visdom
def test_a_real_server(tmp_path: Path) -> None:
    port, said = free_port(), list[str]()
    command = "from visdom.server.run_server import main; main()"  # past visdom's download of its front end
    options = ["-port", str(port), "-bind_local", "-env_path", str(tmp_path)]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-c", command, *options], stdout=log, stderr=log)
    try:
        if not until(lambda: listening(port) or server.poll() is not None, 60) or server.poll() is not None:
            pytest.skip(f"visdom's server does not start here: {(tmp_path / 'server.log').read_text()[-300:]}")
        sink = VisdomSink("run", "http://127.0.0.1", port, env="t", close_seconds=30, report=said.append)
        for step in (1, 2, 3):
            sink.scalars(at(step), {"G_GAN": step / 4, "NCE": 1.0})
        sink.images(at(3), {"real_A": PICTURE})
        sink.close()
        client: Any = connect("http://127.0.0.1", port, "t", 5.0)
        windows = json.loads(client.get_window_data())
        assert set(windows) == {"1_adversarial", "1_contrastive", "1_pictures"}
        (curve,) = windows["1_adversarial"]["content"]["data"]
        assert (curve["name"], curve["x"], curve["y"]) == ("G_GAN", [1, 2, 3], [0.25, 0.5, 0.75])
        assert windows["1_pictures"]["content"]["src"].startswith("data:image/png;base64,")
        assert said == [f"visdom: drawing at {sink.url}"]
    finally:
        server.kill()
        server.wait()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
