"""Loss curves and pictures on a visdom server that may be slow, hang, be absent, or come and go.

The training thread only notes what is new; a worker thread draws. Every window is drawn whole, from all
values since the run began, so it never depends on what the server kept: an update that was missed, a server
that was started late or restarted empty, and a resumed run all end in the same picture.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlparse

import numpy as np

from util.visual.base import Moment, grouped, say
from util.visual.files import as_rgb
from util.visual.grid import captioned_grid
from util.visual.jsonl import values_of
from util.visual.progress import Plan, Progress

MAX_POINTS = 1000  # per curve: a screen shows no more, and what a redraw costs does not grow with the run
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Of windows, in pixels: three in a row on a screen 1,400 pixels wide.
WIDE, HIGH, LOW = 440, 280, 190
MARGINS = {"marginleft": 45, "marginright": 10, "margintop": 30, "marginbottom": 40}
LOG_SCALE = ("gradients",)  # these differ by powers of ten
# Two grids of pictures: those with a map laid over them have one of their own.
OVERLAYS = re.compile("cam|seeds", re.IGNORECASE)


class Board(Protocol):
    """The part of visdom's client that is used here."""

    def line(self, Y: np.ndarray, X: np.ndarray, win: str, opts: dict[str, Any]) -> Any:
        """Draw curves (points, curves) in a window, in place of what it holds."""

    def image(self, img: np.ndarray, win: str, opts: dict[str, Any]) -> Any:
        """Draw a picture (3, H, W) in a window."""

    def text(self, text: str, win: str, opts: dict[str, Any]) -> Any:
        """Show HTML in a window."""

    def win_exists(self, win: str) -> bool | None:
        """Whether the server has a window; None where it cannot say."""


def connect(server: str, port: int, env: str, seconds: float) -> Board:
    """A visdom client that answers or raises within about `seconds` per request.

    Raises:
        ConnectionError: no server, a server that does not answer in time, or one that answers with an error.
    """
    visdom: Any = importlib.import_module("visdom")
    # visdom reports a missing server in many lines of its own; this sink says it in one.
    logging.getLogger("visdom").setLevel(logging.CRITICAL)
    local = urlparse(server if "//" in server else f"//{server}").hostname in LOOPBACK

    class Client(visdom.Visdom):  # type: ignore[misc]  # the class of a module that is imported late
        def _handle_post(self, url: str, data: Any = None) -> str:
            # A proxy meant for the network must not be asked for localhost.
            self.session.trust_env = not local
            # visdom sets no time limit. A connection each: one kept open fails when the server restarts.
            headers = {"Connection": "close"}
            answer = self.session.post(url, data=data or {}, timeout=seconds, headers=headers)
            answer.raise_for_status()
            return str(answer.text)

    # The incoming socket would be one more thread that waits for the server.
    make: Callable[..., Board] = Client
    return make(server=server, port=port, env=env, raise_exceptions=True, use_incoming_socket=False)


class Curve:
    """The (step, value) points of one loss: at most `MAX_POINTS`, evenly spread over the run, and the last.

    When the curve is full, every second point is dropped and from then on twice as many are passed over.
    """

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._seen, self._stride, self._provisional = 0, 1, False

    def add(self, step: float, value: float) -> None:
        """Append a point; one that is not on the stride stays only until the next one comes."""
        if self._provisional:
            self.points.pop()
        self.points.append((step, value))
        self._provisional = self._seen % self._stride != 0
        self._seen += 1
        if len(self.points) > MAX_POINTS:
            self.points = self.points[::2]
            self._stride *= 2


