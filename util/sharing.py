"""One command done by the processes that torchrun starts: each takes its share, the first writes what is common.

They meet at torchrun's store and form no process group: the first may work alone for hours and no time-out strikes, and
what it calls then sees a single process, as without torchrun. Alone, every function here does what is plain.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from util.errors import UserError, exit_code, line_of

T = TypeVar("T")
LONGEST_NAP = 0.2  # seconds between two looks for the others' answers
GRACE = 10.0  # seconds that a process stays at most for what others have yet to say or to read


class _FailedElsewhere(Exception):
    """Another process has given up; which error it was, the next meeting says."""


@dataclass(frozen=True)
class _Fault:
    line: str  # the user is told
    rank: int


class _Failed(Exception):
    """All processes know of an error, and which."""

    def __init__(self, fault: _Fault) -> None:
        super().__init__(fault.line)
        self.fault = fault


class _Team:
    """The processes of a command, and what they tell each other: all of them meet as often."""

    def __init__(self) -> None:
        store, self.rank, self.world = next(rendezvous("env://"))
        self._store = PrefixStore("sharing", store)
        self._meetings = 0

    def meet(self, value: Any, fault: _Fault | None = None) -> list[Any]:
        """What each process has brought, rank by rank.

        Raises:
            _Failed: one of them has brought an error instead.
        """
        self._meetings += 1
        self._store.set(f"{self._meetings}/{self.rank}", pickle.dumps((fault, value)))  # type: ignore[arg-type]
        found = [pickle.loads(self._get(f"{self._meetings}/{rank}")) for rank in range(self.world)]
        # Whoever has come to this meeting has read all of the one before.
        self._store.delete_key(f"{self._meetings - 1}/{self.rank}")
        for broken, _ in found:
            if broken is not None:
                raise _Failed(broken)
        return [brought for _, brought in found]

    def fail(self, error: Exception) -> _Failed:
        """Bring an error to the meeting that the others come to; returns the one that all agree upon."""
        self._store.set("failed", "yes")
        line = line_of(error) or f"process {self.rank}: {type(error).__name__}: {error}"
        elsewhere = isinstance(error, _FailedElsewhere)
        try:
            self.meet(None, None if elsewhere else _Fault(line, self.rank))
        except _Failed as failed:
            return failed
        raise AssertionError("a process gave up, and none says why") from error

    def check(self) -> None:
        """Raise where another process has given up."""
        if self._store.check(["failed"]):
            raise _FailedElsewhere

    def say(self, what: str) -> None:
        self._store.set(f"{what}/{self.rank}", "yes")

    def stay(self, what: str) -> None:
        """Until all others have said so, or the grace is over."""
        end = time.monotonic() + GRACE
        with contextlib.suppress(RuntimeError):  # the store's own process has gone
            for rank in set(range(self.world)) - {self.rank} if self.rank == 0 else {0}:
                self._wait(f"{what}/{rank}", end)

    def _get(self, key: str) -> bytes:
        self._wait(key)
        return bytes(self._store.get(key))

    def _wait(self, key: str, end: float = float("inf")) -> None:
        nap = 0.001
        while not self._store.check([key]) and time.monotonic() < end:
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP)


_team: _Team | None = None


def as_one(main: Callable[[], int]) -> Callable[[], int]:
    """An entry script's main, for `exit_code`; under torchrun the first process speaks for all, once.

    The others write nothing on the console. An error of any of them ends all: the first process says it, and only what
    is a defect leaves a traceback of its own.
    """

    @functools.wraps(main)
    def shared() -> int:
        global _team
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return main()
        _team = _Team()
        try:
            return _first(main, _team) if _team.rank == 0 else _other(main, _team)
        finally:
            _team = None

    return shared


def _first(main: Callable[[], int], team: _Team) -> int:
    try:
        status, _ = _outcome(main, team)
        return exit_code(status)
    finally:
        sys.stdout.flush()
        team.say("said")
        team.stay("left")  # without torchrun the store lives in this process


def _other(main: Callable[[], int], team: _Team) -> int:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        status, own = _outcome(main, team)
        code = 2
        with contextlib.suppress(Exception):  # the first process says it
            code = status()
        team.stay("said")  # torchrun ends all as soon as one has failed
        team.say("left")
    if own is not None and line_of(own) is None and not isinstance(own, _FailedElsewhere):
        raise own
    return code


def _outcome(main: Callable[[], int], team: _Team) -> tuple[Callable[[], int], Exception | None]:
    """What the command ends with, agreed upon: a call that returns its status or raises; and this process's error."""

    def ended(code: int, error: BaseException | None = None) -> int:
        if error is not None:
            raise error
        return code

    own: Exception | None = None
    try:
        code = main()
        team.meet(None)
        return functools.partial(ended, code), None
    except SystemExit as leaving:  # --help, in all processes
        return functools.partial(ended, 0, leaving), None
    except _Failed as failed:
        fault = failed.fault
    except Exception as error:
        own, fault = error, team.fail(error).fault
    told = own if own is not None and fault.rank == team.rank else UserError(fault.line)
    return functools.partial(ended, 2, told), own


def is_first() -> bool:
    """True in the one process that writes what is common to all shares."""
    return _team is None or _team.rank == 0


def mine(count: int) -> range:
    """This process's share of the numbers 0 to count - 1: rank, rank + world, ..."""
    return range(count) if _team is None else range(_team.rank, count, _team.world)


def watched(items: Iterator[T]) -> Iterator[T]:
    """The items, until another process fails."""
    for item in items:
        if _team is not None:
            _team.check()
        yield item


def in_order(numbers: Sequence[int], items: Sequence[T]) -> list[T]:
    """The items of all processes, by rising number; all processes must ask.

    Args:
        numbers: of this process's items.
    """
    pairs = list(zip(numbers, items, strict=True))
    if _team is not None:
        pairs = [pair for part in _team.meet(pairs) for pair in part]
    return [item for _, item in sorted(pairs, key=lambda pair: pair[0])]


def from_first(value: T) -> T:
    """The first process's value, in all of them; all must ask."""
    if _team is None:
        return value
    found: T = _team.meet(value if _team.rank == 0 else None)[0]
    return found
