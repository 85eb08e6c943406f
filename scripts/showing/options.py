"""Options of `scripts/app.py` beside those of the run."""

from __future__ import annotations

from dataclasses import dataclass

from options.schema import Group, option


@dataclass(frozen=True)
class Showing(Group):
    """page: where it is served, on this machine alone"""

    port: int = option(7860, "of http://127.0.0.1", low=1024, high=65535)
    open_browser: bool = option(False, "show the page in a browser at once")
