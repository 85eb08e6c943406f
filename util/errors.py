"""Errors that are the user's to mend: one line, without a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

# What PyTorch says, in the main process, of one that loads images and has gone.
_LOST = re.compile(r"DataLoader worker \(pid.*?[0-9]\) (?:is )?(killed by signal: [^.]*|exited unexpectedly)")

# What PyTorch says where memory runs out: its own allocators, and libraries of CUDA that ask for memory themselves.
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
)


class UserError(Exception):
    """Something in the command, the data or a checkpoint; the message names it, its value and the remedy."""


def printable(name: object) -> str:
    """A file's name on one line: line breaks and other control characters of a hostile name as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `3 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def exit_code(main: Callable[[], int]) -> int:
    """Run an entry script's main; a UserError, or a file that cannot be used, becomes one line and status 2."""
    try:
        return main()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        line = line_of(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2


def line_of(error: Exception) -> str | None:
    """What a user is told of an error; None where it is a defect, which a traceback tells."""
    if isinstance(error, UserError):
        return _without_worker(str(error))
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    if isinstance(error, RuntimeError) and (lost := _LOST.match(str(error))):
        return (
            f"a process that loads images was lost ({lost[1].strip()}), as where memory runs out: lower --num_threads "
            "(0: none) or --batch_size, or free memory"
        )
    if isinstance(error, MemoryError | RuntimeError) and _is_of_memory(error):
        less = "lower --batch_size, --crop_size or --ngf, or take --amp bf16"
        return f"out of memory: {less}; for training --checkpoint_blocks, too"
    return None


def _is_of_memory(error: Exception) -> bool:
    """Whether the machine or the GPU has too little memory; PyTorch says so in several ways."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _without_worker(message: str) -> str:
    """The message alone where a loading process has wrapped it in its own traceback."""
    if not message.startswith("Caught "):
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]
