"""Leaving in good order when the system or the user asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from util import ranks


class StopRequest:
    """Set by SIGTERM or Ctrl-C while active: the loop then saves and leaves after the current step.

    A second Ctrl-C is not held back.
    """

    def __init__(self) -> None:
        self._asked = False

    def listen(self) -> StopRequest:
        """Take over both signals of the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._ask)
        return self

    def agreed(self) -> bool:
        """Whether any rank was asked to stop; all ranks must call it after the same step."""
        return ranks.on_any(self._asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
