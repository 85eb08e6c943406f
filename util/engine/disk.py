"""A disk that takes no more: a warning while training goes on, an error where it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from util.checkpoint import CheckpointError


class Disk:
    """Spares training the failures of writing a run's files.

    Args:
        say: receives the warnings.

    Attributes:
        saved: step of the state on the disk; -1: there is none.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.saved = -1

    @contextmanager
    def sparing(self, must: bool = False, again: bool = False) -> Iterator[None]:
        """Turn the OSError of a failed write into a warning; what was to follow it in the block is left out.

        Args:
            must: raise an error instead: nobody will try again.
            again: the same file is written at the next save.

        Raises:
            CheckpointError: `must`, and something could not be written.
        """
        try:
            yield
        except OSError as error:
            why = f"{error.filename or 'the run folder'}: cannot be written: {error.strerror or error}"
            if self.saved < 0:
                then = "there is no checkpoint yet; free space on its disk and give the command again"
            elif must:
                then = f"{self._stands}; free space on its disk, then continue with --continue_train"
            else:
                how = "and tries again at the next save" if again else "without it"
                then = f"{self._stands}; training goes on {how}; free space on its disk"
            if must:
                raise CheckpointError(f"{why}; {then}") from error
            self._say(f"WARNING: {why}; {then}")

    @property
    def _stands(self) -> str:
        return f"the checkpoint of step {self.saved} stands"
