"""The page of a user study: it stands alone and says nothing of its methods; the script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from options.schema import OptionError
from scripts.studying.building import broken, build
from tests.studying.conftest import QUESTION, STEMS, Content, Page, pictures, pixels, plan
from util.errors import UserError


def test_the_page_stands_alone(study: Path) -> None:
    page = Page(study / "study.html")
    assert page.tags.count("script") == 2
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "action") or name.startswith("on")]
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page.source)
    assert not re.search(
        r"https?:|//\w|file:|@import|url\(|fetch\(|XMLHttpRequest|sendBeacon|WebSocket", without_pictures
    )
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy


def test_the_page_says_nothing_of_methods_files_and_catches(study: Path) -> None:
    page, key = Page(study / "study.html"), json.loads((study / "key.json").read_text())
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source).lower()
    for word in ("cutcam", "fastcut", "fake_b", "broken", '"catch"', "good", str(study.parent).lower()):
        assert word not in plain
    assert [trial["id"] for trial in page.data["trials"]] == sorted(key["trials"])
    for trial in page.data["trials"]:
        ids = [picture["id"] for picture in trial["pictures"]]
        assert ids == sorted(key["trials"][trial["id"]]["pictures"])
        assert set(trial) == {"id", "attention", "pictures", "input"}


def test_a_hostile_question_is_text(study: Path) -> None:
    page = Page(study / "study.html")
    assert page.data["question"] == QUESTION
    assert QUESTION in page.text
    assert "<script>alert" not in page.source


def test_pictures_are_those_that_the_key_says(study: Path) -> None:
    page, key = Page(study / "study.html"), json.loads((study / "key.json").read_text())
    brightness = {"cutcam": 200, "fastcut": 100}
    kinds = []
    for trial in page.data["trials"]:
        known = key["trials"][trial["id"]]
        kinds.append(known["kind"])
        shown = {known["pictures"][picture["id"]]: pixels(picture["source"]) for picture in trial["pictures"]}
        place = STEMS.index(known["file"])
        assert (pixels(trial["input"])[0, :, 0] == 0).sum() == 2 + place
        for who, image in shown.items():
            assert image.shape == (16, 20, 3)
            if who in brightness:
                assert (image[8:] == brightness[who]).all()
                assert (image[0, :, 0] == 0).sum() == 2 + place
        if known["kind"] == "catch":
            assert set(shown) == {"good", "broken"}
            assert shown["good"][8:].std() == 0
            assert shown["broken"][8:].std() > 30
    assert sorted(kinds) == ["attention", "catch", "catch", *["vote"] * 5]
    votes = {trial["file"] for trial in key["trials"].values() if trial["kind"] == "vote"}
    assert len(votes) == 5
    assert votes.isdisjoint(trial["file"] for trial in key["trials"].values() if trial["kind"] != "vote")


def test_the_seed_chooses_the_images_and_names_are_new_each_time(tmp_path: Path) -> None:
    chosen = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(plan(tmp_path, seed=seed), tmp_path / name)
        chosen.append(json.loads((tmp_path / name / "key.json").read_text()))
    files = [sorted(trial["file"] for trial in key["trials"].values() if trial["kind"] == "vote") for key in chosen]
    assert files[0] == files[1] != files[2]
    assert not set(chosen[0]["trials"]) & set(chosen[1]["trials"])
    assert chosen[0]["study"] != chosen[1]["study"]


def test_sides_in_the_source_follow_no_method(tmp_path: Path) -> None:
    first = 0
    for n in range(6):
        build(plan(tmp_path, trials=8), tmp_path / str(n))
        key = json.loads((tmp_path / str(n) / "key.json").read_text())
        data = Page(tmp_path / str(n) / "study.html").data
        votes = [trial for trial in data["trials"] if key["trials"][trial["id"]]["kind"] == "vote"]
        first += sum(key["trials"][t["id"]]["pictures"][t["pictures"][0]["id"]] == "cutcam" for t in votes)
    assert 10 <= first <= 38  # of 48; beyond with a chance of 1 in 20,000


def test_sixteen_bits_are_shown_through_one_window_for_both_methods(tmp_path: Path) -> None:
    methods = {
        "dim": pictures(tmp_path / "dim", 8000, STEMS, np.uint16),
        "bright": pictures(tmp_path / "bright", 9000, STEMS, np.uint16),
    }
    build(plan(tmp_path, methods=methods, window="7000,9000"), tmp_path / "study")
    page, key = Page(tmp_path / "study/study.html"), json.loads((tmp_path / "study/key.json").read_text())
    for trial in page.data["trials"]:
        for picture in trial["pictures"]:
            who, shown = key["trials"][trial["id"]]["pictures"][picture["id"]], pixels(picture["source"])
            if who in methods:
                assert shown[10, 10, 0] == {"dim": 128, "bright": 255}[who]


def test_subfolders_and_suffixes_meet_by_their_stem(tmp_path: Path) -> None:
    name = 'night/<img src=x onerror="alert(1)">'
    folders = {}
    for method, value in (("a", 60), ("b", 90)):
        pictures(tmp_path / method / "night", value, [name.removeprefix("night/")])
        folders[method] = tmp_path / method
    cv2.imwrite(str(folders["b"] / (name + ".tif")), np.full((16, 20), 5, np.uint8))
    build(plan(tmp_path, methods=folders, context={}, trials=1, catches=0), tmp_path / "study")
    page, key = Page(tmp_path / "study/study.html"), json.loads((tmp_path / "study/key.json").read_text())
    assert {trial["file"] for trial in key["trials"].values()} == {name}
    assert "onerror" not in page.source
    assert {int(pixels(p["source"])[10, 10, 0]) for t in page.data["trials"] for p in t["pictures"]} == {60, 90}


def test_a_broken_picture_is_obvious_whatever_it_was() -> None:
    for whole in (torch.full((3, 32, 40), 0.5), torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))):
        bad = broken(whole, np.random.default_rng(0))
        assert bad.shape == whole.shape
        assert 0 <= bad.min() <= bad.max() <= 1
        assert (bad - whole).square().mean() > 0.04  # less than 14 dB of PSNR


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 9}, r"--n 9: the folders have 8 images in common.*cutcam 8, fastcut 8, input 8"),
        ({"window": "3,1"}, "--window: "),
        ({"context": {"input": Path("nowhere")}}, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_built_is_named(tmp_path: Path, changes: Content, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(plan(tmp_path, **changes), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_pairs_of_two_sizes_and_studies_already_there_are_refused(tmp_path: Path, study: Path) -> None:
    with pytest.raises(OptionError, match="holds a study whose votes need its key"):
        build(plan(tmp_path), study)
    made = plan(tmp_path)
    for stem in STEMS:
        cv2.imwrite(str(made.methods["fastcut"] / f"{stem}.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(OptionError, match=r"cutcam_\d\.png has \(16, 20\).*fastcut.*\(8, 8\) pixels; a pair must have"):
        build(made, tmp_path / "other")
