"""Processes that read images ahead: they outlast a signal to the whole group, and never the main process."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

import torch.utils.data._utils as of_torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from util.forks import start_method

T = TypeVar("T", covariant=True)
_HELD = (signal.SIGTERM, signal.SIGINT)
_started: set[BaseProcess] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_started.clear)  # they are not the child's


class Loader(DataLoader[T]):
    """A DataLoader whose processes begin by `start_method`, leave signals to the main one and end with it, however.

    PyTorch ends them when the last reference to their iterator is gone. An error keeps one in its traceback, and what
    Python then does at its end, to ask by SIGTERM and to wait, would never end.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        context = start_method() if named.get("num_workers") else None
        own = {"worker_init_fn": _left_to_the_main_process, "multiprocessing_context": context}
        super().__init__(*arguments, **{**named, **own})

    def __iter__(self) -> _BaseDataLoaderIter:
        if not self.num_workers:
            return super().__iter__()
        before = set(active_children())
        with _signals_wait():
            try:
                return super().__iter__()
            finally:
                _started.difference_update([process for process in _started if not process.is_alive()])
                _started.update(set(active_children()) - before)
                atexit.unregister(_leave)
                atexit.register(_leave)  # the last to be registered is the first: before PyTorch and Python


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A new process takes over that signals wait, and loses none to what it does before it can ignore them.

    Here they are held back too: PyTorch cannot tidy up what has been interrupted half made. That signals are blocked
    counts for this thread alone; any other may be given them, whereupon Python calls the handler.
    """
    came: set[int] = set()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: handler for number in _HELD if (handler := signal.getsignal(number)) is not None}
        for number in before:
            signal.signal(number, lambda number, frame: came.add(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            dies = number == signal.SIGTERM and handler == signal.SIG_DFL
            signal.signal(number, _leave_and_die if dies else handler)
        for number in came:
            signal.raise_signal(number)


def _left_to_the_main_process(worker: int) -> None:
    """A signal to the whole group, as batch systems send it, must not end who loads images first.

    The main process still needs their images to finish its step.
    """
    for number in _HELD:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def _leave() -> None:
    """End all of them at once. Nothing can be loaded afterwards."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # to PyTorch a process that is killed is an error
    # Nor may PyTorch tidy up: a lock that it shares with them may have died with its owner.
    of_torch._set_python_exit_flag()
    while _started:
        process = _started.pop()
        process.kill()
        process.join()


def _leave_and_die(number: int, frame: FrameType | None) -> None:
    """SIGTERM where nobody listens: they are orphans no longer than this process lives."""
    for process in list(_started):
        process.kill()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
