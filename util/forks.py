"""How the processes begin that read images for this one."""

from __future__ import annotations

import multiprocessing
import sys


def start_method() -> str:
    """`fork` on Linux, where Python from 3.14 on would start them otherwise; elsewhere Python's own choice.

    Forks share the memory of --cache ram, and inherit that signals wait until they have begun.
    """
    return "fork" if sys.platform == "linux" else multiprocessing.get_start_method()