def curve_arrays(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves of different lengths as X and Y (points, curves), NaN after the end of the shorter ones.

    visdom draws no line across a NaN in the middle, so a loss that is logged now and then must not have gaps.
    """
    table = np.full((2, max(map(len, curves)), len(curves)), np.nan)
    for index, points in enumerate(curves):
        table[:, : len(points), index] = np.array(points).T
    return table[0], table[1]


def _legible(pictures: Mapping[str, np.ndarray], columns: int) -> dict[str, np.ndarray]:
    """Small pictures enlarged to fill a window's row, whose captions would be enlarged with them otherwise."""
    room = WIDE / min(columns, len(pictures))
    times = {name: max(1, round(room / picture.shape[1])) for name, picture in pictures.items()}
    return {name: picture.repeat(times[name], 0).repeat(times[name], 1) for name, picture in pictures.items()}


def plain_env(name: str) -> str:
    """An environment's name as visdom keeps it: as a file, so that a slash becomes an underscore."""
    return name.replace("/", "_").replace("\\", "_")


def root_cause(error: BaseException) -> str:
    """What an error was first raised from, in one short line: visdom's own ConnectionError says nothing."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]


class VisdomSink:
    """Curves, one window for each group of losses, and one grid of pictures, in a visdom environment.

    No call waits for the server, except `close`, for `close_seconds` at most. An absent server costs one
    warning, and one line when it is there again.

    Args:
        run: the run's name, shown in the windows' titles.
        server: address without the port, for example `http://localhost`.
        port: the server's port.
        env: visdom's environment; runs in environments of their own can be compared side by side.
        display_id: part of the windows' names, so that several runs can share an environment; 0 or less: off.
        ncols: pictures in a row of the grid; 0 or less: one window for each picture.
        history: rows of the run's `log.jsonl` when it is resumed, so that the curves go on.
        timeout_seconds: how long one request may take.
        retry_seconds: how long to leave an absent server alone.
        interval_seconds: the shortest time between two redraws.
        close_seconds: how long `close` lets a server that answers draw the last values.
        make_client: makes the client (for tests).
        plan: what the whole run will be, for the window of its progress; None: there is no such window.
        report: receives the few messages.
    """

    def __init__(
        self,
        run: str,
        server: str = "http://localhost",
        port: int = 8097,
        env: str = "main",
        display_id: int = 1,
        ncols: int = 4,
        history: Sequence[Mapping[str, Any]] = (),
        timeout_seconds: float = 5.0,
        retry_seconds: float = 30.0,
        interval_seconds: float = 2.0,
        close_seconds: float = 5.0,
        make_client: Callable[[str, int, str, float], Board] = connect,
        plan: Plan | None = None,
        report: Callable[[str], None] = say,
    ) -> None:
        env = plain_env(env)
        # visdom's page compares environments window by window of one title, which then must not name the run.
        self._title = "" if env == plain_env(run) else f"{run}: "
        self.url = f"{server}:{port}/env/{quote(env)}"
        self._connect = partial(make_client, server, port, env, timeout_seconds)
        self._command = "bash scripts/visdom.sh" + (f" --port {port}" if port != 8097 else "")
        self._run, self._display_id, self._ncols = run, display_id, ncols
        self._retry, self._interval, self._patience = retry_seconds, interval_seconds, close_seconds
        self._report = report
        # Shared with the worker, under the condition's lock.
        self._news = threading.Condition()
        self._curves: dict[str, Curve] = {}
        self._pictures: dict[str, np.ndarray] = {}
        self._caption = ""
        self._progress = Progress(run, plan)
        self._stale: set[str] = set()  # windows to be drawn: "curves", "pictures"
        self._ending = False
        # The worker's own.
        self._away = self._greeted = False
        self._not_before = 0.0
        self._last_window = ""
        self._worker: threading.Thread | None = None
        for record in history:
            self._add(record["step"], values_of(record))
        if display_id > 0:
            self._start()

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Note the values; returns at once."""
        if self._worker is not None:
            with self._news:
                self._add(moment.step, values)
                self._progress.add(moment)
                self._wake()

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """Note the pictures, in place of any that still wait to be drawn; returns at once."""
        if self._worker is not None:
            # Copied: the caller may reuse its arrays before the worker has drawn them.
            copies = {name: as_rgb(picture).copy() for name, picture in pictures.items()}
            with self._news:
                self._pictures = copies
                self._caption = f"epoch {moment.epoch}, step {moment.step:,}"
                self._stale.add("pictures")
                self._wake()

    def close(self) -> None:
        """Let a server that answers draw what is new, then stop; an absent one is not waited for."""
        if self._worker is not None and self._worker.is_alive():
            with self._news:
                self._ending = True
                self._news.notify()
            self._worker.join(0 if self._away else self._patience)
        self._worker = None

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._curves.setdefault(name, Curve()).add(step, value)
                self._stale.add("curves")

    def _start(self) -> None:
        if importlib.util.find_spec("visdom") is None:
            self._report("visdom is not installed, so there is no dashboard; scripts/setup.sh installs it.")
            return
        # A daemon: a server that hangs must not keep a finished run from ending.
        self._worker = threading.Thread(target=self._work, name="visdom", daemon=True)

    def _wake(self) -> None:
        """Called with the lock held. The first news come after the loading processes have been forked from this one,
        which must not happen while a thread imports visdom: they could wait for its import for ever.
        """
        if self._worker is not None and self._worker.ident is None:
            self._worker.start()
        self._news.notify()

    # What follows runs in the worker thread.

    def _work(self) -> None:
        board: Board | None = None
        while self._wait():
            with self._news:
                stale, self._stale = self._stale, set()
                curves = {name: list(curve.points) for name, curve in self._curves.items()}
                pictures, caption, progress = self._pictures, self._caption, self._progress.html()
            try:
                if board is None or self._was_restarted(board):
                    board = self._connect()
                    stale = {"curves", "pictures"}  # a server that was away may have lost its windows
                if progress:
                    self._draw_progress(board, progress)
                if "curves" in stale:
                    self._draw_curves(board, curves)
                if "pictures" in stale and pictures:
                    self._draw_pictures(board, pictures, caption)
                self._there()
            except Exception as error:  # whatever visdom or the server does, training goes on
                board = None
                self._gone(error, stale)

    def _wait(self) -> bool:
        """Sleep until there is something to draw and the server may be asked; False: nothing more to do."""
        with self._news:
            while not self._ending:
                rest = self._not_before - time.monotonic()
                if self._stale and rest <= 0:
                    return True
                self._news.wait(rest if self._stale else None)
            return bool(self._stale) and not self._away

    def _was_restarted(self, board: Board) -> bool:
        """Whether a window that was drawn is gone: pictures come seldom, and would be missed until the next."""
        return self._last_window != "" and board.win_exists(self._last_window) is False

    def _draw_progress(self, board: Board, html: str) -> None:
        options = {"title": f"{self._title}progress", "width": WIDE, "height": LOW}
        board.text(html, win=f"{self._display_id}_progress", opts=options)

    def _draw_curves(self, board: Board, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        for group, names in grouped(curves).items():
            x, y = curve_arrays([curves[name] for name in names])
            options = {
                "title": f"{self._title}{group}",
                "xlabel": "optimiser step",
                "legend": names,
                "markers": len(x) == 1,  # a line of one point is invisible
                "width": WIDE,
                "height": HIGH,
                "ytype": "log" if group in LOG_SCALE else "linear",
                "layoutopts": {"plotly": {"title": {"text": ""}}},  # the window's bar has it already
                **MARGINS,
            }
            board.line(Y=y, X=x, win=f"{self._display_id}_{group}", opts=options)

    def _draw_pictures(self, board: Board, pictures: Mapping[str, np.ndarray], caption: str) -> None:
        for name, picture in self._windows_of(pictures).items():
            height, width = picture.shape[:2]
            options = {"title": f"{self._title}{name}, {caption}", "width": WIDE, "height": WIDE * height // width}
            board.image(picture.transpose(2, 0, 1), win=f"{self._display_id}_{name}", opts=options)
            self._last_window = f"{self._display_id}_{name}"

    def _windows_of(self, pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is drawn in each window: one grid of the pictures and one of the maps over them; or each by itself."""
        if self._ncols <= 0:
            return dict(pictures)
        maps = {name: picture for name, picture in pictures.items() if OVERLAYS.search(name)}
        plain = {name: picture for name, picture in pictures.items() if name not in maps}
        grids = {"pictures": plain, "maps": maps}
        return {
            title: captioned_grid(_legible(shown, self._ncols), self._ncols) for title, shown in grids.items() if shown
        }

    def _there(self) -> None:
        if self._away or not self._greeted:
            self._report(f"visdom: {'back, ' if self._away else ''}drawing at {self.url}")
        self._away, self._greeted = False, True
        self._not_before = time.monotonic() + self._interval

    def _gone(self, error: Exception, stale: set[str]) -> None:
        with self._news:
            self._stale |= stale
        if not self._away:
            self._report(
                f"visdom: no answer for {self.url} ({root_cause(error)}). Training goes on and draws "
                f"everything once a server is there: run `{self._command}` in another terminal."
            )
        self._away = True
        self._not_before = time.monotonic() + self._retry
