"""A small study with pictures known by their brightness, its page as a parser sees it, and made-up votes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.studying.building import Plan, build
from scripts.studying.votes import Key, read_key

HOSTILE = """</script><script>alert("x")</script>'&{{ 7 * 7 }}<!--"""
QUESTION = f"Which is real? {HOSTILE}"
Content = dict[str, Any]


def pictures(folder: Path, value: int, stems: Sequence[str], dtype: Any = np.uint8) -> Path:
    """A grey picture for each name, by whose brightness it is known again."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, stem in enumerate(stems):
        image = np.full((16, 20), value, dtype)
        image[:4, : 2 + place % 16] = 0
        assert cv2.imwrite(str(folder / f"{stem}.png"), image)
    return folder


STEMS = [f"cutcam_{n}" for n in range(8)]


def plan(folder: Path, **changes: Any) -> Plan:
    methods = {
        "cutcam": pictures(folder / "cutcam/fake_B", 200, STEMS),
        "fastcut": pictures(folder / "fastcut/fake_B", 100, STEMS),
    }
    context = {"input": pictures(folder / "real_A", 50, STEMS)}
    settings: Content = {
        "methods": methods,
        "context": context,
        "question": QUESTION,
        "trials": 5,
        "catches": 2,
        "seed": 0,
    }
    return Plan(**settings | changes)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    build(plan(tmp_path), tmp_path / "study")
    return tmp_path / "study"


class Page(HTMLParser):
    """Tags, attributes and visible text, and the data of the trials."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        found = re.search(r'<script id="study" type="application/json">(.*?)</script>', self.source, re.DOTALL)
        assert found
        self.data: Content = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def pixels(source: str) -> NDArray[Any]:
    prefix = "data:image/png;base64,"
    assert source.startswith(prefix)
    image: Any = cv2.imdecode(np.frombuffer(base64.b64decode(source[len(prefix) :]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint8
    found: NDArray[Any] = image
    return found


def answers(key: Key, participant: int, chosen: Mapping[str, str] | str, misses: int = 0, stop: int = 99) -> Content:
    """Votes for a method (or one for each image), on alternating sides, with some checks missed."""
    votes: list[Content] = []
    for n, (name, trial) in enumerate(key.trials.items()):
        whose = {who: picture for picture, who in trial.pictures.items()}
        if trial.kind == "catch":
            wrong, misses = misses > 0, misses - 1
            picture = whose["broken" if wrong else "good"]
        else:
            picture = whose[chosen if isinstance(chosen, str) else chosen.get(trial.file, key.methods[0])]
        (other,) = set(trial.pictures) - {picture}
        left, right = (picture, other) if n % 2 else (other, picture)
        vote = {"trial": name, "left": left, "right": right, "chosen": picture, "ms": 1000}
        if trial.kind == "attention":
            vote["asked"] = "left" if n % 2 else "right"
        votes.append(vote)
    return {"format": 1, "study": key.study, "participant": f"{participant:016x}", "votes": votes[:stop]}


@pytest.fixture
def key(study: Path) -> Key:
    return read_key(study / "key.json")


def send(folder: Path, *contents: Content) -> list[Path]:
    paths = [folder / f"votes_{n}.json" for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    return paths
