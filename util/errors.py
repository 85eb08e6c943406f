"""Errors that are the user's to mend: one line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something in the command, the data or a checkpoint; the message names it, its value and the remedy."""


def exit_code(main: Callable[[], int]) -> int:
    """Run an entry script's main; a UserError becomes one line on stderr and exit status 2."""
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
