"""Work that a few threads do meanwhile: encoding and writing beside a network that goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from util.errors import UserError

_QUEUE = 4  # jobs that wait or run, for each thread: what they hold stays in memory


class Background:
    """Does jobs in threads, and raises their first error in the thread that gives them.

    Leaving its block waits for all jobs, also by an error, which is not theirs: what was made before it is not lost.
    After a job's own error, and on Ctrl-C, those that run are waited for and the others dropped.

    Args:
        threads: 0 does every job at once, in the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "background") if threads else None
        self._room = threading.BoundedSemaphore(max(1, _QUEUE * threads))
        self._fault: BaseException | None = None
        self._running: set[Future[None]] = set()
        self._lock = threading.Lock()

    def do(self, what: str, job: Callable[[], object]) -> None:
        """Do a job; waits where too many are waiting.

        Args:
            what: what it is about, a file's name: an error without one is told with it.

        Raises:
            Exception: the first one of a job, which need not be this one.
        """
        if self._pool is None:
            job()
            return
        self._raise()
        self._room.acquire()
        try:
            future = self._pool.submit(self._work, what, job)
        except BaseException:
            self._room.release()
            raise
        with self._lock:
            self._running.add(future)
        future.add_done_callback(self._done)

    def wait(self) -> None:
        """Until all jobs are done; raises the first error of any."""
        with self._lock:
            running = list(self._running)
        for future in running:
            if not future.cancelled():
                future.exception()
        self._raise()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            if self._pool is not None:
                interrupted = kind is not None and not issubclass(kind, Exception)
                self._pool.shutdown(wait=True, cancel_futures=interrupted)

    def _work(self, what: str, job: Callable[[], object]) -> None:
        if self._fault is not None:
            return
        try:
            job()
        except (UserError, OSError) as error:  # these name the file
            self._fault = self._fault or error
        except Exception as error:
            told = RuntimeError(f"{what}: {type(error).__name__}: {error}")
            told.__cause__ = error
            self._fault = self._fault or told

    def _done(self, future: Future[None]) -> None:
        self._room.release()
        with self._lock:
            self._running.discard(future)

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault
