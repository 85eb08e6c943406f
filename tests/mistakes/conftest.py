"""A home with data and a run, in which mistakes are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = make_home(tmp_path_factory.mktemp("home"))
    (home / "data/many.csv").write_text("file,label_id\ntestA/00.png,9\n")
    (home / "data/strange.csv").write_text("file,label\ntestA/00.png,zebra\n")
    return home
