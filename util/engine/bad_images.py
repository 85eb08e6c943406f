"""Images found unreadable in training, with --on_bad_image skip: each said once, counted, and listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util import ranks

if TYPE_CHECKING:
    from data.base import Batch


class BadImages:
    """The files passed over so far, the same on every rank.

    Args:
        dataset: knows those that were left out at the start (a `data.base.Dataset`).
        folder: of the run.

    Attributes:
        found: a line for each, in the order they were met.
    """

    def __init__(self, dataset: Any, folder: Path) -> None:
        self._dataset, self._folder = dataset, folder
        self.found: list[str] = []
        self._said = False
        self._new: dict[str, None] = {}  # of this rank, in order

    def note(self, batch: Batch) -> None:
        """Remember what was passed over for a batch."""
        self._new |= dict.fromkeys(line for line in batch.skipped if line not in self.found)

    def news(self) -> list[str]:
        """What any rank has noted since the last call and none has said; all ranks must call it together."""
        if not ranks.on_any(bool(self._new)):
            return []
        new = [line for line in dict.fromkeys(ranks.texts_of_all(list(self._new))) if line not in self.found]
        self._new.clear()
        self.found += new
        return new

    def write(self) -> None:
        """List them, with those of the start, in `bad_images.txt`."""
        if ranks.is_first():
            self._dataset.list_bad_images(self._folder, self.found, say=not self._said)
            self._said = self._said or bool(self._dataset.bad_images or self.found)

    def state(self) -> list[str]:
        return list(self.found)

    def load(self, state: Mapping[str, Any]) -> None:
        self.found = list(state.get("bad_images", ()))
